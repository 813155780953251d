//! A member of the workers' group: it reads batches of records, calls a listener when partitions are
//! assigned or revoked, and commits the offsets that it is given.
//!
//! A partition without a committed offset begins at the beginning, explicitly; an offset out of range
//! is an error and never a jump. A partition that the listener wants to read *apart* from the others
//! gets a queue of its own, from which single records can be taken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pipeline::offsets::{Commit, Start};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use crate::closing::ClosingConsumer;
use crate::cluster::{Cluster, log_error, log_line};
use crate::error::Error;
use crate::offsets::{beginning_offsets, end_offsets};
use crate::queue::{
    DataQueue, EventQueue, ForwardTarget, PartitionError, commit_async, is_member,
    known_watermarks, metadata,
};
use crate::record::RecordBatch;
use crate::settings::Role;
use crate::transactions::GroupMetadata;
use crate::within::call_with_timeout;

/// The timeout of the request for the group's committed offsets in a rebalance. A worker that was
/// killed within a transaction leaves them undecided until a broker aborts the transaction: after its
/// timeout of 10 s, at the broker's next check, which is every 10 s.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(30);

/// The part of the deadline of [`GroupConsumer::close`] that is reserved for closing the client,
/// because leaving the group is delayed while a rebalance is under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long [`GroupConsumer::close`] waits for the answer to a pending request to join, before it
/// leaves the group.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The callbacks of a rebalance. They are called by [`GroupConsumer::poll`] and
/// [`GroupConsumer::close`], on the thread of the caller.
pub trait RebalanceListener: Send + Sync + 'static {
    /// These partitions are assigned to this member. The result is applied before their first record is
    /// read.
    fn assigned(&self, starts: &[Start]) -> Assigned;

    /// These partitions are revoked when this returns. Returns the offsets to commit before that.
    /// `member` returns the metadata of this member in the current generation of the group, which a
    /// commit in a transaction needs.
    fn revoked(
        &self,
        partitions: &[i32],
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Vec<Commit>;

    /// These partitions are lost: they are assigned to another member already, and must not be
    /// committed.
    fn lost(&self, partitions: &[i32]);

    /// A synchronous commit of these offsets has succeeded.
    fn committed(&self, commits: &[Commit]);

    /// A commit has failed, so its offsets are to be committed again.
    fn commit_failed(&self);
}

/// What the listener wants to be done with partitions that are assigned.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// The offsets to commit before the partitions are read.
    pub commits: Vec<Commit>,
    /// The partitions to be read by [`GroupConsumer::consume_apart`].
    pub apart: Vec<i32>,
}

/// The group of a process, and its name in it.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group id.
    pub group: String,
    /// The `group.instance.id` of a static member, which gets its partitions back without a rebalance
    /// after a restart; `None` for a dynamic member, which leaves the group when it ends.
    pub instance_id: Option<String>,
}

/// A member of a consumer group, on one topic.
pub struct GroupConsumer<L: RebalanceListener> {
    // Dropped in this order: the queues before their consumer.
    /// The queue of records and that of events; `None` while the consumer is closed.
    queues: Option<(DataQueue, EventQueue)>,
    apart: ApartQueues,
    consumer: ClosingConsumer<Context<L>>,
    topic: String,
    errors: Vec<PartitionError>,
}

/// The callbacks of the consumer.
struct Context<L> {
    listener: L,
    cluster: Cluster,
    group: String,
    topic: String,
    /// The queue of the partitions that are not read apart.
    target: OnceLock<ForwardTarget>,
    apart: Arc<Mutex<BTreeMap<i32, DataQueue>>>,
    /// Whether this member has ever received an assignment, even an empty one.
    joined: AtomicBool,
    /// Whether this member has partitions; a close waits until it has none.
    assigned: AtomicBool,
    /// The error of a callback, returned by the next poll.
    failure: Mutex<Option<Error>>,
}

/// The queues of partitions that are read apart, by partition; shared with the consumer's context. The
/// map is emptied when this value is dropped, which is before the consumer closes.
struct ApartQueues(Arc<Mutex<BTreeMap<i32, DataQueue>>>);

impl Drop for ApartQueues {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

/// Locks a mutex, also after a panic of another thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L: RebalanceListener> Context<L> {
    /// The partitions of the topic in a list.
    fn partitions(&self, list: &TopicPartitionList) -> Vec<i32> {
        let elements = list.elements();
        let own = elements
            .iter()
            .filter(|element| element.topic() == self.topic);
        own.map(|element| element.partition()).collect()
    }

    /// Handles an assignment: finds the offsets at which the partitions begin, calls the listener, and
    /// applies its answer before the partitions are read.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
        partitions: &[i32],
    ) -> Result<(), Error> {
        let starts = self.starts(consumer, partitions)?;
        for start in &starts {
            if let Some(mut own) = list.find_partition(&self.topic, start.partition) {
                own.set_offset(Offset::Offset(start.offset))
                    .map_err(Error::topic(&self.topic, "set the offset to read from"))?;
            }
        }
        let Assigned { commits, apart } = self.listener.assigned(&starts);
        for &partition in partitions {
            let target = if apart.contains(&partition) {
                let queue = DataQueue::new(consumer);
                let target = queue.target();
                lock(&self.apart).insert(partition, queue);
                Some(target)
            } else {
                self.target.get().copied()
            };
            if let Some(target) = target {
                target.forward(consumer.client(), &self.topic, partition);
            }
        }
        self.commit_now(consumer, &commits, "on assignment");
        Ok(())
    }

    /// The offsets at which partitions begin: the committed offset, or else the beginning.
    fn starts(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<Vec<Start>, Error> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        let committed = consumer
            .committed_offsets(list, COMMITTED_TIMEOUT)
            .map_err(Error::topic(&self.topic, "fetch the committed offsets"))?;
        let metadata = metadata(&committed);
        // One request for all partitions, and only if it is needed.
        let all = partitions.iter().max().map_or(0, |&last| last as usize + 1);
        let mut beginnings = None;
        let mut ends = None;
        let mut starts = Vec::with_capacity(partitions.len());
        for (element, metadata) in committed.elements().iter().zip(metadata) {
            // An error does not mean that nothing is committed: beginning at the beginning would
            // compute all jobs again.
            element
                .error()
                .map_err(Error::topic(&self.topic, "fetch the committed offsets"))?;
            let partition = element.partition();
            let at_partition =
                |offsets: &Option<Vec<i64>>| offsets.as_ref()?.get(partition as usize).copied();
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => {
                    if beginnings.is_none() {
                        beginnings = Some(beginning_offsets(&self.cluster, &self.topic, all)?);
                    }
                    at_partition(&beginnings).unwrap_or(0)
                }
            };
            if !metadata.is_empty() && ends.is_none() {
                ends = Some(end_offsets(&self.cluster, &self.topic, all)?);
            }
            let end = at_partition(&ends).filter(|_| !metadata.is_empty());
            starts.push(Start {
                partition,
                offset,
                metadata,
                end,
            });
        }
        Ok(starts)
    }

    /// Keeps an error for the next poll if it means that something is not allowed, because a retry
    /// cannot help. Other errors pass.
    fn keep_denial(&self, error: &KafkaError) {
        let error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                Error::group(&self.group, "be a member of it")(error.clone())
            }
            _ => Error::topic(&self.topic, "read it")(error.clone()),
        };
        if error.is_denied() {
            *lock(&self.failure) = Some(error);
        }
    }

    /// Commits and waits for the answer. Returns whether the commit has succeeded; `when` is for the
    /// log.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, commits: &[Commit], when: &str) -> bool {
        if commits.is_empty() {
            return true;
        }
        let committed = commit_list(&self.topic, commits)
            .and_then(|list| consumer.commit(&list, CommitMode::Sync));
        match &committed {
            Ok(()) => self.listener.committed(commits),
            Err(error) => {
                info!(%error, "cannot commit offsets {when}");
                self.keep_denial(error);
                self.listener.commit_failed();
            }
        }
        committed.is_ok()
    }
}

impl<L: RebalanceListener> ClientContext for Context<L> {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.cluster.authentication().record_error(&error, reason);
        log_error(&error, reason);
    }
}

impl<L: RebalanceListener> ConsumerContext for Context<L> {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                self.joined.store(true, Ordering::Relaxed);
                let partitions = self.partitions(list);
                if partitions.is_empty() {
                    return;
                }
                info!(?partitions, "partitions assigned");
                self.assigned.store(true, Ordering::Relaxed);
                if let Err(error) = self.assign(consumer, list, &partitions) {
                    *lock(&self.failure) = Some(error);
                }
            }
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                if partitions.is_empty() {
                    return;
                }
                if consumer.assignment_lost() {
                    warn!(?partitions, "partitions lost");
                    self.listener.lost(&partitions);
                } else {
                    info!(?partitions, "partitions revoked");
                    let member = || consumer.group_metadata().map(GroupMetadata);
                    let commits = self.listener.revoked(&partitions, &member);
                    self.commit_now(
                        consumer,
                        &commits,
                        "on revocation; jobs since the last commit will be computed again",
                    );
                }
                lock(&self.apart).retain(|partition, _| !partitions.contains(partition));
            }
            Rebalance::Error(error) => warn!(%error, "rebalance"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if matches!(rebalance, Rebalance::Revoke(_)) {
            let left = consumer.assignment().map_or(0, |list| list.count());
            self.assigned.store(left > 0, Ordering::Relaxed);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // Commits are refused during a rebalance; the offsets are committed after it.
            debug!(%error, "commit failed");
            self.keep_denial(&error);
            self.listener.commit_failed();
        }
    }
}

/// Offsets of a topic as a list of librdkafka's, with their metadata.
pub(crate) fn commit_list(topic: &str, commits: &[Commit]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let offset = Offset::Offset(commit.offset);
        list.add_partition_offset(topic, commit.partition, offset)?;
        if !commit.metadata.is_empty()
            && let Some(mut own) = list.find_partition(topic, commit.partition)
        {
            own.set_metadata(&commit.metadata);
        }
    }
    Ok(list)
}

impl<L: RebalanceListener> GroupConsumer<L> {
    /// Starts to join the group. Partitions are assigned by [`poll`](Self::poll).
    ///
    /// # Errors
    /// When a property is wrong or the topic's name is not valid.
    pub fn join(
        cluster: &Cluster,
        membership: &Membership,
        topic: &str,
        listener: L,
    ) -> Result<Self, Error> {
        let mut config = cluster.config(Role::Member);
        config.set("group.id", &membership.group);
        if let Some(instance_id) = &membership.instance_id {
            config.set("group.instance.id", instance_id);
        }
        let apart = ApartQueues(Arc::default());
        let context = Context {
            listener,
            cluster: cluster.clone(),
            group: membership.group.clone(),
            topic: topic.to_owned(),
            target: OnceLock::new(),
            apart: Arc::clone(&apart.0),
            joined: AtomicBool::new(false),
            assigned: AtomicBool::new(false),
            failure: Mutex::default(),
        };
        let consumer = ClosingConsumer::create(&config, context)?;
        let queue = DataQueue::new(&consumer);
        // It cannot be set yet: rebalances are served by polls, and the consumer was not polled.
        let _ = consumer.context().target.set(queue.target());
        consumer
            .subscribe(&[topic])
            .map_err(Error::topic(topic, "subscribe"))?;
        Ok(Self {
            queues: Some((queue, EventQueue::new(&consumer))),
            apart,
            consumer,
            topic: topic.to_owned(),
            errors: Vec::new(),
        })
    }

    /// Serves rebalances, commits and errors. To be called often: a member that does not poll for
    /// `max.poll.interval.ms` is removed from the group.
    ///
    /// # Errors
    /// When this member cannot continue.
    pub fn poll(&mut self) -> Result<(), Error> {
        while self
            .queues
            .as_ref()
            .is_some_and(|(_, events)| events.waiting() > 0)
        {
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                // Partitions are forwarded before they are assigned, so no record arrives on this
                // queue. If one did and were skipped, a later offset would be committed past it.
                Some(Ok(record)) => {
                    return Err(Error::Consume {
                        topic: self.topic.clone(),
                        partition: record.partition(),
                        code: RDKafkaErrorCode::BadMessage,
                    });
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(Error::Client {
                        action: "stay a member of the group",
                        source: KafkaError::MessageConsumptionFatal(code),
                    });
                }
                Some(Err(error)) => {
                    debug!(%error, "consumer");
                    self.consumer.context().keep_denial(&error);
                }
            }
        }
        // A poll of an empty queue counts for `max.poll.interval.ms`, too.
        self.consumer.poll(Duration::ZERO);
        let context = self.consumer.context();
        context.cluster.check_admission()?;
        match lock(&context.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Appends records to `batch`. Returns when the batch has about one MiB, or after `timeout`.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], or when a partition cannot be read.
    pub fn consume(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        if let Some((queue, _)) = &mut self.queues {
            queue.consume(timeout, batch, &mut self.errors);
        }
        self.first_error()
    }

    /// Appends one record to `batch` as soon as there is one, and waits at most `timeout` for it.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn consume_one(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        if let Some((queue, _)) = &mut self.queues {
            queue.consume_one(timeout, batch, &mut self.errors);
        }
        self.first_error()
    }

    /// Appends at most `at_most` records of a partition that is read apart to `batch`. Does not wait.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn consume_apart(
        &mut self,
        partition: i32,
        at_most: usize,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        if let Some(queue) = lock(&self.apart.0).get_mut(&partition) {
            queue.consume_at_most(at_most, batch, &mut self.errors);
        }
        self.first_error()
    }

    /// Ends the separate reading of a partition: from now on [`consume`](Self::consume) returns its
    /// records, those that wait already first.
    pub fn join_others(&mut self, partition: i32) {
        if let (Some((others, _)), Some(own)) = (&self.queues, lock(&self.apart.0).get(&partition))
        {
            own.forward_to(others);
        }
    }

    /// The first error among those of the last call.
    fn first_error(&mut self) -> Result<(), Error> {
        let mut errors = self.errors.drain(..);
        match errors.find_map(|error| error.into_error(&self.topic)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.consumer.context().listener
    }

    /// The metadata of this member in the current generation, for the offsets of one transaction.
    /// `None` before it has joined.
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        self.consumer.group_metadata().map(GroupMetadata)
    }

    /// Starts a commit. If it fails, a later [`poll`](Self::poll) calls
    /// [`commit_failed`](RebalanceListener::commit_failed).
    pub fn commit(&self, commits: &[Commit]) {
        let started = commit_list(&self.topic, commits)
            .map(|list| commit_async(&self.consumer, &list).map_err(KafkaError::ConsumerCommit));
        if let Ok(Err(error)) | Err(error) = started {
            debug!(%error, "cannot start a commit");
            self.listener().commit_failed();
        }
    }

    /// Commits and waits for the answer. Returns false when the commit has failed; the listener is
    /// called in either case.
    pub fn commit_now(&self, commits: &[Commit]) -> bool {
        let context = self.consumer.context();
        context.commit_now(&self.consumer, commits, "before the next records")
    }

    /// The number of messages in partitions behind these positions, as of the last fetches of this
    /// member. Sends no request.
    pub fn lag(&self, positions: impl IntoIterator<Item = (i32, i64)>) -> i64 {
        let lag_of = |(partition, position): (i32, i64)| {
            let (_, high) = known_watermarks(&self.consumer, &self.topic, partition)?;
            Some((high - position).max(0))
        };
        positions.into_iter().filter_map(lag_of).sum()
    }

    /// Leaves the group and closes the client: partitions are revoked, the listener is called, and the
    /// offsets that it returns are committed. Gives up after `deadline`; the broker then removes the
    /// member when its session times out.
    pub fn close(mut self, deadline: Duration) {
        let now = Instant::now();
        let until = now + deadline;
        // Before the answer to its JoinGroup a member has no id to leave with, and the group would wait
        // for it after it is gone.
        self.poll_while(until.min(now + JOIN_TIMEOUT), |consumer| {
            !consumer.context().joined.load(Ordering::Relaxed)
        });
        self.consumer.unsubscribe();
        // A static member that is closed before it has left never leaves.
        self.poll_while(
            until.checked_sub(CLOSE_TIMEOUT).unwrap_or(now),
            |consumer| consumer.context().assigned.load(Ordering::Relaxed) || is_member(consumer),
        );
        self.queues = None;
        drop(self.apart);
        let left = until.saturating_duration_since(Instant::now());
        let consumer = self.consumer;
        if call_with_timeout(left, "close", move || drop(consumer)).is_none() {
            warn!("the consumer did not close in time; it leaves the group by its session timeout");
        }
    }

    /// Serves events while a condition holds, until a deadline. Records that still arrive are dropped:
    /// they are not committed, so another member reads them again.
    fn poll_while(
        &mut self,
        until: Instant,
        condition: impl Fn(&ClosingConsumer<Context<L>>) -> bool,
    ) {
        const STEP: Duration = Duration::from_millis(2);
        let mut batch = RecordBatch::default();
        while condition(&self.consumer) && Instant::now() < until {
            if self.poll().is_err() || self.consume(STEP, &mut batch).is_err() {
                break;
            }
            batch.clear();
        }
    }
}

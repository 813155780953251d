//! A member of the workers' group: takes batches of records, tells a listener of partitions that
//! come and go, and commits the offsets that it is given.
//!
//! Partitions without a committed offset begin at the beginning, explicitly; an offset out of range
//! is an error and never a jump. A partition that the listener wants to have *apart* has a queue of
//! its own, from which as few records may be taken as it likes.

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
use crate::within::within;

/// How long a rebalance may wait for the group's committed offsets. A worker that was killed within a
/// transaction leaves them undecided until a broker ends it: after its 10 s, at the next look, which
/// brokers take every 10 s.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(30);

/// What is left of a deadline for closing the client when leaving has taken all of the rest: a member
/// in the middle of a rebalance puts it off.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a member that has asked to join is waited for, before it leaves.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// Hears of partitions that come and go. Called from [`GroupConsumer::poll`] and
/// [`GroupConsumer::close`], on their thread.
pub trait RebalanceListener: Send + Sync + 'static {
    /// These partitions are this member's from now on. What is returned is done before their first
    /// record comes.
    fn assigned(&self, starts: &[Start]) -> Assigned;

    /// These partitions go to another member when this returns. Returns what to commit before that.
    /// `member` tells who this member is now, for whoever commits in a transaction.
    fn revoked(
        &self,
        partitions: &[i32],
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Vec<Commit>;

    /// These partitions are another member's already; nothing of them may be committed.
    fn lost(&self, partitions: &[i32]);

    /// The broker has these commits: it was waited for.
    fn committed(&self, commits: &[Commit]);

    /// A commit has failed, so that what it was about is to be committed again.
    fn commit_failed(&self);
}

/// What is to be done with partitions that came.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// To be committed before they are read.
    pub commits: Vec<Commit>,
    /// Those to be read by [`GroupConsumer::consume_apart`].
    pub apart: Vec<i32>,
}

/// How a process is a member of its group.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The group.
    pub group: String,
    /// The member's lasting name (`group.instance.id`): one that is restarted gets its partitions
    /// back without a rebalance. `None`: it leaves for good when it ends.
    pub instance_id: Option<String>,
}

/// A member of a consumer group, on one topic.
pub struct GroupConsumer<L: RebalanceListener> {
    // Dropped in this order: the queues before their consumer.
    queues: Option<(DataQueue, EventQueue)>,
    apart: ApartQueues,
    consumer: ClosingConsumer<Context<L>>,
    topic: String,
    errors: Vec<PartitionError>,
}

struct Context<L> {
    listener: L,
    cluster: Cluster,
    group: String,
    topic: String,
    target: OnceLock<ForwardTarget>,
    apart: Arc<Mutex<BTreeMap<i32, DataQueue>>>,
    /// Whether this member was ever told which partitions it has, be it none.
    joined: AtomicBool,
    /// Whether this member has partitions, for a close that waits until it has none.
    assigned: AtomicBool,
    /// Why partitions that came cannot be read; told by the next poll.
    failure: Mutex<Option<Error>>,
}

/// The queues of partitions that are read apart, also known to the consumer's context. Emptied with
/// this value, which is before the consumer closes.
struct ApartQueues(Arc<Mutex<BTreeMap<i32, DataQueue>>>);

impl Drop for ApartQueues {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L: RebalanceListener> Context<L> {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<i32> {
        let elements = list.elements();
        let own = elements
            .iter()
            .filter(|element| element.topic() == self.topic);
        own.map(|element| element.partition()).collect()
    }

    /// Takes partitions over: finds where the group left them, tells the listener, and does what it
    /// wants before they are read.
    fn take_over(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
        partitions: &[i32],
    ) -> Result<(), Error> {
        let starts = self.starts(consumer, partitions)?;
        for start in &starts {
            if let Some(mut own) = list.find_partition(&self.topic, start.partition) {
                own.set_offset(Offset::Offset(start.offset))
                    .map_err(Error::topic(&self.topic, "begin at an offset"))?;
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
        self.commit_now(consumer, &commits, "as they come");
        Ok(())
    }

    /// Where the group stands in partitions: at the committed offset, or at the beginning.
    fn starts(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<Vec<Start>, Error> {
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            asked.add_partition(&self.topic, partition);
        }
        let committed = consumer
            .committed_offsets(asked, COMMITTED_TIMEOUT)
            .map_err(Error::topic(&self.topic, "ask for the group's offsets"))?;
        let metadata = metadata(&committed);
        // One request for all of them, and only if it is needed.
        let all = partitions.iter().max().map_or(0, |&last| last as usize + 1);
        let mut beginnings = None;
        let mut ends = None;
        let mut starts = Vec::with_capacity(partitions.len());
        for (element, metadata) in committed.elements().iter().zip(metadata) {
            // What cannot be told is not nothing: beginning at the beginning would do all again.
            element
                .error()
                .map_err(Error::topic(&self.topic, "ask for the group's offsets"))?;
            let partition = element.partition();
            let known =
                |offsets: &Option<Vec<i64>>| offsets.as_ref()?.get(partition as usize).copied();
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => {
                    if beginnings.is_none() {
                        beginnings = Some(beginning_offsets(&self.cluster, &self.topic, all)?);
                    }
                    known(&beginnings).unwrap_or(0)
                }
            };
            if !metadata.is_empty() && ends.is_none() {
                ends = Some(end_offsets(&self.cluster, &self.topic, all)?);
            }
            let end = known(&ends).filter(|_| !metadata.is_empty());
            starts.push(Start {
                partition,
                offset,
                metadata,
                end,
            });
        }
        Ok(starts)
    }

    /// What is not allowed will not be by asking again: the next poll says so. The rest passes.
    fn refuse(&self, error: &KafkaError) {
        let refused = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                Error::group(&self.group, "be a member of it")(error.clone())
            }
            _ => Error::topic(&self.topic, "read it")(error.clone()),
        };
        if refused.is_denied() {
            *lock(&self.failure) = Some(refused);
        }
    }

    /// Commits and waits for the answer. Returns whether it was done.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, commits: &[Commit], when: &str) -> bool {
        if commits.is_empty() {
            return true;
        }
        let committed = commit_list(&self.topic, commits)
            .and_then(|list| consumer.commit(&list, CommitMode::Sync));
        match &committed {
            Ok(()) => self.listener.committed(commits),
            Err(error) => {
                info!(%error, "cannot commit partitions {when}");
                self.refuse(error);
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
        self.cluster.admission().hear(&error, reason);
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
                if let Err(error) = self.take_over(consumer, list, &partitions) {
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
                        "as they go; their work will be done again",
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
            // A rebalance under way refuses commits; the offsets are committed after it.
            debug!(%error, "commit failed");
            self.refuse(&error);
            self.listener.commit_failed();
        }
    }
}

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
    /// Joins the group. Partitions come with [`poll`](Self::poll).
    ///
    /// # Errors
    /// When a property is wrong or the topic's name is none.
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
        // Rebalances are served by polls, of which there was none yet.
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

    /// Serves rebalances, commits and errors. To be called often, whatever else goes on: a member
    /// that does not for `max.poll.interval.ms` is taken for dead.
    ///
    /// # Errors
    /// When this member can go on no longer.
    pub fn poll(&mut self) -> Result<(), Error> {
        while self
            .queues
            .as_ref()
            .is_some_and(|(_, events)| events.waiting() > 0)
        {
            match self.consumer.poll(Duration::ZERO) {
                None => {}
                // Partitions are forwarded before they are assigned, so no record comes here. If
                // one did and were passed over, a later offset would be committed past it.
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
                    self.consumer.context().refuse(&error);
                }
            }
        }
        // A poll of an empty queue is a sign of life, too.
        self.consumer.poll(Duration::ZERO);
        let context = self.consumer.context();
        context.cluster.check_admission()?;
        match lock(&context.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Takes records, appended to `batch`: as many as a batch is good for, or those that come
    /// within `timeout`.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], or when a partition cannot be read.
    pub fn consume(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        if let Some((queue, _)) = &mut self.queues {
            queue.consume(timeout, batch, &mut self.errors);
        }
        self.first_error()
    }

    /// Takes one record as soon as there is one, waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn consume_one(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        if let Some((queue, _)) = &mut self.queues {
            queue.consume_one(timeout, batch, &mut self.errors);
        }
        self.first_error()
    }

    /// Takes at most `at_most` records of a partition that is read apart, appended to `batch`.
    /// Does not wait.
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

    /// From now on the records of a partition that was read apart come with the others, those that
    /// wait already first.
    pub fn join_others(&mut self, partition: i32) {
        if let (Some((others, _)), Some(own)) = (&self.queues, lock(&self.apart.0).get(&partition))
        {
            own.forward_to(others);
        }
    }

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

    /// Who this member is now, for the offsets of one transaction. `None` before it has joined.
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        self.consumer.group_metadata().map(GroupMetadata)
    }

    /// Asks for a commit. Its failure is told to the listener by a later [`poll`](Self::poll).
    pub fn commit(&self, commits: &[Commit]) {
        let asked = commit_list(&self.topic, commits)
            .map(|list| commit_async(&self.consumer, &list).map_err(KafkaError::ConsumerCommit));
        if let Ok(Err(error)) | Err(error) = asked {
            debug!(%error, "cannot ask for a commit");
            self.listener().commit_failed();
        }
    }

    /// Commits and waits until that is done. Returns false where it failed, which the listener is
    /// told, too.
    pub fn commit_now(&self, commits: &[Commit]) -> bool {
        let context = self.consumer.context();
        context.commit_now(&self.consumer, commits, "before they are read on")
    }

    /// How many messages partitions have beyond these positions, as far as the fetches of this
    /// member tell; nobody is asked.
    pub fn lag(&self, positions: impl IntoIterator<Item = (i32, i64)>) -> i64 {
        let lag_of = |(partition, position): (i32, i64)| {
            let (_, high) = known_watermarks(&self.consumer, &self.topic, partition)?;
            Some((high - position).max(0))
        };
        positions.into_iter().filter_map(lag_of).sum()
    }

    /// Leaves the group: partitions are revoked (the listener hears of it, and its offsets are
    /// committed), the broker is told, the client is closed. Gives up after `deadline`; the broker
    /// then finds out by the session time-out.
    pub fn close(mut self, deadline: Duration) {
        let now = Instant::now();
        let until = now + deadline;
        // Who has asked to join has nothing yet to leave with, and would be waited for when it is gone.
        self.poll_while(until.min(now + JOIN_PATIENCE), |consumer| {
            !consumer.context().joined.load(Ordering::Relaxed)
        });
        self.consumer.unsubscribe();
        // A member with a lasting name that is closed before it has left never leaves.
        self.poll_while(
            until.checked_sub(CLOSE_PATIENCE).unwrap_or(now),
            |consumer| consumer.context().assigned.load(Ordering::Relaxed) || is_member(consumer),
        );
        self.queues = None;
        drop(self.apart);
        let left = until.saturating_duration_since(Instant::now());
        let consumer = self.consumer;
        if within(left, "close", move || drop(consumer)).is_none() {
            warn!("the consumer did not close in time; its session runs out instead");
        }
    }

    /// Serves what comes while a condition holds, until then at the latest. Messages that still come
    /// are another member's to work on.
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

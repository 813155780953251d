//! A member of the workers' group: takes batches of records, tells a listener of partitions that
//! come and go, and commits the offsets that it is given.
//!
//! Partitions without a committed offset begin at the beginning, explicitly; an offset out of range
//! is an error and never a jump.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use crate::cluster::{Cluster, log_error, log_line};
use crate::error::Error;
use crate::queue::{
    DataQueue, EventQueue, ForwardTarget, PartitionError, commit_async, known_watermarks,
};
use crate::record::RecordBatch;
use crate::settings::{self, Role};

/// How long a rebalance may wait for the group's committed offsets.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);

/// Hears of partitions that come and go. Called from [`GroupConsumer::poll`] and
/// [`GroupConsumer::close`], on their thread.
pub trait RebalanceListener: Send + Sync + 'static {
    /// These partitions are this member's from now on.
    fn assigned(&self, partitions: &[i32]);

    /// These partitions go to another member when this returns. Returns the offsets to commit
    /// before that, as (partition, next offset).
    fn revoked(&self, partitions: &[i32]) -> Vec<(i32, i64)>;

    /// These partitions are another member's already; nothing of them may be committed.
    fn lost(&self, partitions: &[i32]);

    /// A commit has failed, so that its offsets are to be committed again.
    fn commit_failed(&self);
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
    consumer: BaseConsumer<Context<L>>,
    topic: String,
    errors: Vec<PartitionError>,
}

struct Context<L> {
    listener: L,
    topic: String,
    target: OnceLock<ForwardTarget>,
    /// Whether this member has partitions, for a close that waits until it has none.
    assigned: AtomicBool,
    /// The offset that the group had committed when a partition came; only where it had.
    starts: Mutex<BTreeMap<i32, i64>>,
}

impl<L: RebalanceListener> Context<L> {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<i32> {
        let elements = list.elements();
        let own = elements
            .iter()
            .filter(|element| element.topic() == self.topic);
        own.map(|element| element.partition()).collect()
    }

    /// Sets where each new partition begins: at its committed offset, or at the beginning.
    fn set_start_offsets(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let mut asked = TopicPartitionList::with_capacity(list.count());
        for partition in self.partitions(list) {
            asked.add_partition(&self.topic, partition);
        }
        let committed = consumer.committed_offsets(asked, COMMITTED_TIMEOUT)?;
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        for element in committed.elements() {
            let start = match element.offset() {
                Offset::Offset(offset) => {
                    starts.insert(element.partition(), offset);
                    Offset::Offset(offset)
                }
                _ => {
                    starts.remove(&element.partition());
                    Offset::Beginning
                }
            };
            if let Some(mut own) = list.find_partition(&self.topic, element.partition()) {
                own.set_offset(start)?;
            }
        }
        Ok(())
    }
}

impl<L: RebalanceListener> ClientContext for Context<L> {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }
}

impl<L: RebalanceListener> ConsumerContext for Context<L> {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.partitions(list);
                if partitions.is_empty() {
                    return;
                }
                if let Err(error) = self.set_start_offsets(consumer, list) {
                    // Without them, `auto.offset.reset=error` makes the partition fail by name.
                    warn!(%error, "cannot ask for the group's committed offsets");
                }
                if let Some(target) = self.target.get() {
                    for &partition in &partitions {
                        target.forward(consumer.client(), &self.topic, partition);
                    }
                }
                info!(?partitions, "partitions assigned");
                self.assigned.store(true, Ordering::Relaxed);
                self.listener.assigned(&partitions);
            }
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                if partitions.is_empty() {
                    return;
                }
                if consumer.assignment_lost() {
                    warn!(?partitions, "partitions lost");
                    self.listener.lost(&partitions);
                    return;
                }
                info!(?partitions, "partitions revoked");
                let offsets = self.listener.revoked(&partitions);
                if !offsets.is_empty()
                    && let Err(error) = commit_list(&self.topic, &offsets)
                        .and_then(|list| consumer.commit(&list, CommitMode::Sync))
                {
                    warn!(%error, "cannot commit at a rebalance; the work will be done again");
                }
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
            self.listener.commit_failed();
        }
    }
}

fn commit_list(topic: &str, offsets: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for &(partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
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
        let context = Context {
            listener,
            topic: topic.to_owned(),
            target: OnceLock::new(),
            assigned: AtomicBool::new(false),
            starts: Mutex::default(),
        };
        let consumer: BaseConsumer<Context<L>> = settings::create(&config, context)?;
        let queue = DataQueue::new(&consumer);
        // Rebalances are served by polls, of which there was none yet.
        let _ = consumer.context().target.set(queue.target());
        consumer
            .subscribe(&[topic])
            .map_err(Error::topic(topic, "subscribe"))?;
        Ok(Self {
            queues: Some((queue, EventQueue::new(&consumer))),
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
                Some(Err(error)) => debug!(%error, "consumer"),
            }
        }
        // A poll of an empty queue is a sign of life, too.
        self.consumer.poll(Duration::ZERO);
        Ok(())
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

    /// Asks for a commit. Its failure is told to the listener by a later [`poll`](Self::poll).
    pub fn commit(&self, offsets: &[(i32, i64)]) {
        let asked = commit_list(&self.topic, offsets)
            .map(|list| commit_async(&self.consumer, &list).map_err(KafkaError::ConsumerCommit));
        if let Ok(Err(error)) | Err(error) = asked {
            debug!(%error, "cannot ask for a commit");
            self.listener().commit_failed();
        }
    }

    /// How many messages partitions have beyond these positions, as far as the fetches of this
    /// member tell; nobody is asked. A partition of which no message was taken (`None`) is where the
    /// group left it.
    pub fn lag(&self, positions: impl IntoIterator<Item = (i32, Option<i64>)>) -> i64 {
        let starts = &self.consumer.context().starts;
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let lag_of = |(partition, position): (i32, Option<i64>)| {
            let (low, high) = known_watermarks(&self.consumer, &self.topic, partition)?;
            let start = || starts.get(&partition).copied().unwrap_or(low);
            Some((high - position.unwrap_or_else(start)).max(0))
        };
        positions.into_iter().filter_map(lag_of).sum()
    }

    /// Leaves the group: partitions are revoked (the listener hears of it, and its offsets are
    /// committed), the broker is told, the client is closed. Gives up after `deadline`; the broker
    /// then finds out by the session time-out.
    pub fn close(mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.consumer.unsubscribe();
        let mut batch = RecordBatch::default();
        while self.consumer.context().assigned.load(Ordering::Relaxed) && Instant::now() < until {
            if self.poll().is_err() {
                break;
            }
            // What still comes is another member's to work on.
            if self.consume(Duration::from_millis(5), &mut batch).is_err() {
                break;
            }
            batch = RecordBatch::default();
        }
        self.queues = None;
        let left = until.saturating_duration_since(Instant::now());
        let closed = std::sync::Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        let told = std::sync::Arc::clone(&closed);
        let consumer = self.consumer;
        let closing = std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(move || {
                drop(consumer);
                let (flag, changed) = &*told;
                *flag.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
                changed.notify_all();
            });
        if closing.is_err() {
            return;
        }
        let (flag, changed) = &*closed;
        let flag = flag.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = changed.wait_timeout_while(flag, left, |closed| !*closed);
        if waited.is_ok_and(|(flag, _)| !*flag) {
            warn!("the consumer did not close in time; its session runs out instead");
        }
    }
}

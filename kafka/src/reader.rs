//! Reads named partitions of a topic from given offsets, in batches, as a member of no group: an
//! aggregator reads all of a run by itself, and a second one disturbs nobody.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::closing::ClosingConsumer;
use crate::cluster::{Cluster, Context};
use crate::error::Error;
use crate::offsets::{beginning_offsets, decided_end_offsets};
use crate::queue::{DataQueue, EventQueue, PartitionError};
use crate::record::{Record, RecordBatch};
use crate::settings::Role;
use crate::topics;

/// Hands over every record that a topic has now, from these offsets on, by partition: a partition
/// that is not named is read from its beginning, and so is one that has lost what it is named with.
/// What is in a transaction that is not decided yet is waited for.
///
/// # Errors
/// When there is no such topic, it cannot be read, or `stopped` says so.
pub fn read_to_end(
    cluster: &Cluster,
    topic: &str,
    from: &[i64],
    stopped: &dyn Fn() -> bool,
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(20);
    let partitions = topics::partition_count(cluster, topic)?.ok_or_else(|| Error::NoTopic {
        topic: topic.to_owned(),
    })?;
    let mut start = beginning_offsets(cluster, topic, partitions)?;
    for (start, &from) in start.iter_mut().zip(from) {
        *start = from.max(*start);
    }
    let end = decided_end_offsets(cluster, topic, partitions, stopped)?;
    let mut reader = Reader::start(cluster, topic, &start)?;
    let mut batch = RecordBatch::default();
    while !reader.has_reached(&end) {
        batch.clear();
        reader.read(STEP, &mut batch)?;
        batch.iter().for_each(&mut *visit);
        if stopped() {
            return Err(Error::Stopped);
        }
    }
    Ok(())
}

/// A reader of one topic.
pub struct Reader {
    // Dropped in this order: the queues before their consumer.
    queue: DataQueue,
    events: EventQueue,
    consumer: ClosingConsumer<Context>,
    topic: String,
    /// The offset to read next, by partition.
    next: Vec<i64>,
    errors: Vec<PartitionError>,
}

impl Reader {
    /// Begins to read partition 0, 1, 2, … at these offsets.
    ///
    /// # Errors
    /// When a property is wrong or the topic's name is none.
    pub fn start(cluster: &Cluster, topic: &str, offsets: &[i64]) -> Result<Self, Error> {
        let consumer = consumer(cluster)?;
        let queue = DataQueue::new(&consumer);
        for (partition, _) in (0..).zip(offsets) {
            queue.target().forward(consumer.client(), topic, partition);
        }
        assign(&consumer, topic, offsets)?;
        Ok(Self {
            queue,
            events: EventQueue::new(&consumer),
            consumer,
            topic: topic.to_owned(),
            next: offsets.to_vec(),
            errors: Vec::new(),
        })
    }

    /// Takes records, waiting at most `timeout` for the first, appended to `batch`.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], or when a partition cannot be read.
    pub fn read(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        // Errors and log lines; data goes to the queue.
        while self.events.waiting() > 0 {
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
                // No right on the group is needed, for it is never joined.
                let code = error.rdkafka_error_code();
                if code != Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
                    debug!(%error, "reader");
                }
            }
        }
        self.consumer.context().check_admission()?;
        let before = batch.len();
        self.queue.consume(timeout, batch, &mut self.errors);
        for record in batch.iter().skip(before) {
            advance(&mut self.next, record.partition, record.offset + 1);
        }
        for error in &self.errors {
            if error.code == RDKafkaErrorCode::PartitionEOF {
                advance(&mut self.next, error.partition, error.offset);
            }
        }
        let mut errors = self.errors.drain(..);
        match errors.find_map(|error| error.into_error(&self.topic)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The offset to read next, by partition: everything before it was read. Commit markers and
    /// records of aborted transactions, which a reader is never shown, count as read.
    pub fn next_offsets(&self) -> &[i64] {
        &self.next
    }

    /// Whether everything before these offsets, by partition, was read. Commit markers and records
    /// of aborted transactions, which a reader is never shown, count as read.
    pub fn has_reached(&self, offsets: &[i64]) -> bool {
        self.next.iter().zip(offsets).all(|(next, end)| next >= end)
    }
}

/// A consumer that is a member of no group.
pub(crate) fn consumer(cluster: &Cluster) -> Result<ClosingConsumer<Context>, Error> {
    let mut config = cluster.config(Role::Reader);
    // librdkafka assigns partitions to members of a named group only; this one is never joined.
    config.set("group.id", "rollcall.reader");
    // Tells of the end of a partition even where the last offsets are commit markers.
    config.set("enable.partition.eof", "true");
    ClosingConsumer::create(&config, cluster.context())
}

/// Has it read partition 0, 1, 2, … from these offsets on.
pub(crate) fn assign(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    offsets: &[i64],
) -> Result<(), Error> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, &offset) in (0..).zip(offsets) {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .map_err(Error::topic(topic, "name an offset"))?;
    }
    consumer
        .assign(&list)
        .map_err(Error::topic(topic, "assign partitions"))
}

/// Notes that a partition was read up to this offset.
pub(crate) fn advance(next: &mut [i64], partition: i32, offset: i64) {
    let own = usize::try_from(partition).ok();
    if let Some(next) = own.and_then(|partition| next.get_mut(partition)) {
        *next = offset.max(*next);
    }
}

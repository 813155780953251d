//! A reader of a topic: it reads the partitions from given offsets, in batches, and is a member of no
//! group. So each aggregator reads all of a run, and two of them do not affect each other.

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

/// Passes each record that a topic has now to `visit`, from the offsets in `from` on, by partition. A
/// partition without an offset in `from` is read from its beginning, and so is one whose records at
/// that offset are deleted. Records of transactions that are still open are waited for.
///
/// # Errors
/// When the topic does not exist or cannot be read, or [`Error::Stopped`] when `stopped` returns true.
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
    /// A reader that begins partition 0, 1, 2, … at these offsets.
    ///
    /// # Errors
    /// When a property is wrong or the topic's name is not valid.
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

    /// Appends records to `batch`, and waits at most `timeout` for the first of them.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], or when a partition cannot be read.
    pub fn read(&mut self, timeout: Duration, batch: &mut RecordBatch) -> Result<(), Error> {
        // Events are errors and log lines; records arrive on the queue.
        while self.events.waiting() > 0 {
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
                // No right on the group is needed, because the reader never joins it.
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

    /// The offset to read next, by partition: everything before it is read. Commit markers and records
    /// of aborted transactions, which are never returned, count as read.
    pub fn next_offsets(&self) -> &[i64] {
        &self.next
    }

    /// Whether everything before these offsets, by partition, is read, in the sense of
    /// [`next_offsets`](Self::next_offsets).
    pub fn has_reached(&self, offsets: &[i64]) -> bool {
        self.next.iter().zip(offsets).all(|(next, end)| next >= end)
    }
}

/// A consumer that is a member of no group.
pub(crate) fn consumer(cluster: &Cluster) -> Result<ClosingConsumer<Context>, Error> {
    let mut config = cluster.config(Role::Reader);
    // librdkafka assigns partitions only to a consumer with a group id; this group is never joined.
    config.set("group.id", "rollcall.reader");
    // The end of a partition is then reported even where its last offsets are commit markers.
    config.set("enable.partition.eof", "true");
    ClosingConsumer::create(&config, cluster.context())
}

/// Assigns partition 0, 1, 2, … of a topic to a consumer, from these offsets on.
pub(crate) fn assign(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    offsets: &[i64],
) -> Result<(), Error> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, &offset) in (0..).zip(offsets) {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .map_err(Error::topic(topic, "set the offset to read from"))?;
    }
    consumer
        .assign(&list)
        .map_err(Error::topic(topic, "assign partitions"))
}

/// Records that a partition is read up to this offset. The offset of a partition never decreases.
pub(crate) fn advance(next: &mut [i64], partition: i32, offset: i64) {
    let own = usize::try_from(partition).ok();
    if let Some(next) = own.and_then(|partition| next.get_mut(partition)) {
        *next = offset.max(*next);
    }
}

//! The runs topic: what becomes of each run, keyed so that compaction keeps the last word on each.

use std::time::Duration;

use pipeline::RunEvent;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::offsets::{beginning_offsets, end_offsets};
use crate::producer::{BatchProducer, Outgoing, Topic};
use crate::reader::Reader;
use crate::record::RecordBatch;

/// The runs topic has one partition, so that all agree on the order of its events.
const PARTITION: i32 = 0;

/// Publishes an event and waits until the broker has acknowledged it. The producer must have
/// nothing else in flight.
///
/// # Errors
/// When it is not delivered within `deadline`.
pub fn publish_run_event(
    producer: &BatchProducer,
    topic: &Topic,
    event: &RunEvent,
    deadline: Duration,
) -> Result<(), Error> {
    let payload = event.encode();
    let message = Outgoing {
        payload: &payload,
        id: 0,
    };
    let key = event.key();
    let not_delivered = |code| Error::Delivery {
        topic: topic.name().to_owned(),
        partition: PARTITION,
        code,
    };
    let timed_out = rdkafka::error::RDKafkaErrorCode::MessageTimedOut;
    if !producer.produce_one(topic, PARTITION, Some(key.as_bytes()), &[], message)? {
        return Err(not_delivered(rdkafka::error::RDKafkaErrorCode::QueueFull));
    }
    let mut deliveries = Vec::new();
    if !producer.drain(deadline, &mut deliveries) {
        return Err(not_delivered(timed_out));
    }
    match deliveries.last().and_then(|delivery| delivery.error) {
        Some(code) => Err(not_delivered(code)),
        None => Ok(()),
    }
}

/// Reads the runs topic from its beginning, and goes on as it grows.
pub struct RunsReader {
    reader: Reader,
    topic: String,
    /// Where the topic ended when the reader began.
    end: Vec<i64>,
}

impl RunsReader {
    /// Begins at the topic's beginning.
    ///
    /// # Errors
    /// When the topic cannot be asked for its end.
    pub fn start(cluster: &Cluster, topic: &str) -> Result<Self, Error> {
        // Asked for here, for librdkafka asks again only after half a second where a new topic's
        // leader does not know of it yet.
        let beginning = beginning_offsets(cluster, topic, 1)?;
        let end = end_offsets(cluster, topic, 1)?;
        Ok(Self {
            reader: Reader::start(cluster, topic, &beginning)?,
            topic: topic.to_owned(),
            end,
        })
    }

    /// Whether all that was there when the reader began was read.
    pub fn is_caught_up(&self) -> bool {
        self.reader.has_reached(&self.end)
    }

    /// Events that have come, waiting at most `timeout` for the first. Events of a kind that this
    /// version does not know are skipped.
    ///
    /// # Errors
    /// When the topic cannot be read, or holds what is no event.
    pub fn read(&mut self, timeout: Duration) -> Result<Vec<RunEvent>, Error> {
        let mut batch = RecordBatch::default();
        self.reader.read(timeout, &mut batch)?;
        let mut events = Vec::with_capacity(batch.len());
        for record in batch.iter() {
            // An empty value is a tombstone: the run was removed.
            if record.payload.is_empty() {
                continue;
            }
            let event = RunEvent::decode(record.key.unwrap_or_default(), record.payload);
            events.extend(event.map_err(|source| Error::RunEvent {
                topic: self.topic.clone(),
                offset: record.offset,
                source,
            })?);
        }
        Ok(events)
    }
}

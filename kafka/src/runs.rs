//! The runs topic: what becomes of each run, keyed so that compaction keeps the last word on each.
//! A run that was removed (a tombstone for each of its keys) is as if it had never been, whether or
//! not the broker has compacted its records away yet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pipeline::{RunEvent, RunHistory, RunId};
use rdkafka::error::RDKafkaErrorCode;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::offsets::{beginning_offsets, end_offsets};
use crate::producer::{BatchProducer, Outgoing, Topic};
use crate::reader::Reader;
use crate::record::{Record, RecordBatch};

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
    if !producer.produce_one(topic, PARTITION, Some(key.as_bytes()), &[], message)? {
        return Err(not_delivered(topic, RDKafkaErrorCode::QueueFull));
    }
    await_delivery(producer, topic, deadline)
}

/// Waits until the broker has acknowledged all that is in flight.
fn await_delivery(
    producer: &BatchProducer,
    topic: &Topic,
    deadline: Duration,
) -> Result<(), Error> {
    let mut deliveries = Vec::new();
    if !producer.drain(deadline, &mut deliveries) {
        return Err(not_delivered(topic, RDKafkaErrorCode::MessageTimedOut));
    }
    match deliveries.iter().find_map(|delivery| delivery.error) {
        Some(code) => Err(not_delivered(topic, code)),
        None => Ok(()),
    }
}

fn not_delivered(topic: &Topic, code: RDKafkaErrorCode) -> Error {
    Error::Delivery {
        topic: topic.name().to_owned(),
        partition: PARTITION,
        code,
    }
}

/// Removes runs from the runs topic: a tombstone for each key that one can have. Nothing else is
/// touched; what they have on other topics goes with the retention of those. Returns when the
/// broker has acknowledged all.
///
/// # Errors
/// When a tombstone is not delivered within `deadline`.
pub fn remove_runs(
    cluster: &Cluster,
    topic: &str,
    run_ids: &[RunId],
    deadline: Duration,
) -> Result<(), Error> {
    let mut producer = BatchProducer::new(cluster)?;
    let target = producer.topic(topic)?;
    let until = Instant::now() + deadline;
    for run_id in run_ids {
        for key in RunEvent::keys_of(run_id) {
            if !producer.produce_tombstone(&target, PARTITION, key.as_bytes())? {
                return Err(not_delivered(&target, RDKafkaErrorCode::QueueFull));
            }
        }
        // Run by run, so that the queue is never full however many there are.
        let left = until.saturating_duration_since(Instant::now());
        await_delivery(&producer, &target, left)?;
    }
    Ok(())
}

/// Takes back what was said of a run's end by an attempt that gave it up, for another has taken it
/// up. The producer must have nothing else in flight.
///
/// # Errors
/// When the tombstone is not delivered within `deadline`.
pub fn retract_abort(
    producer: &BatchProducer,
    topic: &Topic,
    run_id: &RunId,
    deadline: Duration,
) -> Result<(), Error> {
    let key = RunEvent::key_of_abort(run_id);
    if !producer.produce_tombstone(topic, PARTITION, key.as_bytes())? {
        return Err(not_delivered(topic, RDKafkaErrorCode::QueueFull));
    }
    await_delivery(producer, topic, deadline)
}

/// What the topic tells of one run now.
///
/// # Errors
/// When the topic cannot be read, holds what is no event, or `stopped` says so.
pub fn run_history(
    cluster: &Cluster,
    topic: &str,
    run_id: &RunId,
    stopped: &dyn Fn() -> bool,
) -> Result<RunHistory, Error> {
    let mut history = RunHistory::new(run_id.clone());
    for event in all_run_events(cluster, topic, stopped)? {
        history.hear(event);
    }
    Ok(history)
}

/// Every event of every run that is on the topic now, in order.
///
/// # Errors
/// When the topic cannot be read, holds what is no event, or `stopped` says so.
pub fn all_run_events(
    cluster: &Cluster,
    topic: &str,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<RunEvent>, Error> {
    const STEP: Duration = Duration::from_millis(20);
    let mut reader = RunsReader::start(cluster, topic)?;
    let mut events = Vec::new();
    while !reader.is_caught_up() {
        events.extend(reader.read(STEP)?);
        if stopped() {
            return Err(Error::Stopped);
        }
    }
    Ok(events)
}

/// Reads the runs topic from its beginning, and goes on as it grows.
pub struct RunsReader {
    reader: Reader,
    topic: String,
    /// Where the topic ended when the reader began.
    end: Vec<i64>,
    /// What was there when the reader began, as far as it is read; handed out when all of it is.
    history: History,
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
            history: History::default(),
        })
    }

    /// Whether all that was there when the reader began was read.
    pub fn is_caught_up(&self) -> bool {
        self.reader.has_reached(&self.end)
    }

    /// Events that have come, waiting at most `timeout` for the first. Those that were there when
    /// the reader began come all at once, without those of runs that were removed since. Events of
    /// a kind that this version does not know are skipped.
    ///
    /// # Errors
    /// When the topic cannot be read, or holds what is no event.
    pub fn read(&mut self, timeout: Duration) -> Result<Vec<RunEvent>, Error> {
        let mut batch = RecordBatch::default();
        self.reader.read(timeout, &mut batch)?;
        for record in batch.iter() {
            self.history.hear(record);
        }
        if !self.is_caught_up() {
            // A tombstone for any of it may be still to come.
            return Ok(Vec::new());
        }
        let mut events = Vec::with_capacity(self.history.len());
        for (offset, key, value) in self.history.take() {
            let event = RunEvent::decode(&key, &value);
            events.extend(event.map_err(|source| Error::RunEvent {
                topic: self.topic.clone(),
                offset,
                source,
            })?);
        }
        Ok(events)
    }
}

/// A record's offset, key and value.
type Heard = (i64, Vec<u8>, Vec<u8>);

/// Records of the runs topic that no later tombstone has taken back, in order.
#[derive(Debug, Default)]
struct History {
    /// `None` where a tombstone came for it.
    records: Vec<Option<Heard>>,
    /// Where in `records` those of a key are. All of them, not the last: two manifests of one run
    /// that disagree must both be seen.
    by_key: HashMap<Vec<u8>, Vec<usize>>,
}

impl History {
    fn hear(&mut self, record: Record<'_>) {
        let key = record.key.unwrap_or_default();
        if record.payload.is_empty() {
            for position in self.by_key.remove(key).unwrap_or_default() {
                self.records[position] = None;
            }
            return;
        }
        let positions = self.by_key.entry(key.to_vec()).or_default();
        positions.push(self.records.len());
        let record = (record.offset, key.to_vec(), record.payload.to_vec());
        self.records.push(Some(record));
    }

    /// How many records were heard since the last [`take`](Self::take).
    fn len(&self) -> usize {
        self.records.len()
    }

    /// Hands out what is left and forgets it.
    fn take(&mut self) -> impl Iterator<Item = Heard> {
        self.by_key.clear();
        std::mem::take(&mut self.records).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of keys and values, an empty one being a tombstone.
    fn left(of: &[(&str, &str)]) -> Vec<(i64, String)> {
        let mut history = History::default();
        for (offset, (key, value)) in (0..).zip(of) {
            history.hear(Record {
                partition: PARTITION,
                offset,
                key: Some(key.as_bytes()),
                payload: value.as_bytes(),
            });
        }
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let left = history.take().map(|(offset, key, _)| (offset, text(key)));
        left.collect()
    }

    #[test]
    fn a_tombstone_takes_back_every_earlier_record_of_its_key_and_no_other() {
        let records = [
            ("a/opened", "1"),
            ("b/opened", "2"),
            ("a/opened", "3"),
            ("a/opened", ""),
            ("a/dispatched", "4"),
        ];
        let left = left(&records);
        assert_eq!(left, [(1, "b/opened".into()), (4, "a/dispatched".into())]);
    }

    #[test]
    fn what_comes_after_a_tombstone_stays() {
        let left = left(&[("a/opened", "1"), ("a/opened", ""), ("a/opened", "2")]);
        assert_eq!(left, [(2, "a/opened".into())]);
    }

    #[test]
    fn two_records_of_one_key_are_both_handed_out() {
        let left = left(&[("a/dispatched", "1"), ("a/dispatched", "2")]);
        assert_eq!(left.len(), 2);
    }
}

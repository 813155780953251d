//! The runs topic: what becomes of each run, keyed so that compaction keeps the last word on each.
//! A run that was removed (a tombstone for each of its keys) is as if it had never been, whether or
//! not the broker has compacted its records away yet.
//!
//! A message that is no event stops nobody but those who want to know of the very run that its key
//! names: whoever may write to the topic could else stop every run on it by a single message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pipeline::{DecodeError, RunEvent, RunHistory, RunId};
use rdkafka::error::RDKafkaErrorCode;
use tracing::warn;

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
        producer.check_admission()?;
        return Err(not_delivered(topic, RDKafkaErrorCode::MessageTimedOut));
    }
    match deliveries.iter().find_map(|delivery| delivery.error) {
        Some(code) => Err(not_delivered(topic, code)),
        None => Ok(()),
    }
}

fn not_delivered(topic: &Topic, code: RDKafkaErrorCode) -> Error {
    Error::undelivered(topic.name(), PARTITION, code)
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
/// When the topic cannot be read, a message about the run is no event, or `stopped` says so.
pub fn run_history(
    cluster: &Cluster,
    topic: &str,
    run_id: &RunId,
    stopped: &dyn Fn() -> bool,
) -> Result<RunHistory, Error> {
    let mut history = RunHistory::new(run_id.clone());
    let mut reader = RunsReader::start(cluster, topic)?;
    for event in reader.read_to_end(stopped)? {
        history.hear(event);
    }
    reader.check(run_id)?;
    Ok(history)
}

/// Every event of every run that is on the topic now, in order. What is no event is skipped.
///
/// # Errors
/// When the topic cannot be read, or `stopped` says so.
pub fn all_run_events(
    cluster: &Cluster,
    topic: &str,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<RunEvent>, Error> {
    RunsReader::start(cluster, topic)?.read_to_end(stopped)
}

/// Reads the runs topic from its beginning, and goes on as it grows.
pub struct RunsReader {
    reader: Reader,
    topic: String,
    /// Where the topic ended when the reader began.
    end: Vec<i64>,
    /// What was there when the reader began, as far as it is read; handed out when all of it is.
    history: History,
    unreadable: Unreadable,
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
            unreadable: Unreadable::default(),
        })
    }

    /// Whether all that was there when the reader began was read.
    pub fn is_caught_up(&self) -> bool {
        self.reader.has_reached(&self.end)
    }

    /// Events that have come, waiting at most `timeout` for the first. Those that were there when
    /// the reader began come all at once, without those of runs that were removed since. Events of
    /// a kind that this version does not know are skipped, and so is what is no event, with a warning:
    /// whether it was about a certain run is for [`check`](Self::check) to say.
    ///
    /// # Errors
    /// When the topic cannot be read.
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
            match RunEvent::decode(&key, &value) {
                Ok(event) => events.extend(event),
                Err(error) => {
                    let run = self.unreadable.add(offset, &key, error.clone());
                    warn!(topic = self.topic, offset, ?run, %error, "no event of a run, skipped");
                }
            }
        }
        Ok(events)
    }

    /// Reads all that was there when the reader began.
    fn read_to_end(&mut self, stopped: &dyn Fn() -> bool) -> Result<Vec<RunEvent>, Error> {
        const STEP: Duration = Duration::from_millis(20);
        let mut events = Vec::new();
        while !self.is_caught_up() {
            events.extend(self.read(STEP)?);
            if stopped() {
                return Err(Error::Stopped);
            }
        }
        Ok(events)
    }

    /// How many messages were skipped until now because they are no events.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.count
    }

    /// Whether all that was told of a run until now could be read.
    ///
    /// # Errors
    /// [`Error::RunEvent`] for the first message that could not.
    pub fn check(&self, run_id: &RunId) -> Result<(), Error> {
        match self.unreadable.by_run.get(run_id) {
            None => Ok(()),
            Some((offset, source)) => Err(Error::RunEvent {
                topic: self.topic.clone(),
                offset: *offset,
                run_id: run_id.clone(),
                source: source.clone(),
            }),
        }
    }
}

/// Messages of the runs topic that are no events.
#[derive(Debug, Default)]
struct Unreadable {
    count: u64,
    /// The first about each run. What is said of a run and cannot be read may be its end.
    by_run: HashMap<RunId, (i64, DecodeError)>,
}

impl Unreadable {
    /// Adds a message, and says which run it is about by its key.
    fn add(&mut self, offset: i64, key: &[u8], error: DecodeError) -> Option<RunId> {
        self.count += 1;
        let (run_id, _) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
        let run_id: RunId = run_id.parse().ok()?;
        let first = self.by_run.entry(run_id.clone());
        first.or_insert((offset, error));
        Some(run_id)
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
    fn what_is_no_event_is_counted_and_stands_against_its_own_run_alone() {
        let mut unreadable = Unreadable::default();
        let error = |what| DecodeError::Invalid {
            message: "Manifest",
            what,
        };
        let run = |name: &str| name.parse::<RunId>().expect("a run id");
        let added = [
            (7, "a-run/dispatched", Some(run("a-run"))),
            (8, "a-run/opened", Some(run("a-run"))),
            (9, "no run/opened", None),
            (10, "/opened", None),
            (11, "", None),
        ];
        for (offset, key, expected) in added {
            assert_eq!(unreadable.add(offset, key.as_bytes(), error("x")), expected);
        }
        assert_eq!(unreadable.add(12, b"\xff/opened", error("x")), None);
        assert_eq!(unreadable.count, 6);
        let offsets = unreadable
            .by_run
            .iter()
            .map(|(run, (offset, _))| (run, *offset));
        assert_eq!(offsets.collect::<Vec<_>>(), [(&run("a-run"), 7)]);
    }

    #[test]
    fn two_records_of_one_key_are_both_handed_out() {
        let left = left(&[("a/dispatched", "1"), ("a/dispatched", "2")]);
        assert_eq!(left.len(), 2);
    }
}

//! The runs topic: the events of each run, with keys so that compaction keeps the last event of each.
//! A run that was removed (a tombstone for each of its keys) is treated as if it had never existed,
//! whether or not the broker has compacted its records yet.
//!
//! A message that cannot be decoded is an error only for readers of the run in its key. Otherwise, one
//! message could stop every run on the topic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use pipeline::verdict::lost_outcomes;
use pipeline::{
    DecodeError, IndexRanges, OffsetRange, ResultsPolicy, RunEvent, RunHistory, RunId, RunLog,
};
use rdkafka::error::RDKafkaErrorCode;
use tracing::warn;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::offsets::{beginning_offsets, end_offsets};
use crate::producer::{BatchProducer, Outgoing, Topic};
use crate::reader::{Reader, advance, read_to_end};
use crate::record::RecordBatch;
use crate::topics::TopicNames;

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
    publish(producer, topic, event, deadline).map(|_| ())
}

/// As [`publish_run_event`]. Returns the offset of the event.
fn publish(
    producer: &BatchProducer,
    topic: &Topic,
    event: &RunEvent,
    deadline: Duration,
) -> Result<i64, Error> {
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

/// Waits until the broker has acknowledged all that is in flight, at least one message. Returns the
/// highest offset.
fn await_delivery(
    producer: &BatchProducer,
    topic: &Topic,
    deadline: Duration,
) -> Result<i64, Error> {
    let mut deliveries = Vec::new();
    if !producer.drain(deadline, &mut deliveries) {
        producer.check_admission()?;
        return Err(not_delivered(topic, RDKafkaErrorCode::MessageTimedOut));
    }
    match deliveries.iter().find_map(|delivery| delivery.error) {
        Some(code) => Err(not_delivered(topic, code)),
        None => {
            let offsets = deliveries.iter().map(|delivery| delivery.offset);
            Ok(offsets.max().unwrap_or(-1))
        }
    }
}

fn not_delivered(topic: &Topic, code: RDKafkaErrorCode) -> Error {
    Error::undelivered(topic.name(), PARTITION, code)
}

/// A writer of events that have a key of their own. Each is written at most once, because compaction
/// moves a key that is written twice to the end of the log. So nothing is sent a second time where the
/// broker's answer is lost; the caller reads the topic to see whether the event is there.
pub struct RunEventWriter {
    producer: BatchProducer,
    topic: Topic,
}

impl RunEventWriter {
    /// A writer to the runs topic.
    ///
    /// # Errors
    /// When a property is wrong or the topic's name is not one.
    pub fn new(cluster: &Cluster, topic: &str) -> Result<Self, Error> {
        let mut producer = BatchProducer::without_retries(cluster)?;
        let topic = producer.topic(topic)?;
        Ok(Self { producer, topic })
    }

    /// Connects to the leader of the topic, so that the first event need not wait for that. Where that
    /// takes longer than `timeout`, it goes on in the background.
    pub fn connect(&self, timeout: Duration) {
        self.producer.connect(self.topic.name(), timeout);
    }

    /// Writes an event and waits until the broker has acknowledged it. Returns its offset.
    ///
    /// # Errors
    /// When it is not acknowledged within `deadline`; it may be on the topic all the same.
    pub fn write(&self, event: &RunEvent, deadline: Duration) -> Result<i64, Error> {
        publish(&self.producer, &self.topic, event, deadline)
    }
}

/// Opens the next generation of a run, in which these jobs are published again: writes the event and
/// reads the topic, until an event of its own counts. Returns the generation, and the history of the
/// run then.
///
/// # Errors
/// When the run is cancelled, which these jobs alone would not end, or gets no further generation, or
/// others open one each time.
pub fn open_generation(
    cluster: &Cluster,
    topics: &TopicNames,
    run_id: &RunId,
    reopened: &IndexRanges,
    opened_by: &str,
    deadline: Duration,
    stopped: &dyn Fn() -> bool,
) -> Result<(u32, RunHistory), Error> {
    /// Each of those that open one at once needs an attempt, and one for a verdict that comes between.
    const ATTEMPTS: usize = 10;
    let writer = RunEventWriter::new(cluster, &topics.runs)?;
    let mut history = run_history(cluster, &topics.runs, run_id, stopped)?;
    for _ in 0..ATTEMPTS {
        check_frozen_outcomes(cluster, topics, &history)?;
        let next = history.timeline();
        if let Some(cancelled) = next.newest().cancelled() {
            return Err(Error::Cancelled {
                run_id: run_id.clone(),
                cancelled_by: cancelled.cancelled_by.clone(),
            });
        }
        let next = next.next_generation(run_id, reopened.clone(), opened_by)?;
        let event = RunEvent::Generation(next.clone());
        let written = writer.write(&event, deadline);
        history = run_history(cluster, &topics.runs, run_id, stopped)?;
        let timeline = history.timeline();
        if timeline.is_opened_by(next.generation, &next.writer) {
            return Ok((next.generation, history));
        }
        written?;
    }
    Err(Error::GenerationRaced {
        run_id: run_id.clone(),
        attempts: ATTEMPTS,
    })
}

/// Whether a run may get a further generation: where results may differ, those that a verdict has
/// counted are to stay what they are, which needs their outcomes.
///
/// # Errors
/// [`Error::FrozenOutcomesDeleted`], or when the topic cannot be asked where it begins.
pub fn check_frozen_outcomes(
    cluster: &Cluster,
    topics: &TopicNames,
    history: &RunHistory,
) -> Result<(), Error> {
    let policy = history.opened().map(|opened| opened.options.results);
    let timeline = history.timeline();
    let Some(verdict) = timeline.latest_verdict() else {
        return Ok(());
    };
    if policy != Some(ResultsPolicy::Any) {
        return Ok(());
    }
    match lost_partition(cluster, &topics.outcomes, &verdict.outcomes)? {
        None => Ok(()),
        Some(partition) => Err(Error::FrozenOutcomesDeleted {
            run_id: history.run_id().clone(),
            topic: topics.outcomes.clone(),
            partition: partition as i32,
        }),
    }
}

/// The first partition of the outcomes topic that no longer has all records of these ranges.
///
/// # Errors
/// When the topic cannot be asked where it begins and ends.
pub fn lost_partition(
    cluster: &Cluster,
    topic: &str,
    outcomes: &[OffsetRange],
) -> Result<Option<usize>, Error> {
    let beginnings = beginning_offsets(cluster, topic, outcomes.len())?;
    let ends = end_offsets(cluster, topic, outcomes.len())?;
    Ok(lost_outcomes(outcomes, &beginnings, &ends))
}

/// Removes runs from the runs topic: a tombstone for each key that they have there, the opening last,
/// so that a removal that ends half way leaves a run that is listed and can be removed again. Nothing
/// else is touched; what they have on other topics goes with the retention of those. Returns when the
/// broker has acknowledged all, and the topic has no further key of them.
///
/// # Errors
/// When a tombstone is not delivered within `deadline`, `stopped` says so, or others go on writing
/// events of the runs.
pub fn remove_runs(
    cluster: &Cluster,
    topic: &str,
    run_ids: &[RunId],
    deadline: Duration,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Error> {
    /// Somebody may write an event between the reading and the tombstones.
    const ROUNDS: usize = 5;
    let mut producer = BatchProducer::new(cluster)?;
    let target = producer.topic(topic)?;
    let until = Instant::now() + deadline;
    for _ in 0..ROUNDS {
        let mut keys = LiveKeys::of(run_ids);
        read_to_end(cluster, topic, &[0], stopped, &mut |record| {
            keys.add(record.key.unwrap_or_default(), record.payload.is_empty());
        })?;
        let keys = keys.in_order_of_removal();
        if keys.is_empty() {
            return Ok(());
        }
        // Some at a time, so that the queue is never full however many there are.
        for keys in keys.chunks(1_000) {
            for key in keys {
                if !producer.produce_tombstone(&target, PARTITION, key)? {
                    return Err(not_delivered(&target, RDKafkaErrorCode::QueueFull));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            await_delivery(&producer, &target, left)?;
        }
    }
    Err(Error::StillWritten {
        topic: topic.to_owned(),
        rounds: ROUNDS,
    })
}

/// The keys of some runs that have a value.
#[derive(Debug)]
struct LiveKeys(BTreeMap<RunId, BTreeSet<Vec<u8>>>);

impl LiveKeys {
    fn of(run_ids: &[RunId]) -> Self {
        let runs = run_ids
            .iter()
            .map(|run_id| (run_id.clone(), BTreeSet::new()));
        Self(runs.collect())
    }

    fn add(&mut self, key: &[u8], is_tombstone: bool) {
        let run = RunEvent::run_of_key(key);
        let Some(keys) = run.and_then(|run_id| self.0.get_mut(&run_id)) else {
            return;
        };
        match is_tombstone {
            true => keys.remove(key),
            false => keys.insert(key.to_vec()),
        };
    }

    /// The openings last.
    fn in_order_of_removal(self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.0.into_values().flatten().collect();
        keys.sort_by_key(|key| RunEvent::is_key_of_opening(key));
        keys
    }
}

/// Retracts the abort of a run by an earlier attempt, because a later one resumes the run. The producer
/// must have nothing else in flight.
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
    await_delivery(producer, topic, deadline).map(|_| ())
}

/// The history of one run, as it is on the topic now.
///
/// # Errors
/// When the topic cannot be read, a message about the run is no event, or `stopped` says so.
pub fn run_history(
    cluster: &Cluster,
    topic: &str,
    run_id: &RunId,
    stopped: &dyn Fn() -> bool,
) -> Result<RunHistory, Error> {
    let only = BTreeSet::from([run_id.clone()]);
    let mut histories = run_histories(cluster, topic, &only, stopped)?;
    histories.pop().expect("each run has a history")
}

/// The histories of some runs, as they are on the topic now, in the order of their ids. The topic is
/// read once for all of them; a run about which a message is no event has an error.
///
/// # Errors
/// When the topic cannot be read, or `stopped` says so.
pub(crate) fn run_histories(
    cluster: &Cluster,
    topic: &str,
    run_ids: &BTreeSet<RunId>,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<Result<RunHistory, Error>>, Error> {
    let empty = run_ids.iter().map(|id| (id, RunHistory::new(id.clone())));
    let mut histories: BTreeMap<&RunId, RunHistory> = empty.collect();
    let mut reader = RunsReader::start(cluster, topic)?;
    for event in reader.read_to_end(stopped)? {
        if let Some(history) = histories.get_mut(event.run_id()) {
            history.apply(event);
        }
    }
    let checked = |(id, history)| reader.check(id).map(|()| history);
    Ok(histories.into_iter().map(checked).collect())
}

/// Every event of every run that is on the topic now, in order. Other messages are skipped.
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

/// A reader of the runs topic, from its beginning and on as it grows.
pub struct RunsReader {
    reader: Reader,
    topic: String,
    /// The end offset of the topic when the reader began.
    end: Vec<i64>,
    /// What was there when the reader began, as far as it is read; handed out when all of it is.
    log: RunLog,
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
            log: RunLog::default(),
            unreadable: Unreadable::default(),
        })
    }

    /// Has [`is_caught_up`](Self::is_caught_up) be about what is on the topic now.
    ///
    /// # Errors
    /// When the topic cannot be asked for its end.
    pub fn look_for_end(&mut self, cluster: &Cluster) -> Result<(), Error> {
        self.end = end_offsets(cluster, &self.topic, 1)?;
        Ok(())
    }

    /// Has [`is_caught_up`](Self::is_caught_up) be about this event and those before it.
    pub fn look_for_event(&mut self, offset: i64) {
        advance(&mut self.end, PARTITION, offset + 1);
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
            let key = record.key.unwrap_or_default();
            self.log.add(record.offset, key, record.payload);
        }
        if !self.is_caught_up() {
            // A tombstone for any of it may be still to come.
            return Ok(Vec::new());
        }
        let mut events = Vec::with_capacity(self.log.len());
        for (offset, key, value) in self.log.take() {
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

    /// The number of messages that were skipped because they are not events.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.count
    }

    /// Checks that all events of a run so far could be read, and are of one run.
    ///
    /// # Errors
    /// [`Error::Removed`] when the run was removed after the first events were read, so that what
    /// comes of it now is another run's; [`Error::RunEvent`] for the first message that could not be
    /// read.
    pub fn check(&self, run_id: &RunId) -> Result<(), Error> {
        if self.log.is_removed(run_id) {
            return Err(Error::Removed {
                topic: self.topic.clone(),
                run_id: run_id.clone(),
            });
        }
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

/// The messages of the runs topic that are not events.
#[derive(Debug, Default)]
struct Unreadable {
    count: u64,
    /// The first message of each run. An event that cannot be read may be the end of the run.
    by_run: HashMap<RunId, (i64, DecodeError)>,
}

impl Unreadable {
    /// Adds a message. Returns the run in its key.
    fn add(&mut self, offset: i64, key: &[u8], error: DecodeError) -> Option<RunId> {
        self.count += 1;
        let run_id = RunEvent::run_of_key(key)?;
        let first = self.by_run.entry(run_id.clone());
        first.or_insert((offset, error));
        Some(run_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_run_is_removed_and_its_opening_last() {
        let run = |name: &str| name.parse::<RunId>().expect("a run id");
        let mut keys = LiveKeys::of(&[run("a"), run("b")]);
        for key in [
            "a/opened",
            "c/opened",
            "b/opened",
            "a/reconciled/0/x",
            "b/unknown/1",
        ] {
            keys.add(key.as_bytes(), false);
        }
        keys.add(b"a/aborted", false);
        keys.add(b"a/aborted", true);
        keys.add(b"\xff", false);
        let keys = keys.in_order_of_removal();
        let keys: Vec<_> = keys
            .iter()
            .map(|key| String::from_utf8_lossy(key))
            .collect();
        assert_eq!(
            keys,
            ["a/reconciled/0/x", "b/unknown/1", "a/opened", "b/opened"]
        );
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
            (8, "a-run/reconciled/0/x", Some(run("a-run"))),
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
}

//! What reaches the topics, and what a reader finds there.

use std::rc::Rc;

use pipeline::verdict::deleted_outcomes;
use pipeline::{
    Collection, Job, JobBatch, JobBatchEncoder, OffsetRange, OutcomeBatch, ResultsPolicy, RunEvent,
    RunHistory, payload_digest,
};

use crate::broker::{Log, Payload, RunRecord, starts};
use crate::history::Shared;
use crate::invariants::Violation;
use crate::seen::Seen;

/// A message reaches the jobs topic.
pub fn arrive(partition: usize, payload: Payload, shared: &mut Shared) {
    let spoiled = shared.fault(1, 60);
    let stored = if spoiled {
        shared.saw(Seen::MessageSpoiled);
        shared.spoiled += 1;
        Payload::from(b"\xffno message".as_slice())
    } else {
        altered(&payload, shared).unwrap_or_else(|| Rc::clone(&payload))
    };
    let offset = shared.broker.jobs[partition].append(stored);
    shared.tell(|| format!("a message reaches the jobs topic, partition {partition} at {offset}"));
    shared.oracle.job_published(partition, &payload, spoiled);
}

/// A message with another payload of one of its jobs, where a history has such; it can be read.
fn altered(payload: &Payload, shared: &mut Shared) -> Option<Payload> {
    let batch = JobBatch::decode(payload).ok()?;
    if shared.alterations_left == 0 || !shared.extra.chance(1, 4) {
        return None;
    }
    shared.alterations_left -= 1;
    let chosen = shared.extra.below(batch.jobs_count() as usize);
    let mut encoder = JobBatchEncoder::new(batch.header());
    for (position, job) in batch.jobs().enumerate() {
        let mut bytes = job.payload.to_vec();
        if position == chosen
            && let Some(code) = bytes.iter_mut().find(|code| **code < 2)
        {
            *code = 1 - *code;
            shared.saw(Seen::PayloadAltered);
            shared.oracle.altered(job.index, payload_digest(&bytes));
        }
        encoder.push(&Job {
            payload: &bytes,
            ..job
        });
    }
    let mut stored = Vec::new();
    encoder.finish(&mut stored);
    Some(Payload::from(stored))
}

/// Whether a run must not have a further generation: its results may differ, and retention has taken
/// some that a verdict has counted.
pub fn lacks_frozen(history: &RunHistory, shared: &Shared) -> bool {
    let beginnings = starts(&shared.broker.outcomes);
    let timeline = history.timeline();
    let latest = timeline.latest_verdict();
    shared.dispatch.options.results == ResultsPolicy::Any
        && latest.is_some_and(|own| deleted_outcomes(&own.outcomes, &beginnings).is_some())
}

/// The committed records of a partition from an offset on, or from the first that is kept, up to the
/// first that is not decided.
pub fn records(log: &Log, from: i64) -> impl Iterator<Item = (i64, &Payload)> {
    let offsets = from.max(log.start())..log.end();
    let decided = offsets.map_while(|offset| Some((offset, log.read(offset)?)));
    decided.filter_map(|(offset, payload)| Some((offset, payload?)))
}

/// What the topics have of the run: its manifests and the outcomes at these offsets, one range a
/// partition.
pub fn collected(
    policy: ResultsPolicy,
    runs: &RunHistory,
    ranges: impl IntoIterator<Item = OffsetRange>,
    shared: &Shared,
) -> Collection {
    let mut collection = Collection::of(policy, runs);
    let both = shared.broker.outcomes.iter().zip(ranges);
    for (partition, (log, range)) in (0..).zip(both) {
        let kept = records(log, range.start).take_while(|(offset, _)| *offset < range.end);
        for (offset, payload) in kept {
            let batch = OutcomeBatch::decode(payload).expect("outcomes can be read");
            let recorded = collection.apply_outcomes_at(partition, offset, &batch);
            recorded.expect("all is in memory");
        }
    }
    collection
}

/// What the runs topic has of the run now.
pub fn history(shared: &Shared) -> RunHistory {
    let mut history = RunHistory::new(shared.dispatch.run_id.clone());
    let events = events(&shared.broker.runs);
    events.into_iter().for_each(|event| history.apply(event));
    history
}

/// The events that records of the runs topic are, without those that a tombstone takes back.
pub fn events(records: &[Option<RunRecord>]) -> Vec<RunEvent> {
    let mut events: Vec<RunEvent> = Vec::new();
    for (key, value) in records.iter().flatten() {
        match value {
            None => events.retain(|event| event.key() != *key),
            Some(value) => {
                let event = RunEvent::decode(key.as_bytes(), value);
                events.extend(event.expect("it can be decoded"));
            }
        }
    }
    events
}

/// An event reaches the runs topic.
pub fn tell(shared: &mut Shared, event: &RunEvent) -> Result<(), Violation> {
    shared.tell(|| format!("the runs topic is told {}", event.key()));
    let record = (event.key(), Some(event.encode()));
    shared.broker.runs.push(Some(record));
    let history = history(shared);
    let timeline = history.timeline();
    match event {
        RunEvent::Generation(opened)
            if timeline.is_opened_by(opened.generation, &opened.writer) =>
        {
            shared.oracle.generation_opened(opened);
        }
        RunEvent::Reconciled(verdict) if timeline.newest().verdict() == Some(verdict) => {
            shared.oracle.verdict_stands(verdict)?;
        }
        RunEvent::Cancelled(cancelled) if timeline.newest().cancelled() == Some(cancelled) => {
            shared.saw(Seen::Cancelled);
            shared.oracle.cancelled_up_to = Some(cancelled.generation);
        }
        RunEvent::Generation(_) => shared.saw(Seen::GenerationLost),
        RunEvent::Cancelled(_) => shared.saw(Seen::CancelledTooLate),
        _ => {}
    }
    Ok(())
}

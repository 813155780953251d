//! Tests of the bookkeeping with executors that answer at once, and with one that has a window of jobs
//! in flight.

mod asynchronous;
mod at_once;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use computations::JobError;
use pipeline::{
    Computation, GroupKey, Job, JobBatch, JobBatchEncoder, JobHeader, LabelSet, Outcome,
    OutcomeBatch, OutcomeBatchBuilder, TimeBucket,
};

use super::begun_jobs::MAX_FAILED_JOBS;
use super::*;
use crate::executor::{AttemptId, Done, Leases};

const PARTITION: i32 = 3;
const OFFSET: i64 = 40;

/// The header of the messages of a run.
fn header(computation: &str) -> JobHeader {
    JobHeader {
        run_id: "a-run".parse().expect("a run id"),
        generation: 0,
        computation: Computation::named(computation).into(),
    }
}

/// A message of jobs with these payloads and ascending indexes.
fn message_from(first_index: u64, payloads: &[&[u8]]) -> Vec<u8> {
    message_for("bytes", first_index, payloads)
}

/// A message of jobs for this computation, with these payloads and ascending indexes.
fn message_for(computation: &str, first_index: u64, payloads: &[&[u8]]) -> Vec<u8> {
    let labels = LabelSet::new(["Italy"]);
    let mut encoder = JobBatchEncoder::new(&header(computation));
    for (index, &payload) in (first_index..).zip(payloads) {
        encoder.push(&Job {
            index,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(index as i64),
            },
            part: 0,
            weight: 1 + payload.len() as u32,
            payload,
        });
    }
    let mut payload = Vec::new();
    encoder.finish(&mut payload);
    payload
}

fn message(payloads: &[&[u8]]) -> Vec<u8> {
    message_from(0, payloads)
}

/// A work unit of these messages, as (partition, offset, payload), under one lease.
fn unit_of<'a>(
    messages: impl IntoIterator<Item = (i32, i64, &'a [u8])>,
    job: Option<IsolatedJob>,
    lease: &Arc<Lease>,
) -> WorkUnit {
    let mut records = kafka::RecordBatch::default();
    let mut leases = Leases::new();
    for (partition, offset, payload) in messages {
        leases.insert(partition, Arc::clone(lease));
        records.push(kafka::Record {
            partition,
            offset,
            key: None,
            payload,
        });
    }
    WorkUnit {
        range: 0..records.len(),
        records: Arc::new(records),
        leases: Arc::new(leases),
        job,
    }
}

/// A work unit of messages of one partition.
fn unit(messages: &[Vec<u8>], job: Option<IsolatedJob>, lease: &Arc<Lease>) -> WorkUnit {
    let messages = (OFFSET..).zip(messages);
    let messages = messages.map(|(offset, payload)| (PARTITION, offset, payload.as_slice()));
    unit_of(messages, job, lease)
}

fn lease() -> Arc<Lease> {
    Arc::new(Lease::new(7))
}

/// A bookkeeping with its executor, and a time that advances only when there is no other work.
struct Driven<E> {
    own: Bookkeeping,
    executor: E,
    watch: Arc<Watch>,
    cancellations: SharedCancellations,
    now: Instant,
    finished: Vec<Finished>,
}

impl<E: Executor> Driven<E> {
    fn new(executor: E, apart_by_partition: bool) -> Self {
        let now = Instant::now();
        let watch = Arc::<Watch>::default();
        let cancellations = SharedCancellations::default();
        let retry = RetryPolicy {
            max_attempts: NonZeroU32::new(3).expect("not zero"),
            first_pause: Duration::from_millis(1),
        };
        Self {
            own: Bookkeeping::new(
                Worker::default(),
                retry,
                apart_by_partition,
                Arc::clone(&watch),
                cancellations.clone(),
                now,
            ),
            executor,
            watch,
            cancellations,
            now,
            finished: Vec::new(),
        }
    }

    fn begin(&mut self, unit: WorkUnit) {
        self.own.begin(unit, self.now);
    }

    /// Steps until there is nothing to do at this time.
    fn settle_down(&mut self) {
        loop {
            let now = self.now;
            self.own.look(&mut self.executor, now);
            let step = self.own.step(&mut self.executor, 5, &mut || now);
            self.finished.extend(self.own.take_finished());
            if step.is_idle {
                return;
            }
        }
    }

    /// Steps, and advances the time to each due one, until there is nothing left to do.
    fn run_out(&mut self) {
        self.settle_down();
        while let Some(due) = self.own.next_call() {
            assert!(due > self.now, "it was idle before its time");
            self.now = due;
            self.settle_down();
        }
    }

    /// The number of jobs that the finished work settles, by offset.
    fn settled(&self) -> BTreeMap<i64, u32> {
        let mut settled = BTreeMap::new();
        for own in self.finished.iter().flat_map(|own| &own.settles) {
            *settled.entry(own.offset).or_default() += own.jobs;
        }
        settled
    }

    /// The jobs with an outcome, in order, as (index, whether it is a dead letter).
    fn outcomes(&self) -> Vec<(u64, bool)> {
        let mut all = Vec::new();
        for own in self.finished.iter().filter(|own| own.outcomes.is_some()) {
            let batch = outcomes(own);
            let outcomes = batch.outcomes();
            all.extend(outcomes.map(|own| (own.index, is_dead(&own.outcome))));
        }
        all.sort_unstable();
        all
    }
}

fn is_dead(outcome: &Outcome<'_>) -> bool {
    matches!(outcome, Outcome::DeadLettered { .. })
}

fn outcomes(finished: &Finished) -> OutcomeBatch {
    let outcomes = finished.outcomes.as_deref().expect("it has outcomes");
    OutcomeBatch::decode(outcomes).expect("a valid batch")
}

#[test]
fn a_full_batch_of_outcomes_is_flushed_with_the_jobs_that_it_settles() {
    let payloads: Vec<&[u8]> = vec![&[1]; 5_000];
    let mut driven = at_once::driven(false);
    driven.begin(unit(&[message(&payloads)], None, &lease()));
    driven.run_out();
    assert!(driven.finished.len() > 1, "one batch");
    assert_eq!(driven.settled(), BTreeMap::from([(OFFSET, 5_000)]));
    for own in &driven.finished {
        let settled: u32 = own.settles.iter().map(|own| own.jobs).sum();
        assert_eq!(outcomes(own).len() as u32, settled);
        // At most a full batch and one outcome.
        let bound = OutcomeBatchBuilder::new(&header("bytes").run_id, 0, &Worker::default());
        let most = 64 * 1024 + 1_024 + bound.bytes_bound();
        assert!(own.bytes() <= most, "{} bytes", own.bytes());
    }
}

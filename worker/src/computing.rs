//! The compute threads: each takes slices of messages, puts one job at a time through
//! [`compute`], and hands on what it finished.
//!
//! A job that fails waits for its next attempt apart from the others; its message's other jobs are
//! not held up. Work whose partition was taken away meanwhile is dropped, for its new owner does
//! it; so is what was not begun when the worker is asked to end. A job that others have died of
//! comes alone, and is buried without another try when they were too many.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use kafka::{Record, RecordBatch};
use pipeline::mark::MAX_DEATHS;
use pipeline::offsets::{Epoch, Settled};
use pipeline::{
    DecodeError, Job, JobBatch, JobBatchDecoder, Outcome, OutcomeBatchBuilder, RunId, Tally, Worker,
};
use service::metrics::SecondsCounter;
use service::{FaultPoint, Shutdown};
use tracing::{debug, warn};

use crate::compute::compute;
use crate::desk::CarefulJob;
use crate::outbox::{DeadLetterMessage, Finished};
use crate::retry::{RetryPolicy, RetryQueue};
use crate::simulated_work::SimulatedWork;

/// A batch of outcomes is handed on at so many bytes: messages over 64 KiB gain nothing.
const FULL_BYTES: usize = 64 * 1024;

/// Finished work is handed on at least so often, however slow jobs are.
const HAND_ON_AFTER: Duration = Duration::from_millis(100);

/// The clock, the lease and the shutdown are looked at about so often, but at least once in so many
/// jobs.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const MAX_JOBS_BETWEEN_LOOKS: u32 = 64;

/// A dead letter keeps so much of a message. With its headers, a message that a broker has just taken
/// from somebody else would be too large for a producer (1,000,000 bytes) or for its topic, and each
/// worker that came to it would die of that.
const MAX_LETTER_BYTES: usize = 960 * 1024;

/// Failed jobs that wait for their next attempt, at most. With more, the thread waits with them.
const MAX_FAILED_JOBS: usize = 1_024;

/// A partition's assignment, as those see it who work on its messages.
#[derive(Debug)]
pub struct Lease {
    epoch: Epoch,
    ended: AtomicBool,
}

impl Lease {
    /// The lease of an assignment.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            ended: AtomicBool::new(false),
        }
    }

    /// Ends it: work on the partition is in vain from now on.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Leases by partition.
pub type Leases = BTreeMap<i32, Arc<Lease>>;

/// A piece of work for one compute thread: some records of a batch.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The batch.
    pub records: Arc<RecordBatch>,
    /// Which of its records.
    pub range: Range<usize>,
    /// The leases under which they were taken.
    pub leases: Arc<Leases>,
    /// The one job of the one record that is meant, where others have died of it.
    pub job: Option<CarefulJob>,
}

/// What a compute thread is at, for whoever watches it.
#[derive(Debug, Default)]
pub struct Watch {
    /// Counted up when an attempt at a job begins and when it ends: odd while one is under way.
    attempts: AtomicU64,
    partition: AtomicI32,
}

impl Watch {
    fn begin(&self) {
        self.count();
    }

    fn end(&self) {
        self.count();
    }

    /// Only the compute thread itself counts, so nothing is lost between the two.
    fn count(&self) {
        let attempts = self.attempts.load(Ordering::Relaxed);
        self.attempts.store(attempts + 1, Ordering::Relaxed);
    }

    /// The attempt that is under way, and the partition of its job.
    pub fn at_work(&self) -> Option<(u64, i32)> {
        let attempts = self.attempts.load(Ordering::Relaxed);
        let partition = self.partition.load(Ordering::Relaxed);
        (attempts % 2 == 1).then_some((attempts, partition))
    }
}

/// What a compute thread needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this worker is.
    pub worker: Worker,
    /// When a failing job is tried again.
    pub retry: RetryPolicy,
    /// What is added to each job.
    pub simulate_work: SimulatedWork,
    /// Whether a batch of outcomes is of one partition of the jobs topic.
    pub apart_by_partition: bool,
    /// Where the time at work is counted.
    pub seconds: SecondsCounter,
}

/// A job that waits for its next attempt, as a batch of one.
#[derive(Debug)]
struct FailedJob {
    batch: Vec<u8>,
    failed_attempts: u32,
    reason: String,
    settles: Settled,
    lease: Arc<Lease>,
}

/// One compute thread.
struct ComputeThread {
    settings: Settings,
    shutdown: Shutdown,
    watch: Arc<Watch>,
    before_compute: FaultPoint,
    after_compute: FaultPoint,
    finished: Sender<Finished>,
    failed: RetryQueue<FailedJob>,
    /// Outcomes that were not handed on yet, all of one run.
    outcomes: Option<(RunId, OutcomeBatchBuilder)>,
    settles: Vec<Settled>,
    handed_on_at: Instant,
    looks: Looks,
}

/// When to look at the clock: after every job if jobs are slow, after many if they are fast.
#[derive(Debug)]
struct Looks {
    at: Instant,
    /// Jobs between the last look and the next.
    stride: u32,
    left: u32,
}

impl Looks {
    fn new(now: Instant) -> Self {
        Self {
            at: now,
            stride: 1,
            left: 1,
        }
    }

    /// A job is done; whether it is time for a look. `now` is asked for only then.
    fn job_done(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        let now = now();
        let per_job = (now - self.at).as_nanos() / u128::from(self.stride);
        let jobs = LOOK_EVERY.as_nanos() / per_job.max(1);
        self.stride = jobs.clamp(1, MAX_JOBS_BETWEEN_LOOKS.into()) as u32;
        self.left = self.stride;
        self.at = now;
        true
    }
}

/// Runs a compute thread until the channel of slices closes.
pub fn run(
    settings: Settings,
    shutdown: Shutdown,
    watch: Arc<Watch>,
    slices: &Receiver<Slice>,
    finished: Sender<Finished>,
) {
    let mut thread = ComputeThread {
        settings,
        shutdown,
        watch,
        before_compute: FaultPoint::new("worker.before-compute"),
        after_compute: FaultPoint::new("worker.after-compute"),
        finished,
        failed: RetryQueue::default(),
        outcomes: None,
        settles: Vec::new(),
        handed_on_at: Instant::now(),
        looks: Looks::new(Instant::now()),
    };
    let mut decoder = JobBatchDecoder::default();
    loop {
        let slice = match thread.failed.next_due() {
            None => slices.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => slices.recv_deadline(due),
        };
        match slice {
            Ok(slice) => {
                let began = Instant::now();
                thread.work_on(&slice, &mut decoder);
                let seconds = &thread.settings.seconds;
                seconds.inc_by(began.elapsed().as_secs_f64());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        thread.try_failed_again();
        thread.hand_on();
    }
}

impl ComputeThread {
    fn work_on(&mut self, slice: &Slice, decoder: &mut JobBatchDecoder) {
        self.handed_on_at = Instant::now();
        self.looks = Looks::new(self.handed_on_at);
        let records = slice.records.iter();
        for record in records.skip(slice.range.start).take(slice.range.len()) {
            if self.shutdown.is_requested() {
                return;
            }
            let Some(lease) = slice.leases.get(&record.partition) else {
                continue;
            };
            if lease.has_ended() {
                continue;
            }
            if slice.job.is_some_and(CarefulJob::message_is_to_be_buried) {
                // Even to bury the job has killed, so nobody looks into the message any more.
                self.bury_message(&record, died_too_often(), lease);
                continue;
            }
            match (decoder.decode(record.payload), slice.job) {
                (Ok(batch), None) => self.work_on_batch(&record, batch, lease),
                (Ok(batch), Some(job)) => self.work_on_job(&record, batch, job, lease),
                (Err(error), _) => self.bury_message(&record, undecodable(&error), lease),
            }
            self.try_failed_again();
        }
    }

    /// Works on one job of a message.
    fn work_on_job(
        &mut self,
        record: &Record<'_>,
        batch: &JobBatch,
        careful: CarefulJob,
        lease: &Arc<Lease>,
    ) {
        let Some(job) = batch.jobs().nth(careful.position as usize) else {
            return;
        };
        let settles = Settled {
            partition: record.partition,
            epoch: lease.epoch,
            offset: record.offset,
            jobs: 1,
            jobs_in_message: batch.jobs_count(),
        };
        if careful.is_to_be_buried() {
            self.bury_job(FailedJob {
                batch: job.alone_in(batch.run_id(), batch.generation()),
                failed_attempts: careful.deaths,
                reason: died_too_often(),
                settles,
                lease: Arc::clone(lease),
            });
            return;
        }
        match self.attempt(&job, record.partition) {
            Ok(tally) => {
                let outcome = Outcome::Counted(tally);
                let outcomes = self.outcome_alone(batch, &job, outcome, careful.deaths);
                self.send(Finished {
                    dead_letter: None,
                    outcomes: Some(outcomes),
                    settles: vec![settles],
                    retries: careful.deaths,
                });
            }
            Err(reason) => self.fail(batch, &job, reason, settles, lease),
        }
    }

    fn work_on_batch(&mut self, record: &Record<'_>, batch: &JobBatch, lease: &Arc<Lease>) {
        let mut settles = Settled {
            partition: record.partition,
            epoch: lease.epoch,
            offset: record.offset,
            jobs: 0,
            jobs_in_message: batch.jobs_count(),
        };
        let other_partition = self
            .settles
            .last()
            .is_some_and(|last| (last.partition, last.epoch) != (record.partition, lease.epoch));
        let is_of_batch = |outcomes: &(RunId, OutcomeBatchBuilder)| {
            outcomes.0 == *batch.run_id() && outcomes.1.generation() == batch.generation()
        };
        if !self.outcomes.as_ref().is_some_and(is_of_batch)
            || (self.settings.apart_by_partition && other_partition)
        {
            self.hand_on();
        }
        for job in batch.jobs() {
            match self.attempt(&job, record.partition) {
                Ok(tally) => {
                    self.outcomes_of(batch).push(&job, Outcome::Counted(tally));
                    settles.jobs += 1;
                }
                Err(reason) => {
                    self.settle(&mut settles);
                    self.fail(batch, &job, reason, settles, lease);
                }
            }
            if self.looks.job_done(Instant::now) {
                if self.shutdown.is_requested() || lease.has_ended() {
                    break;
                }
                if self.handed_on_at.elapsed() >= HAND_ON_AFTER {
                    self.settle(&mut settles);
                    self.hand_on();
                }
            }
            if self.outcomes_bytes() >= FULL_BYTES {
                self.settle(&mut settles);
                self.hand_on();
            }
        }
        self.settle(&mut settles);
    }

    fn outcomes_of(&mut self, batch: &JobBatch) -> &mut OutcomeBatchBuilder {
        let worker = &self.settings.worker;
        let (_, builder) = self.outcomes.get_or_insert_with(|| {
            let builder = OutcomeBatchBuilder::new(batch.run_id(), worker);
            let builder = builder.in_generation(batch.generation());
            (batch.run_id().clone(), builder)
        });
        builder
    }

    fn outcomes_bytes(&self) -> usize {
        self.outcomes
            .as_ref()
            .map_or(0, |(_, builder)| builder.bytes_bound())
    }

    /// Notes that jobs of a message are among the outcomes to be handed on.
    fn settle(&mut self, settles: &mut Settled) {
        if settles.jobs > 0 {
            self.settles.push(*settles);
            settles.jobs = 0;
        }
    }

    /// Hands on the outcomes that there are.
    fn hand_on(&mut self) {
        self.handed_on_at = Instant::now();
        if let Some((_, builder)) = self.outcomes.take() {
            let finished = Finished {
                dead_letter: None,
                outcomes: Some(builder.encode()),
                settles: std::mem::take(&mut self.settles),
                retries: 0,
            };
            self.send(finished);
        }
    }

    fn send(&self, finished: Finished) {
        // The receiver is gone only when the process gives up; then nobody commits either.
        let _ = self.finished.send(finished);
    }

    /// One attempt at one job of this partition. Jobs that failed before are tried again in between,
    /// so the watch is told the partition each time.
    fn attempt(&self, job: &Job<'_>, partition: i32) -> Result<Tally, String> {
        self.watch.partition.store(partition, Ordering::Relaxed);
        self.watch.begin();
        let computed = catch_unwind(AssertUnwindSafe(|| self.compute(job)));
        self.watch.end();
        computed.unwrap_or_else(|panic| Err(format!("panic: {}", panic_message(&*panic))))
    }

    fn compute(&self, job: &Job<'_>) -> Result<Tally, String> {
        self.settings.simulate_work.take();
        let injected = |error: service::fault::Injected| error.to_string();
        self.before_compute.pass_with(job.index).map_err(injected)?;
        let tally = compute(job).map_err(|error| error.to_string())?;
        self.after_compute.pass_with(job.index).map_err(injected)?;
        Ok(tally)
    }

    /// A first attempt at a job has failed.
    fn fail(
        &mut self,
        batch: &JobBatch,
        job: &Job<'_>,
        reason: String,
        settles: Settled,
        lease: &Arc<Lease>,
    ) {
        self.again_or_bury(FailedJob {
            batch: job.alone_in(batch.run_id(), batch.generation()),
            failed_attempts: 1,
            reason,
            settles: Settled { jobs: 1, ..settles },
            lease: Arc::clone(lease),
        });
        self.wait_while_too_many_failed();
    }

    fn again_or_bury(&mut self, failed: FailedJob) {
        match self.settings.retry.pause_after(failed.failed_attempts) {
            Some(pause) => {
                debug!(
                    reason = failed.reason,
                    attempts = failed.failed_attempts,
                    "job failed"
                );
                self.failed.push(Instant::now() + pause, failed);
            }
            None => self.bury_job(failed),
        }
    }

    /// Bounds what failed jobs take: each is kept in memory until its next attempt.
    fn wait_while_too_many_failed(&mut self) {
        const STEP: Duration = Duration::from_millis(50);
        while self.failed.len() > MAX_FAILED_JOBS && !self.shutdown.is_requested() {
            // What is finished need not wait with them.
            self.hand_on();
            if let Some(due) = self.failed.next_due() {
                thread::sleep(due.saturating_duration_since(Instant::now()).min(STEP));
            }
            self.try_failed_again();
        }
    }

    fn try_failed_again(&mut self) {
        if self.failed.next_due().is_none() {
            return;
        }
        while let Some(mut failed) = self.failed.pop_due(Instant::now()) {
            if failed.lease.has_ended() || self.shutdown.is_requested() {
                continue;
            }
            // It was encoded by this thread.
            let Ok(batch) = JobBatch::decode(&failed.batch) else {
                continue;
            };
            let Some(job) = batch.jobs().next() else {
                continue;
            };
            match self.attempt(&job, failed.settles.partition) {
                Ok(tally) => {
                    let outcome = Outcome::Counted(tally);
                    let outcomes =
                        self.outcome_alone(&batch, &job, outcome, failed.failed_attempts);
                    self.send(Finished {
                        dead_letter: None,
                        outcomes: Some(outcomes),
                        settles: vec![failed.settles],
                        retries: failed.failed_attempts,
                    });
                }
                Err(reason) => {
                    failed.failed_attempts += 1;
                    failed.reason = reason;
                    self.again_or_bury(failed);
                }
            }
        }
    }

    fn outcome_alone(
        &self,
        batch: &JobBatch,
        job: &Job<'_>,
        outcome: Outcome<'_>,
        retries: u32,
    ) -> Vec<u8> {
        let mut builder = OutcomeBatchBuilder::new(batch.run_id(), &self.settings.worker)
            .in_generation(batch.generation());
        builder.push(job, outcome);
        builder.add_retries(retries);
        builder.encode()
    }

    /// A job has failed for the last time.
    fn bury_job(&mut self, failed: FailedJob) {
        let Ok(batch) = JobBatch::decode(&failed.batch) else {
            return;
        };
        let Some(job) = batch.jobs().next() else {
            return;
        };
        warn!(
            run_id = %batch.run_id(),
            job = job.index,
            attempts = failed.failed_attempts,
            reason = failed.reason,
            "dead letter"
        );
        let outcome = Outcome::DeadLettered {
            reason: &failed.reason,
            attempts: failed.failed_attempts,
        };
        let retries = failed.failed_attempts - 1;
        let outcomes = self.outcome_alone(&batch, &job, outcome, retries);
        self.send(Finished {
            outcomes: Some(outcomes),
            settles: vec![failed.settles],
            retries,
            dead_letter: Some(DeadLetterMessage {
                payload: failed.batch,
                partition: failed.settles.partition,
                offset: failed.settles.offset,
                attempts: failed.failed_attempts,
                reason: failed.reason,
            }),
        });
    }

    /// A message that nobody can read goes to the DLQ as it is, or as much of it as that takes. Which
    /// jobs it held nobody knows, so it has no outcomes, and reconciliation will miss them.
    fn bury_message(&mut self, record: &Record<'_>, mut reason: String, lease: &Lease) {
        let bytes = record.payload.len();
        let kept = bytes.min(MAX_LETTER_BYTES);
        if kept < bytes {
            reason = format!("{reason} (the first {kept} of its {bytes} bytes)");
        }
        warn!(
            partition = record.partition,
            offset = record.offset,
            reason,
            "message goes to the dead-letter queue as it is"
        );
        self.send(Finished {
            dead_letter: Some(DeadLetterMessage {
                payload: record.payload[..kept].to_vec(),
                partition: record.partition,
                offset: record.offset,
                attempts: 1,
                reason,
            }),
            outcomes: None,
            settles: vec![Settled {
                partition: record.partition,
                epoch: lease.epoch,
                offset: record.offset,
                jobs: 1,
                jobs_in_message: 1,
            }],
            retries: 0,
        });
    }
}

fn undecodable(error: &DecodeError) -> String {
    match error {
        DecodeError::Protobuf { source, .. } => format!("{error}: {source}"),
        DecodeError::Invalid { .. } => error.to_string(),
    }
}

fn died_too_often() -> String {
    format!("{MAX_DEATHS} workers died of it")
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    #[test]
    fn slow_jobs_are_looked_at_one_by_one_and_fast_ones_by_the_dozen() {
        let start = Instant::now();
        let mut now = start;
        let mut looks = Looks::new(start);
        let mut count = |per_job: Duration, jobs: u32| {
            (0..jobs)
                .filter(|_| {
                    now += per_job;
                    looks.job_done(|| now)
                })
                .count()
        };
        assert!(count(Duration::from_nanos(50), 640) <= 11);
        // The stride of the fast ones is used up first.
        assert!(count(Duration::from_millis(100), 74) >= 10);
        assert_eq!(count(Duration::from_millis(100), 10), 10);
    }

    use pipeline::{GroupKey, JobBatchEncoder, LabelSet, OutcomeBatch, TimeBucket};

    use super::*;

    const PARTITION: i32 = 3;
    const OFFSET: i64 = 40;

    fn message(results: &[&[u8]]) -> Vec<u8> {
        let labels = LabelSet::new(["Italy"]);
        let mut encoder = JobBatchEncoder::new(&"a-run".parse().expect("a run id"));
        for (index, results) in results.iter().enumerate() {
            encoder.push(&Job {
                index: index as u64,
                key: GroupKey {
                    labels: &labels,
                    time: TimeBucket::from_hours(index as i64).expect("in range"),
                },
                part: 0,
                results,
            });
        }
        let mut payload = Vec::new();
        encoder.finish(&mut payload);
        payload
    }

    /// What a compute thread makes of messages, until it has settled `jobs` jobs.
    fn finished_of(messages: &[Vec<u8>], lease: &Arc<Lease>, jobs: u32) -> Vec<Finished> {
        finished_alone(messages, None, lease, jobs)
    }

    /// The same where one job alone is meant.
    fn finished_alone(
        messages: &[Vec<u8>],
        job: Option<CarefulJob>,
        lease: &Arc<Lease>,
        jobs: u32,
    ) -> Vec<Finished> {
        let mut records = RecordBatch::default();
        for (offset, payload) in (OFFSET..).zip(messages) {
            records.push(Record {
                partition: PARTITION,
                offset,
                key: None,
                payload,
            });
        }
        finished_of_records(records, job, lease, false, jobs)
    }

    /// The same of records of any partitions.
    fn finished_of_records(
        records: RecordBatch,
        job: Option<CarefulJob>,
        lease: &Arc<Lease>,
        apart_by_partition: bool,
        jobs: u32,
    ) -> Vec<Finished> {
        let partitions = records.iter().map(|record| record.partition);
        let leases: Leases = partitions
            .map(|partition| (partition, Arc::clone(lease)))
            .collect();
        let (slices, taken) = crossbeam_channel::unbounded();
        let (finished, results) = crossbeam_channel::unbounded();
        let settings = Settings {
            worker: Worker::default(),
            retry: RetryPolicy {
                max_attempts: NonZeroU32::new(3).expect("not zero"),
                first_pause: Duration::from_millis(1),
            },
            simulate_work: SimulatedWork::default(),
            apart_by_partition,
            seconds: SecondsCounter::default(),
        };
        slices
            .send(Slice {
                range: 0..records.len(),
                records: Arc::new(records),
                leases: Arc::new(leases),
                job,
            })
            .expect("the channel is open");
        thread::scope(|scope| {
            scope.spawn(|| run(settings, Shutdown::new(), Arc::default(), &taken, finished));
            let mut all = Vec::new();
            let mut settled = 0;
            while settled < jobs {
                let next: Finished = results
                    .recv_timeout(Duration::from_secs(10))
                    .expect("more is to come");
                settled += next.settles.iter().map(|settles| settles.jobs).sum::<u32>();
                all.push(next);
            }
            drop(slices);
            all
        })
    }

    fn outcomes(finished: &Finished) -> OutcomeBatch {
        let outcomes = finished.outcomes.as_deref().expect("it has outcomes");
        OutcomeBatch::decode(outcomes).expect("a valid batch")
    }

    #[test]
    fn jobs_of_several_messages_come_back_in_one_batch() {
        let messages = [message(&[&[0, 1], &[1]]), message(&[&[0]])];
        let finished = finished_of(&messages, &Arc::new(Lease::new(7)), 3);
        assert_eq!(finished.len(), 1);
        assert_eq!(outcomes(&finished[0]).len(), 3);
        let settled = |offset, jobs| Settled {
            partition: PARTITION,
            epoch: 7,
            offset,
            jobs,
            jobs_in_message: jobs,
        };
        assert_eq!(
            finished[0].settles,
            [settled(OFFSET, 2), settled(OFFSET + 1, 1)]
        );
    }

    #[test]
    fn for_transactions_a_batch_is_of_one_partition() {
        let (one, two) = (message(&[&[0, 1]]), message(&[&[1]]));
        let mut records = RecordBatch::default();
        for (partition, offset, payload) in [(1, 0, &one), (1, 1, &two), (2, 0, &one), (1, 2, &two)]
        {
            records.push(Record {
                partition,
                offset,
                key: None,
                payload,
            });
        }
        let lease = Arc::new(Lease::new(1));
        let together = finished_of_records(records.clone(), None, &lease, false, 4);
        assert_eq!(together.len(), 1);
        let apart = finished_of_records(records, None, &lease, true, 4);
        let offsets = |finished: &Finished| -> Vec<_> {
            let settles = finished.settles.iter();
            settles.map(|own| (own.partition, own.offset)).collect()
        };
        let apart: Vec<_> = apart.iter().map(offsets).collect();
        assert_eq!(apart, [vec![(1, 0), (1, 1)], vec![(2, 0)], vec![(1, 2)]]);
    }

    #[test]
    fn a_job_that_fails_is_tried_again_and_buried_and_the_others_are_not_held_up() {
        let messages = [message(&[&[0, 1], &[9], &[1]])];
        let finished = finished_of(&messages, &Arc::new(Lease::new(1)), 3);
        assert_eq!(finished.len(), 2);
        let settled: u32 = finished[0].settles.iter().map(|piece| piece.jobs).sum();
        assert_eq!(settled, 2);
        assert_eq!(finished[0].dead_letter, None);
        assert_eq!(outcomes(&finished[0]).len(), 2);

        let buried = outcomes(&finished[1]);
        let dead: Vec<_> = buried.outcomes().collect();
        assert_eq!(dead[0].index, 1);
        assert!(
            matches!(dead[0].outcome, Outcome::DeadLettered { attempts: 3, .. }),
            "{}",
            dead[0].outcome
        );
        assert_eq!(buried.retries(), 2);
        let letter = finished[1].dead_letter.as_ref().expect("a dead letter");
        assert!(letter.reason.contains("result code 9"), "{}", letter.reason);
        let alone = JobBatch::decode(&letter.payload).expect("the dead job alone");
        assert_eq!((alone.first_index(), alone.jobs_count()), (1, 1));
        assert_eq!((letter.partition, letter.offset), (PARTITION, OFFSET));
    }

    #[test]
    fn a_job_that_others_died_of_is_tried_alone_and_buried_after_the_third() {
        let messages = [message(&[&[0, 1], &[1, 1], &[1]])];
        let lease = Arc::new(Lease::new(1));
        let finished = |deaths| {
            let job = CarefulJob {
                position: 1,
                deaths,
            };
            let mut finished = finished_alone(&messages, Some(job), &lease, 1);
            assert_eq!(finished.len(), 1);
            let settles = finished[0].settles[0];
            assert_eq!((settles.jobs, settles.jobs_in_message), (1, 3));
            finished.remove(0)
        };
        let counted = outcomes(&finished(2));
        let outcome: Vec<_> = counted.outcomes().collect();
        assert_eq!((outcome.len(), outcome[0].index), (1, 1));
        assert!(matches!(outcome[0].outcome, Outcome::Counted(_)));

        let buried = finished(MAX_DEATHS);
        let letter = buried.dead_letter.as_ref().expect("a dead letter");
        assert_eq!(letter.reason, "3 workers died of it");
        assert!(matches!(
            outcomes(&buried).outcomes().next().expect("one").outcome,
            Outcome::DeadLettered { attempts: 3, .. }
        ));
    }

    #[test]
    fn a_message_of_which_even_burying_kills_goes_to_the_dlq_as_it_is() {
        let messages = [message(&[&[0, 1], &[1, 1]])];
        let job = CarefulJob {
            position: 0,
            deaths: pipeline::mark::MAX_DEATHS_OF_MESSAGE,
        };
        let finished = finished_alone(&messages, Some(job), &Arc::new(Lease::new(1)), 1);
        let letter = finished[0].dead_letter.as_ref().expect("a dead letter");
        assert_eq!(letter.payload, messages[0]);
        assert_eq!(finished[0].outcomes, None);
    }

    #[test]
    fn a_watch_tells_of_an_attempt_while_it_lasts() {
        let watch = Watch::default();
        assert_eq!(watch.at_work(), None);
        watch.partition.store(PARTITION, Ordering::Relaxed);
        watch.begin();
        assert_eq!(watch.at_work(), Some((1, PARTITION)));
        watch.end();
        assert_eq!(watch.at_work(), None);
    }

    #[test]
    fn a_message_that_is_none_goes_to_the_dlq_as_it_is() {
        let messages = [b"\xffnonsense".to_vec(), message(&[&[1]])];
        let finished = finished_of(&messages, &Arc::new(Lease::new(1)), 2);
        let buried = finished
            .iter()
            .find_map(|finished| finished.dead_letter.as_ref());
        assert_eq!(buried.expect("a dead letter").payload, b"\xffnonsense");
    }

    #[test]
    fn of_a_message_that_is_too_large_for_the_dlq_the_beginning_goes_there() {
        let messages = [vec![0xff; MAX_LETTER_BYTES], vec![0xff; 1_048_000]];
        let finished = finished_of(&messages, &Arc::new(Lease::new(1)), 2);
        let letters = finished
            .iter()
            .filter_map(|finished| finished.dead_letter.as_ref());
        let letters: Vec<_> = letters
            .map(|letter| {
                (
                    letter.payload.len(),
                    letter.reason.contains("of its 1048000 bytes"),
                )
            })
            .collect();
        assert_eq!(
            letters,
            [(MAX_LETTER_BYTES, false), (MAX_LETTER_BYTES, true)]
        );
    }

    #[test]
    fn work_whose_lease_has_ended_is_dropped() {
        let lease = Arc::new(Lease::new(1));
        lease.end();
        let finished = finished_of(&[message(&[&[1]])], &lease, 0);
        assert_eq!(finished, []);
    }
}

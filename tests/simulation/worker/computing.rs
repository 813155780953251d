//! The worker's compute threads, a job or what comes between two of them at each step. What is decided is
//! decided by the worker's own bookkeeping; the executor that it drives is a [model](executor).

mod executor;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kafka::SharedCancellations;
use pipeline::offsets::Settled;
use pipeline::{JobBatch, Worker};
use worker::executor::{Bookkeeping, Lease, Watch, WorkUnit};
use worker::outbox::Finished;
use worker::retry::RetryPolicy;
use worker::state::in_flight::IsolatedJob;

use super::{Flow, Stop, WorkerProcess};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;
use executor::{Flight, Model, Ran};

/// When a job that fails is tried again.
const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: NonZeroU32::new(3).expect("not zero"),
    first_pause: Duration::from_millis(5),
};

/// What the compute threads of a worker have in common.
#[derive(Debug)]
pub struct ThreadSetup<'a> {
    /// How many attempts are in flight at most.
    pub window: usize,
    /// Whether the computation of the run is known.
    pub is_able: bool,
    /// Whether outcomes are committed together with offsets.
    pub with_transactions: bool,
    /// Which runs are cancelled.
    pub cancellations: &'a SharedCancellations,
}

/// A compute thread.
#[derive(Debug)]
pub struct Thread {
    bookkeeping: Bookkeeping,
    watch: Arc<Watch>,
    flight: Flight,
    is_able: bool,
    /// The single job that its work unit is about.
    careful: Option<IsolatedJob>,
    /// The partition and the job that it hangs at, or that hangs among those in flight.
    pub hangs: Option<(i32, u64)>,
    started_at: Instant,
    /// Copies of leases, where a defect has the thread work under these.
    unseen: Vec<(Weak<Lease>, Arc<Lease>)>,
    /// How often time was long.
    looks: u32,
}

impl Thread {
    /// A thread of a worker.
    pub fn new(worker: &Worker, setup: &ThreadSetup<'_>, shared: &Shared) -> Self {
        let apart =
            setup.with_transactions && shared.mutation != Some(Mutation::BatchesOfTwoPartitions);
        let watch = Arc::<Watch>::default();
        let now = shared.now();
        let cancellations = setup.cancellations.clone();
        let own = Arc::clone(&watch);
        let bookkeeping = Bookkeeping::new(worker.clone(), RETRY, apart, own, cancellations, now);
        Self {
            bookkeeping,
            watch,
            flight: Flight::new(setup.window, setup.is_able),
            is_able: setup.is_able,
            careful: None,
            hangs: None,
            started_at: now,
            unseen: Vec::new(),
            looks: 0,
        }
    }

    /// Whether no job is in flight or waits for its next attempt, and no outcome for others.
    pub fn is_at_rest(&self) -> bool {
        self.bookkeeping.next_call().is_none() && !self.bookkeeping.is_in_flight()
    }

    /// Whether it has left jobs to workers that know their computation.
    pub fn is_unable(&self) -> bool {
        self.bookkeeping.unable().is_some()
    }

    /// Whether it waits for each job, and stands still where one hangs.
    fn is_stuck(&self) -> bool {
        self.hangs.is_some() && !self.flight.is_window()
    }

    /// Whether a step would do something.
    pub fn can_compute(&self, units_wait: bool) -> bool {
        let own = &self.bookkeeping;
        let has_work = !own.wants_unit() || own.next_call().is_some() || units_wait;
        !self.is_stuck() && (has_work || self.flight.goes_on())
    }

    /// It is asked to end. What it has finished is handed on, unless it is stuck.
    pub fn stop(&mut self, now: Instant) -> Vec<Finished> {
        if self.is_stuck() {
            return Vec::new();
        }
        self.bookkeeping.stop(now);
        self.bookkeeping.take_finished().collect()
    }

    fn begin(&mut self, mut unit: WorkUnit, shared: &Shared) {
        if shared.mutation == Some(Mutation::ResultOfRevokedUnitAccepted) {
            // Leases of which nobody knows that they end.
            let leases = unit.leases.iter();
            let leases = leases.map(|(&partition, own)| {
                let lease = Arc::new(Lease::new(own.epoch()));
                (partition, lease)
            });
            unit.leases = Arc::new(leases.collect());
        }
        if shared.mutation == Some(Mutation::StaleWorkIgnored) {
            // Leases that end, and of which nobody sees that they are in use.
            let unseen = unit.leases.iter().map(|(&partition, own)| {
                let lease = Arc::new(Lease::new(own.epoch()));
                self.unseen.push((Arc::downgrade(own), Arc::clone(&lease)));
                (partition, lease)
            });
            unit.leases = Arc::new(unseen.collect());
        }
        self.careful = unit.job;
        self.bookkeeping.begin(unit, shared.now());
    }

    fn notice_hang(&mut self, id: Option<u64>, index: u64) {
        let in_flight = self.watch.in_flight();
        let hanging = in_flight
            .iter()
            .find(|own| id.is_none_or(|id| own.id == id));
        self.hangs = hanging.map(|own| (own.partition, index));
    }
}

impl WorkerProcess {
    /// One step of a compute thread: a job, or what comes between two of them.
    pub fn compute(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let thread = &mut self.threads[number];
        for (lease, copy) in &thread.unseen {
            if lease.upgrade().is_none_or(|lease| lease.has_ended()) {
                copy.end();
            }
        }
        if thread.flight.can_run() && shared.rng.chance(1, 2) {
            return self.run_in_flight(number, shared);
        }
        let now = match shared.mutation {
            Some(Mutation::RetryForgotten) => thread.started_at,
            _ => shared.now(),
        };
        let mut model = Model::new(&mut thread.flight, shared);
        let step = thread.bookkeeping.step(&mut model, 1, &mut || now);
        let (failed, ran) = (model.failed, model.ran);
        match ran {
            Ran::Killed(index) => return Err(Stop::Dies(Some(index))),
            Ran::Hangs(index) => {
                thread.notice_hang(None, index);
                return Ok(());
            }
            Ran::Answered => {}
        }
        let finished: Vec<_> = thread.bookkeeping.take_finished().collect();
        see_buried(&finished, failed, thread.careful, shared)?;
        let finished = mutated(finished, thread.careful, shared);
        let mut passed_over = finished.iter().filter(|own| is_passed_over(own));
        if passed_over.next().is_some() {
            shared.saw(Seen::PassedOver);
        } else if !thread.is_able {
            finished.iter().try_for_each(of_no_computation)?;
        }
        if self.committer.is_some() {
            finished.iter().try_for_each(of_one_partition)?;
        }
        self.finished.extend(finished);
        if step.is_idle
            && thread.bookkeeping.wants_unit()
            && let Some(unit) = self.slices.pop_front()
        {
            if shared.mutation == Some(Mutation::UnableSettles) && !thread.is_able {
                self.finished.push_back(settling(&unit));
            }
            thread.begin(unit, shared);
        }
        let is_inline_job = step.begun > 0 && thread.careful.is_none();
        if (is_inline_job || thread.flight.is_window()) && shared.rng.chance(1, 4) {
            self.take_long(number, shared)?;
        }
        Ok(())
    }

    /// What runs jobs comes to one of those that are in flight.
    fn run_in_flight(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let thread = &mut self.threads[number];
        let (id, ran) = thread.flight.run_one(shared);
        match ran {
            Ran::Killed(index) => return Err(Stop::Dies(Some(index))),
            Ran::Hangs(_) if shared.mutation == Some(Mutation::HangNotSeen) => {}
            Ran::Hangs(index) => {
                shared.saw(Seen::NeverAnswered);
                thread.notice_hang(Some(id), index);
            }
            Ran::Answered => {}
        }
        Ok(())
    }

    /// Time passes: long enough for outcomes to be handed on, and for ended leases to be noticed.
    fn take_long(&mut self, number: usize, shared: &mut Shared) -> Flow<()> {
        let thread = &mut self.threads[number];
        thread.looks += 1;
        let later = shared.now() + Duration::from_secs(thread.looks.into());
        let mut model = Model::new(&mut thread.flight, shared);
        thread.bookkeeping.look(&mut model, later);
        let finished = thread.bookkeeping.take_finished().collect();
        let finished = mutated(finished, thread.careful, shared);
        if self.committer.is_some() {
            finished.iter().try_for_each(of_one_partition)?;
        }
        self.finished.extend(finished);
        Ok(())
    }
}

/// Whether jobs are settled though nothing was made of them.
fn is_passed_over(finished: &Finished) -> bool {
    let is_made = finished.outcomes.is_some() || finished.dead_letter.is_some();
    !is_made && !finished.settles.is_empty()
}

/// A worker that does not know the computation of the run may bury what needs no attempt.
fn of_no_computation(finished: &Finished) -> Result<(), Violation> {
    if finished.dead_letter.is_some() || finished.settles.is_empty() {
        return Ok(());
    }
    violated(
        "a worker settles nothing that it cannot compute",
        format!("{:?}", finished.settles),
    )
}

/// The messages of a work unit, settled without an outcome.
fn settling(unit: &WorkUnit) -> Finished {
    let records = unit.range.clone().filter_map(|own| unit.records.get(own));
    let settles = records.filter_map(|record| {
        let jobs = JobBatch::decode(record.payload).ok()?.jobs_count();
        Some(Settled {
            partition: record.partition,
            epoch: unit.leases.get(&record.partition)?.epoch(),
            offset: record.offset,
            jobs,
            jobs_in_message: jobs,
        })
    });
    Finished {
        settles: settles.collect(),
        ..Finished::default()
    }
}

/// Outcomes that are committed together with offsets cannot be parted when a partition goes.
fn of_one_partition(finished: &Finished) -> Result<(), Violation> {
    let partitions = finished.settles.iter().map(|own| own.partition);
    let partitions: BTreeSet<_> = partitions.collect();
    match partitions.len() {
        0 | 1 => Ok(()),
        _ => violated(
            "a batch of a transaction is of one partition",
            format!("{partitions:?}"),
        ),
    }
}

/// Notes what was buried, and why. To bury a job that has killed may kill.
fn see_buried(
    finished: &[Finished],
    failed: usize,
    careful: Option<IsolatedJob>,
    shared: &mut Shared,
) -> Flow<()> {
    let mut letters = finished.iter().filter(|own| own.dead_letter.is_some());
    if failed > 0 && letters.clone().next().is_none() {
        shared.saw(Seen::TriedAgain);
    }
    letters.try_for_each(|letter| {
        let buried = match (failed, careful, &letter.outcomes) {
            (1.., ..) => Seen::BuriedByFailures,
            (0, _, Some(_)) => Seen::BuriedByDeaths,
            (0, Some(job), None) if job.message_is_to_be_buried() => Seen::BuriedWhole,
            (0, _, None) => Seen::UndecodableMessage,
        };
        if buried == Seen::BuriedByDeaths && shared.fault(7, 8) {
            shared.saw(Seen::KilledWhileBurying);
            return Err(Stop::Dies(None));
        }
        shared.saw(buried);
        Ok(())
    })
}

/// What is finished, as a defect would have it.
fn mutated(
    mut finished: Vec<Finished>,
    careful: Option<IsolatedJob>,
    shared: &Shared,
) -> Vec<Finished> {
    match shared.mutation {
        Some(Mutation::SingleJobSettlesMessage) if careful.is_some() => {
            for settled in finished.iter_mut().flat_map(|own| &mut own.settles) {
                settled.jobs = settled.jobs_in_message;
            }
        }
        Some(Mutation::HandedOnWithoutSettling) => {
            for own in finished.iter_mut().filter(|own| own.settles.len() > 1) {
                own.settles.pop();
            }
        }
        Some(Mutation::AnswerCountedTwice) => finished.extend(finished.clone()),
        _ => {}
    }
    finished
}

//! A history: one seed, from which everything follows: the data set, who is poison, how many
//! workers there are, and at every step who moves next and what goes wrong. Faults are bounded, the
//! scheduler is fair, so every history must come to its end.

mod faults;
mod replay;
mod run;
mod strangers;
mod workers;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aggregator::writing::Step;
use dispatcher::job_set::JobSet;
use dispatcher::publish::JobsPerMessage;
use dispatcher::spill::Spill;
use pipeline::{ContentDigest, ResultsPolicy, Verdict};

use crate::aggregator::{AggregatorProcess, Place};
use crate::broker::{Broker, MemberId};
use crate::data_set::{data_set, expected_jobs, plain_rows};
use crate::dispatcher::{DataSet, DispatcherProcess};
use crate::invariants::{Fate, Oracle, Violation, violated};
use crate::mutants::Mutation;
use crate::rng::Rng;
use crate::seen::{Coverage, Seen};
use crate::transactions::Transaction;
use crate::worker::{OnTheWay, WorkerProcess};
use strangers::Strangers;

/// A history that takes more steps has no end.
const MAX_STEPS: u32 = 60_000;

/// So many faults at most.
const MAX_FAULTS: usize = 30;

/// So many deaths of a job, for each of its copies on the jobs topic, in lives without progress of
/// its partition and without refused commits: three to find the message, three to find the job.
const MAX_PLAIN_DEATHS: u32 = 6;

/// What all processes of a history share.
#[derive(Debug)]
pub struct Shared {
    /// Where all chance comes from.
    pub rng: Rng,
    /// The broker.
    pub broker: Broker,
    /// Who looks.
    pub oracle: Oracle,
    /// The data set and the options.
    pub dispatch: Rc<DataSet>,
    /// The defect, if there is one.
    pub mutation: Option<Mutation>,
    /// Attempts at each job so far.
    pub attempts: BTreeMap<u64, u32>,
    /// Messages that were stored as nobody can read them.
    pub spoiled: usize,
    /// The dispatcher limits what the broker holds. Nothing goes wrong then, as in one process.
    pub flow_control: bool,
    /// Jobs of which an outcome is collected.
    pub collected: u64,
    /// Aggregators until now.
    pub aggregators: u64,
    /// What is in the output folder of each [`Place`], and the aggregator that wrote it.
    pub folders: [Vec<(Step, u64)>; 2],
    /// How far the first aggregator has read the outcomes, where the broker keeps little of them and as
    /// long as it reads.
    pub outcomes_read: Option<Vec<i64>>,
    /// Workers that send to one outcomes partition, at most.
    pub workers_of_partition: usize,
    /// A second source of chance, so that what it decides leaves the other draws as they are.
    pub extra: Rng,
    /// How many more messages are to be stored with another payload.
    pub alterations_left: usize,
    /// By generation, the verdict and the digest of the table that an aggregator has written.
    pub tables: BTreeMap<u32, (Verdict, ContentDigest)>,
    coverage: Coverage,
    faults_left: usize,
    is_cured: bool,
    epoch: Instant,
    steps: u32,
    trace: Option<Vec<String>>,
}

impl Shared {
    /// What a seed begins with, and how many workers there are.
    fn of_seed(seed: u64, mutation: Option<Mutation>, traced: bool) -> (Self, usize) {
        let mut rng = Rng::new(seed);
        let partitions = 1 + rng.below(4);
        let (rows, grouping) = data_set(&mut rng);
        let plain = plain_rows(&rows, &grouping);
        let run_id = "a-run".parse().expect("a run id");
        let spill = Spill::new(&std::env::temp_dir(), grouping.grain, u64::MAX);
        let jobs = JobSet::new(rows, spill, &grouping).expect("memory has room");
        let expected = expected_jobs(&jobs, &mut rng);
        let jobs_per_message = match rng.below(6) {
            0 => JobsPerMessage::Auto,
            jobs => JobsPerMessage::Exactly((jobs as u32).try_into().expect("not zero")),
        };
        let slots = 1 + rng.below(4);
        let flow_control = rng.chance(1, 8);
        let mut extra = Rng::new(!seed);
        let (policy, is_random) = results(&mut extra);
        let mut options = grouping.options();
        options.results = policy;
        let faults_left = match flow_control {
            true => 0,
            false => rng.below(MAX_FAULTS + 1),
        };
        let shared = Self {
            broker: Broker::new(partitions),
            oracle: Oracle::new(expected, &plain, partitions).of_results(policy, is_random),
            dispatch: Rc::new(DataSet {
                run_id,
                options,
                jobs,
                jobs_per_message,
            }),
            mutation,
            attempts: BTreeMap::new(),
            spoiled: 0,
            flow_control,
            collected: 0,
            aggregators: 0,
            folders: Default::default(),
            outcomes_read: flow_control.then(|| vec![0; partitions]),
            workers_of_partition: slots.div_ceil(partitions),
            extra,
            alterations_left: 0,
            tables: BTreeMap::new(),
            coverage: Coverage::new(),
            faults_left,
            is_cured: false,
            epoch: Instant::now(),
            steps: 0,
            trace: traced.then(Vec::new),
            rng,
        };
        (shared, slots)
    }

    /// Whether something goes wrong now: `of` times out of `among`, and as long as the history has
    /// faults left.
    pub fn fault(&mut self, of: usize, among: usize) -> bool {
        let fault = self.faults_left > 0 && self.rng.chance(of, among);
        self.faults_left -= usize::from(fault);
        fault
    }

    /// Notes what was seen.
    pub fn saw(&mut self, what: Seen) {
        self.coverage.count(what);
    }

    /// Adds a line to the trace, if one is kept.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let step = self.steps;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{step:6} {}", line()));
        }
    }

    /// The time: a millisecond each step.
    pub fn now(&self) -> Instant {
        self.epoch + Duration::from_millis(self.steps.into())
    }

    /// When the history began.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// What becomes of a job now.
    pub fn fate(&self, index: u64) -> Fate {
        match self.oracle.jobs[index as usize].fate {
            Fate::Broken => Fate::Broken,
            _ if self.is_cured => Fate::Healthy,
            fate => fate,
        }
    }
}

/// What a history has come to.
#[derive(Debug)]
pub enum Outcome {
    /// Its end, with all invariants.
    Held {
        /// What it came across.
        coverage: Coverage,
        /// Its steps.
        steps: u32,
        /// The most workers that one copy of a job has cost.
        deaths: u32,
    },
    /// An invariant does not hold.
    Violated {
        /// Which.
        violation: Violation,
        /// What happened until then, if that was asked for.
        trace: Vec<String>,
    },
}

/// Plays the history of a seed.
pub fn simulate(seed: u64, mutation: Option<Mutation>, traced: bool) -> Outcome {
    let mut history = History::new(seed, mutation, traced);
    match history.play() {
        Ok(deaths) => Outcome::Held {
            coverage: history.shared.coverage,
            steps: history.shared.steps,
            deaths,
        },
        Err(violation) => Outcome::Violated {
            violation,
            trace: history.shared.trace.unwrap_or_default(),
        },
    }
}

/// What becomes of results that differ, and whether they do: in one history of three they are random,
/// mostly where that is allowed.
fn results(extra: &mut Rng) -> (ResultsPolicy, bool) {
    match extra.below(24) {
        0..=6 => (ResultsPolicy::Any, true),
        7 => (ResultsPolicy::Reproducible, true),
        8 | 9 => (ResultsPolicy::Any, false),
        _ => (ResultsPolicy::Reproducible, false),
    }
}

/// Where a worker process runs, or is started again.
#[derive(Debug, Default)]
struct Slot {
    process: Option<WorkerProcess>,
    /// Those who died here and whom the group still takes for members.
    dead: Vec<MemberId>,
}

#[derive(Debug)]
struct History {
    shared: Shared,
    slots: Vec<Slot>,
    threads: usize,
    /// How many jobs a compute thread has in flight.
    window: usize,
    started: u64,
    static_members: bool,
    /// Workers commit in transactions.
    exactly_once: bool,
    strangers: Strangers,
    /// Nothing that is done for the run helps any more.
    is_closed: bool,
    dispatchers: Vec<DispatcherProcess>,
    aggregator: Option<AggregatorProcess>,
    verdict: Option<Verdict>,
    /// What dead processes had sent.
    on_the_way: Vec<OnTheWay>,
    resumes: u32,
    replays: u32,
}

/// Who moves next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Move(usize),
    Compute(usize, usize),
    Deliver(usize),
    AnswerCommit(usize),
    Wake(usize),
    Restart(usize),
    SessionRunsOut(usize),
    Balance,
    Dispatch(usize),
    DeliverJobs(usize),
    Transact(usize),
    TimeOut(usize),
    Aggregate,
    ArriveLate,
    MoveByHand(i32),
    GoWrong,
}

impl History {
    fn new(seed: u64, mutation: Option<Mutation>, traced: bool) -> Self {
        let (mut shared, slots) = Shared::of_seed(seed, mutation, traced);
        let threads = 1 + shared.rng.below(2);
        let static_members = shared.rng.chance(1, 2);
        let exactly_once = shared.rng.chance(1, 2);
        shared.oracle.exactly_once = exactly_once;
        let window = match shared.rng.chance(1, 2) {
            true => 2 + shared.rng.below(7),
            false => 1,
        };
        let strangers = Strangers::of(&mut shared);
        let dispatchers = vec![DispatcherProcess::start(&shared, false)];
        let aggregator = AggregatorProcess::start(Place::First, &mut shared);
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            threads,
            window,
            started: 0,
            static_members,
            exactly_once,
            strangers,
            is_closed: false,
            dispatchers,
            aggregator: Some(aggregator),
            verdict: None,
            on_the_way: Vec::new(),
            resumes: 0,
            replays: 0,
            shared,
        }
    }

    /// Plays to the end. Returns the most workers that one copy of a job has cost.
    fn play(&mut self) -> Result<u32, Violation> {
        loop {
            self.shared.steps += 1;
            if self.shared.steps > MAX_STEPS {
                return violated("every history ends", format!("not in {MAX_STEPS} steps"));
            }
            if self.is_at_rest() && self.ends()? {
                self.look_afterwards()?;
                return self.shared.oracle.most_plain_deaths(MAX_PLAIN_DEATHS);
            }
            self.move_strangers()?;
            let action = self.choose();
            self.act(action)?;
        }
    }

    fn choose(&mut self) -> Action {
        let mut actions: Vec<(Action, usize)> = Vec::with_capacity(24);
        for (number, slot) in self.slots.iter().enumerate() {
            match &slot.process {
                None => actions.push((Action::Restart(number), 2)),
                Some(process) => {
                    let messages = process.on_the_way.len();
                    if messages > 0 && !process.lost_sight {
                        actions.push((Action::Deliver(number), 4 + messages));
                    }
                    if !process.commits.is_empty() {
                        actions.push((Action::AnswerCommit(number), 4));
                    }
                    if process.sleeps {
                        actions.push((Action::Wake(number), 1));
                        continue;
                    }
                    actions.push((Action::Move(number), 5));
                    if process.can_transact() {
                        actions.push((Action::Transact(number), 10));
                    }
                    for thread in 0..process.threads() {
                        if process.can_compute(thread) {
                            actions.push((Action::Compute(number, thread), 8));
                        }
                    }
                }
            }
            if !slot.dead.is_empty() {
                actions.push((Action::SessionRunsOut(number), 2));
            }
        }
        if self.shared.broker.group.has_unowned() {
            actions.push((Action::Balance, 6));
        }
        for (number, dispatcher) in self.dispatchers.iter().enumerate() {
            if !dispatcher.is_done() {
                actions.push((Action::Dispatch(number), 5));
                let messages = dispatcher.on_the_way.len();
                if messages > 0 {
                    actions.push((Action::DeliverJobs(number), 4 + messages));
                }
            }
        }
        for (number, transaction) in self.shared.broker.transactions.iter().enumerate() {
            if !self.goes_on(transaction) {
                actions.push((Action::TimeOut(number), 2));
            }
        }
        actions.push((Action::Aggregate, 2));
        if !self.on_the_way.is_empty() {
            actions.push((Action::ArriveLate, 2));
        }
        if let Some(partition) = self.shared.broker.stuck() {
            actions.push((Action::MoveByHand(partition), 6));
        }
        if self.shared.faults_left > 0 {
            actions.push((Action::GoWrong, 2));
        }
        let all: usize = actions.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.shared.rng.below(all);
        for (action, weight) in &actions {
            if drawn < *weight {
                return *action;
            }
            drawn -= weight;
        }
        Action::Aggregate
    }

    /// Whether the worker of a transaction is at work, so that it ends that in time.
    fn goes_on(&self, transaction: &Transaction) -> bool {
        let processes = self.slots.iter().filter_map(|slot| slot.process.as_ref());
        let mut awake = processes.filter(|own| !own.sleeps);
        awake.any(|own| own.number == transaction.process() && !own.has_closed_transactions())
    }

    /// A transaction has taken too long.
    fn time_out(&mut self, number: usize) {
        let transaction = Rc::clone(&self.shared.broker.transactions[number]);
        self.shared.saw(Seen::TransactionTimedOut);
        self.shared.tell(|| {
            format!(
                "the broker ends a transaction of worker-{}",
                transaction.process()
            )
        });
        self.shared.broker.abort(&transaction);
    }

    fn act(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Move(slot) => self.with_worker(slot, |own, shared| own.move_data(shared)),
            Action::Compute(slot, thread) => {
                self.with_worker(slot, |own, shared| own.compute(thread, shared))
            }
            Action::Deliver(slot) => self.with_worker(slot, |own, shared| {
                let number = shared.rng.below(own.on_the_way.len());
                own.deliver(number, shared)
            }),
            Action::AnswerCommit(slot) => {
                self.with_worker(slot, |own, shared| own.commit_answered(shared))
            }
            Action::Wake(slot) => {
                if let Some(process) = &mut self.slots[slot].process {
                    process.sleeps = false;
                }
                Ok(())
            }
            Action::Restart(slot) => self.restart(slot),
            Action::SessionRunsOut(slot) => {
                if let Some(dead) = self.slots[slot].dead.pop() {
                    self.shared.broker.group.drop_member(dead);
                }
                Ok(())
            }
            Action::Balance => {
                let shared = &mut self.shared;
                shared.broker.group.balance(&mut shared.rng);
                Ok(())
            }
            Action::Dispatch(number) => self.dispatchers[number].step(&mut self.shared),
            Action::DeliverJobs(number) => {
                let dispatcher = &mut self.dispatchers[number];
                let message = self.shared.rng.below(dispatcher.on_the_way.len());
                dispatcher.deliver(message, &mut self.shared);
                Ok(())
            }
            Action::Transact(slot) => self.with_worker(slot, |own, shared| own.transact(shared)),
            Action::TimeOut(number) => {
                self.time_out(number);
                Ok(())
            }
            Action::Aggregate => self.aggregate(),
            Action::ArriveLate => {
                let number = self.shared.rng.below(self.on_the_way.len());
                let message = self.on_the_way.swap_remove(number);
                self.shared.saw(Seen::ArrivedLate);
                message.arrive(&mut self.shared)
            }
            Action::MoveByHand(partition) => {
                let start = self.shared.broker.jobs[partition as usize].start();
                self.shared
                    .tell(|| format!("the group is moved to {start} in partition {partition}"));
                self.shared.saw(Seen::MovedByHand);
                self.shared.oracle.moved_by_hand(partition as usize, start);
                self.shared.broker.group.move_by_hand(partition, start);
                Ok(())
            }
            Action::GoWrong => self.go_wrong(),
        }
    }
}

//! A history: one seed, from which everything follows: the data set, who is poison, how many
//! workers there are, and at every step who moves next and what goes wrong. Faults are bounded, the
//! scheduler is fair, so every history must come to its end.

mod faults;
mod run;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aggregator::writing::Step;
use dispatcher::job_set::JobSet;
use dispatcher::publish::JobsPerMessage;
use dispatcher::spill::Spill;
use pipeline::{ContentDigest, Verdict};

use crate::aggregator::AggregatorProcess;
use crate::broker::{Broker, MemberId};
use crate::data_set::{data_set, expected_jobs, plain_rows};
use crate::dispatcher::{DataSet, DispatcherProcess};
use crate::invariants::{Fate, Oracle, Violation, violated};
use crate::mutants::Mutation;
use crate::rng::Rng;
use crate::seen::{Coverage, Seen};
use crate::transactions::Transaction;
use crate::worker::{Committer, OnTheWay, Stop, WorkerProcess};

/// A history that takes more steps has no end.
const MAX_STEPS: u32 = 60_000;

/// So many faults at most.
const MAX_FAULTS: usize = 30;

/// So many workers at most do not know the computation of a run.
const MAX_UNABLE: usize = 8;

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
    /// What is in the output folder, and the aggregator that wrote it.
    pub folder: Vec<(Step, u64)>,
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
    /// Where it is drawn that a worker starts that does not know the computation; beside the other draws.
    abilities: Rng,
    /// How many of those are still to start, at most.
    unable_left: usize,
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
        let faults_left = match flow_control {
            true => 0,
            false => rng.below(MAX_FAULTS + 1),
        };
        let shared = Shared {
            broker: Broker::new(partitions),
            oracle: Oracle::new(expected, &plain, partitions),
            dispatch: Rc::new(DataSet {
                run_id,
                options: grouping.options(),
                jobs,
                jobs_per_message,
            }),
            mutation,
            attempts: BTreeMap::new(),
            spoiled: 0,
            flow_control,
            collected: 0,
            aggregators: 0,
            folder: Vec::new(),
            tables: BTreeMap::new(),
            coverage: Coverage::new(),
            faults_left,
            is_cured: false,
            epoch: Instant::now(),
            steps: 0,
            trace: traced.then(Vec::new),
            rng,
        };
        let mut history = Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            threads: 0,
            window: 1,
            started: 0,
            static_members: false,
            exactly_once: false,
            abilities: Rng::new(!seed),
            unable_left: 0,
            dispatchers: Vec::new(),
            aggregator: None,
            verdict: None,
            on_the_way: Vec::new(),
            resumes: 0,
            replays: 0,
            shared,
        };
        history.threads = 1 + history.shared.rng.below(2);
        history.static_members = history.shared.rng.chance(1, 2);
        history.exactly_once = history.shared.rng.chance(1, 2);
        history.shared.oracle.exactly_once = history.exactly_once;
        if history.shared.rng.chance(1, 2) {
            history.window = 2 + history.shared.rng.below(7);
        }
        if history.abilities.chance(1, 4) {
            history.unable_left = 1 + history.abilities.below(MAX_UNABLE);
        }
        history
            .dispatchers
            .push(DispatcherProcess::start(&history.shared, false));
        history.aggregator = Some(AggregatorProcess::start(&mut history.shared));
        history
    }

    /// Plays to the end. Returns the most workers that one copy of a job has cost.
    fn play(&mut self) -> Result<u32, Violation> {
        loop {
            self.shared.steps += 1;
            if self.shared.steps > MAX_STEPS {
                return violated("every history ends", format!("not in {MAX_STEPS} steps"));
            }
            if self.is_at_rest() && self.ends()? {
                return self.shared.oracle.most_plain_deaths(MAX_PLAIN_DEATHS);
            }
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

    // Workers.

    fn with_worker(
        &mut self,
        slot: usize,
        step: impl FnOnce(&mut WorkerProcess, &mut Shared) -> Result<(), Stop>,
    ) -> Result<(), Violation> {
        let Some(process) = &mut self.slots[slot].process else {
            return Ok(());
        };
        match step(process, &mut self.shared) {
            Ok(()) => Ok(()),
            Err(Stop::Violated(violation)) => Err(violation),
            Err(Stop::Dies(cause)) => self.die(slot, cause),
            Err(Stop::GivesUp) => {
                if let Some((partition, index)) = process.given_up_for {
                    let owns = self.shared.broker.group.accepts(process.member, partition);
                    let is_plain = owns && process.is_plain_death(partition);
                    self.shared.oracle.has_cost_a_worker(index, is_plain);
                }
                self.wind_down(slot)
            }
        }
    }

    /// A worker ends in good order.
    fn wind_down(&mut self, slot: usize) -> Result<(), Violation> {
        let Some(mut process) = self.slots[slot].process.take() else {
            return Ok(());
        };
        let ended = process.wind_down(&mut self.shared);
        let member = process.member;
        self.slots[slot].process = Some(process);
        match ended {
            Ok(()) | Err(Stop::GivesUp) => {
                self.slots[slot].process = None;
                self.shared.broker.group.drop_member(member);
                Ok(())
            }
            Err(Stop::Violated(violation)) => Err(violation),
            Err(Stop::Dies(cause)) => self.die(slot, cause),
        }
    }

    /// A worker is gone from one moment to the next. What it has sent may arrive yet, or never.
    fn die(&mut self, slot: usize, cause: Option<u64>) -> Result<(), Violation> {
        let Some(mut process) = self.slots[slot].process.take() else {
            return Ok(());
        };
        self.shared.tell(|| match cause {
            Some(index) => format!("the worker of slot {slot} dies of job {index}"),
            None => format!("the worker of slot {slot} is killed"),
        });
        while !process.commits.is_empty() && self.shared.rng.chance(1, 2) {
            match process.commit_answered(&mut self.shared) {
                Err(Stop::Violated(violation)) => return Err(violation),
                _ => continue,
            }
        }
        if let Err(Stop::Violated(violation)) = process.die_within_transaction(&mut self.shared) {
            return Err(violation);
        }
        for message in std::mem::take(&mut process.on_the_way) {
            if self.shared.rng.chance(1, 2) {
                self.on_the_way.push(message);
            }
        }
        let member = process.member;
        if let Some(index) = cause {
            self.shared.saw(Seen::KilledByJob);
            let place = self.shared.oracle.partitions_of(index);
            let mut owned = place
                .into_iter()
                .filter(|&partition| self.shared.broker.group.accepts(member, partition));
            let is_plain = owned.next().is_some_and(|own| process.is_plain_death(own));
            self.shared.oracle.has_cost_a_worker(index, is_plain);
        }
        self.lose_owner(member, cause)?;
        if self.shared.broker.group.knows(member) {
            self.slots[slot].dead.push(member);
        }
        Ok(())
    }

    fn lose_owner(&mut self, member: MemberId, cause: Option<u64>) -> Result<(), Violation> {
        let shared = &mut self.shared;
        for partition in shared.broker.group.owned(member) {
            if let Some((_, metadata)) = shared.broker.group.committed(partition) {
                shared
                    .oracle
                    .owner_lost(member, partition, metadata, cause)?;
            }
        }
        Ok(())
    }

    fn restart(&mut self, slot: usize) -> Result<(), Violation> {
        self.started += 1;
        // What the one before has left open is ended before the partitions come.
        let committer = self.exactly_once.then(|| {
            let name = match self.static_members {
                true => slot as u64,
                false => self.slots.len() as u64 + self.started,
            };
            Committer::start(name, &mut self.shared)
        });
        let group = &mut self.shared.broker.group;
        let member = match self.slots[slot].dead.pop() {
            Some(dead) if self.static_members => {
                let back = group.come_back(dead);
                self.shared.saw(Seen::StaticBack);
                back
            }
            dead => {
                self.slots[slot].dead.extend(dead);
                group.join()
            }
        };
        let is_able = self.unable_left == 0 || self.abilities.chance(1, 2);
        self.unable_left -= usize::from(!is_able);
        let process = WorkerProcess::start(
            self.started,
            self.threads,
            member,
            committer,
            self.window,
            is_able,
            &self.shared,
        );
        let started = self.started;
        self.shared
            .tell(|| format!("worker-{started} starts in slot {slot}"));
        self.slots[slot].process = Some(process);
        // A group that has one more member shares anew.
        for partition in 0..self.shared.broker.jobs.len() {
            if self.shared.rng.chance(1, 4) {
                self.shared.broker.group.ask_back(partition as i32);
            }
        }
        Ok(())
    }
}

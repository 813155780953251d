//! The completion of a run as a state machine without clock or I/O: which run is collected, what is
//! read next, and when to stop reading. It follows the run's newest generation: when one is opened, it
//! reads the outcomes again from the first. [`collect`](crate::collect) drives it with the topics, the
//! simulation with models of them. What was collected is judged by [`Collection`].

mod idle_policy;
mod idle_timer;
mod run_search;

use std::time::{Duration, Instant};

use pipeline::ledger::counting::CountingRules;
use pipeline::run::NUMBERING_VERSION;
use pipeline::verdict::deleted_outcomes;
use pipeline::{Collection, RunCancelled, RunEvent, RunHistory, RunId, RunOpened, RunReconciled};

use self::idle_policy::IdlePolicy;
pub use self::idle_policy::{Backlog, GaveUp, WorkersSeen};
use self::run_search::RunSearch;
use crate::args::RunChoice;
use crate::collecting::{Collected, Collecting, Unrecorded};
use crate::outcomes_read::OutcomesRead;

/// The interval at which the runs topic is read once the manifest is known.
const RUNS_INTERVAL: Duration = Duration::from_millis(200);

/// The next action.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Look whether there is a runs topic, and [say](Completion::apply_runs_topic) so. A dispatcher
    /// makes it; an aggregator may be there before.
    LookForRunsTopic,
    /// Read what there is of the runs topic, and [apply](Completion::apply_run_events) it.
    ReadRuns,
    /// The run is found: ask for the offsets of the outcomes topic, and
    /// [apply](Completion::apply_offsets) them.
    AskOffsets,
    /// Read some outcomes, [apply](Completion::apply_outcomes) each record, and
    /// [say](Completion::apply_outcomes_read) how far they were read.
    ReadOutcomes,
    /// Nothing new has come for as long as it may take: ask what the workers have before them, and
    /// [apply](Completion::apply_workers) it.
    AskWorkers,
    /// Read nothing more.
    End(End),
}

/// The reason for which nothing more is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing that may still come can make it any better.
    Complete,
    /// There will be no manifest, for this reason.
    Aborted(RunId, String),
    /// No worker computes its jobs any more.
    Cancelled(RunCancelled),
    /// A verdict stands on the newest generation: what there is is held against it.
    HasVerdict,
    /// Nothing new has come for as long as it may take, and no worker has anything before it that
    /// could make it come: what there is is judged.
    GaveUp(GaveUp),
    /// The run did not appear in that time.
    NoRun,
    /// Its jobs are numbered by a version of the rule that is not known here.
    OtherNumbering(RunId, u32),
    /// The aggregator is to stop.
    Stopped,
}

#[derive(Debug)]
enum State {
    LooksForRunsTopic,
    FindsRun,
    Found(Box<(RunHistory, RunOpened)>),
    ReadsOutcomes(Box<Following>),
    ReadsRuns(Box<Following>),
}

/// A run that is collected, and how far the runs topic was read for it.
#[derive(Debug)]
struct Following {
    collecting: Collecting,
    /// Derived from the run when there is an event of it, for it is looked at after each read.
    newest: NewestGeneration,
    runs_are_caught_up: bool,
    runs_read_at: Instant,
}

/// The newest generation of a run.
#[derive(Debug)]
struct NewestGeneration {
    number: u32,
    cancelled: Option<RunCancelled>,
    verdict: Option<RunReconciled>,
}

impl NewestGeneration {
    fn of(run: &RunHistory) -> Self {
        let timeline = run.timeline();
        let newest = timeline.newest();
        Self {
            number: timeline.number(),
            cancelled: newest.cancelled().cloned(),
            verdict: newest.verdict().cloned(),
        }
    }
}

/// The completion of a run by one aggregator.
#[derive(Debug)]
pub struct Completion {
    state: State,
    search: RunSearch,
    idle_policy: IdlePolicy,
    /// Whether the last action was done, and the end has to be checked.
    is_done: bool,
}

impl Completion {
    /// Nothing was read yet. Where nothing new has come for as long as `timeout`, it is asked what the
    /// workers have before them.
    pub fn new(choice: &RunChoice, timeout: Duration, now: Instant) -> Self {
        Self {
            state: State::LooksForRunsTopic,
            search: RunSearch::new(choice),
            idle_policy: IdlePolicy::new(timeout, now),
            is_done: false,
        }
    }

    /// The next action. `is_stopped`: whether a shutdown is requested.
    ///
    /// However settled a run is, it is not complete before the end: a later outcome may outrank a
    /// dead letter or contradict another one, and is there for everyone to read.
    pub fn next(&mut self, now: Instant, is_stopped: bool) -> Next {
        if std::mem::take(&mut self.is_done)
            && let Some(end) = self.decide(now, is_stopped)
        {
            return Next::End(end);
        }
        if self.idle_policy.asks() {
            return Next::AskWorkers;
        }
        match &self.state {
            State::LooksForRunsTopic => Next::LookForRunsTopic,
            State::FindsRun | State::ReadsRuns(_) => Next::ReadRuns,
            State::Found(..) => Next::AskOffsets,
            State::ReadsOutcomes(_) => Next::ReadOutcomes,
        }
    }

    fn decide(&mut self, now: Instant, is_stopped: bool) -> Option<End> {
        let read = match &self.state {
            State::LooksForRunsTopic => None,
            State::FindsRun => {
                // A run that could not be opened at all is aborted without ever having been.
                if let Some(run) = self.search.run()
                    && let Some(reason) = run.aborted()
                {
                    return Some(End::Aborted(run.run_id().clone(), reason.to_owned()));
                }
                None
            }
            State::Found(found) => {
                let (_, opened) = &**found;
                let version = opened.options.numbering_version;
                let is_known = version == NUMBERING_VERSION;
                let run_id = || opened.run_id.clone();
                return (!is_known).then(|| End::OtherNumbering(run_id(), version));
            }
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => {
                if let Some(end) = own.end() {
                    return Some(end);
                }
                Some(own.collecting.outcomes_read.next())
            }
        };
        match read {
            _ if is_stopped => Some(End::Stopped),
            None => self.idle_policy.is_over(now).then_some(End::NoRun),
            Some(read) => self.idle_policy.gives_up(read, now).map(End::GaveUp),
        }
    }

    /// The state of the workers, as the cluster reports it; `None` where it cannot be asked. Returns
    /// what is waited on, if anything.
    pub fn apply_workers(&mut self, seen: Option<WorkersSeen>, now: Instant) -> Option<Backlog> {
        let (State::ReadsOutcomes(own) | State::ReadsRuns(own)) = &self.state else {
            return None;
        };
        let run_start = &own.collecting.opened().jobs_start_offsets;
        let is_dispatched = own.collecting.collection().manifest().is_some();
        self.is_done = true;
        self.idle_policy.apply(seen, run_start, is_dispatched, now)
    }

    /// Whether there is a runs topic.
    pub fn apply_runs_topic(&mut self, is_there: bool) {
        if let State::LooksForRunsTopic = self.state {
            match is_there {
                true => self.state = State::FindsRun,
                false => self.is_done = true,
            }
        }
    }

    /// Events of the runs topic, in its order. `is_caught_up`: all that was there when the aggregator
    /// began to read it is read.
    pub fn apply_run_events(&mut self, events: Vec<RunEvent>, is_caught_up: bool, now: Instant) {
        match &mut self.state {
            State::FindsRun => {
                self.search.apply(events, is_caught_up);
                self.is_done = true;
                // The outcomes are read from where this opening says, whatever a later one adds: no
                // dispatcher of the run publishes a job before an opening of it is there.
                let run = self.search.run();
                let found = run.and_then(|run| Some((run.clone(), run.opened()?.clone())));
                if let Some((run, opened)) = found {
                    self.idle_policy.restart(now);
                    self.state = State::Found(Box::new((run, opened)));
                }
            }
            State::ReadsRuns(own) => {
                // Other runs come and go; that is no progress of this one.
                if own.apply_run_events(events, is_caught_up, now) {
                    self.idle_policy.restart(now);
                }
                match own.newest_generation_is_other() {
                    true => {
                        self.reads(|own| State::Found(Box::new(own.collecting.into_run())));
                    }
                    false => self.reads(State::ReadsOutcomes),
                }
                self.is_done = true;
            }
            State::LooksForRunsTopic | State::Found(..) | State::ReadsOutcomes(_) => {}
        }
    }

    /// The outcomes topic keeps what begins at `kept`, and ends at `end`, by partition. `collection`
    /// makes the empty one that outcomes are collected in, by the rules that it is given.
    pub fn apply_offsets(
        &mut self,
        kept: &[i64],
        end: Vec<i64>,
        collection: impl FnOnce(CountingRules) -> Collection,
        now: Instant,
    ) {
        if let State::Found(found) = &self.state {
            let (run, opened) = (**found).clone();
            let outcomes_read = OutcomesRead::new(&opened.outcomes_start_offsets, kept, end);
            self.state = State::ReadsOutcomes(Box::new(Following {
                newest: NewestGeneration::of(&run),
                collecting: Collecting::new(run, opened, outcomes_read, collection),
                // It was found there.
                runs_are_caught_up: true,
                runs_read_at: now,
            }));
        }
    }

    /// A record of the outcomes topic, at this place of it.
    ///
    /// # Errors
    /// When it cannot be decoded, in which case it is counted and dropped, or when results cannot be
    /// spilled.
    pub fn apply_outcomes(
        &mut self,
        partition: i32,
        offset: i64,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Unrecorded> {
        let (State::ReadsOutcomes(own) | State::ReadsRuns(own)) = &mut self.state else {
            return Ok(());
        };
        let own = &mut own.collecting;
        if own.apply_outcomes(partition, offset, payload, now)? {
            self.idle_policy.restart(now);
        }
        Ok(())
    }

    /// All outcomes before these offsets, by partition, were read.
    pub fn apply_outcomes_read(&mut self, next: &[i64], now: Instant) {
        let State::ReadsOutcomes(own) = &mut self.state else {
            return;
        };
        own.collecting.outcomes_read.advance(next);
        let is_known = own.collecting.collection().manifest().is_some();
        let elapsed = now.saturating_duration_since(own.runs_read_at);
        match is_known && elapsed < RUNS_INTERVAL {
            true => self.is_done = true,
            false => self.reads(State::ReadsRuns),
        }
    }

    /// Goes on with what was collected.
    fn reads(&mut self, next: impl FnOnce(Box<Following>) -> State) {
        self.state = match std::mem::replace(&mut self.state, State::LooksForRunsTopic) {
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => next(own),
            other => other,
        };
    }

    /// The run that is collected, as soon as it is known which.
    pub fn run_id(&self) -> Option<&RunId> {
        match &self.state {
            State::LooksForRunsTopic => None,
            State::FindsRun => self.search.run_id(),
            State::Found(found) => Some(found.0.run_id()),
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => {
                Some(&own.collecting.opened().run_id)
            }
        }
    }

    /// The run as the runs topic has it, as soon as it is found.
    pub fn run(&self) -> Option<&RunHistory> {
        match &self.state {
            State::LooksForRunsTopic | State::FindsRun => None,
            State::Found(found) => Some(&found.0),
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(own.collecting.run()),
        }
    }

    fn collecting(&self) -> Option<&Collecting> {
        match &self.state {
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(&own.collecting),
            _ => None,
        }
    }

    /// The collection so far; `None` before the run is found.
    pub fn collection(&self) -> Option<&Collection> {
        self.collecting().map(Collecting::collection)
    }

    /// The offsets that outcomes are read from and were read up to, once they are read.
    pub fn outcomes_read(&self) -> Option<&OutcomesRead> {
        self.collecting().map(|own| &own.outcomes_read)
    }

    /// The collected run; `None` if it was not found.
    pub fn into_collected(self) -> Option<Collected> {
        match self.state {
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => {
                Some(own.collecting.into_collected())
            }
            _ => None,
        }
    }
}

impl Following {
    fn newest_generation_is_other(&self) -> bool {
        self.newest.number != self.collecting.collection().rules().generation()
    }

    fn is_caught_up(&self) -> bool {
        self.runs_are_caught_up && self.collecting.outcomes_read.has_reached_end()
    }

    /// The reason to read nothing more, if it follows from the records so far.
    fn end(&self) -> Option<End> {
        let collection = self.collecting.collection();
        let verdict = self.newest.verdict.as_ref();
        let verdict = verdict.filter(|_| collection.manifest().is_some());
        if self.runs_are_caught_up {
            if let Some(cancelled) = &self.newest.cancelled {
                return Some(End::Cancelled(cancelled.clone()));
            }
            // Where retention has taken some of its outcomes, what is left may still agree with it.
            let start = self.collecting.outcomes_read.start();
            let can_be_read =
                |verdict: &RunReconciled| deleted_outcomes(&verdict.outcomes, start).is_none();
            if verdict.is_some_and(can_be_read) {
                return Some(End::HasVerdict);
            }
        }
        if !self.is_caught_up() {
            return None;
        }
        if collection.is_settled() {
            return Some(End::Complete);
        }
        // What is gone does not come any more.
        if verdict.is_some() {
            return Some(End::HasVerdict);
        }
        let reason = self.collecting.run().aborted()?;
        let is_aborted = collection.manifest().is_none();
        let run_id = || self.collecting.opened().run_id.clone();
        is_aborted.then(|| End::Aborted(run_id(), reason.to_owned()))
    }

    /// Returns whether there was an event of this run.
    fn apply_run_events(
        &mut self,
        events: Vec<RunEvent>,
        is_caught_up: bool,
        now: Instant,
    ) -> bool {
        self.runs_are_caught_up = is_caught_up;
        self.runs_read_at = now;
        let has_own = self.collecting.apply_run_events(events);
        if has_own {
            self.newest = NewestGeneration::of(self.collecting.run());
        }
        has_own
    }
}

#[cfg(test)]
mod tests;

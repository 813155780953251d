//! The completion of a run as a state machine without clock or I/O: which run is collected, what is
//! read next, and when to stop reading. It follows the run's newest generation: when one is opened, it
//! reads the outcomes again from the first. [`collect`](crate::collect) drives it with the topics, the
//! simulation with models of them. What was collected is judged by [`Collection`].

mod idle_timer;
mod outcomes_read;
mod patience;
mod run_search;

use std::time::{Duration, Instant};

use pipeline::ledger::SpillError;
use pipeline::ledger::counting::CountingRules;
use pipeline::run::NUMBERING_VERSION;
use pipeline::verdict::deleted_outcomes;
use pipeline::{
    Collection, DecodeError, OutcomeBatch, RunCancelled, RunEvent, RunHistory, RunId, RunOpened,
    RunReconciled,
};

pub use self::outcomes_read::OutcomesRead;
use self::patience::Patience;
pub use self::patience::{Backlog, GaveUp, WorkersSeen};
use self::run_search::RunSearch;
use crate::args::RunChoice;

/// How often the runs topic is read once the manifest is known.
const RUNS_INTERVAL: Duration = Duration::from_millis(200);

/// What to do next.
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

/// Why nothing more is read.
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
    ReadsOutcomes(Box<Collecting>),
    ReadsRuns(Box<Collecting>),
}

/// A run that is collected.
#[derive(Debug)]
struct Collecting {
    run: RunHistory,
    opened: RunOpened,
    collection: Collection,
    outcomes_read: OutcomesRead,
    runs_are_caught_up: bool,
    runs_read_at: Instant,
    undecodable: u64,
    first_outcome_at: Option<Instant>,
    last_outcome_at: Option<Instant>,
}

/// Why a record of the outcomes topic was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Unrecorded {
    /// It cannot be decoded.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// Results beyond the memory budget cannot be written or read back.
    #[error(transparent)]
    Spill(#[from] SpillError),
}

/// What was collected.
#[derive(Debug)]
pub struct Collected {
    /// The run.
    pub opened: RunOpened,
    /// The run as the runs topic had it last.
    pub run: RunHistory,
    /// Everything that was read of it.
    pub collection: Collection,
    /// The offsets that outcomes were read from and up to.
    pub outcomes_read: OutcomesRead,
    /// Messages on the outcomes topic that could not be decoded.
    pub undecodable: u64,
    /// From the first outcome to the last.
    pub duration: Duration,
}

/// One aggregator's way to the completion of a run.
#[derive(Debug)]
pub struct Completion {
    state: State,
    search: RunSearch,
    patience: Patience,
    /// What [`next`](Self::next) has asked for was done, and the time has come to decide.
    is_done: bool,
}

impl Completion {
    /// Nothing was read yet. Where nothing new has come for as long as `timeout`, it is asked what the
    /// workers have before them.
    pub fn new(choice: &RunChoice, timeout: Duration, now: Instant) -> Self {
        Self {
            state: State::LooksForRunsTopic,
            search: RunSearch::new(choice),
            patience: Patience::new(timeout, now),
            is_done: false,
        }
    }

    /// What to do next. `is_stopped`: the aggregator was asked to end.
    ///
    /// However settled a run is, it is not complete before the end: a later outcome may outrank a
    /// dead letter or contradict another one, and is there for everyone to read.
    pub fn next(&mut self, now: Instant, is_stopped: bool) -> Next {
        if std::mem::take(&mut self.is_done)
            && let Some(end) = self.decide(now, is_stopped)
        {
            return Next::End(end);
        }
        if self.patience.asks() {
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
                Some(own.outcomes_read.next())
            }
        };
        match read {
            _ if is_stopped => Some(End::Stopped),
            None => self.patience.is_over(now).then_some(End::NoRun),
            Some(read) => self.patience.gives_up(read, now).map(End::GaveUp),
        }
    }

    /// The state of the workers, as the cluster reports it; `None` where it cannot be asked. Returns
    /// what is waited on, if anything.
    pub fn apply_workers(&mut self, seen: Option<WorkersSeen>, now: Instant) -> Option<Backlog> {
        let (State::ReadsOutcomes(own) | State::ReadsRuns(own)) = &self.state else {
            return None;
        };
        let run_start = &own.opened.jobs_start_offsets;
        let is_dispatched = own.collection.manifest().is_some();
        self.is_done = true;
        self.patience.apply(seen, run_start, is_dispatched, now)
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
                    self.patience.restart(now);
                    self.state = State::Found(Box::new((run, opened)));
                }
            }
            State::ReadsRuns(own) => {
                // Other runs come and go; that is no progress of this one.
                if own.apply_run_events(events, is_caught_up, now) {
                    self.patience.restart(now);
                }
                match own.newest_generation_is_other() {
                    true => self.reads(|own| State::Found(Box::new((own.run, own.opened)))),
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
            let (run, opened) = &**found;
            let starts = &opened.outcomes_start_offsets;
            let mut own = Collecting {
                outcomes_read: OutcomesRead::new(starts, kept, end),
                run: run.clone(),
                opened: opened.clone(),
                collection: collection(CountingRules::of(opened.options.results, &run.timeline())),
                // It was found there.
                runs_are_caught_up: true,
                runs_read_at: now,
                undecodable: 0,
                first_outcome_at: None,
                last_outcome_at: None,
            };
            own.apply_manifests();
            self.state = State::ReadsOutcomes(Box::new(own));
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
        if own.apply_outcomes(partition, offset, payload, now)? {
            self.patience.restart(now);
        }
        Ok(())
    }

    /// All outcomes before these offsets, by partition, were read.
    pub fn apply_outcomes_read(&mut self, next: &[i64], now: Instant) {
        let State::ReadsOutcomes(own) = &mut self.state else {
            return;
        };
        own.outcomes_read.advance(next);
        let is_known = own.collection.manifest().is_some();
        let elapsed = now.saturating_duration_since(own.runs_read_at);
        match is_known && elapsed < RUNS_INTERVAL {
            true => self.is_done = true,
            false => self.reads(State::ReadsRuns),
        }
    }

    /// Goes on with what was collected.
    fn reads(&mut self, next: impl FnOnce(Box<Collecting>) -> State) {
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
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(&own.opened.run_id),
        }
    }

    /// The run as the runs topic has it, as soon as it is found.
    pub fn run(&self) -> Option<&RunHistory> {
        match &self.state {
            State::LooksForRunsTopic | State::FindsRun => None,
            State::Found(found) => Some(&found.0),
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(&own.run),
        }
    }

    fn collecting(&self) -> Option<&Collecting> {
        match &self.state {
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(own),
            _ => None,
        }
    }

    /// What was collected until now, once the run is found.
    pub fn collection(&self) -> Option<&Collection> {
        self.collecting().map(|own| &own.collection)
    }

    /// The offsets that outcomes are read from and were read up to, once they are read.
    pub fn outcomes_read(&self) -> Option<&OutcomesRead> {
        self.collecting().map(|own| &own.outcomes_read)
    }

    /// What was collected, if the run was found.
    pub fn into_collected(self) -> Option<Collected> {
        let (State::ReadsOutcomes(own) | State::ReadsRuns(own)) = self.state else {
            return None;
        };
        let between = own.first_outcome_at.zip(own.last_outcome_at);
        Some(Collected {
            opened: own.opened,
            run: own.run,
            collection: own.collection,
            outcomes_read: own.outcomes_read,
            undecodable: own.undecodable,
            duration: between.map_or(Duration::ZERO, |(first, last)| last - first),
        })
    }
}

impl Collecting {
    fn newest_generation_is_other(&self) -> bool {
        self.run.timeline().number() != self.collection.rules().generation()
    }

    fn is_caught_up(&self) -> bool {
        self.runs_are_caught_up && self.outcomes_read.has_reached_end()
    }

    /// Why nothing more is to be read, as far as that follows from what was read.
    fn end(&self) -> Option<End> {
        if self.runs_are_caught_up {
            let timeline = self.run.timeline();
            let newest = timeline.newest();
            if let Some(cancelled) = newest.cancelled() {
                return Some(End::Cancelled(cancelled.clone()));
            }
            // Where retention has taken some of its outcomes, what is left may still agree with it.
            let start = self.outcomes_read.start();
            let can_be_read =
                |verdict: &RunReconciled| deleted_outcomes(&verdict.outcomes, start).is_none();
            if newest.verdict().is_some_and(can_be_read) && self.collection.manifest().is_some() {
                return Some(End::HasVerdict);
            }
        }
        if !self.is_caught_up() {
            return None;
        }
        if self.collection.is_settled() {
            return Some(End::Complete);
        }
        // What is gone does not come any more.
        if self.run.timeline().newest().verdict().is_some() && self.collection.manifest().is_some()
        {
            return Some(End::HasVerdict);
        }
        let reason = self.run.aborted()?;
        let is_aborted = self.collection.manifest().is_none();
        is_aborted.then(|| End::Aborted(self.opened.run_id.clone(), reason.to_owned()))
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
        let is_own = |event: &RunEvent| *event.run_id() == self.opened.run_id;
        let has_own = events.iter().any(is_own);
        events.into_iter().for_each(|event| self.run.hear(event));
        self.apply_manifests();
        has_own
    }

    /// Those that were applied before change nothing.
    fn apply_manifests(&mut self) {
        for manifest in self.run.manifests() {
            self.collection.hear_manifest(manifest.clone());
        }
    }

    /// Returns whether there was anything new.
    fn apply_outcomes(
        &mut self,
        partition: i32,
        offset: i64,
        payload: &[u8],
        now: Instant,
    ) -> Result<bool, Unrecorded> {
        let batch = OutcomeBatch::decode(payload).inspect_err(|_| self.undecodable += 1)?;
        if *batch.run_id() != self.opened.run_id {
            return Ok(false);
        }
        self.first_outcome_at.get_or_insert(now);
        self.last_outcome_at = Some(now);
        Ok((self.collection).hear_outcomes_at(partition, offset, &batch)?)
    }
}

#[cfg(test)]
mod tests;

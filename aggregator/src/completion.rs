//! The completion of a run as a state machine without clock or I/O: which run is collected, what is
//! read next, and when to stop reading. [`collect`](crate::collect) drives it with the topics, the
//! simulation with models of them. What was collected is judged by [`Collection`].

mod idle_timer;
mod outcomes_read;
mod run_search;

use std::time::{Duration, Instant};

use pipeline::ledger::SpillError;
use pipeline::run::NUMBERING_VERSION;
use pipeline::{Collection, DecodeError, OutcomeBatch, RunEvent, RunHistory, RunId, RunOpened};

use self::idle_timer::IdleTimer;
pub use self::outcomes_read::OutcomesRead;
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
    /// Nothing new has come for as long as it may take: what there is is judged.
    GaveUp,
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
    Found(RunHistory, RunOpened),
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
    idle: IdleTimer,
    /// What [`next`](Self::next) has asked for was done, and the time has come to decide.
    is_done: bool,
}

impl Completion {
    /// Nothing was read yet; nothing new may come for as long as `timeout`.
    pub fn new(choice: &RunChoice, timeout: Duration, now: Instant) -> Self {
        Self {
            state: State::LooksForRunsTopic,
            search: RunSearch::new(choice),
            idle: IdleTimer::new(timeout, now),
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
        match &self.state {
            State::LooksForRunsTopic => Next::LookForRunsTopic,
            State::FindsRun | State::ReadsRuns(_) => Next::ReadRuns,
            State::Found(..) => Next::AskOffsets,
            State::ReadsOutcomes(_) => Next::ReadOutcomes,
        }
    }

    fn decide(&mut self, now: Instant, is_stopped: bool) -> Option<End> {
        let not_found = match &self.state {
            State::LooksForRunsTopic => true,
            State::FindsRun => {
                // A run that could not be opened at all is aborted without ever having been.
                if let Some(run) = self.search.run()
                    && let Some(reason) = run.aborted()
                {
                    return Some(End::Aborted(run.run_id().clone(), reason.to_owned()));
                }
                true
            }
            State::Found(_, opened) => {
                let version = opened.options.numbering_version;
                let is_known = version == NUMBERING_VERSION;
                let run_id = || opened.run_id.clone();
                return (!is_known).then(|| End::OtherNumbering(run_id(), version));
            }
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => {
                if let Some(end) = own.end() {
                    return Some(end);
                }
                false
            }
        };
        match self.idle.is_over(now) {
            _ if is_stopped => Some(End::Stopped),
            false => None,
            true if not_found => Some(End::NoRun),
            true => Some(End::GaveUp),
        }
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
                    self.idle.restart(now);
                    self.state = State::Found(run, opened);
                }
            }
            State::ReadsRuns(own) => {
                // Other runs come and go; that is no progress of this one.
                if own.apply_run_events(events, is_caught_up, now) {
                    self.idle.restart(now);
                }
                self.reads(State::ReadsOutcomes);
                self.is_done = true;
            }
            State::LooksForRunsTopic | State::Found(..) | State::ReadsOutcomes(_) => {}
        }
    }

    /// The outcomes topic keeps what begins at `kept`, and ends at `end`, by partition. `collection`
    /// is where outcomes are collected; it is empty.
    pub fn apply_offsets(
        &mut self,
        kept: &[i64],
        end: Vec<i64>,
        collection: Collection,
        now: Instant,
    ) {
        if let State::Found(run, opened) = &self.state {
            let starts = &opened.outcomes_start_offsets;
            let mut own = Collecting {
                outcomes_read: OutcomesRead::new(starts, kept, end),
                run: run.clone(),
                opened: opened.clone(),
                collection,
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

    /// A record of the outcomes topic.
    ///
    /// # Errors
    /// When it cannot be decoded, in which case it is counted and dropped, or when results cannot be
    /// spilled.
    pub fn apply_outcomes(&mut self, payload: &[u8], now: Instant) -> Result<(), Unrecorded> {
        let (State::ReadsOutcomes(own) | State::ReadsRuns(own)) = &mut self.state else {
            return Ok(());
        };
        if own.apply_outcomes(payload, now)? {
            self.idle.restart(now);
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
            State::Found(run, _) => Some(run.run_id()),
            State::ReadsOutcomes(own) | State::ReadsRuns(own) => Some(&own.opened.run_id),
        }
    }

    /// The run as the runs topic has it, as soon as it is found.
    pub fn run(&self) -> Option<&RunHistory> {
        match &self.state {
            State::LooksForRunsTopic | State::FindsRun => None,
            State::Found(run, _) => Some(run),
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
            collection: own.collection,
            outcomes_read: own.outcomes_read,
            undecodable: own.undecodable,
            duration: between.map_or(Duration::ZERO, |(first, last)| last - first),
        })
    }
}

impl Collecting {
    fn is_caught_up(&self) -> bool {
        self.runs_are_caught_up && self.outcomes_read.has_reached_end()
    }

    /// Why nothing more is to be read, as far as that follows from what was read.
    fn end(&self) -> Option<End> {
        if !self.is_caught_up() {
            return None;
        }
        if self.collection.is_settled() {
            return Some(End::Complete);
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
    fn apply_outcomes(&mut self, payload: &[u8], now: Instant) -> Result<bool, Unrecorded> {
        let batch = OutcomeBatch::decode(payload).inspect_err(|_| self.undecodable += 1)?;
        if *batch.run_id() != self.opened.run_id {
            return Ok(false);
        }
        self.first_outcome_at.get_or_insert(now);
        self.last_outcome_at = Some(now);
        Ok(self.collection.hear_outcomes(&batch)?)
    }
}

#[cfg(test)]
mod tests {
    use pipeline::{
        Computation, Cut, JobSetHasher, Manifest, OutcomeBatchBuilder, ResultsPolicy, RunAborted,
        RunOptions, Worker,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn run_id(name: &str) -> RunId {
        name.parse().expect("a run id")
    }

    fn opened(name: &str) -> RunEvent {
        RunEvent::Opened(RunOpened {
            run_id: run_id(name),
            options: RunOptions {
                numbering_version: NUMBERING_VERSION,
                cut: Cut {
                    label_columns: vec!["country".to_owned()],
                    time: None,
                    max_rows_per_job: 1_000,
                },
                computation: Computation::named("count"),
                results: ResultsPolicy::Reproducible,
            },
            opened_at_ms: 0,
            jobs_start_offsets: vec![0, 0],
            outcomes_start_offsets: vec![4, 0],
        })
    }

    fn manifest(name: &str) -> RunEvent {
        RunEvent::Dispatched(Manifest {
            run_id: run_id(name),
            jobs: 0,
            rows_read: 0,
            rows_accepted: 0,
            rejected: Default::default(),
            job_set_digest: JobSetHasher::new().finish(),
            messages: 0,
            stages: Vec::new(),
        })
    }

    fn aborted(name: &str) -> RunEvent {
        RunEvent::Aborted(RunAborted {
            run_id: run_id(name),
            reason: "too many rejects".to_owned(),
        })
    }

    /// An aggregator that is told to go on with what it asks for.
    struct Play {
        completion: Completion,
        now: Instant,
    }

    impl Play {
        fn new(run: &str) -> Self {
            let now = Instant::now();
            let choice: RunChoice = run.parse().expect("a choice");
            Self {
                completion: Completion::new(&choice, TIMEOUT, now),
                now,
            }
        }

        fn next(&mut self) -> Next {
            self.completion.next(self.now, false)
        }

        fn runs(&mut self, events: &[RunEvent], is_caught_up: bool) -> Next {
            assert_eq!(self.next(), Next::ReadRuns);
            let events = events.to_vec();
            self.completion
                .apply_run_events(events, is_caught_up, self.now);
            self.next()
        }

        /// The topics keep everything, and the outcomes topic ends at 5 and 1.
        fn found(run: &str, events: &[RunEvent]) -> Self {
            let mut play = Self::new(run);
            assert_eq!(play.next(), Next::LookForRunsTopic);
            play.completion.apply_runs_topic(true);
            assert_eq!(play.runs(events, true), Next::AskOffsets);
            let now = play.now;
            play.completion
                .apply_offsets(&[0, 0], vec![5, 1], Collection::new(), now);
            play
        }

        fn outcomes_read(&mut self, next: &[i64]) -> Next {
            assert_eq!(self.next(), Next::ReadOutcomes);
            self.completion.apply_outcomes_read(next, self.now);
            self.next()
        }
    }

    #[test]
    fn a_run_is_complete_when_it_is_settled_and_every_partition_was_read_to_its_end() {
        let mut play = Play::found("a-run", &[opened("a-run"), manifest("a-run")]);
        assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadOutcomes);
        assert_eq!(play.outcomes_read(&[5, 0]), Next::End(End::Complete));
        let collected = play.completion.into_collected().expect("it was found");
        assert_eq!(collected.outcomes_read.start(), [4, 0]);
        assert_eq!(collected.outcomes_read.next(), [5, 1]);
    }

    #[test]
    fn a_run_without_a_manifest_has_the_runs_topic_read_each_time() {
        let mut play = Play::found("a-run", &[opened("a-run")]);
        assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
        assert_eq!(play.runs(&[], true), Next::ReadOutcomes);
        assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
        let end = play.runs(&[manifest("a-run")], true);
        assert_eq!(end, Next::End(End::Complete));
    }

    #[test]
    fn the_runs_topic_is_read_at_intervals_once_the_manifest_is_known() {
        let mut play = Play::found("a-run", &[opened("a-run"), manifest("a-run")]);
        assert_eq!(play.outcomes_read(&[4, 0]), Next::ReadOutcomes);
        play.now += RUNS_INTERVAL;
        assert_eq!(play.outcomes_read(&[4, 0]), Next::ReadRuns);
        assert_eq!(play.runs(&[], true), Next::ReadOutcomes);
        assert_eq!(play.outcomes_read(&[4, 0]), Next::ReadOutcomes);
    }

    #[test]
    fn an_aborted_run_ends_at_the_end_offsets_unless_its_manifest_is_there() {
        let ends = Next::End(End::Aborted(run_id("a-run"), "too many rejects".to_owned()));
        let mut play = Play::found("a-run", &[opened("a-run"), aborted("a-run")]);
        assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadRuns);
        assert_eq!(play.runs(&[], true), Next::ReadOutcomes);
        assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
        assert_eq!(play.runs(&[], true), ends);
        let events = [opened("a-run"), aborted("a-run"), manifest("a-run")];
        let mut play = Play::found("a-run", &events);
        assert_eq!(play.outcomes_read(&[5, 1]), Next::End(End::Complete));
        // One that was never opened is aborted as soon as that is read.
        let mut play = Play::new("a-run");
        play.completion.apply_runs_topic(true);
        assert_eq!(play.runs(&[aborted("a-run")], true), ends);
    }

    #[test]
    fn the_latest_run_is_chosen_when_all_of_the_runs_topic_is_read() {
        let mut play = Play::new("latest");
        play.completion.apply_runs_topic(true);
        assert_eq!(play.runs(&[opened("one")], false), Next::ReadRuns);
        assert_eq!(play.completion.run_id(), None);
        assert_eq!(play.runs(&[opened("other")], true), Next::AskOffsets);
        assert_eq!(play.completion.run_id(), Some(&run_id("other")));
    }

    #[test]
    fn a_run_of_another_numbering_is_not_collected() {
        let mut play = Play::new("a-run");
        play.completion.apply_runs_topic(true);
        let RunEvent::Opened(mut opened) = opened("a-run") else {
            unreachable!("it is one")
        };
        opened.options.numbering_version += 1;
        let end = End::OtherNumbering(run_id("a-run"), NUMBERING_VERSION + 1);
        assert_eq!(play.runs(&[RunEvent::Opened(opened)], true), Next::End(end));
    }

    #[test]
    fn an_aggregator_gives_up_when_nothing_new_of_its_run_has_come_for_the_timeout() {
        let mut play = Play::new("a-run");
        play.now += TIMEOUT;
        assert_eq!(play.next(), Next::LookForRunsTopic);
        play.completion.apply_runs_topic(false);
        assert_eq!(play.next(), Next::End(End::NoRun));
        let mut play = Play::found("a-run", &[opened("a-run")]);
        let events = [opened("a-run"), manifest("other"), opened("other")];
        for (event, gives_up) in events.into_iter().zip([false, false, true]) {
            play.now += TIMEOUT * 2 / 3;
            assert_eq!(play.outcomes_read(&[4, 0]), Next::ReadRuns);
            let next = play.runs(&[event], true);
            assert_eq!(next == Next::End(End::GaveUp), gives_up, "{next:?}");
        }
    }

    #[test]
    fn outcomes_of_the_run_restart_the_idle_timer_and_others_do_not() {
        let batch = |name: &str| {
            let builder = OutcomeBatchBuilder::new(&run_id(name), 0, &Worker::default());
            builder.encode()
        };
        for (name, ends) in [("a-run", false), ("other", true)] {
            let mut play = Play::found("a-run", &[opened("a-run")]);
            play.now += TIMEOUT * 2 / 3;
            let now = play.now;
            assert_eq!(play.next(), Next::ReadOutcomes);
            let applied = play.completion.apply_outcomes(&batch(name), now);
            applied.expect("it can be decoded");
            play.now += TIMEOUT * 2 / 3;
            assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadRuns);
            let gave_up = play.runs(&[], true) == Next::End(End::GaveUp);
            assert_eq!(gave_up, ends, "{name}");
        }
        let mut play = Play::found("a-run", &[opened("a-run")]);
        let now = play.now;
        assert!(play.completion.apply_outcomes(b"\xff", now).is_err());
        let collected = play.completion.into_collected().expect("it was found");
        assert_eq!(collected.undecodable, 1);
    }

    #[test]
    fn one_that_is_to_stop_does_so_unless_the_run_is_complete() {
        let mut play = Play::found("a-run", &[opened("a-run"), manifest("a-run")]);
        assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadOutcomes);
        let now = play.now;
        play.completion.apply_outcomes_read(&[4, 1], now);
        assert_eq!(play.completion.next(now, true), Next::End(End::Stopped));
        play.completion.apply_outcomes_read(&[5, 1], now);
        assert_eq!(play.completion.next(now, true), Next::End(End::Complete));
    }
}

//! Tests that drive a dispatch action by action.

use service::Signal;

use super::*;
use crate::columns;

fn options(run_is_named: bool, republishes: bool) -> Options {
    Options {
        run_id: "a-run".parse().expect("a run id"),
        run_is_named,
        run: columns::tests::grouping(&["country"]).options(),
        is_rereadable: true,
        republishes,
        published_by: "a dispatcher".to_owned(),
    }
}

fn stopped() -> Error {
    Error::Stopped(Signal::Terminate)
}

/// The runs topic, and a dispatcher of a data set without a row.
struct Play {
    dispatch: Dispatch,
    events: Vec<RunEvent>,
}

impl Play {
    fn new(options: Options, events: &[RunEvent]) -> Self {
        Self {
            dispatch: Dispatch::new(options),
            events: events.to_vec(),
        }
    }

    fn history(&self) -> RunHistory {
        let mut history = RunHistory::new("a-run".parse().expect("a run id"));
        let events = self.events.iter().cloned();
        events.for_each(|event| history.apply(event));
        history
    }

    fn publish(&mut self, event: RunEvent) -> Result<(), Error> {
        self.events.push(event);
        self.dispatch.apply_acknowledged()
    }

    /// Does one thing, and returns it.
    fn step(&mut self) -> Result<Action, Error> {
        let action = self.dispatch.next();
        match action.clone() {
            Action::ReadRuns => self.dispatch.apply_history(self.history())?,
            Action::AskEndOffsets => self.dispatch.apply_end_offsets(vec![7], vec![9]),
            Action::ReadDataSet => {
                self.dispatch.apply_data_set(DataSetCounts::default(), 5)?;
            }
            Action::RetractAbort => self.dispatch.apply_acknowledged()?,
            Action::Open(opened) | Action::OpenAgain(opened) => {
                self.publish(RunEvent::Opened(opened))?;
            }
            Action::OpenGeneration(opened) => self.publish(RunEvent::Generation(opened))?,
            Action::AskCommitted => self.dispatch.apply_committed(vec![0])?,
            Action::ReadJobs(_) | Action::ReadOutcomes(_) => {
                self.dispatch.apply_end_of_topic();
            }
            Action::Compare => {
                let rows = crate::source::Rows::new(crate::records::Width::Fixed(1));
                let grouping = &columns::tests::grouping(&["country"]);
                let folder = std::env::temp_dir();
                let spill = crate::spill::Spill::new(&folder, grouping.grain, u64::MAX);
                let jobs = JobSet::new(rows, spill, grouping).expect("memory has room");
                self.dispatch.compare(&jobs)?;
            }
            Action::PublishJobs => {
                let published = Published {
                    messages: 0,
                    bytes: 0,
                    jobs: 0,
                    digest: JobSetHasher::new().finish(),
                    first_at: None,
                };
                self.dispatch.apply_published(&published, Vec::new());
            }
            Action::PublishManifest(manifest) => {
                self.publish(RunEvent::Dispatched(manifest))?;
            }
            Action::Done => {}
        }
        Ok(action)
    }

    /// Does things up to the first of this kind, which is left to be done.
    fn until(&mut self, is_last: impl Fn(&Action) -> bool) -> &mut Self {
        while !is_last(&self.dispatch.next()) {
            self.step().expect("it goes on");
        }
        self
    }

    /// The names of all that is done until the end.
    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while !self.dispatch.is_done() {
            let action = format!("{:?}", self.step().expect("it goes on"));
            let name = action.split(['(', ' ']).next().expect("it has a name");
            names.push(name.to_owned());
        }
        names
    }
}

fn dispatched(events: &mut Vec<RunEvent>) {
    let mut play = Play::new(options(true, false), events);
    play.names();
    *events = play.events;
}

#[test]
fn a_run_that_nobody_else_knows_is_opened_published_and_sworn_to() {
    let mut play = Play::new(options(false, false), &[]);
    let expected = [
        "AskEndOffsets",
        "ReadDataSet",
        "Open",
        "PublishJobs",
        "PublishManifest",
    ];
    assert_eq!(play.names(), expected);
    let RunEvent::Opened(opened) = &play.events[0] else {
        panic!("{:?}", play.events)
    };
    assert_eq!(opened.jobs_start_offsets, [7]);
    assert_eq!(opened.outcomes_start_offsets, [9]);
    assert_eq!(opened.opened_at_ms, 5);
}

#[test]
fn the_runs_topic_is_read_before_and_after_each_decision_of_a_named_run() {
    let mut play = Play::new(options(true, false), &[]);
    let expected = [
        "ReadRuns",
        "AskEndOffsets",
        "ReadDataSet",
        "ReadRuns",
        "Open",
        "ReadRuns",
        "PublishJobs",
        "ReadRuns",
        "PublishManifest",
    ];
    assert_eq!(play.names(), expected);
}

#[test]
fn committed_offsets_are_asked_for_before_jobs_and_outcomes_are_read() {
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| *action == Action::PublishJobs);
    let mut resumed = Play::new(options(true, true), &play.events);
    let expected = [
        "ReadRuns",
        "AskEndOffsets",
        "ReadDataSet",
        "ReadRuns",
        "AskCommitted",
        "ReadJobs",
        "ReadOutcomes",
        "Compare",
        "PublishJobs",
        "ReadRuns",
        "PublishManifest",
    ];
    assert_eq!(resumed.names(), expected);
}

#[test]
fn a_run_is_aborted_by_whom_it_belongs_to_and_its_abort_is_retracted() {
    let mut play = Play::new(options(true, false), &[]);
    assert_eq!(play.dispatch.abort(&stopped()), None);
    play.until(|action| *action == Action::AskEndOffsets);
    assert!(play.dispatch.abort(&stopped()).is_some());
    play.until(|action| *action == Action::PublishJobs);
    let aborted = play.dispatch.abort(&stopped()).expect("it is its own");
    let mut events = play.events.clone();
    events.push(RunEvent::Aborted(aborted));
    let mut other = Play::new(options(true, false), &events);
    // Not before it is known to be the same run.
    other.until(|action| *action == Action::Compare);
    assert_eq!(other.dispatch.abort(&stopped()), None);
    other.until(|action| *action == Action::PublishJobs);
    assert!(other.dispatch.abort(&stopped()).is_some());
    let mut again = Play::new(options(true, false), &events);
    assert!(again.names().contains(&"RetractAbort".to_owned()));
    // Nor one that is dispatched.
    let mut events = Vec::new();
    dispatched(&mut events);
    let mut late = Play::new(options(true, false), &events);
    late.until(|action| *action == Action::PublishJobs);
    assert_eq!(late.dispatch.abort(&stopped()), None);
    assert!(late.dispatch.was_dispatched());
}

#[test]
fn a_run_that_another_one_opened_while_the_data_set_was_read_is_not_aborted() {
    let mut other = Play::new(options(true, false), &[]);
    other.until(|action| *action == Action::PublishJobs);
    let aborted = other.dispatch.abort(&stopped()).expect("it is its own");
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| *action == Action::ReadDataSet);
    assert!(play.dispatch.abort(&stopped()).is_some());
    play.events = other.events;
    play.events.push(RunEvent::Aborted(aborted));
    play.until(|action| *action == Action::RetractAbort);
    assert_eq!(play.dispatch.abort(&stopped()), None);
}

#[test]
fn one_that_is_stopped_while_it_reads_looks_whether_another_one_has_opened_the_run() {
    let mut other = Play::new(options(true, false), &[]);
    other.until(|action| *action == Action::PublishJobs);
    let is_aborted = |play: &mut Play, history: Option<RunHistory>| {
        assert!(play.dispatch.looks_before_abort());
        play.dispatch.apply_last_history(history);
        play.dispatch.abort(&stopped()).is_some()
    };
    let reading = || {
        let mut play = Play::new(options(true, false), &[]);
        play.until(|action| *action == Action::ReadDataSet);
        play
    };
    let mut play = reading();
    let none = play.history();
    assert!(is_aborted(&mut play, Some(none)));
    assert!(!is_aborted(&mut reading(), Some(other.history())));
    assert!(!is_aborted(&mut reading(), None));
    // It has opened the run itself, and then another one has.
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| matches!(action, Action::Open(_)));
    play.step().expect("it goes on");
    let own = play.history();
    assert!(is_aborted(&mut play, Some(own)));
    play.events.extend(other.events.clone());
    let both = play.history();
    assert!(!is_aborted(&mut play, Some(both)));
    // One that publishes knows whose the run is, and nobody else knows a run without a name.
    assert!(!other.dispatch.looks_before_abort());
    let mut nameless = Play::new(options(false, false), &[]);
    nameless.until(|action| *action == Action::ReadDataSet);
    assert!(!nameless.dispatch.looks_before_abort());
}

#[test]
fn an_opening_that_another_one_overwrote_is_published_again_before_the_refusal() {
    let mut other = options(true, false);
    other.run.cut.max_rows_per_job += 1;
    let mut first = Play::new(options(true, false), &[]);
    first.until(|action| matches!(action, Action::Open(_)));
    let mut second = Play::new(other, &[]);
    second.until(|action| matches!(action, Action::Open(_)));
    first.step().expect("it goes on");
    second.events = first.events.clone();
    second.step().expect("it goes on");
    assert_eq!(second.step().expect("it goes on"), Action::ReadRuns);
    assert!(matches!(second.dispatch.next(), Action::OpenAgain(_)));
    let refused = second.step().expect_err("its options differ");
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert_eq!(second.dispatch.abort(&refused), None);
    assert_eq!(second.events.last(), first.events.last());
}

#[test]
fn a_manifest_that_agrees_is_not_repeated_and_one_that_disagrees_is_answered() {
    for (jobs, publishes) in [(0, false), (1, true)] {
        let mut play = Play::new(options(true, false), &[]);
        play.until(|action| *action == Action::PublishJobs);
        let mut others = Vec::new();
        dispatched(&mut others);
        let Some(RunEvent::Dispatched(manifest)) = others.last() else {
            panic!("{others:?}")
        };
        let mut manifest = manifest.clone();
        manifest.jobs = jobs;
        play.events.push(RunEvent::Dispatched(manifest));
        play.step().expect("jobs are published");
        play.step().expect("the runs topic is read");
        assert_eq!(play.dispatch.is_done(), !publishes);
        if publishes {
            let refused = play.step().expect_err("they disagree");
            assert!(matches!(refused, Error::Refused(_)), "{refused}");
        }
    }
}

#[test]
fn a_run_that_was_removed_while_it_was_opened_ends() {
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| matches!(action, Action::Open(_)));
    play.step().expect("it goes on");
    play.events.clear();
    assert!(matches!(play.step(), Err(Error::Removed(_))));
}

#[test]
fn a_run_that_was_removed_while_it_was_published_gets_no_manifest_and_no_abort() {
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| matches!(action, Action::PublishJobs));
    play.events.clear();
    play.step().expect("jobs are published");
    let error = play.step().expect_err("it was removed");
    assert!(matches!(error, Error::Removed(_)), "{error}");
    assert_eq!(play.dispatch.abort(&error), None);
    assert!(play.events.is_empty());
}

fn cancelled(generation: u32) -> RunEvent {
    RunEvent::Cancelled(pipeline::RunCancelled {
        run_id: "a-run".parse().expect("a run id"),
        generation,
        writer: WriterId::fresh(),
        reason: "no longer wanted".to_owned(),
        cancelled_by: "somebody".to_owned(),
    })
}

#[test]
fn a_cancelled_run_is_refused_and_goes_on_in_a_generation_of_its_own_where_it_is_resumed() {
    let mut play = Play::new(options(true, false), &[]);
    play.names();
    play.events.push(cancelled(0));
    let mut again = Play::new(options(true, false), &play.events);
    let error = loop {
        if let Err(error) = again.step() {
            break error;
        }
    };
    assert!(error.to_string().contains("somebody"), "{error}");
    assert_eq!(again.dispatch.abort(&error), None);
    let mut resumed = Play::new(options(true, true), &play.events);
    let names = resumed.names();
    let at = |name: &str| names.iter().position(|own| own == name);
    assert!(at("OpenGeneration") < at("PublishJobs"), "{names:?}");
    assert_eq!(resumed.dispatch.generation(), 1);
}

#[test]
fn a_run_that_is_cancelled_while_it_is_published_gets_no_manifest() {
    let mut play = Play::new(options(true, false), &[]);
    play.until(|action| matches!(action, Action::PublishJobs));
    play.events.push(cancelled(0));
    play.step().expect("jobs are published");
    assert!(play.step().is_err());
    assert_eq!(play.dispatch.manifest().map(|_| ()), Some(()));
    assert!(
        !play
            .events
            .iter()
            .any(|event| matches!(event, RunEvent::Dispatched(_)))
    );
}

/// The resume of a cancelled run, about to open a generation that another dispatcher has opened.
fn overtaken() -> Play {
    let mut play = Play::new(options(true, false), &[]);
    play.names();
    play.events.push(cancelled(0));
    let mut resumed = Play::new(options(true, true), &play.events);
    resumed.until(|action| matches!(action, Action::OpenGeneration(_)));
    let Action::OpenGeneration(mut first) = resumed.dispatch.next() else {
        unreachable!("it was seen")
    };
    first.writer = WriterId::fresh();
    resumed.events.push(RunEvent::Generation(first));
    resumed
}

#[test]
fn a_resumer_whose_generation_does_not_count_opens_the_next() {
    let mut resumed = overtaken();
    resumed.names();
    assert_eq!(resumed.dispatch.generation(), 2);
}

#[test]
fn a_resume_that_a_cancellation_overtakes_ends_and_does_not_go_past_it() {
    let mut resumed = overtaken();
    // The generation of the other one was cancelled, too.
    resumed.events.push(cancelled(1));
    resumed.step().expect("the generation is published");
    let error = resumed.step().expect_err("it does not count");
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    assert_eq!(resumed.dispatch.abort(&error), None);
    assert_eq!(resumed.dispatch.generation(), 1);
}

//! Tests that drive a completion step by step.

use pipeline::{
    Computation, ContentDigest, Cut, GenerationOpened, GroupKey, IndexRanges, Job, JobSetHasher,
    LabelSet, Manifest, OffsetRange, Outcome, OutcomeBatchBuilder, ResultsPolicy, RunAborted,
    RunOptions, RunReconciled, Verdict, Worker, WriterId,
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

/// A completion whose actions the test answers.
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
            .apply_offsets(&[0, 0], vec![5, 1], Collection::under, now);
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
        assert_eq!(next == Next::AskWorkers, gives_up, "{next:?}");
    }
}

#[test]
fn outcomes_of_the_run_restart_the_idle_timer_and_others_do_not() {
    let batch = |name: &str| {
        let mut builder = OutcomeBatchBuilder::new(&run_id(name), 0, &Worker::default());
        let labels = LabelSet::new(["Italy"]);
        let key = GroupKey {
            labels: &labels,
            time: None,
        };
        let job = Job {
            index: 0,
            key,
            part: 0,
            weight: 1,
            payload: &[],
        };
        builder.push(&job, 0, Outcome::Completed(&[]));
        builder.encode()
    };
    for (name, ends) in [("a-run", false), ("other", true)] {
        let mut play = Play::found("a-run", &[opened("a-run")]);
        play.now += TIMEOUT * 2 / 3;
        let now = play.now;
        assert_eq!(play.next(), Next::ReadOutcomes);
        let applied = play.completion.apply_outcomes(0, 4, &batch(name), now);
        applied.expect("it can be decoded");
        play.now += TIMEOUT * 2 / 3;
        assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadRuns);
        let is_silent = play.runs(&[], true) == Next::AskWorkers;
        assert_eq!(is_silent, ends, "{name}");
    }
    let mut play = Play::found("a-run", &[opened("a-run")]);
    let now = play.now;
    assert!(play.completion.apply_outcomes(0, 4, b"\xff", now).is_err());
    let collected = play.completion.into_collected().expect("it was found");
    assert_eq!(collected.undecodable, 1);
}

#[test]
fn a_silent_run_is_given_up_where_the_workers_have_nothing_and_its_outcomes_are_read() {
    let seen = |committed: i64| WorkersSeen {
        members: 1,
        jobs_kept: vec![0, 0],
        jobs_committed: vec![committed, 0],
        jobs_end: vec![3, 0],
        outcomes_end: vec![6, 1],
    };
    let mut play = Play::found("a-run", &[opened("a-run")]);
    for _ in 0..3 {
        play.now += TIMEOUT;
        assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
        assert_eq!(play.runs(&[], true), Next::AskWorkers);
        let backlog = play.completion.apply_workers(Some(seen(2)), play.now);
        assert_eq!(backlog.map(|backlog| backlog.messages), Some(1));
        assert_eq!(play.next(), Next::ReadOutcomes);
    }
    play.now += TIMEOUT;
    assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
    assert_eq!(play.runs(&[], true), Next::AskWorkers);
    assert_eq!(play.completion.apply_workers(Some(seen(3)), play.now), None);
    assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
    assert_eq!(play.runs(&[], true), Next::ReadOutcomes);
    assert_eq!(play.outcomes_read(&[6, 1]), Next::ReadRuns);
    let end = play.runs(&[], true);
    assert_eq!(end, Next::End(End::GaveUp(GaveUp::NothingLeft)));
}

fn generation() -> RunEvent {
    RunEvent::Generation(GenerationOpened {
        run_id: run_id("a-run"),
        generation: 1,
        writer: WriterId::fresh(),
        reopened: IndexRanges::default(),
        builds_on: None,
        ends_cancellation: None,
        opened_by: "a replay".to_owned(),
    })
}

#[test]
fn a_generation_that_is_opened_has_the_outcomes_read_again() {
    let mut play = Play::found("a-run", &[opened("a-run")]);
    assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
    assert_eq!(play.runs(&[generation()], true), Next::AskOffsets);
    let now = play.now;
    play.completion
        .apply_offsets(&[0, 0], vec![7, 1], Collection::under, now);
    let rules = play.completion.collection().expect("it is found").rules();
    assert_eq!(rules.generation(), 1);
    let read = play.completion.outcomes_read().expect("it is found");
    assert_eq!(read.next(), [4, 0]);
    assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadRuns);
    assert_eq!(play.runs(&[manifest("a-run")], true), Next::ReadOutcomes);
    assert_eq!(play.outcomes_read(&[7, 1]), Next::End(End::Complete));
}

#[test]
fn a_cancelled_run_ends_and_one_with_a_verdict_waits_for_no_outcome() {
    let cancelled = RunCancelled {
        run_id: run_id("a-run"),
        generation: 0,
        writer: WriterId::fresh(),
        reason: "no longer wanted".to_owned(),
        cancelled_by: "somebody".to_owned(),
    };
    let mut play = Play::found("a-run", &[opened("a-run")]);
    assert_eq!(play.outcomes_read(&[4, 0]), Next::ReadRuns);
    let next = play.runs(&[RunEvent::Cancelled(cancelled.clone())], true);
    assert_eq!(next, Next::End(End::Cancelled(cancelled)));

    let RunEvent::Dispatched(known) = manifest("a-run") else {
        unreachable!("it is one")
    };
    let verdict = RunEvent::Reconciled(RunReconciled {
        run_id: run_id("a-run"),
        generation: 0,
        writer: WriterId::fresh(),
        outcomes: vec![
            OffsetRange { start: 4, end: 5 },
            OffsetRange { start: 0, end: 0 },
        ],
        manifest_digest: known.digest(),
        verdict: Verdict::Complete,
        completed: 0,
        dead_lettered: 0,
        differing: 0,
        table_digest: ContentDigest::of(b"a table"),
        published_by: "another".to_owned(),
    });
    let mut play = Play::found(
        "a-run",
        &[opened("a-run"), manifest("a-run"), verdict.clone()],
    );
    assert_eq!(play.outcomes_read(&[4, 0]), Next::End(End::HasVerdict));
    // Some of its outcomes are gone: what is left is read to its end, and may still agree.
    let events = [opened("a-run"), manifest("a-run"), verdict];
    let mut play = Play::new("a-run");
    play.completion.apply_runs_topic(true);
    assert_eq!(play.runs(&events, true), Next::AskOffsets);
    let now = play.now;
    play.completion
        .apply_offsets(&[5, 0], vec![6, 1], Collection::under, now);
    assert_eq!(play.outcomes_read(&[5, 1]), Next::ReadOutcomes);
    assert_eq!(play.outcomes_read(&[6, 1]), Next::End(End::Complete));
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
    let mut play = Play::found("a-run", &[opened("a-run")]);
    play.now += TIMEOUT;
    assert_eq!(play.outcomes_read(&[4, 1]), Next::ReadRuns);
    assert_eq!(play.runs(&[], true), Next::AskWorkers);
    let now = play.now;
    assert_eq!(play.completion.apply_workers(None, now), None);
    assert_eq!(play.completion.next(now, true), Next::End(End::Stopped));
}

//! What a dispatcher does with a run, and which jobs are missing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::job::tests::{any_jobs, header, job};
use crate::outcome::tests::batch_of_one;
use crate::run::tests::{cancelled, manifest, opened, options};
use crate::run::{RunAborted, RunEvent};
use crate::{JobHeader, RunOpened};

fn run_id(name: &str) -> RunId {
    name.parse().expect("a run id")
}

fn published(run: &str, job: &Job<'_>) -> JobBatch {
    JobBatch::decode(&job.alone(&header(run))).expect("a valid batch")
}

fn resume(jobs: u64, rule: Rule) -> Resume {
    Resume::new(&run_id("a-run"), jobs, rule).expect("room")
}

/// The plan after `events`, for an attempt with the options of the first opening.
fn planned(events: &[RunEvent], change: impl FnOnce(&mut Attempt<'_>)) -> Result<Plan, Refusal> {
    let mut history = RunHistory::new(run_id("a-run"));
    for event in events {
        history.apply(event.clone());
    }
    let options = options();
    let mut attempt = Attempt {
        options: &options,
        is_rereadable: true,
        has_opened: false,
    };
    change(&mut attempt);
    plan(&history, &attempt)
}

#[test]
fn a_run_is_opened_once_gone_on_with_after_that_and_compared_in_the_end() {
    let opening = RunEvent::Opened(opened());
    let dispatched = RunEvent::Dispatched(manifest(3, 9));
    let aborted = RunEvent::Aborted(RunAborted {
        run_id: run_id("a-run"),
        reason: "stopped".to_owned(),
    });
    assert_eq!(planned(&[], |_| {}), Ok(Plan::Open));
    assert_eq!(
        planned(std::slice::from_ref(&aborted), |_| {}),
        Ok(Plan::Open)
    );
    let alone = [opening.clone()];
    let opener = |attempt: &mut Attempt<'_>| attempt.has_opened = true;
    assert_eq!(planned(&alone, opener), Ok(Plan::PublishAll));
    assert_eq!(planned(&alone, |_| {}), Ok(Plan::GoOn));
    let twice = [opening.clone(), opening.clone()];
    assert_eq!(planned(&twice, opener), Ok(Plan::GoOn));
    assert_eq!(planned(&[opening.clone(), aborted], |_| {}), Ok(Plan::GoOn));
    assert_eq!(planned(&[opening, dispatched], |_| {}), Ok(Plan::Compare));
}

#[test]
fn standard_input_takes_no_run_up_but_goes_on_with_its_own() {
    let alone = [RunEvent::Opened(opened())];
    let refused = planned(&alone, |attempt| attempt.is_rereadable = false);
    assert!(matches!(refused, Err(Refusal::StandardInput { .. })));
    let own = |attempt: &mut Attempt<'_>| {
        attempt.is_rereadable = false;
        attempt.has_opened = true;
    };
    assert_eq!(planned(&alone, own), Ok(Plan::PublishAll));
    assert_eq!(
        planned(&[], |attempt| attempt.is_rereadable = false),
        Ok(Plan::Open)
    );
}

#[test]
fn other_options_are_refused_by_name_in_either_order() {
    let mut other = opened();
    other.options.cut.max_rows_per_job = 7;
    let events = [other, opened()].map(RunEvent::Opened);
    let refused = planned(&events, |attempt| attempt.has_opened = true).expect_err("7 rows");
    assert!(
        refused.to_string().contains("--max-rows-per-job"),
        "{refused}"
    );
    let [first, second] = events;
    assert_eq!(planned(&[second, first], |_| {}), Ok(Plan::GoOn));
}

#[test]
fn a_difference_names_the_job_and_what_differs() {
    let (one, other) = (job(440_000, &[1, 0]), job(440_001, &[1, 0]));
    let mut resume = resume(2, Rule::NeverPublished);
    resume.apply_published(0, 0, &published("a-run", &one.at(0)));
    assert_eq!(resume.check(&one.at(0)), Ok(()));
    assert_eq!(resume.check(&other.at(1)), Ok(()));
    let rows = job(440_000, &[1, 1]);
    assert_eq!(
        resume
            .check(&rows.at(0))
            .expect_err("another result")
            .to_string(),
        "data set differs: job 0 (Italy, 2020-03-12T08:00:00) was published with other rows"
    );
    let key = resume
        .check(&other.at(0))
        .expect_err("another time")
        .to_string();
    assert!(key.ends_with("was published with another key"), "{key}");
    resume.apply_published(0, 1, &published("a-run", &rows.at(0)));
    let twice = resume
        .check(&other.at(1))
        .expect_err("it was published twice");
    assert!(
        matches!(twice, Difference::Twice { index: 0, .. }),
        "{twice}"
    );
}

#[test]
fn an_index_beyond_the_own_jobs_is_a_difference_and_sizes_nothing() {
    let one = job(440_000, &[1]);
    for far in [1, u64::MAX - 1] {
        let mut resumed = resume(1, Rule::NeverPublished);
        resumed.apply_published(0, 0, &published("a-run", &one.at(far)));
        let beyond = resumed.check(&one.at(0)).expect_err("beyond").to_string();
        assert!(beyond.contains("it has 1 jobs"), "{beyond}");
        let mut resumed = resume(1, Rule::NeverPublished);
        resumed.apply_outcomes(&batch_of_one("a-run", 0, &one.at(far), Some(&[])));
        assert!(resumed.check(&one.at(0)).is_err());
    }
}

#[test]
fn a_dead_letter_is_an_outcome() {
    let one = job(440_000, &[1]);
    let rule = Rule::WithoutOutcome { committed: vec![9] };
    let mut resume = resume(1, rule);
    resume.apply_published(0, 3, &published("a-run", &one.at(0)));
    assert!(resume.is_missing(0));
    resume.apply_outcomes(&batch_of_one("a-run", 0, &one.at(0), None));
    assert!(!resume.is_missing(0));
}

#[test]
fn a_cancelled_copy_does_not_wait_and_an_outdated_dead_letter_is_no_outcome() {
    let jobs = [job(440_000, &[1]), job(440_001, &[1])];
    let mut history = RunHistory::new(run_id("a-run"));
    let rule = || Rule::WithoutOutcome { committed: vec![] };
    let state = |history: &RunHistory| {
        let mut resume = resume(2, rule()).in_generation_of(&history.timeline());
        resume.apply_published(0, 0, &published("a-run", &jobs[0].at(0)));
        resume.apply_published(0, 1, &published("a-run", &jobs[1].at(1)));
        resume.apply_outcomes(&batch_of_one("a-run", 0, &jobs[1].at(1), None));
        let missing = resume.missing_jobs();
        assert_eq!(missing.len(), resume.missing());
        (missing, resume.waiting())
    };
    let ranges = |indexes: &[u64]| IndexRanges::of_ascending(indexes.iter().copied());
    assert_eq!(state(&history), (ranges(&[]), 1));
    history.apply(RunEvent::Cancelled(cancelled()));
    assert_eq!(state(&history), (ranges(&[0]), 0));
    let next = history
        .timeline()
        .next_generation(&run_id("a-run"), ranges(&[1]), "a replay");
    history.apply(RunEvent::Generation(next.expect("the next")));
    assert_eq!(state(&history), (ranges(&[0, 1]), 0));
}

#[test]
fn a_copy_of_before_its_job_was_opened_again_does_not_wait() {
    let one = job(440_000, &[1]);
    let mut history = RunHistory::new(run_id("a-run"));
    let reopened = IndexRanges::of_ascending([0]);
    let next = history
        .timeline()
        .next_generation(&run_id("a-run"), reopened, "a replay");
    history.apply(RunEvent::Generation(next.expect("the next")));
    let rule = Rule::WithoutOutcome { committed: vec![] };
    let mut resume = resume(1, rule).in_generation_of(&history.timeline());
    // The process that opened the generation died before it published the job. The old copy is still to
    // be computed, and its dead letter would be outdated.
    resume.apply_published(0, 0, &published("a-run", &one.at(0)));
    assert_eq!((resume.missing(), resume.waiting()), (1, 0));
    let header = JobHeader {
        generation: 1,
        ..header("a-run")
    };
    let copy = JobBatch::decode(&one.at(0).alone(&header)).expect("a valid batch");
    resume.apply_published(0, 1, &copy);
    assert_eq!((resume.missing(), resume.waiting()), (0, 1));
}

/// A message on the jobs topic or on the outcomes topic.
#[derive(Clone, Debug)]
enum Message {
    Published {
        partition: i32,
        offset: i64,
        index: u64,
        own: bool,
    },
    Outcome {
        index: u64,
        own: bool,
    },
}

const JOBS: u64 = 12;

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (0i32..3, 0i64..20, 0..JOBS, any::<bool>()).prop_map(|(partition, offset, index, own)| {
            Message::Published {
                partition,
                offset,
                index,
                own,
            }
        }),
        (0..JOBS, any::<bool>()).prop_map(|(index, own)| Message::Outcome { index, own }),
    ]
}

proptest! {
    /// Against a model of sets, for every order in which topics may be read.
    #[test]
    fn what_is_missing_is_what_the_rule_says(
        messages in prop::collection::vec(any_message(), 0..60),
        // The last partition has no committed offset.
        committed in prop::collection::vec(0i64..20, 2),
        jobs in any_jobs(JOBS as usize..JOBS as usize + 1),
    ) {
        let mut by_rule = [
            resume(JOBS, Rule::NeverPublished),
            resume(JOBS, Rule::WithoutOutcome { committed: committed.clone() }),
        ];
        let mut copies: BTreeMap<u64, Vec<(usize, i64)>> = BTreeMap::new();
        let mut outcomes = BTreeSet::new();
        for message in &messages {
            let name = |own: bool| if own { "a-run" } else { "b-run" };
            for resume in &mut by_rule {
                match *message {
                    Message::Published { partition, offset, index, own } => {
                        let job = jobs[index as usize].at(index);
                        resume.apply_published(partition, offset, &published(name(own), &job));
                    }
                    Message::Outcome { index, own } => {
                        let job = jobs[index as usize].at(index);
                        resume.apply_outcomes(&batch_of_one(name(own), 0, &job, Some(&[])));
                    }
                }
            }
            match *message {
                Message::Published { partition, offset, index, own: true } => {
                    copies.entry(index).or_default().push((partition as usize, offset));
                }
                Message::Outcome { index, own: true } => {
                    outcomes.insert(index);
                }
                _ => {}
            }
        }
        let passed = |&(partition, offset): &(usize, i64)| {
            committed.get(partition).is_some_and(|&committed| offset < committed)
        };
        for index in 0..JOBS {
            let own = copies.get(&index).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(by_rule[0].is_missing(index), own.is_empty());
            let lost = !outcomes.contains(&index) && own.iter().all(passed);
            prop_assert_eq!(by_rule[1].is_missing(index), lost);
            for resume in &by_rule {
                prop_assert_eq!(resume.check(&jobs[index as usize].at(index)), Ok(()));
            }
        }
        prop_assert!(!by_rule[0].is_missing(JOBS));
        let missing = (0..JOBS).filter(|&index| by_rule[1].is_missing(index)).count();
        prop_assert_eq!(by_rule[1].missing(), missing as u64);
        // Every job has an outcome, is with the workers, or is published now.
        let known = outcomes.len() as u64 + by_rule[1].waiting() + by_rule[1].missing();
        prop_assert_eq!(known, JOBS);
    }

    #[test]
    fn any_change_of_a_job_is_a_difference(
        of in any_jobs(1..2),
        at in any::<prop::sample::Index>(),
        kind in 0usize..6,
    ) {
        let [of] = of.as_slice() else {
            unreachable!("one job was asked for");
        };
        let mut other = of.clone();
        match kind {
            0 if of.payload.is_empty() => other.payload.push(0),
            0 => other.payload[at.index(of.payload.len())] ^= 1,
            1 => other.payload.push(1),
            2 => other.part += 1,
            3 => {
                let seconds = of.time.map_or(0, |time| time.seconds() + 1);
                other.time = TimeBucket::from_seconds(seconds);
            }
            4 => other.weight += 1,
            _ => other.labels.values.push(String::new()),
        }
        let mut resume = resume(1, Rule::NeverPublished);
        resume.apply_published(0, 0, &published("a-run", &of.at(0)));
        prop_assert!(resume.check(&other.at(0)).is_err());
    }
}

#[test]
fn an_opening_that_is_merged_serves_the_plan() {
    let later = RunOpened {
        jobs_start_offsets: vec![9, 9],
        ..opened()
    };
    let events = [later, opened()].map(RunEvent::Opened);
    assert_eq!(
        planned(&events, |attempt| attempt.has_opened = true),
        Ok(Plan::GoOn)
    );
}

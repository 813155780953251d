//! Tests of the reconciliation.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::digest::JobSetHasher;
use crate::ledger::counting::tests::rules;
use crate::outcome::{Outcome, OutcomeBatchBuilder};
use crate::run::ResultsPolicy;
use crate::run::tests::manifest;
use crate::{GroupKey, Job, LabelSet, TimeBucket, payload_digest};

/// A run of jobs with one row each, whose outcomes and manifest the tests apply in any order.
struct Run {
    labels: LabelSet,
}

impl Run {
    fn new() -> Self {
        Self {
            labels: LabelSet::new(["Italy"]),
        }
    }

    fn job(&self, index: u64) -> Job<'_> {
        Job {
            index,
            key: GroupKey {
                labels: &self.labels,
                time: TimeBucket::from_hours(index as i64),
            },
            part: 0,
            weight: 1,
            payload: &[1],
        }
    }

    fn manifest(&self, jobs: u64) -> Manifest {
        let mut hasher = JobSetHasher::new();
        for index in 0..jobs {
            hasher.update(&self.job(index));
        }
        Manifest {
            job_set_digest: hasher.finish(),
            ..manifest(jobs, jobs)
        }
    }

    fn batch(&self, indexes: &[u64], outcome: Outcome<'_>) -> OutcomeBatch {
        let run_id = "a-run".parse().expect("a run id");
        let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
        for &index in indexes {
            let job = self.job(index);
            builder.push(&job, payload_digest(job.payload), outcome);
        }
        OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
    }
}

const COMPLETED: Outcome<'static> = Outcome::Completed(&[1, 1]);
const DEAD: Outcome<'static> = Outcome::DeadLettered {
    reason: "it is broken",
    attempts: 3,
};

fn judge(collection: &Collection) -> Reconciliation {
    let Ok(judged) = collection.reconcile(|_| Ok::<_, Infallible>(Vec::new()));
    judged
}

/// Whether the outcomes said anything new.
fn apply(collection: &mut Collection, batch: OutcomeBatch) -> bool {
    let is_new = collection.apply_outcomes_at(0, 0, &batch);
    is_new.expect("all is in memory")
}

fn failing(reconciliation: &Reconciliation) -> Vec<&str> {
    let checks = reconciliation.checks.iter();
    checks
        .filter(|check| !check.holds)
        .map(|check| check.name)
        .collect()
}

#[test]
fn a_run_is_complete_when_every_job_was_completed_and_the_digest_fits() {
    let run = Run::new();
    let mut collection = Collection::new();
    // Outcomes before the manifest are recorded, and nothing is settled before it.
    assert!(apply(&mut collection, run.batch(&[1], COMPLETED)));
    assert!(!collection.is_settled());
    collection.apply_manifest(run.manifest(3));
    assert!(apply(&mut collection, run.batch(&[0, 1], COMPLETED)));
    assert_eq!(judge(&collection).verdict, Verdict::Incomplete);
    assert!(apply(&mut collection, run.batch(&[2], COMPLETED)));
    assert!(!apply(&mut collection, run.batch(&[2], COMPLETED)));
    assert!(collection.is_settled());
    let reconciliation = judge(&collection);
    assert_eq!(failing(&reconciliation), [""; 0]);
    assert_eq!(reconciliation.verdict, Verdict::Complete);
    assert_eq!(collection.recorded().duplicates, 2);
    let share = collection.shares().values().next().expect("one worker");
    assert_eq!((share.jobs, share.duplicates, share.batches), (3, 2, 4));
}

#[test]
fn dead_letters_are_listed_until_they_are_completed() {
    let run = Run::new();
    let mut collection = Collection::new();
    collection.apply_manifest(run.manifest(2));
    apply(&mut collection, run.batch(&[0], COMPLETED));
    apply(&mut collection, run.batch(&[1], DEAD));
    assert_eq!(judge(&collection).verdict, Verdict::CompleteWithDeadLetters);
    apply(&mut collection, run.batch(&[1], COMPLETED));
    assert_eq!(judge(&collection).verdict, Verdict::Complete);
}

#[test]
fn no_manifest_no_completion() {
    let run = Run::new();
    let mut collection = Collection::new();
    apply(&mut collection, run.batch(&[0, 1, 2], COMPLETED));
    assert!(!collection.is_settled());
    assert_eq!(judge(&collection).verdict, Verdict::Incomplete);
}

#[test]
fn a_run_of_more_jobs_than_there_can_be_is_incomplete_and_takes_no_memory_for_them() {
    let run = Run::new();
    let mut collection = Collection::new();
    apply(&mut collection, run.batch(&[0, 1], COMPLETED));
    collection.apply_manifest(Manifest {
        jobs: u64::MAX,
        ..run.manifest(2)
    });
    assert!(apply(&mut collection, run.batch(&[10_000], COMPLETED)));
    assert_eq!(collection.jobs_with_outcome(), 3);
    assert!(!collection.is_settled());
    assert_eq!(judge(&collection).verdict, Verdict::Incomplete);
}

#[test]
fn every_contradiction_fails_the_run() {
    let run = Run::new();
    let wrong = Outcome::Completed(&[1, 0]);
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Collection));
    let cases: [Case<'_>; 5] = [
        ("manifests agree", &|collection| {
            collection.apply_manifest(run.manifest(3));
            collection.apply_manifest(run.manifest(4));
            apply(collection, run.batch(&[0, 1, 2], COMPLETED));
        }),
        ("accepted + rejected = rows read", &|collection| {
            let mut manifest = run.manifest(3);
            manifest.rows_read = 9;
            collection.apply_manifest(manifest);
            apply(collection, run.batch(&[0, 1, 2], COMPLETED));
        }),
        ("conflicting outcomes", &|collection| {
            collection.apply_manifest(run.manifest(3));
            apply(collection, run.batch(&[0, 1, 2], COMPLETED));
            apply(collection, run.batch(&[1], wrong));
        }),
        (
            "outcomes of jobs that the run does not have",
            &|collection| {
                collection.apply_manifest(run.manifest(3));
                apply(collection, run.batch(&[0, 1, 2, 3], COMPLETED));
            },
        ),
        ("digest of the job set", &|collection| {
            let mut manifest = run.manifest(3);
            manifest.job_set_digest = run.manifest(2).job_set_digest;
            collection.apply_manifest(manifest);
            apply(collection, run.batch(&[0, 1, 2], COMPLETED));
        }),
    ];
    for (name, apply_case) in cases {
        let mut collection = Collection::new();
        apply_case(&mut collection);
        let reconciliation = judge(&collection);
        assert_eq!(reconciliation.verdict, Verdict::Failed, "{name}");
        assert_eq!(failing(&reconciliation), [name]);
    }
}

#[test]
fn a_check_of_the_computation_that_does_not_hold_fails_the_run() {
    let run = Run::new();
    let mut collection = Collection::new();
    collection.apply_manifest(run.manifest(1));
    let unread =
        |_: &Ledger| -> Result<Vec<Check>, Infallible> { panic!("there is no ledger yet") };
    let early = judge(&collection);
    assert_eq!(early.verdict, Verdict::Incomplete);
    let Ok(unknown) = Collection::new().reconcile(unread);
    assert_eq!(unknown.checks.len(), 1);
    apply(&mut collection, run.batch(&[0], COMPLETED));
    let reconciliation = collection.reconcile(|ledger| {
        assert_eq!(ledger.result(0)?, Some(vec![1, 1]));
        Ok::<_, SpillError>(vec![Check::numbers("ones", 3, 2)])
    });
    let reconciliation = reconciliation.expect("all is in memory");
    assert_eq!(reconciliation.verdict, Verdict::Failed);
    assert_eq!(failing(&reconciliation), ["ones"]);
}

/// An outcome as a stranger may report it: index, worker, and which of some outcomes.
type Reported = (u64, u8, u8);

fn any_reported() -> impl Strategy<Value = Vec<Vec<Reported>>> {
    let index = prop_oneof![8 => 0u64..12, 1 => 40u64..44, 1 => (u64::MAX - 3)..u64::MAX];
    let outcomes = prop::collection::vec((index, 0u8..6), 1..6);
    let batch = (0u8..3, outcomes).prop_map(|(worker, outcomes)| {
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|(index, outcome)| (index, worker, outcome))
            .collect()
    });
    prop::collection::vec(batch, 0..12)
}

fn reported(run: &Run, generation: u32, outcomes: &[Reported]) -> OutcomeBatch {
    let run_id = "a-run".parse().expect("a run id");
    let worker = Worker {
        host: "a-host".to_owned(),
        id: outcomes[0].1.to_string(),
    };
    let mut builder = OutcomeBatchBuilder::new(&run_id, generation, &worker);
    for &(index, _, outcome) in outcomes {
        let mut job = run.job(index % 1_000);
        job.index = index;
        // Most are alike; others differ in the result, the job, or are dead.
        job.part = u32::from(outcome == 5);
        let outcome = match outcome {
            0..3 => COMPLETED,
            3 => Outcome::Completed(&[9; 20]),
            _ => DEAD,
        };
        builder.push(&job, payload_digest(job.payload), outcome);
    }
    OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
}

/// All that a collection knows when everything was received.
fn known(collection: &Collection) -> impl PartialEq + std::fmt::Debug + use<> {
    let ledger = collection.ledger().expect("the manifest was received");
    let indexes = (0..50).chain((u64::MAX - 4)..u64::MAX);
    let lines: Vec<_> = indexes
        .map(|index| {
            let job = ledger.describe(index);
            let job = job.map(|job| (job.labels.to_label_set(), job.time, job.part, job.weight));
            (job, ledger.result(index).expect("all is in memory"))
        })
        .collect();
    (
        lines,
        (ledger.totals(), ledger.dead().clone(), ledger.missing()),
        (collection.recorded(), collection.shares().clone()),
        collection.conflicts().to_vec(),
        (judge(collection), collection.is_settled()),
    )
}

proptest! {
    /// The manifest may come before, between or after the outcomes, also those of jobs that the run
    /// does not have: ledger, counts, shares and verdict are the same, whatever counts.
    #[test]
    fn when_the_manifest_comes_makes_no_difference(
        batches in any_reported(),
        jobs in prop_oneof![4 => 0u64..14, 1 => Just(u64::MAX)],
        is_any in any::<bool>(),
    ) {
        let run = Run::new();
        let batches: Vec<OutcomeBatch> = (0..)
            .zip(&batches)
            .map(|(number, outcomes)| reported(&run, number % 3, outcomes))
            .collect();
        let policy = if is_any { ResultsPolicy::Any } else { ResultsPolicy::Reproducible };
        let collected = |manifest_at: usize| {
            let mut collection = Collection::under(rules(policy));
            let manifest = Manifest { jobs, ..run.manifest(jobs.min(14)) };
            for (number, batch) in batches.iter().enumerate() {
                if number == manifest_at {
                    collection.apply_manifest(manifest.clone());
                }
                let recorded = collection.apply_outcomes_at(0, number as i64, batch);
                recorded.expect("all is in memory");
            }
            collection.apply_manifest(manifest);
            collection
        };
        let first = collected(0);
        for manifest_at in 1..=batches.len() {
            let (other, first) = (known(&collected(manifest_at)), known(&first));
            prop_assert_eq!(other, first, "at {}", manifest_at);
        }
    }
}

#[test]
fn what_an_early_outcome_says_is_new_or_not() {
    let run = Run::new();
    let mut collection = Collection::new();
    assert!(apply(&mut collection, run.batch(&[0, 1, 9], COMPLETED)));
    assert!(!apply(&mut collection, run.batch(&[1, 9], COMPLETED)));
    assert!(collection.ledger().is_none());
    assert_eq!(collection.jobs_with_outcome(), 3);
    collection.apply_manifest(run.manifest(2));
    assert_eq!(collection.jobs_with_outcome(), 2);
    let recorded = collection.recorded();
    assert_eq!(
        (recorded.new, recorded.duplicates, recorded.beyond),
        (2, 1, 2)
    );
    assert!(collection.is_settled());
    assert_eq!(judge(&collection).verdict, Verdict::Failed);
}

#[test]
fn outcomes_before_the_manifest_take_as_much_memory_as_after_it() {
    let run = Run::new();
    let mut early = Collection::new();
    let indexes: Vec<u64> = (0..10_000).collect();
    for indexes in indexes.chunks(100) {
        apply(&mut early, run.batch(indexes, COMPLETED));
    }
    let before = early.memory_use().held;
    early.apply_manifest(run.manifest(10_000));
    let after = early.memory_use().held;
    assert!(before - after < 100, "{before} bytes, then {after}");
    assert!(after / 10_000 <= 41, "{after} bytes");
}

//! The judgement on a run: everything that was heard of it is collected, and the ledger is held
//! against the manifest. Only this may say that a run is complete.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Conflict;
use crate::ledger::counting::{CountingRules, Tier};
use crate::ledger::{Ledger, Recorded};
use crate::outcome::{OutcomeBatch, Worker};
use crate::run::Manifest;

/// What one worker did for a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Jobs whose first outcome came from it.
    pub jobs: u64,
    /// Its outcomes that said nothing new.
    pub duplicates: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Batches of outcomes.
    pub batches: u64,
}

/// Everything that was heard of one run.
///
/// Outcomes that come before the manifest are kept as they are: which jobs the run has is not known
/// before it, and an outcome of another job is a failure.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    dispatched: Option<Dispatched>,
    /// A manifest that contradicts the first one.
    disagreeing: Option<Manifest>,
    rules: CountingRules,
    /// Batches that came before the manifest, with their tiers.
    waiting: Vec<(Tier, OutcomeBatch)>,
    heard: u64,
    conflicts: Vec<Conflict>,
    totals: Recorded,
    shares: BTreeMap<(String, String), Share>,
}

/// What the dispatcher swears to, and what became of it.
#[derive(Clone, Debug)]
struct Dispatched {
    manifest: Manifest,
    ledger: Ledger,
}

impl Collection {
    /// Nothing was heard yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing was heard yet of a generation in which outcomes count by these rules.
    pub fn under(rules: CountingRules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// The rules by which outcomes count.
    pub fn rules(&self) -> &CountingRules {
        &self.rules
    }

    /// Hears a manifest. The same again changes nothing.
    pub fn hear_manifest(&mut self, manifest: Manifest) {
        if let Some(known) = &self.dispatched {
            if !known.manifest.agrees_with(&manifest) {
                self.disagreeing = Some(manifest);
            }
            return;
        }
        let ledger = Ledger::under(manifest.jobs, self.rules.clone());
        self.dispatched = Some(Dispatched { manifest, ledger });
        for (tier, batch) in std::mem::take(&mut self.waiting) {
            self.record(tier, &batch);
        }
    }

    /// Hears outcomes of this run that are at this place of the outcomes topic. Returns as
    /// [`hear_outcomes`](Self::hear_outcomes) does.
    pub fn hear_outcomes_at(&mut self, partition: i32, offset: i64, batch: OutcomeBatch) -> bool {
        self.hear_outcomes_in(self.rules.tier(partition, offset), batch)
    }

    /// Hears outcomes of this run that no earlier verdict covers. Returns whether they said anything
    /// new; before the manifest every batch does.
    pub fn hear_outcomes(&mut self, batch: OutcomeBatch) -> bool {
        self.hear_outcomes_in(self.rules.last_tier(), batch)
    }

    fn hear_outcomes_in(&mut self, tier: Tier, batch: OutcomeBatch) -> bool {
        self.heard += batch.len() as u64;
        if self.dispatched.is_none() {
            self.waiting.push((tier, batch));
            return true;
        }
        let recorded = self.record(tier, &batch);
        recorded.new + recorded.replaced > 0
    }

    fn record(&mut self, tier: Tier, batch: &OutcomeBatch) -> Recorded {
        let Some(dispatched) = &mut self.dispatched else {
            return Recorded::default();
        };
        let recorded = dispatched
            .ledger
            .record_in(tier, batch, &mut self.conflicts);
        self.totals.new += recorded.new;
        self.totals.replaced += recorded.replaced;
        self.totals.duplicates += recorded.duplicates;
        self.totals.beyond += recorded.beyond;
        self.totals.conflicts += recorded.conflicts;
        self.totals.outdated += recorded.outdated;
        let Worker { host, id } = batch.worker().clone();
        let share = self.shares.entry((host, id)).or_default();
        share.jobs += recorded.new + recorded.replaced;
        share.duplicates += recorded.duplicates;
        share.retries += u64::from(batch.retries());
        share.batches += 1;
        recorded
    }

    /// The manifest, once it was heard.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.dispatched.as_ref().map(|known| &known.manifest)
    }

    /// The ledger, once the manifest was heard.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.dispatched.as_ref().map(|known| &known.ledger)
    }

    /// The ledger alone, once the manifest was heard.
    pub fn into_ledger(self) -> Option<Ledger> {
        self.dispatched.map(|known| known.ledger)
    }

    /// What was recorded in the ledger.
    pub fn recorded(&self) -> Recorded {
        self.totals
    }

    /// Jobs with an outcome; before the manifest, outcomes heard.
    pub fn jobs_with_outcome(&self) -> u64 {
        match self.ledger() {
            Some(ledger) => ledger.jobs() - ledger.missing(),
            None => self.heard,
        }
    }

    /// What each worker did, by host and id.
    pub fn shares(&self) -> &BTreeMap<(String, String), Share> {
        &self.shares
    }

    /// The contradictions that were heard.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Whether waiting for more can change nothing for the better: every job has an outcome, or
    /// the run has failed already.
    pub fn is_settled(&self) -> bool {
        let contradicted = self.disagreeing.is_some() || !self.conflicts.is_empty();
        contradicted || self.ledger().is_some_and(|ledger| ledger.missing() == 0)
    }

    /// Holds the ledger against the manifest.
    pub fn reconcile(&self) -> Reconciliation {
        let Some(Dispatched { manifest, ledger }) = &self.dispatched else {
            return Reconciliation {
                verdict: Verdict::Incomplete,
                checks: vec![Check::new("manifest", "one", "none", false)],
            };
        };
        let mut checks = vec![match &self.disagreeing {
            None => Check::new("manifests agree", "yes", "yes", true),
            Some(other) => Check::new(
                "manifests agree",
                &describe(manifest),
                &describe(other),
                false,
            ),
        }];
        checks.push(Check::numbers(
            "accepted + rejected = rows read",
            manifest.rows_read,
            manifest
                .rows_accepted
                .saturating_add(manifest.rows_rejected()),
        ));
        checks.push(Check::numbers(
            "conflicting outcomes",
            0,
            self.totals.conflicts,
        ));
        checks.push(Check::numbers(
            "outcomes of jobs that the run does not have",
            0,
            self.totals.beyond,
        ));
        let contradicted = checks.iter().any(|check| !check.holds);

        let totals = ledger.totals();
        checks.push(Check::numbers(
            "jobs with an outcome = jobs",
            manifest.jobs,
            totals.counted + totals.dead_lettered,
        ));
        checks.push(Check::numbers(
            "rows in counted and dead-lettered jobs = rows accepted",
            manifest.rows_accepted,
            totals.rows_counted + totals.rows_dead_lettered,
        ));
        checks.push(Check::numbers(
            "tests in tallies = rows in counted jobs",
            totals.rows_counted,
            totals.tests,
        ));
        let digest = ledger.job_set_digest();
        checks.push(Check::new(
            "digest of the job set",
            &manifest.job_set_digest.to_string(),
            &digest.map_or("not known".to_owned(), |digest| digest.to_string()),
            digest == Some(manifest.job_set_digest),
        ));

        let verdict = if contradicted {
            Verdict::Failed
        } else if ledger.missing() > 0 {
            Verdict::Incomplete
        } else if checks.iter().any(|check| !check.holds) {
            Verdict::Failed
        } else if totals.dead_lettered > 0 {
            Verdict::CompleteWithDeadLetters
        } else {
            Verdict::Complete
        };
        Reconciliation { verdict, checks }
    }
}

fn describe(manifest: &Manifest) -> String {
    format!(
        "{} jobs of {} rows, digest {}",
        manifest.jobs, manifest.rows_accepted, manifest.job_set_digest
    )
}

/// What a run has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check holds and every job was counted.
    Complete,
    /// Every check holds, and some jobs are dead letters.
    CompleteWithDeadLetters,
    /// Jobs without an outcome, and nothing that contradicts the rest.
    Incomplete,
    /// Something contradicts something else: no waiting will make it complete.
    Failed,
}

impl Verdict {
    /// The word for people and for `report.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::CompleteWithDeadLetters => "complete with dead letters",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// The judgement, with every line that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// What the run has come to.
    pub verdict: Verdict,
    /// What was compared.
    pub checks: Vec<Check>,
}

/// One line of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is compared.
    pub name: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// Whether they are the same.
    pub holds: bool,
}

impl Check {
    /// A line that holds or does not.
    pub fn new(name: &'static str, expected: &str, found: &str, holds: bool) -> Self {
        Self {
            name,
            expected: expected.to_owned(),
            found: found.to_owned(),
            holds,
        }
    }

    /// Two numbers that should be the same.
    pub fn numbers(name: &'static str, expected: u64, found: u64) -> Self {
        Self::new(
            name,
            &expected.to_string(),
            &found.to_string(),
            expected == found,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::JobSetHasher;
    use crate::outcome::{Outcome, OutcomeBatchBuilder, Tally};
    use crate::run::tests::manifest;
    use crate::{GroupKey, Job, LabelSet, TimeBucket};

    /// A run of jobs with one row each, whose outcomes and manifest can be told at will.
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
                    time: TimeBucket::from_hours(index as i64).expect("in range"),
                },
                part: 0,
                results: &[1],
            }
        }

        fn manifest(&self, jobs: u64) -> Manifest {
            let mut hasher = JobSetHasher::new();
            for index in 0..jobs {
                let job = self.job(index);
                hasher.update(index, job.key, job.part, job.rows());
            }
            Manifest {
                job_set_digest: hasher.finish(),
                ..manifest(jobs, jobs)
            }
        }

        fn batch(&self, indexes: &[u64], outcome: Outcome<'_>) -> OutcomeBatch {
            let run_id = "a-run".parse().expect("a run id");
            let mut builder = OutcomeBatchBuilder::new(&run_id, &Worker::default());
            for &index in indexes {
                builder.push(&self.job(index), outcome);
            }
            OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
        }
    }

    const COUNTED: Outcome<'static> = Outcome::Counted(Tally {
        tests: 1,
        positive: 1,
    });
    const DEAD: Outcome<'static> = Outcome::DeadLettered {
        reason: "it is broken",
        attempts: 3,
    };

    fn failing(reconciliation: &Reconciliation) -> Vec<&str> {
        let checks = reconciliation.checks.iter();
        checks
            .filter(|check| !check.holds)
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn a_run_is_complete_when_every_job_was_counted_and_the_digest_fits() {
        let run = Run::new();
        let mut collection = Collection::new();
        // Outcomes before the manifest wait for it.
        assert!(collection.hear_outcomes(run.batch(&[1], COUNTED)));
        assert!(!collection.is_settled());
        collection.hear_manifest(run.manifest(3));
        assert!(collection.hear_outcomes(run.batch(&[0, 1], COUNTED)));
        assert_eq!(collection.reconcile().verdict, Verdict::Incomplete);
        assert!(collection.hear_outcomes(run.batch(&[2], COUNTED)));
        assert!(!collection.hear_outcomes(run.batch(&[2], COUNTED)));
        assert!(collection.is_settled());
        let reconciliation = collection.reconcile();
        assert_eq!(failing(&reconciliation), [""; 0]);
        assert_eq!(reconciliation.verdict, Verdict::Complete);
        assert_eq!(collection.recorded().duplicates, 2);
        let share = collection.shares().values().next().expect("one worker");
        assert_eq!((share.jobs, share.duplicates, share.batches), (3, 2, 4));
    }

    #[test]
    fn dead_letters_are_told_until_they_are_counted() {
        let run = Run::new();
        let mut collection = Collection::new();
        collection.hear_manifest(run.manifest(2));
        collection.hear_outcomes(run.batch(&[0], COUNTED));
        collection.hear_outcomes(run.batch(&[1], DEAD));
        assert_eq!(
            collection.reconcile().verdict,
            Verdict::CompleteWithDeadLetters
        );
        collection.hear_outcomes(run.batch(&[1], COUNTED));
        assert_eq!(collection.reconcile().verdict, Verdict::Complete);
    }

    #[test]
    fn no_manifest_no_completion() {
        let run = Run::new();
        let mut collection = Collection::new();
        collection.hear_outcomes(run.batch(&[0, 1, 2], COUNTED));
        assert!(!collection.is_settled());
        assert_eq!(collection.reconcile().verdict, Verdict::Incomplete);
    }

    #[test]
    fn a_run_of_more_jobs_than_there_can_be_is_incomplete_and_takes_no_memory_for_them() {
        let run = Run::new();
        let mut collection = Collection::new();
        collection.hear_outcomes(run.batch(&[0, 1], COUNTED));
        collection.hear_manifest(Manifest {
            jobs: u64::MAX,
            ..run.manifest(2)
        });
        assert!(collection.hear_outcomes(run.batch(&[10_000], COUNTED)));
        assert_eq!(collection.jobs_with_outcome(), 3);
        assert!(!collection.is_settled());
        assert_eq!(collection.reconcile().verdict, Verdict::Incomplete);
    }

    #[test]
    fn every_contradiction_fails_the_run() {
        let run = Run::new();
        let wrong = Outcome::Counted(Tally {
            tests: 1,
            positive: 0,
        });
        type Case<'a> = (&'a str, &'a dyn Fn(&mut Collection));
        let cases: [Case<'_>; 5] = [
            ("manifests agree", &|collection| {
                collection.hear_manifest(run.manifest(3));
                collection.hear_manifest(run.manifest(4));
                collection.hear_outcomes(run.batch(&[0, 1, 2], COUNTED));
            }),
            ("accepted + rejected = rows read", &|collection| {
                let mut manifest = run.manifest(3);
                manifest.rows_read = 9;
                collection.hear_manifest(manifest);
                collection.hear_outcomes(run.batch(&[0, 1, 2], COUNTED));
            }),
            ("conflicting outcomes", &|collection| {
                collection.hear_manifest(run.manifest(3));
                collection.hear_outcomes(run.batch(&[0, 1, 2], COUNTED));
                collection.hear_outcomes(run.batch(&[1], wrong));
            }),
            (
                "outcomes of jobs that the run does not have",
                &|collection| {
                    collection.hear_manifest(run.manifest(3));
                    collection.hear_outcomes(run.batch(&[0, 1, 2, 3], COUNTED));
                },
            ),
            ("digest of the job set", &|collection| {
                let mut manifest = run.manifest(3);
                manifest.job_set_digest = run.manifest(2).job_set_digest;
                collection.hear_manifest(manifest);
                collection.hear_outcomes(run.batch(&[0, 1, 2], COUNTED));
            }),
        ];
        for (name, tell) in cases {
            let mut collection = Collection::new();
            tell(&mut collection);
            let reconciliation = collection.reconcile();
            assert_eq!(reconciliation.verdict, Verdict::Failed, "{name}");
            assert_eq!(failing(&reconciliation), [name]);
        }
    }

    #[test]
    fn tests_that_are_not_the_rows_fail_the_run() {
        let run = Run::new();
        let mut collection = Collection::new();
        collection.hear_manifest(run.manifest(1));
        let twice = Outcome::Counted(Tally {
            tests: 2,
            positive: 1,
        });
        collection.hear_outcomes(run.batch(&[0], twice));
        let reconciliation = collection.reconcile();
        assert_eq!(reconciliation.verdict, Verdict::Failed);
        assert_eq!(
            failing(&reconciliation),
            ["tests in tallies = rows in counted jobs"]
        );
    }
}

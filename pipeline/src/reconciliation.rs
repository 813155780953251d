//! The reconciliation of a run: its outcomes are collected in the ledger, which is compared with the
//! manifest. Only the reconciliation decides that a run is complete.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Conflict;
use crate::ledger::counting::CountingRules;
use crate::ledger::{Change, Ledger, Memory, MemoryUse, Recorded, SpillError};
use crate::outcome::{OutcomeBatch, Worker};
use crate::run::{Manifest, ResultsPolicy};
use crate::run_history::RunHistory;

#[cfg(test)]
mod tests;

/// The share of one worker in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Jobs whose first outcome came from it.
    pub jobs: u64,
    /// Its outcomes that were there already.
    pub duplicates: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Batches of outcomes.
    pub batches: u64,
}

/// Everything that was received of one run.
///
/// Outcomes are recorded as they arrive. The manifest has the number of jobs: when it arrives after
/// outcomes, those of jobs out of range are removed from the ledger and from the counts, so that the
/// order makes no difference.
#[derive(Debug)]
pub struct Collection {
    manifest: Option<Manifest>,
    /// A manifest that contradicts the first one.
    disagreeing: Option<Manifest>,
    ledger: Ledger,
    /// The changes by outcomes before the manifest, by worker.
    early: BTreeMap<(String, String), EarlyChanges>,
    conflicts: Vec<Conflict>,
    totals: Recorded,
    shares: BTreeMap<(String, String), Share>,
}

impl Default for Collection {
    fn default() -> Self {
        Self::new()
    }
}

impl Collection {
    /// Nothing was received yet.
    pub fn new() -> Self {
        Self::under(CountingRules::default())
    }

    /// Nothing was received yet of a generation in which outcomes count by these rules.
    pub fn under(rules: CountingRules) -> Self {
        Self {
            manifest: None,
            disagreeing: None,
            ledger: Ledger::of_unknown_length(rules),
            early: BTreeMap::new(),
            conflicts: Vec::new(),
            totals: Recorded::default(),
            shares: BTreeMap::new(),
        }
    }

    /// Nothing was received yet of the newest generation of a run, except the manifests of its history.
    pub fn of(policy: ResultsPolicy, run: &RunHistory) -> Self {
        let mut collection = Self::under(CountingRules::of(policy, &run.timeline()));
        for manifest in run.manifests() {
            collection.apply_manifest(manifest.clone());
        }
        collection
    }

    /// Sets the memory budget, and the store for the results beyond it.
    #[must_use]
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.ledger = self.ledger.with_memory(memory);
        self
    }

    /// The rules by which outcomes count.
    pub fn rules(&self) -> &CountingRules {
        self.ledger.rules()
    }

    /// Applies a manifest. The same manifest again changes nothing.
    pub fn apply_manifest(&mut self, manifest: Manifest) {
        if let Some(known) = &self.manifest {
            if !known.agrees_with(&manifest) {
                self.disagreeing = Some(manifest);
            }
            return;
        }
        let jobs = manifest.jobs;
        self.ledger.set_jobs(jobs);
        self.conflicts.retain(|conflict| conflict.index < jobs);
        for (worker, changes) in std::mem::take(&mut self.early) {
            let share = self.shares.entry(worker).or_default();
            for (change, outcomes) in changes.from(jobs) {
                *self.totals.count(change) -= outcomes;
                self.totals.beyond += outcomes;
                match change {
                    Change::New | Change::Replaced => share.jobs -= outcomes,
                    Change::Duplicate => share.duplicates -= outcomes,
                    Change::OutOfRange | Change::Conflict | Change::Outdated => {}
                }
            }
        }
        self.manifest = Some(manifest);
    }

    /// Records outcomes of this run, from this partition and offset of the outcomes topic. Returns
    /// whether they changed the ledger.
    ///
    /// # Errors
    /// When results cannot be spilled or read back.
    pub fn apply_outcomes_at(
        &mut self,
        partition: i32,
        offset: i64,
        batch: &OutcomeBatch,
    ) -> Result<bool, SpillError> {
        let tier = self.rules().tier(partition, offset);
        let Worker { host, id } = batch.worker().clone();
        let worker = (host, id);
        let (ledger, conflicts) = (&mut self.ledger, &mut self.conflicts);
        let recorded = if self.manifest.is_some() {
            ledger.record_in(tier, batch, conflicts, |_, _| {})?
        } else {
            let early = self.early.entry(worker.clone()).or_default();
            let changed = |index, change| early.push(index, change);
            ledger.record_in(tier, batch, conflicts, changed)?
        };
        self.totals.new += recorded.new;
        self.totals.replaced += recorded.replaced;
        self.totals.duplicates += recorded.duplicates;
        self.totals.beyond += recorded.beyond;
        self.totals.conflicts += recorded.conflicts;
        self.totals.outdated += recorded.outdated;
        let share = self.shares.entry(worker).or_default();
        share.jobs += recorded.new + recorded.replaced;
        share.duplicates += recorded.duplicates;
        share.retries += u64::from(batch.retries());
        share.batches += 1;
        self.make_room(0)?;
        Ok(recorded.new + recorded.replaced > 0)
    }

    /// Spills results until the memory budget has room for this number of bytes, as far as there are
    /// results to spill.
    ///
    /// # Errors
    /// When results cannot be spilled.
    pub fn make_room(&mut self, bytes: u64) -> Result<(), SpillError> {
        self.ledger.make_room(self.bytes_beside_ledger() + bytes)
    }

    /// The memory in use.
    pub fn memory_use(&self) -> MemoryUse {
        let beside = self.bytes_beside_ledger();
        let mut used = self.ledger.memory_use();
        used.held += beside;
        used.fixed += beside;
        used
    }

    fn bytes_beside_ledger(&self) -> u64 {
        let conflicts = self.conflicts.iter();
        let conflicts = conflicts.map(|conflict| size_of_val(conflict) + conflict.len());
        let early = self.early.values().map(EarlyChanges::held_bytes);
        (conflicts.sum::<usize>() + early.sum::<usize>()) as u64
    }

    /// The manifest; `None` before it was applied.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The ledger; `None` before the manifest was applied.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.manifest.is_some().then_some(&self.ledger)
    }

    /// The ledger alone; `None` before the manifest was applied.
    pub fn into_ledger(self) -> Option<Ledger> {
        self.manifest.is_some().then_some(self.ledger)
    }

    /// The counts of what was recorded in the ledger.
    pub fn recorded(&self) -> Recorded {
        self.totals
    }

    /// Jobs with an outcome; before the manifest, also of jobs that the run may turn out not to have.
    pub fn jobs_with_outcome(&self) -> u64 {
        let totals = self.ledger.totals();
        totals.completed + totals.dead_lettered
    }

    /// The share of each worker, by host and id.
    pub fn shares(&self) -> &BTreeMap<(String, String), Share> {
        &self.shares
    }

    /// The contradictions between outcomes, or between manifests.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Whether further outcomes cannot improve the verdict: every job has one, or the run has failed
    /// already.
    pub fn is_settled(&self) -> bool {
        let contradicted = self.disagreeing.is_some() || self.totals.conflicts > 0;
        self.ledger()
            .is_some_and(|ledger| contradicted || ledger.missing() == 0)
    }

    /// Compares the ledger with the manifest. `checks_of_results` returns the checks of the run's
    /// computation on its results.
    ///
    /// # Errors
    /// Those of `checks_of_results`.
    pub fn reconcile<E>(
        &self,
        checks_of_results: impl FnOnce(&Ledger) -> Result<Vec<Check>, E>,
    ) -> Result<Reconciliation, E> {
        let (Some(manifest), ledger) = (&self.manifest, &self.ledger) else {
            return Ok(Reconciliation {
                verdict: Verdict::Incomplete,
                checks: vec![Check::new("manifest", "one", "none", false)],
            });
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
            totals.completed + totals.dead_lettered,
        ));
        checks.push(Check::numbers(
            "rows in completed and dead-lettered jobs = rows accepted",
            manifest.rows_accepted,
            totals.weight_completed + totals.weight_dead_lettered,
        ));
        checks.extend(checks_of_results(ledger)?);
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
        Ok(Reconciliation { verdict, checks })
    }
}

/// The changes by the outcomes of one worker before the manifest was applied.
#[derive(Debug, Default)]
struct EarlyChanges {
    spans: Vec<EarlySpan>,
}

/// Outcomes of jobs that follow one another, with the same change.
#[derive(Clone, Copy, Debug)]
struct EarlySpan {
    start: u64,
    length: u32,
    change: Change,
}

impl EarlyChanges {
    fn push(&mut self, index: u64, change: Change) {
        if let Some(last) = self.spans.last_mut()
            && last.change == change
            && last.start + u64::from(last.length) == index
            && last.length < u32::MAX
        {
            last.length += 1;
            return;
        }
        self.spans.push(EarlySpan {
            start: index,
            length: 1,
            change,
        });
    }

    /// The changes by outcomes of jobs from this index on, each with their number.
    fn from(&self, index: u64) -> impl Iterator<Item = (Change, u64)> {
        self.spans.iter().map(move |span| {
            let end = span.start + u64::from(span.length);
            (span.change, end.saturating_sub(index.max(span.start)))
        })
    }

    fn held_bytes(&self) -> usize {
        size_of_val(&self.spans[..])
    }
}

fn describe(manifest: &Manifest) -> String {
    format!(
        "{} jobs of {} rows, digest {}",
        manifest.jobs, manifest.rows_accepted, manifest.job_set_digest
    )
}

/// The verdict on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check holds and every job was completed.
    Complete,
    /// Every check holds, and some jobs are dead letters.
    CompleteWithDeadLetters,
    /// Jobs have no outcome, and no check contradicts the others.
    Incomplete,
    /// Checks contradict each other, which further outcomes cannot change.
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

/// The reconciliation of a run: the verdict, with the checks that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reconciliation {
    /// The verdict.
    pub verdict: Verdict,
    /// The comparisons.
    pub checks: Vec<Check>,
}

/// One line of a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the compared value.
    pub name: &'static str,
    /// The expected value.
    pub expected: String,
    /// The value that was found.
    pub found: String,
    /// Whether the check passed.
    pub holds: bool,
}

impl Check {
    /// A check that holds or does not.
    pub fn new(name: &'static str, expected: &str, found: &str, holds: bool) -> Self {
        Self {
            name,
            expected: expected.to_owned(),
            found: found.to_owned(),
            holds,
        }
    }

    /// A check that two numbers are equal.
    pub fn numbers(name: &'static str, expected: u64, found: u64) -> Self {
        Self::new(
            name,
            &expected.to_string(),
            &found.to_string(),
            expected == found,
        )
    }
}

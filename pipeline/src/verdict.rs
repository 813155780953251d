//! The decision of an aggregator after it has reconciled a run: publish its verdict, put its files in
//! place, or reconcile again at the end offsets of the verdict that counts. Pure: the caller reads the
//! runs topic.
//!
//! The order, for each aggregator: it reads outcomes up to end offsets, reconciles, writes files under
//! temporary names, and settles. Where no verdict counts yet, it publishes its own, reads the runs
//! topic to the end and settles again. Files are put in place only where a verdict counts and agrees,
//! so two aggregators of one generation never leave two tables.

use crate::cancelled::RunCancelled;
use crate::content_digest::ContentDigest;
use crate::generation::VerdictKey;
use crate::reconciled::{OffsetRange, RunReconciled};
use crate::reconciliation::{Collection, Verdict};
use crate::run::ResultsPolicy;
use crate::run_id::RunId;
use crate::timeline::{GenerationEnd, Timeline};
use crate::writer_id::WriterId;

/// The verdict of an aggregator on one generation of a run, before it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The generation.
    pub generation: u32,
    /// The policy for results that differ.
    pub policy: ResultsPolicy,
    /// The offsets that were read, by partition of the outcomes topic.
    pub outcomes: Vec<OffsetRange>,
    /// The verdict at whose end offsets it judged; `None` where it chose them itself.
    pub at: Option<VerdictKey>,
    /// The digest of the manifest that the outcomes were compared with; `None` without a manifest.
    pub manifest_digest: Option<ContentDigest>,
    /// The verdict.
    pub verdict: Verdict,
    /// Jobs with a result.
    pub completed: u64,
    /// Jobs that are dead letters.
    pub dead_lettered: u64,
    /// Jobs with several results that differ.
    pub differing: u64,
    /// The digest of the whole table.
    pub table_digest: ContentDigest,
}

/// The next step of an aggregator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Settlement<'a> {
    /// No verdict counts yet: publish this one, read the runs topic past it, and settle again.
    Publish,
    /// The run is incomplete and no verdict counts: nothing is published.
    Incomplete,
    /// This verdict counts and agrees: put the files in place.
    Agrees(&'a RunReconciled),
    /// This verdict counts and does not agree: reconcile again at its end offsets.
    JudgeAt(&'a RunReconciled),
    /// This verdict counts, and contradicts the outcomes up to its end offsets: a failed check.
    Contradicts(&'a RunReconciled),
    /// Results that this earlier verdict has counted were deleted from this partition before they were
    /// read, and other attempts at the same jobs may have made others: nothing is published.
    FrozenDeleted(&'a RunReconciled, usize),
    /// The generation is cancelled.
    Cancelled(&'a RunCancelled),
    /// A newer generation was opened: begin again with that one.
    NextGeneration(u32),
    /// The own verdict was published and does not count, and no other does: another manifest was
    /// published, or the run was removed.
    NotCounted,
}

impl Judged {
    /// The verdict on a collection of these outcomes. `at`: the verdict at whose end offsets it judged.
    pub fn of(
        collection: &Collection,
        outcomes: Vec<OffsetRange>,
        at: Option<VerdictKey>,
        verdict: Verdict,
        table_digest: ContentDigest,
    ) -> Self {
        let totals = collection.ledger().map(|ledger| ledger.totals());
        let totals = totals.unwrap_or_default();
        Self {
            generation: collection.rules().generation(),
            policy: collection.rules().policy(),
            outcomes,
            at,
            manifest_digest: collection.manifest().map(|manifest| manifest.digest()),
            verdict,
            completed: totals.completed,
            dead_lettered: totals.dead_lettered,
            differing: totals.differing,
            table_digest,
        }
    }

    /// The next step, by any prefix of the log. `is_published`: whether the own verdict was published,
    /// and the log was read past it.
    pub fn settle<'a>(&self, timeline: &Timeline<'a>, is_published: bool) -> Settlement<'a> {
        if timeline.number() != self.generation {
            return Settlement::NextGeneration(timeline.number());
        }
        match timeline.newest().end {
            Some(GenerationEnd::Cancelled(cancelled)) => Settlement::Cancelled(cancelled),
            Some(GenerationEnd::Reconciled(standing)) if self.agrees_with(standing) => {
                Settlement::Agrees(standing)
            }
            Some(GenerationEnd::Reconciled(standing)) => {
                match self.at == Some(standing.verdict_key()) {
                    true => Settlement::Contradicts(standing),
                    false => Settlement::JudgeAt(standing),
                }
            }
            None if self.verdict == Verdict::Incomplete || self.manifest_digest.is_none() => {
                Settlement::Incomplete
            }
            None if is_published => Settlement::NotCounted,
            None => match self.deleted_before(timeline) {
                Some((frozen, partition)) => Settlement::FrozenDeleted(frozen, partition),
                None => Settlement::Publish,
            },
        }
    }

    /// An earlier verdict of which results may come out otherwise now, for retention has taken some of
    /// its outcomes, and the first partition that has lost some.
    fn deleted_before<'a>(&self, timeline: &Timeline<'a>) -> Option<(&'a RunReconciled, usize)> {
        if self.policy == ResultsPolicy::Reproducible {
            return None;
        }
        let starts: Vec<i64> = self.outcomes.iter().map(|range| range.start).collect();
        let mut earlier = timeline.earlier_verdicts();
        earlier.find_map(|verdict| Some((verdict, deleted_outcomes(&verdict.outcomes, &starts)?)))
    }

    /// Whether the files that were made are those of a verdict. Of outcomes that contradict one another
    /// the one that is read first is kept, so two tables of a run that has failed may differ; neither is
    /// its result.
    pub fn agrees_with(&self, verdict: &RunReconciled) -> bool {
        let own = (self.completed, self.dead_lettered, self.differing);
        let other = (verdict.completed, verdict.dead_lettered, verdict.differing);
        self.verdict == verdict.verdict
            && (self.verdict == Verdict::Failed
                || (own == other && self.table_digest == verdict.table_digest))
    }

    /// The event that publishes it; `None` where nothing is to be published.
    pub fn event(&self, run_id: &RunId, published_by: &str) -> Option<RunReconciled> {
        let manifest_digest = self.manifest_digest?;
        (self.verdict != Verdict::Incomplete).then(|| RunReconciled {
            run_id: run_id.clone(),
            generation: self.generation,
            writer: WriterId::fresh(),
            outcomes: self.outcomes.clone(),
            manifest_digest,
            verdict: self.verdict,
            completed: self.completed,
            dead_lettered: self.dead_lettered,
            differing: self.differing,
            table_digest: self.table_digest,
            published_by: published_by.to_owned(),
        })
    }
}

/// The first partition in which outcomes that a verdict rests on are gone, for the partitions begin
/// at these offsets now.
pub fn deleted_outcomes(outcomes: &[OffsetRange], beginnings: &[i64]) -> Option<usize> {
    outcomes.iter().enumerate().position(|(partition, range)| {
        let beginning = beginnings.get(partition).copied().unwrap_or(i64::MAX);
        range.start < range.end && range.start < beginning
    })
}

/// The first partition that no longer holds all outcomes that a verdict rests on: some are
/// [deleted](deleted_outcomes), or it ends before the verdict does, for the topic was made again. The
/// partitions begin and end at these offsets now.
pub fn lost_outcomes(outcomes: &[OffsetRange], beginnings: &[i64], ends: &[i64]) -> Option<usize> {
    deleted_outcomes(outcomes, beginnings).or_else(|| {
        outcomes.iter().enumerate().position(|(partition, range)| {
            let end = ends.get(partition).copied().unwrap_or(0);
            end < range.end
        })
    })
}

#[cfg(test)]
mod tests;

//! What an aggregator does with its judgement, which the product's [`Judged`] decides: it publishes it,
//! judges again at the end offsets of the verdict that stands, or puts its files in place.

use std::collections::VecDeque;

use aggregator::export::Format;
use aggregator::writing::{Leaves, Step, steps};
use aggregator::{OutputArgs, OutputChoice};
use pipeline::verdict::deleted_outcomes;
use pipeline::{
    Collection, ContentDigest, Grain, Judged, OffsetRange, RunEvent, RunHistory, RunReconciled,
    Settlement, Verdict, VerdictKey,
};

use super::{AggregatorProcess, Ended, Publication, reconcile, series};
use crate::broker::starts;
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;
use crate::topics::{collected, history, tell};

impl AggregatorProcess {
    /// Publishes its verdict, judges again, or begins to write, as the runs topic has it now.
    pub(super) fn settle(
        &mut self,
        judged: Judged,
        publication: Publication,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        if let Publication::Sent(event) = publication {
            tell(shared, &RunEvent::Reconciled(event))?;
            if shared.mutation == Some(Mutation::VerdictNotReadBack) {
                return self.begin_to_write(&judged, shared);
            }
            self.settling = Some((judged, Publication::Written));
            return Ok(None);
        }
        let runs = history(shared);
        let is_published = matches!(publication, Publication::Written);
        match judged.settle(&runs.timeline(), is_published) {
            Settlement::Publish => {
                let event = judged.event(runs.run_id(), "an aggregator");
                let event = event.expect("a verdict that is to be published");
                self.settling = Some((judged, Publication::Sent(event)));
                Ok(None)
            }
            Settlement::Incomplete | Settlement::Agrees(_) => self.begin_to_write(&judged, shared),
            Settlement::NextGeneration(_) => {
                if is_published {
                    shared.saw(Seen::VerdictPassedOver);
                }
                Ok(Some(Ended::Failed))
            }
            Settlement::Cancelled(_) => Ok(Some(Ended::Cancelled)),
            Settlement::FrozenDeleted(..) => Ok(Some(Ended::OutcomesDeleted)),
            Settlement::JudgeAt(standing) => {
                shared.saw(Seen::JudgedAgain);
                Ok(self.judge_again(&runs, standing.clone(), shared))
            }
            other => violated("a verdict that stands agrees", format!("{other:?}")),
        }
    }

    /// Judges by the outcomes that the verdict that stands rests on, and no others.
    fn judge_again(
        &mut self,
        runs: &RunHistory,
        standing: RunReconciled,
        shared: &mut Shared,
    ) -> Option<Ended> {
        let beginnings = starts(&shared.broker.outcomes);
        if deleted_outcomes(&standing.outcomes, &beginnings).is_some()
            && shared.mutation != Some(Mutation::DeletedOutcomesUnseen)
        {
            shared.saw(Seen::OutcomesOfVerdictDeleted);
            return Some(Ended::OutcomesDeleted);
        }
        let mut ranges = standing.outcomes.clone();
        if shared.mutation == Some(Mutation::JudgedBeyondEndOffsets) {
            ranges.iter_mut().for_each(|range| range.end = i64::MAX);
        }
        let collection = collected(shared.dispatch.options.results, runs, ranges, shared);
        let at = Some(standing.verdict_key());
        let judged = judged(&collection, standing.outcomes, at);
        self.settling = Some((judged, Publication::None));
        None
    }

    /// Begins to put its files in place, which are those of all aggregators of the generation.
    fn begin_to_write(
        &mut self,
        judged: &Judged,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        let own = (judged.verdict, judged.table_digest);
        // Which of the outcomes that contradict one another is shown depends on the order of reading.
        if !matches!(judged.verdict, Verdict::Incomplete | Verdict::Failed) {
            let known = *shared.tables.entry(judged.generation).or_insert(own);
            if known != own {
                return violated(
                    "all aggregators write one table of a generation",
                    format!("{own:?} and {known:?}"),
                );
            }
        }
        let mut steps = VecDeque::from(steps(&output_choice(), Leaves::Series, true));
        if shared.mutation == Some(Mutation::ReportBeforeTables) {
            steps.rotate_right(1);
        }
        self.writing = Some((judged.verdict, steps));
        Ok(None)
    }

    /// Puts the next file in place.
    pub(super) fn write(&mut self, shared: &mut Shared) -> Result<Option<Ended>, Violation> {
        let Some((verdict, left)) = &mut self.writing else {
            return Ok(None);
        };
        let Some(step) = left.pop_front() else {
            return Ok(Some(Ended::Judged(*verdict)));
        };
        let folder = &mut shared.folders[self.place as usize];
        folder.retain(|(own, _)| *own != step);
        folder.push((step, self.number));
        let report = folder.iter().find(|(step, _)| *step == Step::ReportJson);
        let Some(&(_, number)) = report else {
            return Ok(None);
        };
        let expected = steps(&output_choice(), Leaves::Series, true);
        match expected
            .into_iter()
            .find(|&step| !folder.contains(&(step, number)))
        {
            None => Ok(None),
            Some(missing) => violated(
                "a report has everything that it names beside it",
                format!("{missing:?}"),
            ),
        }
    }
}

/// What an aggregator has judged of a collection.
pub(super) fn judged(
    collection: &Collection,
    outcomes: Vec<OffsetRange>,
    at: Option<VerdictKey>,
) -> Judged {
    let series = series(collection);
    let table_digest = ContentDigest::of(format!("{series:?}").as_bytes());
    Judged::of(
        collection,
        outcomes,
        at,
        reconcile(collection),
        table_digest,
    )
}

/// What is written of a run.
fn output_choice() -> OutputChoice {
    let args = OutputArgs {
        outputs: vec![Format::Csv, Format::Parquet, Format::Html],
        grain_out: vec![Grain::Day],
    };
    args.choice().expect("these go together")
}

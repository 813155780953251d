//! The generations of a run in their order, and how each of them ended. Dispatcher, workers,
//! aggregators and commands agree on them because all read one log.
//!
//! The rules, for each event in the order of the log:
//! - A generation counts if it is the next one, builds on the verdict that stands there, and names the
//!   cancellation that holds there. So of two that are opened at once the first counts, and none is
//!   opened past a verdict or a cancellation that it does not know. A run that has failed gets no
//!   further generation.
//! - A verdict counts if it is on the newest generation, which has not ended, of this manifest, and
//!   reaches as far as the verdict before it.
//! - A cancellation counts if it is of the newest generation, which has not ended.
//!
//! Each of these events has a key of its own and is written once, so compaction neither removes nor
//! moves it: the rules give the same answer before and after.

use crate::cancelled::RunCancelled;
use crate::content_digest::ContentDigest;
use crate::generation::{GenerationOpened, IndexRanges, MAX_GENERATION};
use crate::reconciled::RunReconciled;
use crate::reconciliation::Verdict;
use crate::run_id::RunId;
use crate::writer_id::WriterId;

/// An event that opens or ends a generation, as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GenerationEvent {
    Opened(GenerationOpened),
    Reconciled(RunReconciled),
    Cancelled(RunCancelled),
}

/// The facts of a run that its verdicts have to match, however its log is compacted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub manifest_digest: ContentDigest,
    /// Whether the run has jobs, so that a run which did not fail has outcomes.
    pub has_jobs: bool,
    /// The offsets at which the run's outcomes begin, by partition.
    pub outcomes_start_offsets: &'a [i64],
}

impl Expected<'_> {
    /// Whether a verdict is of this run. One of an earlier run of this name and data set, which was
    /// removed since, ends where this one begins or before. So a verdict on jobs is reached by an
    /// outcome of this run, except that a run can fail without any.
    fn is_met_by(&self, verdict: &RunReconciled) -> bool {
        let starts = self.outcomes_start_offsets;
        let has_some = verdict
            .outcomes
            .iter()
            .enumerate()
            .any(|(partition, range)| range.end > starts.get(partition).copied().unwrap_or(0));
        let has_failed_without = verdict.verdict == Verdict::Failed
            && verdict
                .outcomes
                .iter()
                .all(|range| range.start == range.end);
        verdict.manifest_digest == self.manifest_digest
            && reaches(verdict, starts)
            && (has_some || !self.has_jobs || has_failed_without)
    }
}

/// Whether a verdict holds at these offsets or beyond them, in every partition.
fn reaches(verdict: &RunReconciled, offsets: &[i64]) -> bool {
    verdict.outcomes.len() >= offsets.len()
        && verdict
            .outcomes
            .iter()
            .zip(offsets)
            .all(|(range, &offset)| range.end >= offset)
}

/// The end of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GenerationEnd<'a> {
    /// The verdict that counts.
    Reconciled(&'a RunReconciled),
    /// A cancellation before any verdict.
    Cancelled(&'a RunCancelled),
}

/// One generation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Generation<'a> {
    /// The event that opened it; `None` for generation 0, which is opened with the run.
    pub opened: Option<&'a GenerationOpened>,
    /// The end; `None` while it is under way, and where the next one was opened before.
    pub end: Option<GenerationEnd<'a>>,
}

impl<'a> Generation<'a> {
    /// The verdict that counts.
    pub fn verdict(&self) -> Option<&'a RunReconciled> {
        match self.end {
            Some(GenerationEnd::Reconciled(verdict)) => Some(verdict),
            _ => None,
        }
    }

    /// The cancellation that counts.
    pub fn cancelled(&self) -> Option<&'a RunCancelled> {
        match self.end {
            Some(GenerationEnd::Cancelled(cancelled)) => Some(cancelled),
            _ => None,
        }
    }

    /// The writer of the cancellation that counts.
    fn cancellation_writer(&self) -> Option<&'a WriterId> {
        self.cancelled().map(|cancelled| &cancelled.writer)
    }
}

/// The reason for which a run gets no further generation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFurtherGeneration {
    /// Its outcomes contradict one another, and will go on doing so.
    #[error(
        "run {run_id} has failed, by the verdict of {published_by} on generation {generation}, and \
         failed is final: dispatch the data set under another --run-id"
    )]
    Failed {
        /// The run.
        run_id: RunId,
        /// The generation that failed.
        generation: u32,
        /// The publisher of the verdict.
        published_by: String,
    },

    /// The run has the highest possible generation.
    #[error("run {run_id} has {MAX_GENERATION} generations, which is the highest number")]
    TooMany {
        /// The run.
        run_id: RunId,
    },
}

/// The generations of a run, from 0 on.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline<'a> {
    /// Never empty.
    generations: Vec<Generation<'a>>,
}

impl<'a> Timeline<'a> {
    /// Applies the rules to events in the order of the log. `expected` is `None` where the run has no
    /// manifest or was not opened, which no verdict comes before.
    pub(crate) fn of(
        events: impl IntoIterator<Item = &'a GenerationEvent>,
        expected: Option<Expected<'_>>,
    ) -> Self {
        let mut timeline = Self {
            generations: vec![Generation::default()],
        };
        for event in events {
            timeline.apply(event, expected);
        }
        timeline
    }

    fn apply(&mut self, event: &'a GenerationEvent, expected: Option<Expected<'_>>) {
        let newest = self.newest();
        let is_open = newest.end.is_none();
        let latest = self.latest_verdict();
        let end = match event {
            GenerationEvent::Opened(opened) => {
                let is_next = opened.generation == self.number() + 1;
                let builds_on = latest.map(RunReconciled::verdict_key);
                let is_aware = opened.builds_on == builds_on
                    && opened.ends_cancellation.as_ref() == newest.cancellation_writer();
                let has_failed = latest.is_some_and(|latest| latest.verdict == Verdict::Failed);
                if is_next && is_aware && !has_failed {
                    self.generations.push(Generation {
                        opened: Some(opened),
                        end: None,
                    });
                }
                return;
            }
            GenerationEvent::Reconciled(verdict) => {
                let is_of_run = expected.is_some_and(|expected| expected.is_met_by(verdict));
                let reaches = latest.is_none_or(|latest| reaches(verdict, &latest.ends()));
                if verdict.generation != self.number() || !is_open || !is_of_run || !reaches {
                    return;
                }
                GenerationEnd::Reconciled(verdict)
            }
            GenerationEvent::Cancelled(cancelled) => {
                if cancelled.generation != self.number() || !is_open {
                    return;
                }
                GenerationEnd::Cancelled(cancelled)
            }
        };
        if let Some(newest) = self.generations.last_mut() {
            newest.end = Some(end);
        }
    }

    /// The generations, by number.
    pub fn generations(&self) -> &[Generation<'a>] {
        &self.generations
    }

    /// The number of the newest generation.
    pub fn number(&self) -> u32 {
        // At most MAX_GENERATION: an event beyond is not decoded.
        (self.generations.len() - 1) as u32
    }

    /// The newest generation.
    pub fn newest(&self) -> Generation<'a> {
        self.generations.last().copied().unwrap_or_default()
    }

    /// The verdict that counts on the newest generation that has one.
    pub fn latest_verdict(&self) -> Option<&'a RunReconciled> {
        self.generations.iter().rev().find_map(Generation::verdict)
    }

    /// The verdicts that stand on generations before the newest, in their order: each reaches as far
    /// as the one before it.
    pub fn earlier_verdicts(&self) -> impl Iterator<Item = &'a RunReconciled> {
        let earlier = &self.generations[..self.generations.len() - 1];
        earlier.iter().filter_map(Generation::verdict)
    }

    /// The highest generation whose cancellation holds: a worker passes over jobs of this generation
    /// and of those before it.
    pub fn cancelled_up_to(&self) -> Option<u32> {
        let position = self
            .generations
            .iter()
            .rposition(|generation| generation.cancelled().is_some());
        position.map(|generation| generation as u32)
    }

    /// The first cancellation that holds of this generation or a later one: no worker computes jobs
    /// of this generation any more.
    pub fn cancelled_since(&self, generation: u32) -> Option<&'a RunCancelled> {
        let later = self.generations.iter().skip(generation as usize);
        later.into_iter().find_map(Generation::cancelled)
    }

    /// The event that opens the next generation.
    ///
    /// # Errors
    /// When the run gets none.
    pub fn next_generation(
        &self,
        run_id: &RunId,
        reopened: IndexRanges,
        opened_by: &str,
    ) -> Result<GenerationOpened, NoFurtherGeneration> {
        let run_id = run_id.clone();
        let latest = self.latest_verdict();
        if let Some(latest) = latest.filter(|latest| latest.verdict == Verdict::Failed) {
            return Err(NoFurtherGeneration::Failed {
                run_id,
                generation: latest.generation,
                published_by: latest.published_by.clone(),
            });
        }
        let generation = self.number() + 1;
        if generation > MAX_GENERATION {
            return Err(NoFurtherGeneration::TooMany { run_id });
        }
        Ok(GenerationOpened {
            run_id,
            generation,
            writer: WriterId::fresh(),
            reopened,
            builds_on: latest.map(RunReconciled::verdict_key),
            ends_cancellation: self.newest().cancellation_writer().cloned(),
            opened_by: opened_by.to_owned(),
        })
    }

    /// Whether the event of this writer is the one that opened a generation.
    pub fn is_opened_by(&self, generation: u32, writer: &WriterId) -> bool {
        let generation = self.generations.get(generation as usize);
        let opened = generation.and_then(|generation| generation.opened);
        opened.is_some_and(|opened| opened.writer == *writer)
    }
}

#[cfg(test)]
mod tests;

//! The state of one run, folded from its events on the runs topic. Dispatcher, aggregator and
//! `rollcall runs` all use it, so that they agree on the state.

use crate::difference::Difference;
use crate::run::{Manifest, RunEvent, RunOpened};
use crate::run_id::RunId;
use crate::timeline::{Expected, GenerationEvent, Timeline};

/// The state of one run after the events that were applied.
#[derive(Clone, Debug, PartialEq)]
pub struct RunHistory {
    run_id: RunId,
    opened: Option<RunOpened>,
    last_opened: Option<RunOpened>,
    openings: usize,
    contradiction: Option<Difference>,
    manifest: Option<Manifest>,
    disagreeing: Option<Manifest>,
    aborted: Option<String>,
    /// The events that open or end a generation, in the order of the log.
    events: Vec<GenerationEvent>,
}

impl RunHistory {
    /// The state of a run without events.
    pub fn new(run_id: RunId) -> Self {
        Self {
            run_id,
            opened: None,
            last_opened: None,
            openings: 0,
            contradiction: None,
            manifest: None,
            disagreeing: None,
            aborted: None,
            events: Vec::new(),
        }
    }

    /// Applies an event. Events of other runs are ignored. An event that is applied twice has the
    /// effect of one, except that [`openings`](Self::openings) counts both.
    ///
    /// Openings with the same options are merged. One whose options contradict those of the first is
    /// not merged: the dispatcher of the first may have published jobs, and the dispatcher of the other
    /// publishes none.
    pub fn apply(&mut self, event: RunEvent) {
        if *event.run_id() != self.run_id {
            return;
        }
        match event {
            RunEvent::Opened(opened) => self.apply_opened(opened),
            RunEvent::Dispatched(manifest) => match &self.manifest {
                None => self.manifest = Some(manifest),
                // Two manifests that disagree fail the run. A third one changes nothing.
                Some(known) if known.agrees_with(&manifest) => {}
                Some(_) => {
                    self.disagreeing.get_or_insert(manifest);
                }
            },
            RunEvent::Aborted(aborted) => self.aborted = Some(aborted.reason),
            RunEvent::Generation(opened) => self.events.push(GenerationEvent::Opened(opened)),
            RunEvent::Reconciled(verdict) => self.events.push(GenerationEvent::Reconciled(verdict)),
            RunEvent::Cancelled(cancelled) => {
                self.events.push(GenerationEvent::Cancelled(cancelled));
            }
        }
    }

    fn apply_opened(&mut self, opened: RunOpened) {
        self.openings += 1;
        match &mut self.opened {
            None => self.opened = Some(opened.clone()),
            Some(known) => match Difference::of_options(&opened.options, &known.options) {
                None => known.merge(&opened),
                Some(difference) => {
                    self.contradiction.get_or_insert(difference);
                }
            },
        }
        self.last_opened = Some(opened);
    }

    /// The run.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The opening of the run, merged from all that agree; `None` before the first.
    pub fn opened(&self) -> Option<&RunOpened> {
        self.opened.as_ref()
    }

    /// The number of openings that were applied.
    pub fn openings(&self) -> usize {
        self.openings
    }

    /// The merged opening, where it has to be published again: the topic is compacted to the last
    /// opening, and that is another one. `None` where the last one is the merged one.
    pub fn to_be_opened_again(&self) -> Option<&RunOpened> {
        (self.last_opened != self.opened)
            .then_some(self.opened.as_ref())
            .flatten()
    }

    /// The first mismatch between the options of an opening and those of the first opening; `None`
    /// where all openings agree.
    pub fn contradiction(&self) -> Option<&Difference> {
        self.contradiction.as_ref()
    }

    /// The first manifest; `None` before one was published.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The manifest that disagrees with the first; `None` where all agree.
    pub fn disagreeing(&self) -> Option<&Manifest> {
        self.disagreeing.as_ref()
    }

    /// The first manifest and the one that disagrees with it, as far as there are any.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifest.iter().chain(&self.disagreeing)
    }

    /// The generations of the run, with the event that ended each.
    pub fn timeline(&self) -> Timeline<'_> {
        let expected = self.opened.as_ref().zip(self.manifest.as_ref());
        let expected = expected.map(|(opened, manifest)| Expected {
            manifest_digest: manifest.digest(),
            has_jobs: manifest.jobs > 0,
            outcomes_start_offsets: &opened.outcomes_start_offsets,
        });
        Timeline::of(&self.events, expected)
    }

    /// The reason for which the dispatcher gave up; `None` where it did not, or a manifest was
    /// published.
    pub fn aborted(&self) -> Option<&str> {
        match self.manifest {
            None => self.aborted.as_deref(),
            Some(_) => None,
        }
    }
}

impl RunOpened {
    /// Merges another opening into this one. The order of the two makes no difference: of the times
    /// and of the start offsets, the lower ones are kept.
    fn merge(&mut self, other: &Self) {
        self.opened_at_ms = self.opened_at_ms.min(other.opened_at_ms);
        merge_offsets(&mut self.jobs_start_offsets, &other.jobs_start_offsets);
        merge_offsets(
            &mut self.outcomes_start_offsets,
            &other.outcomes_start_offsets,
        );
    }
}

/// Sets `own` to the lower offset of each partition. A partition that only one of them has was added
/// after the other was made, so the run may use it from offset 0.
fn merge_offsets(own: &mut Vec<i64>, other: &[i64]) {
    let (common, all) = (own.len().min(other.len()), own.len().max(other.len()));
    own.resize(all, 0);
    for (partition, offset) in own.iter_mut().enumerate() {
        *offset = match other.get(partition) {
            Some(other) if partition < common => (*offset).min(*other),
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grain::Grain;
    use crate::run::RunAborted;
    use crate::run::tests::{manifest, opened};

    fn history(events: impl IntoIterator<Item = RunEvent>) -> RunHistory {
        let mut history = RunHistory::new("a-run".parse().expect("a run id"));
        for event in events {
            history.apply(event);
        }
        history
    }

    fn opened_at(jobs: &[i64], outcomes: &[i64], at_ms: i64) -> RunOpened {
        RunOpened {
            jobs_start_offsets: jobs.to_vec(),
            outcomes_start_offsets: outcomes.to_vec(),
            opened_at_ms: at_ms,
            ..opened()
        }
    }

    fn aborted(reason: &str) -> RunEvent {
        RunEvent::Aborted(RunAborted {
            run_id: "a-run".parse().expect("a run id"),
            reason: reason.to_owned(),
        })
    }

    #[test]
    fn two_openings_are_merged_to_the_lower_offset_of_each_partition() {
        let one = opened_at(&[3, 9], &[1, 1], 20);
        let other = opened_at(&[4, 2], &[0, 5], 10);
        let merged = opened_at(&[3, 2], &[0, 1], 10);
        let both = history([one, other].map(RunEvent::Opened));
        assert_eq!(both.opened(), Some(&merged));
        assert_eq!(both.to_be_opened_again(), Some(&merged));
        let mut reopened = both;
        reopened.apply(RunEvent::Opened(merged.clone()));
        assert_eq!(reopened.to_be_opened_again(), None);
        assert_eq!(reopened.openings(), 3);
    }

    #[test]
    fn a_partition_that_was_added_between_two_openings_starts_at_offset_zero() {
        let both = [opened_at(&[3], &[7], 1), opened_at(&[4, 8], &[9, 9], 2)];
        let merged = history(both.map(RunEvent::Opened));
        assert_eq!(merged.opened(), Some(&opened_at(&[3, 0], &[7, 0], 1)));
    }

    #[test]
    fn an_opening_that_contradicts_the_first_is_reported_and_not_merged() {
        let first = opened();
        let mut other = opened();
        other
            .options
            .cut
            .time
            .as_mut()
            .expect("it has a time")
            .grain = Grain::Hour;
        other.jobs_start_offsets = vec![0, 0];
        let both = history([first.clone(), other].map(RunEvent::Opened));
        assert_eq!(both.opened(), Some(&first));
        assert_eq!(both.to_be_opened_again(), Some(&first));
        let contradiction = both.contradiction().expect("another grain").to_string();
        assert!(contradiction.contains("--every"), "{contradiction}");
    }

    #[test]
    fn a_run_that_is_dispatched_after_its_abort_is_no_longer_aborted() {
        let mut run = history([RunEvent::Opened(opened()), aborted("no room")]);
        assert_eq!(run.aborted(), Some("no room"));
        run.apply(RunEvent::Dispatched(manifest(3, 9)));
        assert_eq!(run.aborted(), None);
    }

    #[test]
    fn a_manifest_that_disagrees_with_the_first_is_kept_beside_it() {
        let events = [manifest(3, 9), manifest(3, 9), manifest(4, 9)];
        let run = history(events.map(RunEvent::Dispatched));
        assert_eq!(run.manifests().count(), 2);
        assert_eq!(run.disagreeing(), Some(&manifest(4, 9)));
    }

    #[test]
    fn events_of_other_runs_change_nothing() {
        let mut run = RunHistory::new("b-run".parse().expect("a run id"));
        run.apply(RunEvent::Opened(opened()));
        run.apply(aborted("no room"));
        assert_eq!(run, RunHistory::new("b-run".parse().expect("a run id")));
    }

    proptest! {
        /// Openings of racing dispatchers give the same merged one in every order, and also after
        /// compaction has removed some of them.
        #[test]
        fn openings_are_merged_to_the_same_one_in_every_order(
            offsets in prop::collection::vec(
                (prop::collection::vec(0i64..50, 0..4), prop::collection::vec(0i64..50, 0..4)),
                1..5,
            ),
            order in any::<prop::sample::Index>(),
        ) {
            let all: Vec<_> = (0..)
                .zip(&offsets)
                .map(|(at_ms, (jobs, outcomes))| opened_at(jobs, outcomes, at_ms))
                .collect();
            let merged = history(all.iter().cloned().map(RunEvent::Opened));
            let mut reordered = all.clone();
            reordered.rotate_left(order.index(all.len()));
            reordered.reverse();
            let other = history(reordered.into_iter().map(RunEvent::Opened));
            prop_assert_eq!(merged.opened(), other.opened());
            let merge = merged.opened().cloned().expect("one was applied");
            let again = [all[order.index(all.len())].clone(), merge.clone()];
            let compacted = history(again.map(RunEvent::Opened));
            prop_assert_eq!(compacted.opened(), Some(&merge));
        }
    }
}

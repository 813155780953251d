//! The cancellation of a run: its jobs, of one generation and of all before it, are not computed any
//! more.

use std::collections::HashMap;

use crate::error::DecodeError;
use crate::generation::{checked_generation, checked_writer};
use crate::run_history::RunHistory;
use crate::run_id::RunId;
use crate::wire;
use crate::writer_id::WriterId;

/// One generation of a run is cancelled. It holds unless a verdict on that generation comes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCancelled {
    /// The run.
    pub run_id: RunId,
    /// The generation.
    pub generation: u32,
    /// The process that cancels it.
    pub writer: WriterId,
    /// Why, in one line.
    pub reason: String,
    /// Who cancelled it, for people.
    pub cancelled_by: String,
}

impl RunCancelled {
    pub(crate) fn to_wire(&self) -> wire::RunCancelled {
        wire::RunCancelled {
            run_id: self.run_id.to_string(),
            generation: self.generation,
            writer: self.writer.to_string(),
            reason: self.reason.clone(),
            cancelled_by: self.cancelled_by.clone(),
        }
    }

    pub(crate) fn from_wire(wire: wire::RunCancelled) -> Result<Self, DecodeError> {
        const MESSAGE: &str = "RunCancelled";
        Ok(Self {
            run_id: crate::run::valid_run_id(MESSAGE, &wire.run_id)?,
            generation: checked_generation(MESSAGE, wire.generation, 0)?,
            writer: checked_writer(MESSAGE, &wire.writer)?,
            reason: wire.reason,
            cancelled_by: wire.cancelled_by,
        })
    }
}

/// Which jobs a worker passes over before the computation: those of cancelled generations. They get
/// no outcome and are counted, and their offsets are committed as if they were done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancellations {
    /// By run, the highest generation that is cancelled; it and all before it are passed over.
    up_to: HashMap<RunId, u32>,
}

impl Cancellations {
    /// Notes which generations of a run are cancelled, by what the runs topic tells of it now.
    pub fn update(&mut self, history: &RunHistory) {
        match history.timeline().cancelled_up_to() {
            Some(generation) => self.up_to.insert(history.run_id().clone(), generation),
            None => self.up_to.remove(history.run_id()),
        };
    }

    /// Whether no run is cancelled, so that nothing is to be looked up.
    pub fn is_empty(&self) -> bool {
        self.up_to.is_empty()
    }

    /// Whether jobs of this run and generation are passed over.
    pub fn covers(&self, run_id: &RunId, generation: u32) -> bool {
        let cancelled = self.up_to.get(run_id);
        cancelled.is_some_and(|&up_to| generation <= up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IndexRanges, RunEvent};

    #[test]
    fn jobs_of_a_cancelled_generation_and_of_those_before_it_are_passed_over() {
        let run_id: RunId = "a-run".parse().expect("a run id");
        let mut history = RunHistory::new(run_id.clone());
        let mut cancellations = Cancellations::default();
        let cancel = |generation| {
            RunEvent::Cancelled(RunCancelled {
                run_id: run_id.clone(),
                generation,
                writer: WriterId::fresh(),
                reason: String::new(),
                cancelled_by: String::new(),
            })
        };
        let mut covered = |history: &RunHistory| {
            cancellations.update(history);
            let other = "b-run".parse().expect("a run id");
            assert!(!cancellations.covers(&other, 0));
            let covered = [0, 1, 2].map(|number| cancellations.covers(&run_id, number));
            assert_eq!(cancellations.is_empty(), covered == [false; 3]);
            covered
        };
        assert_eq!(covered(&history), [false; 3]);
        // Of a generation that is not there yet.
        history.hear(cancel(1));
        assert_eq!(covered(&history), [false; 3]);
        let open = |history: &RunHistory| {
            let next = history.timeline();
            let next = next.next_generation(&run_id, IndexRanges::default(), "a resume");
            RunEvent::Generation(next.expect("the next"))
        };
        history.hear(open(&history));
        assert_eq!(covered(&history), [false; 3]);
        history.hear(cancel(1));
        assert_eq!(covered(&history), [true, true, false]);
        history.hear(open(&history));
        assert_eq!(covered(&history), [true, true, false]);
    }
}

//! The cancellation of a run: the jobs of one generation and of all before it are no longer computed.

use std::collections::HashMap;

use crate::error::DecodeError;
use crate::generation::{checked_generation, checked_writer};
use crate::offsets::of_partition;
use crate::run_history::RunHistory;
use crate::run_id::RunId;
use crate::wire;
use crate::writer_id::WriterId;

/// The event that cancels one generation of a run. It has no effect where a verdict on that generation
/// precedes it on the runs topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCancelled {
    /// The run.
    pub run_id: RunId,
    /// The generation.
    pub generation: u32,
    /// The process that cancels it.
    pub writer: WriterId,
    /// The reason, in one line.
    pub reason: String,
    /// The user and host that cancelled it, for display.
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

/// The jobs that a worker skips: those of cancelled generations that were on the jobs topic when the
/// cancellation was read. Later ones may be of a run that was removed and opened again under the same
/// id. Skipped jobs get no outcome and are counted, and their offsets are committed as if they were
/// done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancellations {
    by_run: HashMap<RunId, CancelledJobs>,
}

/// The jobs of one run that are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CancelledJobs {
    /// The highest cancelled generation. Those before it are skipped, too.
    up_to: u32,
    /// The end offset of the jobs topic when the cancellation was read, by partition.
    ends: Vec<i64>,
}

impl Cancellations {
    /// Sets which generations of a run are cancelled. `ends`: by partition, the end offset of the jobs
    /// topic before the run's history was read.
    pub fn update(&mut self, history: &RunHistory, ends: Vec<i64>) {
        let run_id = history.run_id();
        match history.timeline().cancelled_up_to() {
            Some(up_to) => self
                .by_run
                .insert(run_id.clone(), CancelledJobs { up_to, ends }),
            None => self.by_run.remove(run_id),
        };
    }

    /// Whether no run is cancelled, so that [`covers`](Self::covers) need not be called.
    pub fn is_empty(&self) -> bool {
        self.by_run.is_empty()
    }

    /// Whether the jobs of a message are skipped. The message has this run and generation, and is at
    /// this (partition, offset) of the jobs topic.
    pub fn covers(&self, run_id: &RunId, generation: u32, (partition, offset): (i32, i64)) -> bool {
        self.by_run.get(run_id).is_some_and(|own| {
            let end = of_partition(&own.ends, partition);
            generation <= own.up_to && end.is_some_and(|end| offset < end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::cancelled;
    use crate::{IndexRanges, RunEvent};

    #[test]
    fn jobs_of_a_cancelled_generation_and_of_those_before_it_are_skipped() {
        let run_id: RunId = "a-run".parse().expect("a run id");
        let mut history = RunHistory::new(run_id.clone());
        let mut cancellations = Cancellations::default();
        let cancel = |generation| {
            RunEvent::Cancelled(RunCancelled {
                generation,
                ..cancelled()
            })
        };
        let mut covered = |history: &RunHistory| {
            cancellations.update(history, vec![0, 9]);
            let other = "b-run".parse().expect("a run id");
            assert!(!cancellations.covers(&other, 0, (1, 8)));
            // At and after the end offsets, jobs may be of another run of this id.
            for place in [(0, 0), (1, 9), (2, 0), (-1, 0)] {
                assert!(!cancellations.covers(&run_id, 0, place));
            }
            let covered = [0, 1, 2].map(|number| cancellations.covers(&run_id, number, (1, 8)));
            assert_eq!(cancellations.is_empty(), covered == [false; 3]);
            covered
        };
        assert_eq!(covered(&history), [false; 3]);
        // This cancels a generation that is not opened yet, and has no effect.
        history.apply(cancel(1));
        assert_eq!(covered(&history), [false; 3]);
        let open = |history: &RunHistory| {
            let next = history.timeline();
            let next = next.next_generation(&run_id, IndexRanges::default(), "a resume");
            RunEvent::Generation(next.expect("the next"))
        };
        history.apply(open(&history));
        assert_eq!(covered(&history), [false; 3]);
        history.apply(cancel(1));
        assert_eq!(covered(&history), [true, true, false]);
        history.apply(open(&history));
        assert_eq!(covered(&history), [true, true, false]);
    }
}

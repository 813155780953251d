//! What a worker knows of cancelled runs: [`Cancellations`](pipeline::Cancellations) decides.

use pipeline::{IndexRanges, RunCancelled, RunEvent, RunHistory, WriterId};

use super::WorkerProcess;
use crate::broker::ends;
use crate::history::Shared;
use crate::mutants::Mutation;
use crate::topics::{events, history};

impl WorkerProcess {
    /// It reads what is new on the runs topic, and looks up which runs are cancelled.
    pub fn follow_runs(&mut self, shared: &mut Shared) {
        let events = events(&shared.broker.runs[self.runs_read..]);
        self.runs_read = shared.broker.runs.len();
        if events
            .iter()
            .any(|own| matches!(own, RunEvent::Cancelled(_)))
        {
            let mut history = history(shared);
            if shared.mutation == Some(Mutation::CancelledBeyond) {
                cancel_next(&mut history);
            }
            let ends = ends(&shared.broker.jobs);
            self.cancellations
                .update(|known| known.update(&history, ends));
        }
    }
}

/// A generation more than there is, and it is cancelled.
fn cancel_next(history: &mut RunHistory) {
    let run_id = history.run_id().clone();
    let none = IndexRanges::default();
    let Ok(next) = history
        .timeline()
        .next_generation(&run_id, none, "a defect")
    else {
        return;
    };
    let generation = next.generation;
    history.apply(RunEvent::Generation(next));
    history.apply(RunEvent::Cancelled(RunCancelled {
        run_id,
        generation,
        writer: WriterId::fresh(),
        reason: String::new(),
        cancelled_by: String::new(),
    }));
}

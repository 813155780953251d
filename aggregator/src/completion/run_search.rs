//! The search for the run to collect: the run of a name, or the run that was opened last.

use pipeline::{RunEvent, RunHistory, RunId};

use crate::args::RunChoice;

/// Looks for the chosen run among the events of the runs topic.
#[derive(Clone, Debug)]
pub(super) struct RunSearch {
    chosen: Option<RunHistory>,
    /// The events until the latest run is known, which takes all of the topic.
    events: Vec<RunEvent>,
    /// All that was there when the aggregator began to read the runs topic is read.
    is_caught_up: bool,
}

impl RunSearch {
    /// No event was read yet.
    pub(super) fn new(choice: &RunChoice) -> Self {
        Self {
            chosen: match choice {
                RunChoice::Latest => None,
                RunChoice::Named(run_id) => Some(RunHistory::new(run_id.clone())),
            },
            events: Vec::new(),
            is_caught_up: false,
        }
    }

    /// Events of the runs topic. `is_caught_up`: all that was there at first is read.
    pub(super) fn apply(&mut self, events: Vec<RunEvent>, is_caught_up: bool) {
        match &mut self.chosen {
            Some(run) => events.into_iter().for_each(|event| run.apply(event)),
            None => self.events.extend(events),
        }
        self.is_caught_up |= is_caught_up;
        if self.is_caught_up && self.chosen.is_none() {
            self.chosen = latest(std::mem::take(&mut self.events));
        }
    }

    /// The run, as soon as it is known which.
    pub(super) fn run_id(&self) -> Option<&RunId> {
        self.run().map(RunHistory::run_id)
    }

    /// The run with all its events, as soon as it is known which.
    pub(super) fn run(&self) -> Option<&RunHistory> {
        self.chosen.as_ref().filter(|_| self.is_caught_up)
    }
}

/// The run that was opened last, with all its events. Events of runs without an opening are of no use,
/// now or later.
fn latest(events: Vec<RunEvent>) -> Option<RunHistory> {
    let last = events.iter().rev().find_map(|event| match event {
        RunEvent::Opened(opened) => Some(opened.run_id.clone()),
        _ => None,
    });
    let mut run = RunHistory::new(last?);
    events.into_iter().for_each(|event| run.apply(event));
    Some(run)
}

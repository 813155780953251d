//! What comes from outside of a run in a history: workers that do not know its computation, a second
//! aggregator, those who cancel it, and payloads that are altered on their way. It is drawn beside the
//! other draws.

use pipeline::{RunCancelled, RunEvent, Verdict, WriterId};

use super::replay::Replay;
use super::{History, Shared};
use crate::aggregator::{AggregatorProcess, Ended, Passing, Place};
use crate::dispatcher::DispatcherProcess;
use crate::invariants::{Violation, violated};
use crate::seen::Seen;
use crate::topics::{history, tell};

/// How many workers at most do not know the computation of a run.
const MAX_UNABLE: usize = 8;

/// How many steps an aggregator takes at most that comes when everything rests.
const MAX_STEPS_AFTERWARDS: usize = 20_000;

/// Who comes from outside.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// How many workers that do not know the computation are still to start, at most.
    pub unable_left: usize,
    /// How many cancellations are still to be sent.
    cancels_left: usize,
    /// One that is on its way to the runs topic.
    cancelling: Option<RunCancelled>,
    /// How many replays are still to come while the run goes on.
    pub early_replays_left: usize,
    /// A replay whose generation is not open yet.
    pub early_replay: Option<Replay>,
    /// How many second aggregators are still to start.
    seconds_left: usize,
    second: Option<AggregatorProcess>,
}

impl Strangers {
    /// Those of a history.
    pub fn of(shared: &mut Shared) -> Self {
        let (extra, mut own) = (&mut shared.extra, Self::default());
        if extra.chance(1, 4) {
            own.unable_left = 1 + extra.below(MAX_UNABLE);
        }
        if extra.chance(1, 3) {
            own.seconds_left = 1 + extra.below(4);
        }
        // On a broker that keeps little, all processes are one run's.
        if shared.flow_control {
            return own;
        }
        if extra.chance(1, 4) {
            own.cancels_left = 1 + extra.below(2);
        }
        if extra.chance(1, 6) {
            own.early_replays_left = 1 + extra.below(3);
        }
        if extra.chance(1, 20) {
            shared.alterations_left = 1 + extra.below(2);
        }
        own
    }
}

impl History {
    /// They move beside everybody else.
    pub(super) fn move_strangers(&mut self) -> Result<(), Violation> {
        self.cancel()?;
        self.replay_early()?;
        if self.shared.oracle.cancelled_up_to.is_some() && self.shared.extra.chance(1, 8) {
            let slot = self.shared.extra.below(self.slots.len());
            if let Some(process) = &mut self.slots[slot].process {
                process.follow_runs(&mut self.shared);
            }
        }
        match &mut self.strangers.second {
            Some(second) if self.shared.extra.chance(1, 4) => {
                let ended = second.step(Passing::Usual, &mut self.shared)?;
                if let Some(ended) = ended {
                    self.strangers.second = None;
                    if matches!(ended, Ended::Judged(_)) {
                        self.shared.saw(Seen::SecondJudged);
                    }
                }
            }
            None if self.strangers.seconds_left > 0 && self.shared.extra.chance(1, 150) => {
                self.strangers.seconds_left -= 1;
                let second = AggregatorProcess::start(Place::Second, &mut self.shared);
                self.strangers.second = Some(second);
            }
            _ => {}
        }
        Ok(())
    }

    /// A cancellation is sent for the newest generation, or reaches the runs topic, where others may
    /// have come before it.
    fn cancel(&mut self) -> Result<(), Violation> {
        if self.strangers.cancelling.is_some() && self.shared.extra.chance(1, 4) {
            let cancelled = self.strangers.cancelling.take();
            let event = cancelled.map(RunEvent::Cancelled);
            return event.map_or(Ok(()), |event| tell(&mut self.shared, &event));
        }
        if self.strangers.cancels_left == 0 || !self.shared.extra.chance(1, 200) {
            return Ok(());
        }
        let runs = history(&self.shared);
        let timeline = runs.timeline();
        if runs.opened().is_some() && timeline.newest().end.is_none() {
            self.strangers.cancels_left -= 1;
            self.strangers.cancelling = Some(RunCancelled {
                run_id: runs.run_id().clone(),
                generation: timeline.number(),
                writer: WriterId::fresh(),
                reason: "no longer wanted".to_owned(),
                cancelled_by: "somebody".to_owned(),
            });
        }
        Ok(())
    }

    /// Somebody goes on with a run that is cancelled, at once or later.
    pub(super) fn resume_cancelled(&mut self) {
        if self.is_refused_for_good() {
            return self.close();
        }
        let is_resumed = self.dispatchers.iter().any(DispatcherProcess::is_resuming);
        if !is_resumed && self.shared.extra.chance(1, 2) {
            self.shared.saw(Seen::CancelledResumed);
            self.shared.tell(|| "a cancelled run is resumed".to_owned());
            self.dispatchers.retain(|own| !own.is_done());
            let dispatcher = DispatcherProcess::start(&self.shared, true);
            self.dispatchers.push(dispatcher);
        }
    }

    fn is_newest_cancelled(&self) -> bool {
        let runs = history(&self.shared);
        runs.timeline().newest().cancelled().is_some()
    }

    /// An aggregator that comes when everything rests finds the table of the verdict that stands.
    pub(super) fn look_afterwards(&mut self) -> Result<(), Violation> {
        if self.is_closed || self.verdict == Some(Verdict::Incomplete) {
            return Ok(());
        }
        if history(&self.shared).timeline().newest().end.is_none() {
            // Somebody opened one more generation after the verdict, and has sent nothing of it yet.
            return Ok(());
        }
        let mut last = AggregatorProcess::start(Place::Second, &mut self.shared);
        for _ in 0..MAX_STEPS_AFTERWARDS {
            match last.step(Passing::Usual, &mut self.shared)? {
                None => {}
                Some(Ended::OutcomesDeleted) => return Ok(()),
                Some(Ended::Judged(verdict)) if Some(verdict) == self.verdict => return Ok(()),
                // A generation that was opened after the verdict, and cancelled.
                Some(Ended::Cancelled) if self.is_newest_cancelled() => return Ok(()),
                Some(other) => {
                    return violated(
                        "whoever looks afterwards finds the same",
                        format!("{other:?}, and the verdict was {:?}", self.verdict),
                    );
                }
            }
        }
        violated("an aggregator that comes afterwards ends", "it does not")
    }
}

//! The order of winding down: the compute threads finish the job in hand and end; what they
//! finished is produced and acknowledged, or committed in transactions; leaving the group commits
//! the rest.

use std::time::Instant;

use super::{Action, EventLoop, Phase};
use crate::delivery::{Drain, Settle};

/// How far a worker has wound down.
#[derive(Debug)]
pub(super) struct WindDown {
    stage: Stage,
    /// How long the jobs in hand are waited for.
    jobs_until: Instant,
    /// How long everything behind them may take.
    leave_until: Instant,
}

#[derive(Debug)]
enum Stage {
    /// No further work unit is handed out.
    Close,
    /// The compute threads are looked at.
    Look,
    /// They are waited for while they are at work.
    Await,
    /// The loop has served what there was meanwhile.
    Served,
    /// They have ended, or time is up.
    Collect,
    Drain(Drain),
    Settle(Settle),
    Left,
}

impl EventLoop {
    /// Begins to wind down.
    pub fn wind_down(&mut self, now: Instant) {
        self.waiting.clear();
        self.phase = Phase::WindDown;
        self.wind_down = Some(WindDown {
            stage: Stage::Close,
            jobs_until: now + self.config.limits.jobs_timeout,
            leave_until: now,
        });
    }

    /// The group cannot be served any more, or its work not be delivered: nothing more is waited for.
    pub fn give_up_serving(&mut self) {
        if let Some(own) = &mut self.wind_down {
            own.stage = Stage::Collect;
            self.phase = Phase::WindDown;
        }
    }

    pub(super) fn next_of_winding_down(&mut self, now: Instant) -> Option<Action> {
        let leave_timeout = self.config.limits.leave_timeout;
        let Some(own) = &mut self.wind_down else {
            return Some(Action::Exit);
        };
        match &mut own.stage {
            Stage::Close => {
                own.stage = Stage::Look;
                Some(Action::CloseWorkUnits)
            }
            Stage::Look => {
                own.stage = Stage::Await;
                Some(Action::Threads)
            }
            Stage::Await if self.is_computing && now < own.jobs_until => {
                // Keeps the membership alive and the compute threads from waiting for room.
                own.stage = Stage::Served;
                self.phase = Phase::Poll;
                None
            }
            Stage::Await => {
                own.stage = Stage::Collect;
                None
            }
            Stage::Served => {
                own.stage = Stage::Look;
                Some(Action::AwaitFinished(self.config.limits.busy_wait))
            }
            Stage::Collect => {
                own.leave_until = now + leave_timeout;
                own.stage = Stage::Drain(Drain::new(own.leave_until));
                Some(Action::Collect)
            }
            Stage::Drain(drain) => {
                let step = drain.next(&mut self.state, now);
                if step.is_none() {
                    own.stage = Stage::Settle(Settle::new(now + leave_timeout));
                }
                step.map(Action::Deliver)
            }
            Stage::Settle(settle) => {
                let step = settle.next(&mut self.state, now);
                if step.is_some() {
                    return step.map(Action::Deliver);
                }
                own.stage = Stage::Left;
                let left = own.leave_until.saturating_duration_since(now);
                Some(Action::Leave(left))
            }
            Stage::Left => Some(Action::Exit),
        }
    }
}

//! Winding down, in this order: the compute threads finish the job that they compute, and end; the
//! outcomes are produced and acknowledged, or committed in transactions; the worker leaves the group,
//! which commits the remaining offsets.

use std::time::Instant;

use super::{Action, EventLoop, Phase};
use crate::delivery::{Drain, Settle};

/// The progress of winding down.
#[derive(Debug)]
pub(super) struct WindDown {
    stage: Stage,
    /// The time until which the jobs in flight are waited for.
    jobs_until: Instant,
    /// The time by which the worker has left the group.
    leave_until: Instant,
}

#[derive(Debug)]
enum Stage {
    /// Close the queue of work units.
    Close,
    /// Read the status of the compute threads.
    Check,
    /// Serve the group for one round where a compute thread still runs.
    Await,
    /// Wait for finished work after that round.
    Served,
    /// Apply the finished work: the compute threads have ended, or the time is up.
    Collect,
    /// Have the outcomes acknowledged.
    Drain(Drain),
    /// Have the transactions ended.
    Settle(Settle),
    /// Return: the worker has left the group.
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

    /// Stops waiting for the compute threads, because the group cannot be polled or finished work not
    /// be delivered.
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
                own.stage = Stage::Check;
                Some(Action::CloseWorkUnits)
            }
            Stage::Check => {
                own.stage = Stage::Await;
                Some(Action::Threads)
            }
            Stage::Await if self.is_computing && now < own.jobs_until => {
                // The round keeps the membership alive, and makes room for finished work.
                own.stage = Stage::Served;
                self.phase = Phase::Poll;
                None
            }
            Stage::Await => {
                own.stage = Stage::Collect;
                None
            }
            Stage::Served => {
                own.stage = Stage::Check;
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

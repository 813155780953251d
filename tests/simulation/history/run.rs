//! The aggregator of a history, and what is done for the run when everything rests: it is resumed
//! until it is complete, and its dead letters are [replayed](super::replay).

use pipeline::{IndexRanges, RunEvent, Verdict};

use super::History;
use crate::aggregator::{AggregatorProcess, Ended, Passing, Place};
use crate::dispatcher::{DispatcherProcess, Refused};
use crate::invariants::{Violation, violated};
use crate::seen::Seen;
use crate::topics::{history, lacks_frozen, tell};

impl History {
    pub(super) fn aggregate(&mut self) -> Result<(), Violation> {
        if self.verdict.is_some() {
            return Ok(());
        }
        let passing = match self.is_quiet() {
            true => Passing::Quiet,
            false if self.shared.fault(1, 200) => Passing::Most,
            false if self.shared.fault(1, 400) => Passing::Whole,
            false => Passing::Usual,
        };
        let Some(aggregator) = &mut self.aggregator else {
            // Whoever replays dead letters looks at the run when they were worked on.
            if self.replays == 0 || self.is_quiet() {
                let next = AggregatorProcess::start(Place::First, &mut self.shared);
                self.aggregator = Some(next);
            }
            return Ok(());
        };
        let ended = aggregator.step(passing, &mut self.shared)?;
        if ended.is_some() {
            self.shared.outcomes_read = None;
        }
        match ended {
            None => {}
            Some(Ended::Cancelled) => {
                self.shared.saw(Seen::RunCancelled);
                self.aggregator = None;
                self.resume_cancelled();
            }
            Some(Ended::Failed) => self.aggregator = None,
            // A further generation gets a verdict of its own, by the outcomes that are left.
            Some(Ended::OutcomesDeleted) => {
                let runs = history(&self.shared);
                let next = runs.timeline();
                if lacks_frozen(&runs, &self.shared) {
                    self.close();
                    return Ok(());
                }
                let none = IndexRanges::default();
                let Ok(next) = next.next_generation(runs.run_id(), none, "somebody") else {
                    self.close();
                    return Ok(());
                };
                tell(&mut self.shared, &RunEvent::Generation(next))?;
                self.aggregator = None;
            }
            Some(Ended::Judged(verdict)) => {
                if verdict == Verdict::Failed && !self.shared.oracle.is_contradicted() {
                    return violated("a run that is not contradicted does not fail", "it failed");
                }
                self.verdict = Some(verdict);
            }
        }
        Ok(())
    }

    /// Whether the run can be gone on with by no dispatcher.
    pub(super) fn is_refused_for_good(&self) -> bool {
        let mut refused = self
            .dispatchers
            .iter()
            .filter_map(DispatcherProcess::refused);
        refused.any(|own| own == Refused::ForGood)
    }

    /// Nothing that is done for the run helps any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.verdict.get_or_insert(Verdict::Incomplete);
        self.aggregator = None;
    }

    /// Whether nothing happens any more, so that an aggregator that waits gives up.
    fn is_quiet(&self) -> bool {
        self.workers_rest() && self.dispatchers.iter().all(DispatcherProcess::is_done)
    }

    fn workers_rest(&self) -> bool {
        let group = &self.shared.broker.group;
        let all_committed = self
            .shared
            .broker
            .jobs
            .iter()
            .zip(group.committed_offsets())
            .all(|(log, committed)| committed >= log.end());
        all_committed
            && self.on_the_way.is_empty()
            && self.shared.broker.transactions.is_empty()
            && self.slots.iter().all(|slot| {
                let process = slot.process.as_ref();
                process.is_some_and(|own| own.is_at_rest() && !own.sleeps)
            })
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.verdict.is_some() && self.is_quiet()
    }

    /// Everything rests and there is a verdict. Whoever looks after the run does what is left to do;
    /// true where that is nothing.
    pub(super) fn ends(&mut self) -> Result<bool, Violation> {
        if self.is_closed || self.verdict == Some(Verdict::Failed) {
            return Ok(true);
        }
        match self.verdict {
            Some(Verdict::Incomplete) if self.is_refused_for_good() => Ok(true),
            Some(Verdict::Incomplete) | None => {
                self.resumes += 1;
                if self.resumes > 20 {
                    return violated("a run can be made complete", "not by 20 resumes");
                }
                self.shared
                    .tell(|| "what has no outcome is dispatched again".to_owned());
                self.shared.saw(Seen::ResumedWithoutOutcome);
                let dispatcher = DispatcherProcess::start(&self.shared, true);
                self.dispatchers = vec![dispatcher];
                self.look_again();
                Ok(false)
            }
            Some(_) if self.replays == 0 => {
                self.shared.oracle.at_rest()?;
                self.shared.oracle.each_once()?;
                if self.shared.oracle.still_dead() == 0 {
                    return Ok(true);
                }
                self.replay()?;
                Ok(false)
            }
            Some(verdict) => {
                let broken = self.shared.oracle.broken();
                let expected = match broken {
                    0 => Verdict::Complete,
                    _ => Verdict::CompleteWithDeadLetters,
                };
                // What is replayed may be lost to retention, as anything else.
                if verdict != expected && self.replays < 10 {
                    self.replay()?;
                    return Ok(false);
                }
                if verdict != expected {
                    return violated(
                        "a run is complete when its dead letters were replayed",
                        format!("{verdict:?}, {broken} jobs are broken for good"),
                    );
                }
                self.shared.oracle.each_once()?;
                Ok(true)
            }
        }
    }

    fn look_again(&mut self) {
        self.verdict = None;
        let next = AggregatorProcess::start(Place::First, &mut self.shared);
        self.aggregator = Some(next);
    }
}

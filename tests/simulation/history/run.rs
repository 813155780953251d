//! The aggregator of a history, and what is done for the run when everything rests: it is resumed
//! until it is complete, and its dead letters are replayed.

use pipeline::dead_letters::LetterHeaders;
use pipeline::{DeadLetters, IndexRanges, RunEvent, Verdict};

use super::History;
use crate::aggregator::{AggregatorProcess, Ended, Passing};
use crate::broker::Payload;
use crate::dispatcher::{DispatcherProcess, arrive, history, tell};
use crate::invariants::{Violation, violated};
use crate::seen::Seen;

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
                self.aggregator = Some(AggregatorProcess::start(&mut self.shared));
            }
            return Ok(());
        };
        match aggregator.step(passing, &mut self.shared)? {
            None => {}
            Some(Ended::Failed) => self.aggregator = None,
            // A further generation gets a verdict of its own, by the outcomes that are left.
            Some(Ended::OutcomesDeleted) => {
                let runs = history(&self.shared);
                let next = runs.timeline();
                let none = IndexRanges::default();
                let next = next.next_generation(runs.run_id(), none, "somebody");
                let next = next.expect("a run that has not failed gets a further generation");
                tell(&mut self.shared, &RunEvent::Generation(next));
                self.aggregator = None;
            }
            Some(Ended::Judged(verdict)) => {
                if verdict == Verdict::Failed {
                    return violated("a run that is not contradicted does not fail", "it failed");
                }
                self.verdict = Some(verdict);
            }
        }
        Ok(())
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
        match self.verdict {
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
                self.replay();
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
                    self.replay();
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
        self.aggregator = Some(AggregatorProcess::start(&mut self.shared));
    }

    /// The cause is gone, and those still dead are published again.
    fn replay(&mut self) {
        self.replays += 1;
        self.shared.saw(Seen::Replayed);
        self.shared.tell(|| "dead letters are replayed".to_owned());
        self.shared.is_cured = true;
        let mut letters = DeadLetters::new(&self.shared.dispatch.run_id);
        let dlq = &self.shared.broker.dlq;
        for (offset, payload) in crate::dispatcher::records(dlq, 0) {
            letters.hear_letter(offset, LetterHeaders::default(), payload);
        }
        let Some(ledger) = self
            .aggregator
            .as_ref()
            .and_then(|own| own.collection()?.ledger())
        else {
            return;
        };
        let dead: Vec<_> = letters
            .still_dead(ledger)
            .filter_map(|dead| Some((dead.index, dead.letter?)))
            .collect();
        let runs = history(&self.shared);
        let reopened = IndexRanges::of_ascending(dead.iter().map(|(index, _)| *index));
        let next = runs.timeline();
        let next = next.next_generation(runs.run_id(), reopened, "a replay");
        let next = next.expect("a run that has not failed can be replayed");
        let payloads: Vec<Payload> = dead
            .iter()
            .map(|(_, letter)| Payload::from(letter.payload(next.generation).as_slice()))
            .collect();
        tell(&mut self.shared, &RunEvent::Generation(next));
        for payload in payloads {
            let partition = self.shared.rng.below(self.shared.broker.jobs.len());
            arrive(partition, payload, &mut self.shared);
        }
        self.verdict = None;
        self.aggregator = None;
    }
}

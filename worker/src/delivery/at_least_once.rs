//! Delivery at least once: outcomes are produced, and offsets are committed after their
//! acknowledgement. After a crash between the two, the next owner of the partition repeats the work,
//! and the ledger keeps one outcome a job.

use std::time::{Duration, Instant};

use kafka::Delivery as DeliveryReport;
use pipeline::offsets::Commit;

use super::{Commitment, Delivery, Message, Progress, Report, Settlement, Step};
use crate::event_loop::{Failure, Limits};
use crate::state::in_flight::InFlight;
use crate::state::outbox::{Destination, Finished, Outbox};
use crate::state::transaction::PendingTransaction;

/// Delivery without transactions.
#[derive(Debug)]
pub struct AtLeastOnce {
    outbox: Outbox,
    phase: Phase,
    /// The last time at which a message was acknowledged or none was in flight.
    acknowledged_at: Instant,
    max_unconfirmed_bytes: usize,
    acknowledge_timeout: Duration,
}

/// The phase of a round.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Produce messages.
    Produce,
    /// Apply the delivery reports.
    Reports,
    /// Produce the outcomes of dead letters that were acknowledged in this round.
    ProduceMore,
    /// End the round.
    End,
}

impl AtLeastOnce {
    /// A delivery without finished work.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            outbox: Outbox::new(),
            phase: Phase::Produce,
            acknowledged_at: now,
            max_unconfirmed_bytes: limits.max_unconfirmed_bytes,
            acknowledge_timeout: limits.acknowledge_timeout,
        }
    }

    fn produce_next(&self) -> Option<Step> {
        let (id, destination) = self.outbox.next()?;
        Some(Step::Produce { id, destination })
    }

    /// Applies delivery reports, of which the first error ends the worker: the producer itself retries
    /// while a retry can help.
    fn apply_reports(
        &mut self,
        reports: &[DeliveryReport],
        unreported: usize,
        in_flight: &mut InFlight,
        now: Instant,
    ) -> Result<Progress, Failure> {
        if !reports.is_empty() || unreported == 0 {
            self.acknowledged_at = now;
        } else if now.saturating_duration_since(self.acknowledged_at) >= self.acknowledge_timeout {
            return Err(Failure::NotAcknowledged {
                waited: self.acknowledge_timeout,
            });
        }
        let mut progress = Progress::default();
        for report in reports {
            if let Some(code) = report.error {
                return Err(Failure::Undelivered {
                    destination: self.outbox.stage(report.id),
                    partition: report.partition,
                    code,
                });
            }
            let has_outcomes = self.outbox.outcomes(report.id).is_some();
            let is_dead = self.outbox.dead_letter(report.id).is_some();
            let settles = self.outbox.acknowledged(report.id);
            for settled in &settles {
                in_flight.settle(settled);
            }
            progress.settlements.push(Settlement {
                // Where the letter's outcome follows, its acknowledgement settles no job yet.
                dead_letter: is_dead && (settles.is_empty() || !has_outcomes),
                settles,
                has_outcomes,
                is_dead,
            });
        }
        Ok(progress)
    }
}

impl Delivery for AtLeastOnce {
    fn accepts_finished(&self) -> bool {
        self.outbox.bytes() < self.max_unconfirmed_bytes
    }

    fn finish(&mut self, in_flight: &mut InFlight, finished: Finished) {
        for settled in self.outbox.add(finished) {
            in_flight.settle(&settled);
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        loop {
            let (step, then) = match self.phase {
                Phase::Produce => (self.produce_next(), Phase::Reports),
                Phase::Reports => {
                    self.phase = Phase::ProduceMore;
                    return Some(Step::DeliveryReports);
                }
                Phase::ProduceMore => (self.produce_next(), Phase::End),
                Phase::End => {
                    self.phase = Phase::Produce;
                    return None;
                }
            };
            if step.is_some() {
                return step;
            }
            self.phase = then;
        }
    }

    fn message(&self, id: usize) -> Option<Message<'_>> {
        match self.outbox.stage(id)? {
            Destination::Dlq => self.outbox.dead_letter(id).map(Message::DeadLetter),
            Destination::Outcomes => self.outbox.outcomes(id).map(Message::Outcomes),
        }
    }

    fn apply(
        &mut self,
        report: Report,
        in_flight: &mut InFlight,
        now: Instant,
    ) -> Result<Progress, Failure> {
        match report {
            Report::Produced(true) => self.outbox.produced(),
            // The producer's queue is full: the other messages wait for delivery reports.
            Report::Produced(false) => {
                self.phase = match self.phase {
                    Phase::Produce => Phase::Reports,
                    _ => Phase::End,
                };
            }
            Report::Delivered {
                reports,
                unreported,
            } => {
                let applied = self.apply_reports(&reports, unreported, in_flight, now);
                if applied.is_err() {
                    // The round is over.
                    self.phase = Phase::Produce;
                }
                return applied;
            }
            Report::Closed => return Err(Failure::Client),
            // There are no transactions.
            Report::Begun | Report::NoMember(_) | Report::UnderWay | Report::Ended(..) => {}
        }
        Ok(Progress::default())
    }

    fn commit(&mut self, in_flight: &mut InFlight) -> Option<Commitment> {
        // Markers that must precede the next message are committed before that is taken.
        if in_flight.alone().is_some() || in_flight.marks_are_due() {
            return None;
        }
        let commits = in_flight.commits();
        (!commits.is_empty()).then_some(Commitment::Offsets(commits))
    }

    fn commit_before_reading(&mut self, in_flight: &mut InFlight) -> Option<Vec<Commit>> {
        Some(in_flight.commits_to_confirm())
    }

    fn next_transaction(&mut self, _: &mut InFlight) -> Option<PendingTransaction> {
        None
    }

    fn first_commits(&mut self, in_flight: &mut InFlight, _: &[i32]) -> Vec<Commit> {
        in_flight.commits_to_confirm()
    }

    fn release(&mut self, in_flight: &mut InFlight, partitions: &[i32]) -> Vec<Commit> {
        in_flight.release(partitions)
    }

    fn forget(&mut self, _: &[i32]) {
        // Messages in flight are delivered; their jobs have an old epoch and settle nothing.
    }

    fn is_drained(&self) -> bool {
        self.outbox.is_empty()
    }

    fn is_under_way(&self) -> bool {
        false
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn has_marks(&self) -> bool {
        false
    }

    fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    fn unconfirmed_bytes(&self) -> usize {
        self.outbox.bytes()
    }
}

//! The choice of the messages that are taken next from the jobs topic, by the isolation level of each
//! partition. Usually all partitions are read together. A partition with which a worker died is read
//! from a queue of its own, a few messages at a time. After more deaths it is read alone, message by
//! message or job by job, with nothing else in flight and its poison marker committed first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::RecordBatch;
use pipeline::JobBatch;
use pipeline::mark::Reading;
use tracing::info;

use super::{Action, Consume, EventLoop, Phase};
use crate::delivery::Settle;
use crate::executor::{Leases, WorkUnit};
use crate::state::in_flight::IsolatedJob;

/// The progress of taking messages.
#[derive(Debug, Default)]
pub(super) struct Taking {
    stage: Stage,
    /// The time since which the partition that is read alone has had no message.
    idle_since: Option<Instant>,
    /// The record of the message that is processed job by job.
    isolated: Option<Arc<RecordBatch>>,
}

/// The stage of one round of taking messages.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing is decided yet.
    #[default]
    Begin,
    /// A commit is under way that must be acknowledged first.
    Committing(Next),
    /// Transactions are under way that must end first.
    Settling(Settle, Next),
    /// The commits are done; the flag is whether all have succeeded.
    Committed(bool, Next),
    /// Records are taken from the partitions with queues of their own, one after the other.
    Taking {
        /// The partitions that follow.
        isolated: VecDeque<i32>,
        records: RecordBatch,
        is_clear: bool,
    },
    /// The first record after a pause is waited for.
    One,
    /// The first record was taken; those that are fetched already are taken with it.
    Rest(RecordBatch),
    /// The last records of a round are taken.
    Batch,
    /// There is nothing to take now.
    Pause,
    /// The next record of a partition that is read alone is taken. Where it is processed job by job,
    /// its first job without an outcome is the suspect.
    Alone(i32, Option<IsolatedJob>),
}

/// The records or the job that are taken once the poison markers are committed.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Records of all partitions. `is_clear`: no message and no outcome is in flight.
    All { is_clear: bool },
    /// The next record of a partition that is read alone.
    Alone(i32, Option<IsolatedJob>),
    /// The next job of the message that is processed job by job.
    Job(i32, IsolatedJob),
}

impl EventLoop {
    /// One transition of taking messages. A round ends with a pause or with records.
    pub(super) fn take(&mut self, now: Instant) -> Option<Action> {
        match std::mem::take(&mut self.taking.stage) {
            Stage::Begin => self.begin_taking(now),
            // The driver answers before it asks again.
            Stage::Committing(_) | Stage::One | Stage::Batch | Stage::Alone(..) => {
                self.end_round(None)
            }
            Stage::Settling(mut settle, next) => {
                if let Some(step) = settle.next(&mut self.state, now) {
                    self.taking.stage = Stage::Settling(settle, next);
                    return Some(Action::Deliver(step));
                }
                self.taking.stage = Stage::Committed(self.state.delivery.is_settled(), next);
                None
            }
            // The group is polled before the next round.
            Stage::Committed(false, _) | Stage::Pause => {
                self.end_round(Some(Action::Wait(self.config.limits.busy_wait)))
            }
            Stage::Rest(records) => {
                self.taking.stage = Stage::Batch;
                Some(Action::Consume(Consume::Batch(Duration::ZERO), records))
            }
            Stage::Committed(true, next) => self.take_next(next),
            Stage::Taking {
                isolated,
                records,
                is_clear,
            } => self.take_records(isolated, records, is_clear),
        }
    }

    fn end_round(&mut self, action: Option<Action>) -> Option<Action> {
        self.taking.stage = Stage::Begin;
        self.phase = Phase::Poll;
        action
    }

    fn begin_taking(&mut self, now: Instant) -> Option<Action> {
        let limits = &self.config.limits;
        let busy_wait = limits.busy_wait;
        if self.state.delivery.unconfirmed_bytes() >= limits.max_unconfirmed_bytes {
            // The broker is slow or away: the worker waits for it and polls.
            return self.end_round(Some(Action::Wait(busy_wait)));
        }
        if !self.waiting.is_empty() {
            // The compute threads are busy: the work that they finish next is applied at once.
            return self.end_round(Some(Action::AwaitFinished(busy_wait)));
        }
        self.state.refresh_stale_work();
        if let Some(partition) = self.state.in_flight.alone() {
            return self.begin_taking_alone(partition, now);
        }
        self.taking.idle_since = None;
        let next = Next::All {
            is_clear: self.state.is_clear(),
        };
        if self.state.marks_are_due() {
            return self.commit_before(next, now);
        }
        self.taking.stage = Stage::Committed(true, next);
        None
    }

    /// The messages in flight are finished first, and the poison marker is committed before a message
    /// or job is begun.
    fn begin_taking_alone(&mut self, partition: i32, now: Instant) -> Option<Action> {
        let in_flight = &mut self.state.in_flight;
        let next = if in_flight.is_isolating() {
            let job = in_flight.next_isolated();
            job.map(|job| Next::Job(partition, job))
        } else if in_flight.room(partition) > 0 {
            let by_job = in_flight.isolation(partition) == Some(Reading::Carefully);
            let suspect = by_job.then(|| in_flight.suspect_first(partition));
            Some(Next::Alone(partition, suspect))
        } else {
            None
        };
        match next {
            Some(next) => self.commit_before(next, now),
            None => self.end_round(Some(Action::AwaitFinished(self.config.limits.busy_wait))),
        }
    }

    /// Commits the offsets that may be committed and waits for the answer, before `next` is taken.
    fn commit_before(&mut self, next: Next, now: Instant) -> Option<Action> {
        let in_flight = &mut self.state.in_flight;
        let Some(commits) = self.state.delivery.commit_before_reading(in_flight) else {
            let settle = Settle::new(now + self.config.limits.commit_timeout);
            self.taking.stage = Stage::Settling(settle, next);
            return None;
        };
        if commits.is_empty() {
            self.taking.stage = Stage::Committed(true, next);
            return None;
        }
        self.committed_at = now;
        self.taking.stage = Stage::Committing(next);
        Some(Action::CommitAndWait(commits))
    }

    /// Applies the answer to [`Action::CommitAndWait`]: whether all offsets were committed.
    pub fn apply_commit_answer(&mut self, committed: bool) {
        match std::mem::take(&mut self.taking.stage) {
            Stage::Committing(next) => self.taking.stage = Stage::Committed(committed, next),
            other => self.taking.stage = other,
        }
    }

    fn take_next(&mut self, next: Next) -> Option<Action> {
        match next {
            Next::All { is_clear } => {
                self.taking.stage = Stage::Taking {
                    isolated: self.state.isolated().iter().copied().collect(),
                    records: RecordBatch::default(),
                    is_clear,
                };
                None
            }
            Next::Alone(partition, suspect) => {
                self.taking.stage = Stage::Alone(partition, suspect);
                let one = Consume::Isolated {
                    partition,
                    at_most: 1,
                };
                Some(Action::Consume(one, RecordBatch::default()))
            }
            Next::Job(partition, job) => {
                // The partition may have been revoked while the commit was under way.
                if let Some(lease) = self.state.lease(partition)
                    && let Some(records) = &self.taking.isolated
                {
                    self.state.in_flight.begun(job.position);
                    self.waiting.push(WorkUnit {
                        range: 0..records.len(),
                        records: Arc::clone(records),
                        leases: Arc::new(Leases::from([(partition, lease)])),
                        job: Some(job),
                    });
                }
                self.phase = Phase::OfferTaken;
                None
            }
        }
    }

    /// Takes messages of the partitions with queues of their own, as many of each as may be in flight.
    /// A partition whose isolation has ended is read with the others again. The others are read last.
    fn take_records(
        &mut self,
        mut isolated: VecDeque<i32>,
        records: RecordBatch,
        is_clear: bool,
    ) -> Option<Action> {
        let Some(partition) = isolated.pop_front() else {
            // A batch call waits its whole timeout to fill; for one message it returns at once.
            let consume = if is_clear && records.is_empty() {
                self.taking.stage = Stage::One;
                Consume::One(self.config.limits.idle_wait)
            } else {
                self.taking.stage = Stage::Batch;
                Consume::Batch(self.config.limits.busy_wait)
            };
            return Some(Action::Consume(consume, records));
        };
        let room = self.state.in_flight.room(partition);
        if self.state.in_flight.isolation(partition) == Some(Reading::Freely) {
            self.state.end_isolation(partition);
            info!(
                partition,
                "isolation ended; the partition is read with the others again"
            );
            self.taking.stage = Stage::Taking {
                isolated,
                records,
                is_clear,
            };
            return Some(Action::JoinOthers(partition));
        }
        self.taking.stage = Stage::Taking {
            isolated,
            records: RecordBatch::default(),
            is_clear,
        };
        let consume = Consume::Isolated {
            partition,
            at_most: room,
        };
        Some(Action::Consume(consume, records))
    }

    /// Applies the result of [`Action::Consume`]: its batch, with the records that were taken.
    pub fn apply_records(&mut self, records: RecordBatch, now: Instant) {
        match std::mem::take(&mut self.taking.stage) {
            Stage::Taking {
                isolated, is_clear, ..
            } => {
                self.taking.stage = Stage::Taking {
                    isolated,
                    records,
                    is_clear,
                };
            }
            Stage::One if !records.is_empty() => self.taking.stage = Stage::Rest(records),
            Stage::Alone(partition, suspect) => self.take_alone(partition, suspect, records, now),
            _ => {
                self.hand_out(records, None);
                self.phase = Phase::OfferTaken;
            }
        }
    }

    fn take_alone(
        &mut self,
        partition: i32,
        suspect: Option<IsolatedJob>,
        records: RecordBatch,
        now: Instant,
    ) {
        let Some(record) = records.iter().next() else {
            let since = *self.taking.idle_since.get_or_insert(now);
            // A message that was begun exists, even if it is fetched late, and that its first jobs have
            // outcomes is recorded in the marker alone.
            let is_begun = self.state.in_flight.has_begun_message(partition);
            let waited = now.saturating_duration_since(since);
            if !is_begun && waited >= self.config.limits.idle_timeout {
                self.taking.idle_since = None;
                self.state.in_flight.end_isolation(partition);
            }
            self.taking.stage = Stage::Pause;
            return;
        };
        self.taking.idle_since = None;
        self.phase = Phase::OfferTaken;
        // The suspect is set before the message is decoded, so that a death by decoding is counted.
        let to_be_tried = suspect.filter(|suspect| !suspect.message_is_to_be_buried());
        let batch = to_be_tried.map(|_| JobBatch::decode(record.payload));
        if let Some(Ok(batch)) = batch {
            let (offset, jobs) = (record.offset, batch.jobs_count());
            self.state.in_flight.take(partition, offset);
            self.state.in_flight.isolate(partition, offset, jobs);
            self.taking.isolated = Some(Arc::new(records));
        } else {
            self.hand_out(records, suspect);
        }
    }
}

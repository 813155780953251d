//! The outbox of a worker: the finished work that is not acknowledged, and the order in which its
//! messages are produced. A dead letter is first acknowledged by the dead-letter queue, then its
//! outcome is produced and acknowledged, and then its offset is settled. Other work has no first step.
//! The outbox does no I/O: the caller applies acknowledgements, and gets the next message to produce
//! and the jobs that are settled.

use std::collections::VecDeque;

use pipeline::offsets::Settled;

/// A message for the dead-letter queue, with the values of its headers (KIP-1191).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterMessage {
    /// The dead job as a job batch of one, or the payload of a message that could not be decoded.
    pub payload: Vec<u8>,
    /// The partition of its message on the jobs topic.
    pub partition: i32,
    /// The offset of its message on the jobs topic.
    pub offset: i64,
    /// The number of attempts.
    pub attempts: u32,
    /// The reason for which the job or message is dead.
    pub reason: String,
}

/// Work that a compute thread has finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// The dead letter, which is acknowledged before the outcomes are produced.
    pub dead_letter: Option<DeadLetterMessage>,
    /// An encoded batch of outcomes; `None` for a message that could not be decoded, and for jobs of a
    /// cancelled run.
    pub outcomes: Option<Vec<u8>>,
    /// The jobs that are settled once both messages are acknowledged.
    pub settles: Vec<Settled>,
    /// The number of attempts after the first, over all jobs.
    pub retries: u32,
}

impl Finished {
    /// The number of jobs of a cancelled run that it settles without an outcome.
    pub fn passed_over_jobs(&self) -> u64 {
        match (&self.dead_letter, &self.outcomes) {
            (None, None) => self.settles.iter().map(|own| u64::from(own.jobs)).sum(),
            _ => 0,
        }
    }

    /// The bytes of its messages.
    pub fn bytes(&self) -> usize {
        let dead_letter = self.dead_letter.as_ref();
        self.outcomes.as_ref().map_or(0, Vec::len)
            + dead_letter.map_or(0, |letter| letter.payload.len())
    }
}

/// The topic of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The dead-letter queue.
    Dlq,
    /// The outcomes topic.
    Outcomes,
}

/// Finished work that is not acknowledged.
#[derive(Debug)]
struct Entry {
    finished: Finished,
    /// The topic of the message that is produced next or is in flight.
    stage: Destination,
}

/// The finished work that is not acknowledged. Each entry has an id, which the delivery report of its
/// message carries.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// The entries whose next message is not handed to the producer yet.
    ready: VecDeque<usize>,
    bytes: usize,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds finished work. Returns the jobs that are settled at once, because there is no message to
    /// produce.
    pub fn add(&mut self, finished: Finished) -> Vec<Settled> {
        let stage = match (&finished.dead_letter, &finished.outcomes) {
            (Some(_), _) => Destination::Dlq,
            (None, Some(_)) => Destination::Outcomes,
            (None, None) => return finished.settles,
        };
        self.bytes += finished.bytes();
        let entry = Some(Entry { finished, stage });
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.ready.push_back(id);
        Vec::new()
    }

    /// The entry whose message is produced next, with the topic of the message.
    pub fn next(&self) -> Option<(usize, Destination)> {
        let &id = self.ready.front()?;
        Some((id, self.entries[id].as_ref()?.stage))
    }

    /// The topic of the message of an entry that is produced next or is in flight.
    pub fn stage(&self, id: usize) -> Option<Destination> {
        Some(self.entries.get(id)?.as_ref()?.stage)
    }

    /// The dead letter of an entry.
    pub fn dead_letter(&self, id: usize) -> Option<&DeadLetterMessage> {
        self.entries
            .get(id)?
            .as_ref()?
            .finished
            .dead_letter
            .as_ref()
    }

    /// The outcomes of an entry.
    pub fn outcomes(&self, id: usize) -> Option<&[u8]> {
        self.entries.get(id)?.as_ref()?.finished.outcomes.as_deref()
    }

    /// Notes that the message of the entry from [`next`](Self::next) was handed to the producer.
    pub fn produced(&mut self) {
        self.ready.pop_front();
    }

    /// Notes that the message of an entry was acknowledged. Returns the jobs that are settled by it.
    pub fn acknowledged(&mut self, id: usize) -> Vec<Settled> {
        let Some(slot) = self.entries.get_mut(id) else {
            return Vec::new();
        };
        let Some(entry) = slot else {
            return Vec::new();
        };
        if entry.stage == Destination::Dlq && entry.finished.outcomes.is_some() {
            entry.stage = Destination::Outcomes;
            self.ready.push_back(id);
            return Vec::new();
        }
        let Some(entry) = slot.take() else {
            return Vec::new();
        };
        self.free.push(id);
        self.bytes -= entry.finished.bytes();
        entry.finished.settles
    }

    /// Whether all messages are acknowledged.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }

    /// The bytes of the work that is not acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settled(offset: i64) -> Settled {
        Settled {
            partition: 0,
            epoch: 1,
            offset,
            jobs: 1,
            jobs_in_message: 1,
        }
    }

    fn finished(offset: i64, dead: bool, outcomes: bool) -> Finished {
        Finished {
            dead_letter: dead.then(|| DeadLetterMessage {
                payload: vec![1],
                ..Default::default()
            }),
            outcomes: outcomes.then(|| vec![2, 3]),
            settles: vec![settled(offset)],
            retries: 0,
        }
    }

    #[test]
    fn a_dead_letter_is_acknowledged_before_its_outcome_is_produced() {
        let mut outbox = Outbox::new();
        assert_eq!(outbox.add(finished(5, true, true)), []);
        let (id, destination) = outbox.next().expect("one to produce");
        assert_eq!(destination, Destination::Dlq);
        outbox.produced();
        assert_eq!(outbox.next(), None);
        assert_eq!(outbox.acknowledged(id), []);
        assert_eq!(outbox.next(), Some((id, Destination::Outcomes)));
        outbox.produced();
        assert_eq!(outbox.acknowledged(id), [settled(5)]);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn an_acknowledgement_that_is_applied_twice_settles_once() {
        let mut outbox = Outbox::new();
        outbox.add(finished(5, false, true));
        outbox.produced();
        assert_eq!(outbox.acknowledged(0), [settled(5)]);
        assert_eq!(outbox.acknowledged(0), []);
    }

    #[test]
    fn work_without_messages_is_settled_at_once() {
        let mut outbox = Outbox::new();
        assert_eq!(outbox.add(finished(5, false, false)), [settled(5)]);
        assert!(outbox.is_empty());
    }

    proptest! {
        /// In every order of acknowledgements, each job is settled exactly once, and only after each
        /// of its messages was acknowledged.
        #[test]
        fn everything_is_settled_once_and_after_its_messages(
            kinds in prop::collection::vec((any::<bool>(), any::<bool>()), 1..30),
            reports in prop::collection::vec(0usize..1_000, 0..200),
        ) {
            let mut outbox = Outbox::new();
            let mut seen = vec![0; kinds.len()];
            let mut owed: Vec<u32> = Vec::new();
            for (position, &(dead, outcomes)) in kinds.iter().enumerate() {
                owed.push(u32::from(dead) + u32::from(outcomes));
                for settled in outbox.add(finished(position as i64, dead, outcomes)) {
                    seen[settled.offset as usize] += 1;
                }
            }
            let mut in_flight = Vec::new();
            for pick in reports.into_iter().chain(std::iter::repeat(0)) {
                while let Some((id, _)) = outbox.next() {
                    outbox.produced();
                    in_flight.push(id);
                }
                if in_flight.is_empty() {
                    break;
                }
                let id = in_flight.swap_remove(pick % in_flight.len());
                let offset = outbox.entries[id].as_ref().map(|e| e.finished.settles[0].offset);
                let position = offset.expect("it is in flight") as usize;
                owed[position] -= 1;
                for settled in outbox.acknowledged(id) {
                    prop_assert_eq!(settled.offset as usize, position);
                    prop_assert_eq!(owed[position], 0);
                    seen[position] += 1;
                }
            }
            prop_assert!(outbox.is_empty());
            prop_assert!(seen.iter().all(|&times| times == 1));
        }
    }
}

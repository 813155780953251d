//! The publishing of a run's jobs as a state machine without clock or I/O: it takes jobs, makes
//! messages of those that are missing, says which partition gets them and when to wait, and is done
//! when every message is acknowledged. [`publish`](super::publish) drives it with a producer, the
//! simulation with a model of one.

use std::ops::Range;
use std::time::Instant;

use pipeline::{Job, JobBatchEncoder, JobHeader, JobSetDigest, JobSetHasher, Resume};

use super::acknowledgements::Acknowledgements;
use super::batching::Batching;
use super::flow_control::FlowControl;
use super::partition_rotation::{BatchLimit, PartitionRotation};

/// The approximate size of a record on the broker without its payload, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 70;

/// The counts of what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Messages, every one acknowledged.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Over all jobs of the run, those that were not published now included.
    pub digest: JobSetDigest,
    /// When the broker had acknowledged the first of them; `None` when none was published.
    pub first_at: Option<Instant>,
}

/// Messages that go to one partition together.
#[derive(Debug, Default)]
pub struct PartitionBatch {
    buffer: Vec<u8>,
    /// The range of each message in the buffer, and its number of jobs.
    messages: Vec<(Range<usize>, usize)>,
    jobs: u64,
}

impl PartitionBatch {
    /// The payload of each message, and how many jobs it has.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let messages = self.messages.iter();
        messages.map(|(range, jobs)| (&self.buffer[range.clone()], *jobs))
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of all payloads.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.messages.clear();
        self.jobs = 0;
    }
}

/// The reason for which the publisher waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The producer's queue is full: its bound is the back-pressure.
    Queue,
    /// No partition may be sent more before workers have committed, or outcomes were collected.
    FlowControl,
    /// Every message was handed to the producer, and not every one is acknowledged.
    Acknowledgements,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// [`push`](Publisher::push) the jobs that follow, or say that there are
    /// [no more](Publisher::end_of_jobs).
    Jobs,
    /// Ask for the offsets that the workers' group has committed, and
    /// [apply](Publisher::apply_committed) them.
    CommittedOffsets,
    /// Hand the [batch](Publisher::take_batch), or what the producer has not taken of it, to the
    /// producer for this partition, and say [how much](Publisher::produced) it has taken.
    Produce {
        /// The partition.
        partition: usize,
    },
    /// Wait a little. Acknowledgements may come meanwhile.
    Wait(Wait),
    /// Every job that was missing is on the broker.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The batch takes messages.
    Filling,
    /// The batch is full and has no partition.
    Full,
    /// No partition may be sent it, as far as is known; the group's offsets are to be asked for.
    Blocked,
    /// They were asked for.
    OffsetsApplied,
    /// The producer has yet to take this many messages.
    Producing { partition: usize, left: usize },
    /// It had no room for them.
    QueueFull { partition: usize, left: usize },
    /// All jobs were handed to the producer.
    Draining,
    /// All jobs are acknowledged.
    Done,
}

/// Publishes those jobs of a run that are missing.
#[derive(Debug)]
pub struct Publisher {
    encoder: JobBatchEncoder,
    hasher: JobSetHasher,
    batching: Batching,
    batch_limit: BatchLimit,
    rotation: PartitionRotation,
    flow_control: Option<FlowControl>,
    batch: PartitionBatch,
    /// The message in the encoder is full, and the batch as well.
    message_is_full: bool,
    is_last: bool,
    state: State,
    acknowledgements: Acknowledgements,
    messages: u64,
    bytes: u64,
    jobs: u64,
}

impl Publisher {
    /// Nothing was published yet. `missing`: how many jobs are to be. Where `flow_control` is
    /// `None`, the broker keeps all that it is sent.
    pub fn new(
        header: &JobHeader,
        missing: u64,
        batching: Batching,
        partitions: usize,
        flow_control: Option<FlowControl>,
        now: Instant,
    ) -> Self {
        Self {
            encoder: JobBatchEncoder::new(header),
            hasher: JobSetHasher::new(),
            batching,
            batch_limit: BatchLimit::new(missing, partitions),
            rotation: PartitionRotation::new(partitions),
            flow_control,
            batch: PartitionBatch::default(),
            message_is_full: false,
            is_last: false,
            state: State::Filling,
            acknowledgements: Acknowledgements::new(now),
            messages: 0,
            bytes: 0,
            jobs: 0,
        }
    }

    /// Takes the next job of the run, by index; one that is not missing from a run that is resumed
    /// counts for the digest alone. Returns whether there is something to do before the next one,
    /// which [`next`](Self::next) says.
    pub fn push(&mut self, job: &Job<'_>, resumed: Option<&Resume>) -> bool {
        self.hasher.update(job);
        if resumed.is_some_and(|run| !run.is_missing(job.index)) {
            return false;
        }
        if !self.encoder.takes(job.index) {
            self.finish_message();
        }
        self.encoder.push(job);
        let (jobs, bytes) = (self.encoder.jobs_count(), self.encoder.bytes_bound());
        if self.batching.is_full(jobs as u64, bytes as u64) {
            match self.state {
                State::Filling => self.finish_message(),
                _ => self.message_is_full = true,
            }
        }
        self.state != State::Filling
    }

    /// That was the last job.
    pub fn end_of_jobs(&mut self) {
        self.is_last = true;
        if self.encoder.jobs_count() > 0 {
            self.finish_message();
        }
        self.state = match self.batch.is_empty() {
            true => State::Draining,
            false => State::Full,
        };
    }

    /// Adds the message in the encoder to the batch.
    fn finish_message(&mut self) {
        let jobs = self.encoder.jobs_count();
        let batch = &mut self.batch;
        let start = batch.buffer.len();
        self.encoder.finish(&mut batch.buffer);
        batch.messages.push((start..batch.buffer.len(), jobs));
        batch.jobs += jobs as u64;
        let (messages, bytes) = (batch.messages.len(), batch.buffer.len());
        if self.batch_limit.is_reached(batch.jobs, messages, bytes) {
            self.state = State::Full;
        }
    }

    /// The next step, when this number of jobs of the run have a collected outcome.
    pub fn next(&mut self, collected_jobs: u64) -> Next {
        loop {
            match self.state {
                State::Filling => return Next::Jobs,
                State::Full => self.state = self.choose_partition(collected_jobs),
                State::Blocked => return Next::CommittedOffsets,
                State::OffsetsApplied => {
                    self.state = State::Full;
                    return Next::Wait(Wait::FlowControl);
                }
                State::Producing { left: 0, .. } => self.batch_is_produced(),
                State::Producing { partition, .. } => return Next::Produce { partition },
                State::QueueFull { partition, left } => {
                    self.state = State::Producing { partition, left };
                    return Next::Wait(Wait::Queue);
                }
                State::Draining if self.acknowledgements.in_flight() == 0 => {
                    self.state = State::Done;
                }
                State::Draining => return Next::Wait(Wait::Acknowledgements),
                State::Done => return Next::Done,
            }
        }
    }

    /// Gives the batch to the next partition that may have it.
    fn choose_partition(&mut self, collected_jobs: u64) -> State {
        let flow_control = self.flow_control.as_ref();
        let may = |partition| {
            flow_control.is_none_or(|flow_control| flow_control.allows(partition, collected_jobs))
        };
        let Some(partition) = self.rotation.find(may) else {
            return State::Blocked;
        };
        if let Some(flow_control) = &mut self.flow_control {
            for (payload, jobs) in self.batch.messages() {
                let bytes = payload.len() + RECORD_OVERHEAD_BYTES;
                flow_control.sent(partition, bytes, jobs as u64);
            }
        }
        let left = self.batch.len();
        self.messages += left as u64;
        self.bytes += self.batch.bytes() as u64;
        self.jobs += self.batch.jobs;
        State::Producing { partition, left }
    }

    fn batch_is_produced(&mut self) {
        self.rotation.advance();
        self.batch.clear();
        self.state = match self.is_last {
            true => State::Draining,
            false => State::Filling,
        };
        if std::mem::take(&mut self.message_is_full) {
            self.finish_message();
        }
    }

    /// The batch that is to be produced, to be given [back](Self::give_back) for its memory.
    pub fn take_batch(&mut self) -> PartitionBatch {
        std::mem::take(&mut self.batch)
    }

    /// A batch that was produced; its memory serves the next one.
    pub fn give_back(&mut self, batch: PartitionBatch) {
        self.batch = batch;
    }

    /// The producer has taken this many messages of the batch, further ones if it was asked before.
    pub fn produced(&mut self, messages: usize) {
        let State::Producing { partition, left } = self.state else {
            return;
        };
        let left = left.saturating_sub(messages);
        self.acknowledgements.produced(messages as u64);
        self.state = match left {
            0 => State::Producing { partition, left },
            _ => State::QueueFull { partition, left },
        };
    }

    /// The broker has acknowledged this many messages. Returns whether they are the first.
    pub fn apply_acknowledged(&mut self, messages: u64, now: Instant) -> bool {
        self.acknowledgements.apply(messages, now)
    }

    /// The offsets that the workers' group has committed, by partition.
    pub fn apply_committed(&mut self, offsets: &[i64]) {
        if let Some(flow_control) = &mut self.flow_control {
            flow_control.apply_committed(offsets);
        }
        if self.state == State::Blocked {
            self.state = State::OffsetsApplied;
        }
    }

    /// Messages that the producer has taken and the broker has not acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.acknowledgements.in_flight()
    }

    /// Whether the broker has acknowledged nothing for [too long](super::acknowledgements::TIMEOUT);
    /// counts anew where it says so.
    pub fn is_overdue(&mut self, now: Instant) -> bool {
        self.acknowledgements.is_overdue(now)
    }

    /// The counts of what was published; `None` before it is [done](Next::Done).
    pub fn finish(self) -> Option<Published> {
        (self.state == State::Done).then(|| Published {
            messages: self.messages,
            bytes: self.bytes,
            jobs: self.jobs,
            digest: self.hasher.finish(),
            first_at: self.acknowledgements.first_at(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pipeline::resume::Rule;
    use pipeline::{Computation, GroupKey, JobBatch, LabelSet, TimeBucket};
    use proptest::prelude::*;

    use super::*;
    use crate::publish::JobsPerMessage;

    /// A model of a broker: what each partition was sent, and what is not acknowledged.
    struct Play {
        publisher: Publisher,
        now: Instant,
        sent: Vec<(usize, u64)>,
        unacknowledged: u64,
        /// The producer takes this many messages at once.
        queue: usize,
    }

    fn header() -> JobHeader {
        JobHeader {
            run_id: "a-run".parse().expect("a run id"),
            generation: 0,
            computation: Computation::named("count").into(),
        }
    }

    impl Play {
        fn new(jobs: u64, partitions: usize, jobs_per_message: u32, limit: Option<usize>) -> Self {
            let jobs_per_message = jobs_per_message.try_into().expect("not zero");
            let batching = Batching::new(
                JobsPerMessage::Exactly(jobs_per_message),
                Duration::ZERO,
                0,
                partitions,
            );
            let start_offsets = vec![0; partitions];
            let flow_control = limit.map(|limit| FlowControl::new(&start_offsets, limit));
            let now = Instant::now();
            Self {
                publisher: Publisher::new(&header(), jobs, batching, partitions, flow_control, now),
                now,
                sent: Vec::new(),
                unacknowledged: 0,
                queue: usize::MAX,
            }
        }

        /// Does what the publisher says until it waits or wants jobs.
        fn drive(&mut self, collected: u64, committed: Option<&[i64]>) -> Next {
            loop {
                match self.publisher.next(collected) {
                    Next::Produce { partition } => self.produce(partition),
                    Next::CommittedOffsets => {
                        self.publisher.apply_committed(committed.unwrap_or(&[]));
                    }
                    Next::Wait(Wait::Queue) => {}
                    other => return other,
                }
            }
        }

        fn produce(&mut self, partition: usize) {
            let batch = self.publisher.take_batch();
            let mut left = batch.len();
            for (payload, jobs) in batch.messages() {
                let batch = JobBatch::decode(payload).expect("a valid batch");
                assert_eq!(batch.jobs().count(), jobs);
                self.sent
                    .extend(batch.jobs().map(|job| (partition, job.index)));
            }
            while left > 0 {
                let taken = left.min(self.queue);
                self.publisher.produced(taken);
                self.unacknowledged += taken as u64;
                left -= taken;
                if left > 0 {
                    assert_eq!(self.publisher.next(0), Next::Wait(Wait::Queue));
                    assert_eq!(self.publisher.next(0), Next::Produce { partition });
                }
            }
            self.publisher.give_back(batch);
        }

        fn push(&mut self, index: u64, resumed: Option<&Resume>) -> bool {
            let labels = LabelSet::new(["Italy"]);
            let job = Job {
                index,
                key: GroupKey {
                    labels: &labels,
                    time: TimeBucket::from_hours(index as i64),
                },
                part: 0,
                weight: 1,
                payload: &[1],
            };
            self.publisher.push(&job, resumed)
        }

        fn push_all(&mut self, jobs: u64, resumed: Option<&Resume>) {
            for index in 0..jobs {
                if self.push(index, resumed) {
                    assert_eq!(self.drive(0, None), Next::Jobs);
                }
            }
            self.publisher.end_of_jobs();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_missing_job_is_sent_once_and_every_partition_has_its_turn(
            jobs in 0u64..400,
            partitions in 1usize..6,
            jobs_per_message in 1u32..5,
            queue in 1usize..4,
            outcomes in prop::collection::btree_set(0u64..400, 0..100),
        ) {
            let rule = Rule::WithoutOutcome { committed: vec![i64::MAX] };
            let mut resumed = Resume::new(&header().run_id, jobs, rule).expect("room");
            let worker = pipeline::Worker::default();
            let mut builder = pipeline::OutcomeBatchBuilder::new(&header().run_id, 0, &worker);
            let labels = LabelSet::new(["Italy"]);
            let time = TimeBucket::from_hours(0);
            for &index in outcomes.range(..jobs) {
                let key = GroupKey { labels: &labels, time };
                let job = Job { index, key, part: 0, weight: 1, payload: &[1] };
                builder.push(&job, 0, pipeline::Outcome::Completed(&[]));
            }
            let batch = pipeline::OutcomeBatch::decode(&builder.encode()).expect("valid");
            resumed.apply_outcomes(&batch);
            let mut play = Play::new(resumed.missing(), partitions, jobs_per_message, None);
            play.queue = queue;
            play.push_all(jobs, Some(&resumed));
            let waits = play.drive(0, None);
            prop_assert_eq!(waits == Next::Done, play.unacknowledged == 0);
            play.publisher.apply_acknowledged(play.unacknowledged, play.now);
            prop_assert_eq!(play.drive(0, None), Next::Done);
            let indexes: Vec<u64> = play.sent.iter().map(|&(_, index)| index).collect();
            let missing: Vec<u64> = (0..jobs).filter(|index| !outcomes.contains(index)).collect();
            prop_assert_eq!(&indexes, &missing);
            // No partition has its second turn before all have had their first.
            let mut turns: Vec<usize> = play.sent.iter().map(|&(partition, _)| partition).collect();
            turns.dedup();
            if partitions > 1 {
                for (turn, partition) in turns.iter().enumerate() {
                    prop_assert_eq!(*partition, turns[turn % partitions.min(turns.len())]);
                }
            }
            let published = play.publisher.finish().expect("it is done");
            prop_assert_eq!(published.jobs, missing.len() as u64);
        }
    }

    #[test]
    fn nothing_is_done_before_the_last_message_is_acknowledged() {
        let mut play = Play::new(3, 2, 1, None);
        play.push_all(3, None);
        assert_eq!(play.drive(0, None), Next::Wait(Wait::Acknowledgements));
        assert!(play.publisher.apply_acknowledged(2, play.now));
        assert_eq!(play.drive(0, None), Next::Wait(Wait::Acknowledgements));
        assert!(!play.publisher.apply_acknowledged(1, play.now));
        assert_eq!(play.drive(0, None), Next::Done);
        let published = play.publisher.finish().expect("it is done");
        assert_eq!((published.messages, published.jobs), (3, 3));
        let play = Play::new(3, 2, 1, None);
        assert_eq!(play.publisher.finish(), None);
    }

    #[test]
    fn a_partition_is_sent_no_more_until_the_group_commits_and_outcomes_are_collected() {
        let mut play = Play::new(3, 1, 1, Some(200));
        assert!(play.push(0, None));
        assert_eq!(play.drive(0, Some(&[0])), Next::Jobs);
        assert!(play.push(1, None));
        let blocked = Next::Wait(Wait::FlowControl);
        assert_eq!(play.drive(0, Some(&[0])), blocked);
        // The outcome of the first job is not collected.
        assert_eq!(play.drive(0, Some(&[1])), blocked);
        assert_eq!(play.drive(1, Some(&[1])), Next::Jobs);
        assert_eq!(play.sent.len(), 2);
    }

    #[test]
    fn a_broker_that_acknowledges_nothing_is_overdue_once_each_timeout() {
        let mut play = Play::new(1, 1, 1, None);
        let later = play.now + super::super::acknowledgements::TIMEOUT;
        assert!(!play.publisher.is_overdue(later));
        play.push_all(1, None);
        assert_eq!(play.drive(0, None), Next::Wait(Wait::Acknowledgements));
        assert!(play.publisher.is_overdue(later));
        assert!(!play.publisher.is_overdue(later));
    }
}

//! How many jobs a message takes. The job stays the unit of computing, failure, retry and
//! accounting; packing only decides how many share the price of a message.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// Messages are not filled further: beyond 64 KiB nothing is gained (measured).
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// Nor are they where the user says how many jobs: the last job may be the largest that there is,
/// and all of it has to be below the 1,000,000 bytes (`message.max.bytes`) of a producer's message.
const MAX_ASKED_MESSAGE_BYTES: u64 = 384 * 1024;

/// So many messages for each partition are left, where there are jobs enough, and sent in as many
/// turns, so that the work spreads evenly over partitions and so over workers.
const MESSAGES_PER_PARTITION: u64 = 16;

/// A turn is at most so many messages or bytes: one call to the producer.
const MAX_TURN_MESSAGES: usize = 256;
const MAX_TURN_BYTES: usize = 256 * 1024;

/// Jobs that take longer than this are better spread one by one.
const LONG_JOB: Duration = Duration::from_millis(1);

/// The option `--jobs-per-message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobsPerMessage {
    /// As many as fit well.
    Auto,
    /// So many, at most; 1 is the textbook form.
    Exactly(NonZeroU32),
}

impl FromStr for JobsPerMessage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Exactly)
            .map_err(|_| "expected auto or a number from 1".to_owned())
    }
}

impl fmt::Display for JobsPerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(jobs) => jobs.fmt(f),
        }
    }
}

/// When a message is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// It takes no further job at so many jobs,
    pub max_jobs: u64,
    /// nor at so many bytes. A single job may be larger.
    pub max_bytes: u64,
}

impl Packing {
    /// The packing for a run whose jobs have so many bytes together.
    pub fn new(
        jobs_per_message: JobsPerMessage,
        expected_job_time: Duration,
        bytes: u64,
        partitions: usize,
    ) -> Self {
        match jobs_per_message {
            JobsPerMessage::Exactly(jobs) => Self {
                max_jobs: jobs.get().into(),
                // What the user asks for is heeded as far as the largest job has room behind it.
                max_bytes: MAX_ASKED_MESSAGE_BYTES,
            },
            JobsPerMessage::Auto if expected_job_time > LONG_JOB => Self {
                max_jobs: 1,
                max_bytes: MAX_MESSAGE_BYTES,
            },
            JobsPerMessage::Auto => Self {
                max_jobs: u64::MAX,
                max_bytes: (bytes / (MESSAGES_PER_PARTITION * partitions.max(1) as u64))
                    .clamp(1, MAX_MESSAGE_BYTES),
            },
        }
    }

    /// Whether a message with so many jobs and bytes takes no further job.
    pub fn is_full(&self, jobs: u64, bytes: u64) -> bool {
        jobs >= self.max_jobs || bytes >= self.max_bytes
    }
}

/// How much goes to one partition before the next one's turn: fewer, fuller requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnLimit {
    max_jobs: u64,
}

impl TurnLimit {
    /// The limit for a run of so many jobs.
    pub fn new(jobs: u64, partitions: usize) -> Self {
        Self {
            // A message of a little less than the share is a turn, not the first half of one.
            max_jobs: jobs * 3 / 4 / (MESSAGES_PER_PARTITION * partitions.max(1) as u64),
        }
    }

    /// Whether a turn with so many jobs, messages and bytes is over.
    pub fn is_reached(&self, jobs: u64, messages: usize, bytes: usize) -> bool {
        jobs >= self.max_jobs || messages >= MAX_TURN_MESSAGES || bytes >= MAX_TURN_BYTES
    }
}

/// How many partitions on the next turn is. All have their turn before one has its second, and those
/// that were served in any stretch of turns lie evenly among the others: the last round, which only
/// some get, is then shared by workers that have neighbouring partitions.
pub fn stride(partitions: usize) -> usize {
    // The golden section, next to which multiples are spread the most evenly.
    let golden = partitions * 618 / 1_000;
    let candidates = (golden.max(1)..partitions).chain([1]);
    let mut coprime = candidates.filter(|&stride| greatest_common_divisor(stride, partitions) == 1);
    coprime.next().unwrap_or(1)
}

fn greatest_common_divisor(mut one: usize, mut other: usize) -> usize {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pipeline::group_key::MAX_LABEL_BYTES;
    use pipeline::job::MAX_PAYLOAD_BYTES;
    use pipeline::{Computation, GroupKey, Job, JobBatchEncoder, JobHeader, LabelSet, TimeBucket};

    use super::*;

    #[test]
    fn a_small_run_reaches_every_partition_and_a_large_one_sends_full_turns() {
        // 5,120 jobs are 13 for each of 16 turns of 24 partitions.
        let small = TurnLimit::new(5_120, 24);
        assert!(!small.is_reached(9, 9, 900));
        assert!(small.is_reached(10, 10, 1_000));
        assert!(TurnLimit::new(3, 24).is_reached(1, 1, 50));
        let large = TurnLimit::new(1_000_000, 24);
        assert!(!large.is_reached(255, 255, 20_000));
        assert!(large.is_reached(256, 256, 20_000));
        assert!(large.is_reached(5_000, 8, 256 * 1024));
    }

    fn auto(bytes: u64, partitions: usize) -> Packing {
        Packing::new(JobsPerMessage::Auto, Duration::ZERO, bytes, partitions)
    }

    #[test]
    fn messages_are_full_at_64_kib_but_leave_16_for_each_partition() {
        assert_eq!(auto(1 << 30, 24).max_bytes, 64 * 1024);
        assert_eq!(auto(24 * 16 * 1_000, 24).max_bytes, 1_000);
        assert_eq!(auto(10, 24).max_bytes, 1);
    }

    #[test]
    fn the_largest_job_behind_an_almost_full_message_is_a_message_of_a_producer() {
        const MESSAGE_MAX_BYTES: u64 = 1_000_000;
        let many: JobsPerMessage = "100000".parse().expect("a number");
        let packing = Packing::new(many, Duration::ZERO, 1 << 30, 24);
        let labels = LabelSet::new(["x".repeat(MAX_LABEL_BYTES)]);
        let mut encoder = JobBatchEncoder::new(&JobHeader {
            run_id: "r".repeat(64).parse().expect("a run id"),
            generation: u32::MAX,
            computation: Computation::named("x").with("y", "z".repeat(16_000)),
        });
        encoder.push(&Job {
            index: 0,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(440_000),
            },
            part: 0,
            weight: 1,
            payload: &vec![0; MAX_PAYLOAD_BYTES],
        });
        assert!(packing.max_bytes + (encoder.bytes_bound() as u64) < MESSAGE_MAX_BYTES);
    }

    #[test]
    fn one_job_a_message_is_what_it_says() {
        let one: JobsPerMessage = "1".parse().expect("a number");
        let packing = Packing::new(one, Duration::ZERO, 1 << 30, 24);
        assert!(packing.is_full(1, 20));
        assert!(!packing.is_full(0, 0));
    }

    #[test]
    fn long_jobs_go_one_by_one() {
        let packing = Packing::new(JobsPerMessage::Auto, Duration::from_millis(2), 1 << 30, 24);
        assert_eq!(packing.max_jobs, 1);
        let packing = Packing::new(JobsPerMessage::Auto, LONG_JOB, 1 << 30, 24);
        assert_eq!(packing.max_jobs, u64::MAX);
    }

    #[test]
    fn turns_come_to_every_partition_and_any_stretch_of_them_is_shared_evenly() {
        for partitions in 1..=200 {
            let turns =
                |count: usize| (0..count).map(|turn| turn * stride(partitions) % partitions);
            let reached: BTreeSet<usize> = turns(partitions).collect();
            assert_eq!(reached.len(), partitions);
            // Of two workers, each with one half, neither has many more.
            for count in 1..partitions {
                let of_first = turns(count).filter(|&turn| turn < partitions / 2).count();
                let share = count * (partitions / 2) / partitions;
                assert!(
                    of_first.abs_diff(share) <= 5,
                    "{partitions}, {count}: {of_first}"
                );
            }
        }
    }

    #[test]
    fn zero_jobs_a_message_is_no_number() {
        assert!("0".parse::<JobsPerMessage>().is_err());
        assert!("many".parse::<JobsPerMessage>().is_err());
        assert_eq!("auto".parse(), Ok(JobsPerMessage::Auto));
    }
}

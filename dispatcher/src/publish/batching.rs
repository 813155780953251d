//! Batching: how many jobs a message takes. The job stays the unit of computing, failure, retry and
//! accounting; batching only decides how many share the price of a message.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::partition_rotation::BATCHES_PER_PARTITION;
use crate::job_set::Counts;

/// Messages are not filled further: beyond 64 KiB nothing is gained (measured).
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// Nor are they where the user says how many jobs: the last job may be the largest that there is,
/// and all of it has to be below the 1,000,000 bytes (`message.max.bytes`) of a producer's message.
const MAX_ASKED_MESSAGE_BYTES: u64 = 384 * 1024;

/// Jobs that take longer than this are better spread one by one.
const LONG_JOB: Duration = Duration::from_millis(1);

/// The option `--jobs-per-message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobsPerMessage {
    /// As many jobs as fit well.
    Auto,
    /// At most this number of jobs; 1 is the textbook form.
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
pub struct Batching {
    /// The largest number of jobs.
    pub max_jobs: u64,
    /// The number of bytes at which no further job is added. A single job may be larger.
    pub max_bytes: u64,
}

impl Batching {
    /// The batching for a run whose jobs have this many bytes together.
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
                max_bytes: (bytes / (BATCHES_PER_PARTITION * partitions.max(1) as u64))
                    .clamp(1, MAX_MESSAGE_BYTES),
            },
        }
    }

    /// The batching for those jobs of a data set that are missing, as if all were alike.
    pub fn of_missing(
        jobs_per_message: JobsPerMessage,
        expected_job_time: Duration,
        counts: Counts,
        missing: u64,
        partitions: usize,
    ) -> Self {
        let bytes = u128::from(bytes_in_messages(counts.jobs, counts.payload_bytes));
        let bytes = bytes * u128::from(missing) / u128::from(counts.jobs.max(1));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self::new(jobs_per_message, expected_job_time, bytes, partitions)
    }

    /// Whether a message with this many jobs and bytes takes no further job.
    pub fn is_full(&self, jobs: u64, bytes: u64) -> bool {
        jobs >= self.max_jobs || bytes >= self.max_bytes
    }
}

/// What jobs with payloads of this many bytes add to messages, about: their columns, and the payloads.
fn bytes_in_messages(jobs: u64, payload_bytes: u64) -> u64 {
    const COLUMNS: u64 = 18;
    COLUMNS * jobs + payload_bytes
}

#[cfg(test)]
mod tests {
    use pipeline::group_key::MAX_LABEL_BYTES;
    use pipeline::job::MAX_PAYLOAD_BYTES;
    use pipeline::{Computation, GroupKey, Job, JobBatchEncoder, JobHeader, LabelSet, TimeBucket};

    use super::*;

    fn auto(bytes: u64, partitions: usize) -> Batching {
        Batching::new(JobsPerMessage::Auto, Duration::ZERO, bytes, partitions)
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
        let batching = Batching::new(many, Duration::ZERO, 1 << 30, 24);
        let labels = LabelSet::new(["x".repeat(MAX_LABEL_BYTES)]);
        let mut encoder = JobBatchEncoder::new(&JobHeader {
            run_id: "r".repeat(64).parse().expect("a run id"),
            generation: u32::MAX,
            computation: Computation::named("x").with("y", "z".repeat(16_000)).into(),
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
        assert!(batching.max_bytes + (encoder.bytes_bound() as u64) < MESSAGE_MAX_BYTES);
    }

    #[test]
    fn one_job_a_message_is_what_it_says() {
        let one: JobsPerMessage = "1".parse().expect("a number");
        let batching = Batching::new(one, Duration::ZERO, 1 << 30, 24);
        assert!(batching.is_full(1, 20));
        assert!(!batching.is_full(0, 0));
    }

    #[test]
    fn long_jobs_go_one_by_one() {
        let batching = Batching::new(JobsPerMessage::Auto, Duration::from_millis(2), 1 << 30, 24);
        assert_eq!(batching.max_jobs, 1);
        let batching = Batching::new(JobsPerMessage::Auto, LONG_JOB, 1 << 30, 24);
        assert_eq!(batching.max_jobs, u64::MAX);
    }

    #[test]
    fn zero_jobs_a_message_is_no_number() {
        assert!("0".parse::<JobsPerMessage>().is_err());
        assert!("many".parse::<JobsPerMessage>().is_err());
        assert_eq!("auto".parse(), Ok(JobsPerMessage::Auto));
    }
}

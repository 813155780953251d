//! The digests of a run. That of a payload is made where the payload is computed; that of the job
//! set is one strong hash over index, key, part, weight and payload digest of every job in index
//! order. The dispatcher computes it from what it cut, the aggregator from what came back.

use std::fmt;

use crate::grain::TimeBucket;
use crate::job::Job;
use crate::ledger::Labels;

/// The XXH3-64 digest of a job's payload. It detects accidental changes, and is no defence against
/// payloads that are chosen to collide.
pub fn payload_digest(payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// BLAKE3 of a job set.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobSetDigest([u8; 32]);

impl JobSetDigest {
    /// A digest from the wire; `None` unless it is 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for JobSetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JobSetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a [`JobSetDigest`], job by job.
///
/// Hashed per job, all numbers little-endian: index (u64), number of labels (u32), for each label
/// its length in bytes (u32) and its bytes, 1 and the time in seconds (i64) or 0 without a time (u8),
/// part (u32), weight (u32), payload digest (u64). Lengths come first, so that no two job sets are
/// written the same way.
#[derive(Clone)]
pub struct JobSetHasher {
    hasher: blake3::Hasher,
    /// Jobs are a few dozen bytes; the hash is fastest over whole pieces of many KiB.
    buffer: Vec<u8>,
    /// How much of the buffer is to be hashed.
    filled: usize,
}

impl JobSetHasher {
    /// As many bytes are hashed at once.
    const PIECE_BYTES: usize = 64 * 1024;

    /// The hash of no jobs.
    pub fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            buffer: vec![0; Self::PIECE_BYTES + 1024],
            filled: 0,
        }
    }

    /// Adds the job that comes next in index order, from what its payload is.
    pub fn update(&mut self, job: &Job<'_>) {
        let rest = (job.part, job.weight, payload_digest(job.payload));
        let labels = job.key.labels;
        self.append(
            job.index,
            |room| labels.write_hashed(room),
            job.key.time,
            rest,
        );
    }

    /// Adds the job that comes next in index order, from what its outcome says of it.
    #[inline]
    pub(crate) fn update_with(
        &mut self,
        index: u64,
        labels: Labels<'_>,
        time: Option<TimeBucket>,
        rest: (u32, u32, u64),
    ) {
        self.append(index, |room| labels.write_hashed(room), time, rest);
    }

    /// Adds a job, whose labels are written by `write_labels`; `rest` is part, weight and payload
    /// digest.
    #[inline]
    fn append(
        &mut self,
        index: u64,
        write_labels: impl Fn(&mut [u8]) -> Option<&mut [u8]>,
        time: Option<TimeBucket>,
        rest: (u32, u32, u64),
    ) {
        let left = loop {
            let room = &mut self.buffer[self.filled..];
            match write_job(room, index, &write_labels, time, rest) {
                Some(left) => break left,
                None => self.grow(),
            }
        };
        self.filled = self.buffer.len() - left;
        if self.filled >= Self::PIECE_BYTES {
            self.hash_pieces();
        }
    }

    #[inline(never)]
    fn grow(&mut self) {
        self.buffer.resize(2 * self.buffer.len(), 0);
    }

    /// Hashes all whole pieces. A piece that ends between two of the hash's own chunks costs more.
    fn hash_pieces(&mut self) {
        let whole = self.filled - self.filled % Self::PIECE_BYTES;
        self.hasher.update(&self.buffer[..whole]);
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }

    /// The digest of all jobs that were added.
    pub fn finish(mut self) -> JobSetDigest {
        self.hasher.update(&self.buffer[..self.filled]);
        JobSetDigest(*self.hasher.finalize().as_bytes())
    }
}

/// Writes what is hashed of a job. Returns how many bytes are left behind it; `None` when there is no
/// room for it.
#[inline]
fn write_job(
    room: &mut [u8],
    index: u64,
    write_labels: impl Fn(&mut [u8]) -> Option<&mut [u8]>,
    time: Option<TimeBucket>,
    (part, weight, payload_digest): (u32, u32, u64),
) -> Option<usize> {
    let (hashed, room) = room.split_first_chunk_mut()?;
    *hashed = index.to_le_bytes();
    let room = write_labels(room)?;
    let room = match time {
        Some(time) => {
            let (hashed, room) = room.split_first_chunk_mut::<9>()?;
            hashed[0] = 1;
            hashed[1..].copy_from_slice(&time.seconds().to_le_bytes());
            room
        }
        None => {
            let (hashed, room) = room.split_first_mut()?;
            *hashed = 0;
            room
        }
    };
    let (numbers, room) = room.split_first_chunk_mut::<16>()?;
    numbers[..4].copy_from_slice(&part.to_le_bytes());
    numbers[4..8].copy_from_slice(&weight.to_le_bytes());
    numbers[8..].copy_from_slice(&payload_digest.to_le_bytes());
    Some(room.len())
}

impl Default for JobSetHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for JobSetHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSetHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupKey, LabelSet, TimeBucket};

    type Described<'a> = (u64, &'a [&'a str], Option<i64>, u32, u32, &'a [u8]);

    fn digest(jobs: &[Described<'_>]) -> JobSetDigest {
        let mut hasher = JobSetHasher::new();
        for &(index, labels, seconds, part, weight, payload) in jobs {
            let labels = LabelSet::new(labels.iter().copied());
            hasher.update(&Job {
                index,
                key: GroupKey {
                    labels: &labels,
                    time: seconds.and_then(TimeBucket::from_seconds),
                },
                part,
                weight,
                payload,
            });
        }
        hasher.finish()
    }

    #[test]
    fn every_part_of_a_job_changes_the_digest() {
        let base = digest(&[(0, &["a", "b"], Some(1), 2, 3, &[4])]);
        let others = [
            digest(&[]),
            digest(&[(1, &["a", "b"], Some(1), 2, 3, &[4])]),
            digest(&[(0, &["ab"], Some(1), 2, 3, &[4])]),
            digest(&[(0, &["ab", ""], Some(1), 2, 3, &[4])]),
            digest(&[(0, &["a", "b"], Some(2), 2, 3, &[4])]),
            digest(&[(0, &["a", "b"], None, 2, 3, &[4])]),
            digest(&[(0, &["a", "b"], Some(1), 3, 3, &[4])]),
            digest(&[(0, &["a", "b"], Some(1), 2, 4, &[4])]),
            digest(&[(0, &["a", "b"], Some(1), 2, 3, &[5])]),
            digest(&[(0, &["a", "b"], Some(1), 2, 3, &[])]),
        ];
        for (case, other) in others.into_iter().enumerate() {
            assert_ne!(base, other, "case {case}");
        }
        assert_eq!(base, digest(&[(0, &["a", "b"], Some(1), 2, 3, &[4])]));
    }

    #[test]
    fn the_payload_digest_is_xxh3_64_as_it_is_published() {
        // From the reference implementation, with seed 0.
        assert_eq!(payload_digest(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(payload_digest(b"a"), 0xe6c6_32b6_1e96_4e1f);
    }

    #[test]
    fn the_digest_does_not_depend_on_how_the_buffer_was_flushed() {
        let labels = LabelSet::new(["x".repeat(50_000)]);
        let key = GroupKey {
            labels: &labels,
            time: TimeBucket::from_seconds(0),
        };
        let mut hasher = JobSetHasher::new();
        let mut whole = Vec::new();
        for index in 0..5u64 {
            hasher.update(&Job {
                index,
                key,
                part: 0,
                weight: 1,
                payload: &[7],
            });
            whole.extend_from_slice(&index.to_le_bytes());
            whole.extend_from_slice(&1u32.to_le_bytes());
            whole.extend_from_slice(&50_000u32.to_le_bytes());
            whole.extend_from_slice(labels.values[0].as_bytes());
            whole.push(1);
            whole.extend_from_slice(&0i64.to_le_bytes());
            whole.extend_from_slice(&0u32.to_le_bytes());
            whole.extend_from_slice(&1u32.to_le_bytes());
            whole.extend_from_slice(&payload_digest(&[7]).to_le_bytes());
        }
        assert_eq!(hasher.finish().as_bytes(), blake3::hash(&whole).as_bytes());
    }
}

//! The digest of a run's job set: one strong hash over index, key, part and rows of every job in
//! index order. The dispatcher computes it from what it cut, the aggregator from what came back.

use std::fmt;

use crate::group_key::GroupKey;

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
/// its length in bytes (u32) and its bytes, time in hours (i32), part (u32), rows (u32). Lengths
/// come first, so that no two job sets are written the same way.
#[derive(Clone)]
pub struct JobSetHasher {
    hasher: blake3::Hasher,
    /// Jobs are a few dozen bytes; the hash is fastest over pieces of many KiB.
    buffer: Vec<u8>,
}

impl JobSetHasher {
    const FLUSH_AT: usize = 64 * 1024;

    /// The hash of no jobs.
    pub fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            buffer: Vec::with_capacity(Self::FLUSH_AT + 1024),
        }
    }

    /// Adds the job that comes next in index order.
    pub fn update(&mut self, index: u64, key: GroupKey<'_>, part: u32, rows: u32) {
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(&index.to_le_bytes());
        buffer.extend_from_slice(&(key.labels.values.len() as u32).to_le_bytes());
        for value in &key.labels.values {
            buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
            buffer.extend_from_slice(value.as_bytes());
        }
        buffer.extend_from_slice(&key.time.hours().to_le_bytes());
        buffer.extend_from_slice(&part.to_le_bytes());
        buffer.extend_from_slice(&rows.to_le_bytes());
        if buffer.len() >= Self::FLUSH_AT {
            self.hasher.update(buffer);
            buffer.clear();
        }
    }

    /// The digest of all jobs that were added.
    pub fn finish(mut self) -> JobSetDigest {
        self.hasher.update(&self.buffer);
        JobSetDigest(*self.hasher.finalize().as_bytes())
    }
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
    use crate::{LabelSet, TimeBucket};

    fn digest(jobs: &[(u64, &[&str], i64, u32, u32)]) -> JobSetDigest {
        let mut hasher = JobSetHasher::new();
        for &(index, labels, hours, part, rows) in jobs {
            let labels = LabelSet::new(labels.iter().copied());
            let time = TimeBucket::from_hours(hours).expect("in range");
            let key = GroupKey {
                labels: &labels,
                time,
            };
            hasher.update(index, key, part, rows);
        }
        hasher.finish()
    }

    #[test]
    fn every_part_of_a_job_changes_the_digest() {
        let base = digest(&[(0, &["a", "b"], 1, 2, 3)]);
        let others = [
            digest(&[]),
            digest(&[(1, &["a", "b"], 1, 2, 3)]),
            digest(&[(0, &["ab"], 1, 2, 3)]),
            digest(&[(0, &["ab", ""], 1, 2, 3)]),
            digest(&[(0, &["a", "b"], 2, 2, 3)]),
            digest(&[(0, &["a", "b"], 1, 3, 3)]),
            digest(&[(0, &["a", "b"], 1, 2, 4)]),
        ];
        for (case, other) in others.into_iter().enumerate() {
            assert_ne!(base, other, "case {case}");
        }
        assert_eq!(base, digest(&[(0, &["a", "b"], 1, 2, 3)]));
    }

    #[test]
    fn the_digest_does_not_depend_on_how_the_buffer_was_flushed() {
        let labels = LabelSet::new(["x".repeat(50_000)]);
        let time = TimeBucket::from_hours(0).expect("in range");
        let key = GroupKey {
            labels: &labels,
            time,
        };
        let mut hasher = JobSetHasher::new();
        let mut whole = Vec::new();
        for index in 0..5u64 {
            hasher.update(index, key, 0, 1);
            whole.extend_from_slice(&index.to_le_bytes());
            whole.extend_from_slice(&1u32.to_le_bytes());
            whole.extend_from_slice(&50_000u32.to_le_bytes());
            whole.extend_from_slice(labels.values[0].as_bytes());
            whole.extend_from_slice(&0i32.to_le_bytes());
            whole.extend_from_slice(&0u32.to_le_bytes());
            whole.extend_from_slice(&1u32.to_le_bytes());
        }
        assert_eq!(hasher.finish().as_bytes(), blake3::hash(&whole).as_bytes());
    }
}

//! A published verdict: the result of one aggregator's reconciliation of a run, and the range of
//! outcomes that it rests on.

use crate::content_digest::ContentDigest;
use crate::error::DecodeError;
use crate::generation::{VerdictKey, checked_generation, checked_writer};
use crate::reconciliation::Verdict;
use crate::run_id::RunId;
use crate::wire;
use crate::writer_id::WriterId;

/// The offsets that were read of one partition: from `start`, inclusive, to `end`, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first offset.
    pub start: i64,
    /// The offset after the last one; at most the last stable offset at the time of reading.
    pub end: i64,
}

/// The verdict on one generation of a run. It holds at its end offsets: outcomes after them do not
/// count. A run that is incomplete has no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReconciled {
    /// The run.
    pub run_id: RunId,
    /// The generation.
    pub generation: u32,
    /// The aggregator that published it.
    pub writer: WriterId,
    /// The offsets that were read, by partition of the outcomes topic.
    pub outcomes: Vec<OffsetRange>,
    /// The digest of the run's manifest: [`Manifest::digest`](crate::Manifest::digest).
    pub manifest_digest: ContentDigest,
    /// The verdict; never [`Verdict::Incomplete`].
    pub verdict: Verdict,
    /// The number of jobs with a result.
    pub completed: u64,
    /// The number of jobs that are dead letters.
    pub dead_lettered: u64,
    /// The number of jobs with several results that differ.
    pub differing: u64,
    /// The digest of the whole table of results.
    pub table_digest: ContentDigest,
    /// The service and host that published it, for display.
    pub published_by: String,
}

impl RunReconciled {
    /// The key of the verdict.
    pub fn verdict_key(&self) -> VerdictKey {
        VerdictKey {
            generation: self.generation,
            writer: self.writer.clone(),
        }
    }

    /// The offset after the last one that was read, by partition of the outcomes topic.
    pub fn ends(&self) -> Vec<i64> {
        self.outcomes.iter().map(|range| range.end).collect()
    }

    pub(crate) fn to_wire(&self) -> wire::RunReconciled {
        let outcomes = self.outcomes.iter();
        wire::RunReconciled {
            run_id: self.run_id.to_string(),
            generation: self.generation,
            writer: self.writer.to_string(),
            outcomes: outcomes
                .map(|&OffsetRange { start, end }| wire::OffsetRange { start, end })
                .collect(),
            manifest_digest: self.manifest_digest.as_bytes().to_vec(),
            verdict: match self.verdict {
                Verdict::Complete => wire::Verdict::Complete,
                Verdict::CompleteWithDeadLetters => wire::Verdict::CompleteWithDeadLetters,
                Verdict::Failed => wire::Verdict::Failed,
                // Every reader refuses it.
                Verdict::Incomplete => wire::Verdict::Unspecified,
            }
            .into(),
            completed: self.completed,
            dead_lettered: self.dead_lettered,
            differing: self.differing,
            table_digest: self.table_digest.as_bytes().to_vec(),
            published_by: self.published_by.clone(),
        }
    }

    pub(crate) fn from_wire(wire: wire::RunReconciled) -> Result<Self, DecodeError> {
        const MESSAGE: &str = "RunReconciled";
        let invalid = |what| DecodeError::invalid(MESSAGE, what);
        let verdict = match wire.verdict() {
            wire::Verdict::Complete => Verdict::Complete,
            wire::Verdict::CompleteWithDeadLetters => Verdict::CompleteWithDeadLetters,
            wire::Verdict::Failed => Verdict::Failed,
            wire::Verdict::Unspecified => return Err(invalid("its verdict is not known")),
        };
        let outcomes = wire.outcomes.iter();
        let outcomes: Vec<OffsetRange> = outcomes
            .map(|&wire::OffsetRange { start, end }| OffsetRange { start, end })
            .collect();
        if !outcomes
            .iter()
            .all(|range| 0 <= range.start && range.start <= range.end)
        {
            return Err(invalid("its offsets are not ranges"));
        }
        let digest = |bytes: &[u8]| {
            ContentDigest::from_bytes(bytes).ok_or(invalid("a digest is not 32 bytes"))
        };
        Ok(Self {
            run_id: crate::run::valid_run_id(MESSAGE, &wire.run_id)?,
            generation: checked_generation(MESSAGE, wire.generation, 0)?,
            writer: checked_writer(MESSAGE, &wire.writer)?,
            outcomes,
            manifest_digest: digest(&wire.manifest_digest)?,
            verdict,
            completed: wire.completed,
            dead_lettered: wire.dead_lettered,
            differing: wire.differing,
            table_digest: digest(&wire.table_digest)?,
            published_by: wire.published_by,
        })
    }
}

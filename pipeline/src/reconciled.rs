//! A published verdict: what one aggregator has made of a run, and by which outcomes.

use crate::content_digest::ContentDigest;
use crate::error::DecodeError;
use crate::generation::{VerdictKey, checked_generation, checked_writer};
use crate::reconciliation::Verdict;
use crate::run_id::RunId;
use crate::wire;
use crate::writer_id::WriterId;

/// What was read of one partition: offsets from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first offset.
    pub start: i64,
    /// The offset after the last; at most the last stable offset when it was read.
    pub end: i64,
}

/// The verdict on one generation of a run, which holds at its end offsets: outcomes beyond them are
/// no part of it. A run that is incomplete has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReconciled {
    /// The run.
    pub run_id: RunId,
    /// The generation.
    pub generation: u32,
    /// The aggregator that published it.
    pub writer: WriterId,
    /// By partition of the outcomes topic.
    pub outcomes: Vec<OffsetRange>,
    /// The manifest that the outcomes were held against: [`Manifest::digest`](crate::Manifest::digest).
    pub manifest_digest: ContentDigest,
    /// What the run has come to; never [`Verdict::Incomplete`].
    pub verdict: Verdict,
    /// Jobs with a result.
    pub completed: u64,
    /// Jobs that are dead letters.
    pub dead_lettered: u64,
    /// Jobs with several results that differ.
    pub differing: u64,
    /// Over the whole table.
    pub table_digest: ContentDigest,
    /// Who published it, for people.
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

    /// By partition of the outcomes topic: the offset after the last that was read.
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
                // Refused by every reader.
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
        let invalid = |what| DecodeError::Invalid {
            message: MESSAGE,
            what,
        };
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

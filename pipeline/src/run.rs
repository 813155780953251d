//! The events of a run on the runs topic: opened once, then dispatched (with a manifest) or aborted;
//! then generations, verdicts and cancellations, which have files of their own.

use std::collections::BTreeMap;

use prost::Message;
use serde::Serialize;

use crate::cancelled::RunCancelled;
use crate::content_digest::ContentDigest;
use crate::difference::Difference;
use crate::digest::JobSetDigest;
use crate::error::DecodeError;
use crate::generation::GenerationOpened;
use crate::grain::Grain;
use crate::reconciled::RunReconciled;
use crate::results_policy::ResultsPolicy;
use crate::run_id::RunId;
use crate::wire;

/// The rule by which jobs are numbered: index order is (labels as bytes, time, part).
pub const NUMBERING_VERSION: u32 = 1;

/// The options on which job indexes depend, besides the data set itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grouping {
    /// The columns whose values are the labels, in order. Empty: grouped by time alone.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a test.
    pub time_column: String,
    /// How the time is truncated.
    pub grain: Grain,
    /// The column that holds the result of a test.
    pub result_column: String,
    /// The value of a positive result.
    pub positive: String,
    /// The value of a negative result.
    pub negative: String,
    /// A group with more rows is cut into parts.
    pub max_rows_per_job: u32,
}

/// What a run is, written before its first job. Where several dispatchers open one run, a
/// [`RunHistory`](crate::RunHistory) makes one of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOpened {
    /// The run.
    pub run_id: RunId,
    /// The rule by which its jobs are numbered.
    pub numbering_version: u32,
    /// Its grouping options.
    pub grouping: Grouping,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub opened_at_ms: i64,
    /// By partition of the jobs topic: the offset at which the run may begin.
    pub jobs_start_offsets: Vec<i64>,
    /// By partition of the outcomes topic: the offset at which its outcomes may begin.
    pub outcomes_start_offsets: Vec<i64>,
    /// What counts where a job has several results that differ.
    pub results: ResultsPolicy,
}

/// What the dispatcher swears to at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The run.
    pub run_id: RunId,
    /// Number of jobs; their indexes are 0 to `jobs` - 1.
    pub jobs: u64,
    /// Records of the data set, the header not counted.
    pub rows_read: u64,
    /// Rows that are in jobs.
    pub rows_accepted: u64,
    /// Rows that are not, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Over all jobs.
    pub job_set_digest: JobSetDigest,
    /// Messages that were published, for the report.
    pub messages: u64,
    /// Seconds by stage of the dispatcher, in the order of the stages, for the report.
    pub stages: Vec<(String, f64)>,
}

impl Manifest {
    /// Rows that were rejected, for whatever reason.
    pub fn rows_rejected(&self) -> u64 {
        let rows = self.rejected.values();
        rows.fold(0, |sum, &rows| sum.saturating_add(rows))
    }

    /// Whether two manifests swear to the same job set. How it was packed and how long that took
    /// may differ.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.run_id == other.run_id && Difference::of_manifests(self, other).is_none()
    }

    /// BLAKE3 of what two manifests of one run must agree on, so equal for manifests that agree.
    pub fn digest(&self) -> ContentDigest {
        let agreed = wire::Manifest {
            messages: 0,
            stages: Vec::new(),
            ..self.to_wire()
        };
        ContentDigest::of(&agreed.encode_to_vec())
    }
}

/// The dispatcher gave up: no manifest will follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAborted {
    /// The run.
    pub run_id: RunId,
    /// Why, in one line.
    pub reason: String,
}

/// A message on the runs topic.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    /// The run has begun.
    Opened(RunOpened),
    /// All its jobs are published.
    Dispatched(Manifest),
    /// It will never be complete.
    Aborted(RunAborted),
    /// Jobs of it are to be published again.
    Generation(GenerationOpened),
    /// An aggregator has reconciled it.
    Reconciled(RunReconciled),
    /// It is cancelled.
    Cancelled(RunCancelled),
}

impl RunEvent {
    const OPENED: &'static str = "opened";
    const DISPATCHED: &'static str = "dispatched";
    const ABORTED: &'static str = "aborted";
    const GENERATION: &'static str = "generation";
    const RECONCILED: &'static str = "reconciled";
    const CANCELLED: &'static str = "cancelled";

    /// The run that it is about.
    pub fn run_id(&self) -> &RunId {
        match self {
            Self::Opened(opened) => &opened.run_id,
            Self::Dispatched(manifest) => &manifest.run_id,
            Self::Aborted(aborted) => &aborted.run_id,
            Self::Generation(generation) => &generation.run_id,
            Self::Reconciled(reconciled) => &reconciled.run_id,
            Self::Cancelled(cancelled) => &cancelled.run_id,
        }
    }

    /// The key of the message: the topic is compacted by it.
    pub fn key(&self) -> String {
        let run_id = self.run_id();
        let (kind, generation, writer) = match self {
            Self::Opened(_) => return format!("{run_id}/{}", Self::OPENED),
            Self::Dispatched(_) => return format!("{run_id}/{}", Self::DISPATCHED),
            Self::Aborted(_) => return Self::key_of_abort(run_id),
            Self::Generation(event) => (Self::GENERATION, event.generation, &event.writer),
            Self::Reconciled(event) => (Self::RECONCILED, event.generation, &event.writer),
            Self::Cancelled(event) => (Self::CANCELLED, event.generation, &event.writer),
        };
        format!("{run_id}/{kind}/{generation}/{writer}")
    }

    /// The key under which a run is told to be aborted.
    pub fn key_of_abort(run_id: &RunId) -> String {
        format!("{run_id}/{}", Self::ABORTED)
    }

    /// The run that a key is about, whether or not this version knows the rest of the key.
    pub fn run_of_key(key: &[u8]) -> Option<RunId> {
        let (run_id, _) = std::str::from_utf8(key).ok()?.split_once('/')?;
        run_id.parse().ok()
    }

    /// Whether a key is that of a run's opening, by which a run is known to those who list runs.
    pub fn is_key_of_opening(key: &[u8]) -> bool {
        let kind = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.split_once('/'));
        kind.is_some_and(|(_, kind)| kind == Self::OPENED)
    }

    /// The value of the message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Opened(opened) => opened.to_wire().encode_to_vec(),
            Self::Dispatched(manifest) => manifest.to_wire().encode_to_vec(),
            Self::Aborted(aborted) => wire::RunAborted {
                run_id: aborted.run_id.to_string(),
                reason: aborted.reason.clone(),
            }
            .encode_to_vec(),
            Self::Generation(generation) => generation.to_wire().encode_to_vec(),
            Self::Reconciled(reconciled) => reconciled.to_wire().encode_to_vec(),
            Self::Cancelled(cancelled) => cancelled.to_wire().encode_to_vec(),
        }
    }

    /// Reads a message of the runs topic; `None` for a key of a kind that this version does not
    /// know, which is skipped.
    ///
    /// # Errors
    /// When the value is not what the key says.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((_, kind)) = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.split_once('/'))
        else {
            return Ok(None);
        };
        let event = match kind.split('/').next().unwrap_or_default() {
            Self::OPENED => Self::Opened(RunOpened::from_wire(decode("RunOpened", value)?)?),
            Self::DISPATCHED => Self::Dispatched(Manifest::from_wire(decode("Manifest", value)?)?),
            Self::ABORTED => {
                let wire: wire::RunAborted = decode("RunAborted", value)?;
                Self::Aborted(RunAborted {
                    run_id: valid_run_id("RunAborted", &wire.run_id)?,
                    reason: wire.reason,
                })
            }
            Self::GENERATION => {
                let wire = decode("GenerationOpened", value)?;
                Self::Generation(GenerationOpened::from_wire(wire)?)
            }
            Self::RECONCILED => {
                let wire = decode("RunReconciled", value)?;
                Self::Reconciled(RunReconciled::from_wire(wire)?)
            }
            Self::CANCELLED => {
                let wire = decode("RunCancelled", value)?;
                Self::Cancelled(RunCancelled::from_wire(wire)?)
            }
            _ => return Ok(None),
        };
        if event.key().as_bytes() != key {
            return Err(DecodeError::Invalid {
                message: "RunEvent",
                what: "its key names another run, generation or writer",
            });
        }
        Ok(Some(event))
    }
}

fn decode<M: Message + Default>(message: &'static str, value: &[u8]) -> Result<M, DecodeError> {
    M::decode(value).map_err(|source| DecodeError::Protobuf { message, source })
}

pub(crate) fn valid_run_id(message: &'static str, run_id: &str) -> Result<RunId, DecodeError> {
    run_id.parse().map_err(|_| DecodeError::Invalid {
        message,
        what: "the run id is none",
    })
}

impl RunOpened {
    fn to_wire(&self) -> wire::RunOpened {
        let grouping = &self.grouping;
        wire::RunOpened {
            run_id: self.run_id.to_string(),
            numbering_version: self.numbering_version,
            grouping: Some(wire::Grouping {
                label_columns: grouping.label_columns.clone(),
                time_column: grouping.time_column.clone(),
                grain: match grouping.grain {
                    Grain::Hour => wire::Grain::Hour,
                    Grain::Day => wire::Grain::Day,
                    Grain::Week => wire::Grain::Week,
                    Grain::Month => wire::Grain::Month,
                }
                .into(),
                result_column: grouping.result_column.clone(),
                positive: grouping.positive.clone(),
                negative: grouping.negative.clone(),
                max_rows_per_job: grouping.max_rows_per_job,
            }),
            opened_at_ms: self.opened_at_ms,
            jobs_start_offsets: self.jobs_start_offsets.clone(),
            outcomes_start_offsets: self.outcomes_start_offsets.clone(),
            results: match self.results {
                ResultsPolicy::Reproducible => wire::ResultsPolicy::Reproducible,
                ResultsPolicy::Any => wire::ResultsPolicy::Any,
            }
            .into(),
        }
    }

    fn from_wire(wire: wire::RunOpened) -> Result<Self, DecodeError> {
        let invalid = |what| DecodeError::Invalid {
            message: "RunOpened",
            what,
        };
        let run_id = valid_run_id("RunOpened", &wire.run_id)?;
        let results = match wire.results() {
            wire::ResultsPolicy::Reproducible => ResultsPolicy::Reproducible,
            wire::ResultsPolicy::Any => ResultsPolicy::Any,
            wire::ResultsPolicy::Unspecified => {
                return Err(invalid("its policy for results is not known"));
            }
        };
        let grouping = wire.grouping.ok_or(invalid("it has no grouping"))?;
        let grain = match grouping.grain() {
            wire::Grain::Hour => Grain::Hour,
            wire::Grain::Day => Grain::Day,
            wire::Grain::Week => Grain::Week,
            wire::Grain::Month => Grain::Month,
            wire::Grain::Unspecified => return Err(invalid("its grain is not known")),
        };
        Ok(Self {
            run_id,
            numbering_version: wire.numbering_version,
            grouping: Grouping {
                label_columns: grouping.label_columns,
                time_column: grouping.time_column,
                grain,
                result_column: grouping.result_column,
                positive: grouping.positive,
                negative: grouping.negative,
                max_rows_per_job: grouping.max_rows_per_job,
            },
            opened_at_ms: wire.opened_at_ms,
            jobs_start_offsets: wire.jobs_start_offsets,
            outcomes_start_offsets: wire.outcomes_start_offsets,
            results,
        })
    }
}

impl Manifest {
    fn to_wire(&self) -> wire::Manifest {
        let rejected = self.rejected.iter();
        let stages = self.stages.iter();
        wire::Manifest {
            run_id: self.run_id.to_string(),
            jobs: self.jobs,
            rows_read: self.rows_read,
            rows_accepted: self.rows_accepted,
            rejected: rejected
                .map(|(reason, &rows)| wire::Rejected {
                    reason: reason.clone(),
                    rows,
                })
                .collect(),
            job_set_digest: self.job_set_digest.as_bytes().to_vec(),
            messages: self.messages,
            stages: stages
                .map(|(stage, seconds)| wire::StageSeconds {
                    stage: stage.clone(),
                    seconds: *seconds,
                })
                .collect(),
        }
    }

    fn from_wire(wire: wire::Manifest) -> Result<Self, DecodeError> {
        let job_set_digest =
            JobSetDigest::from_bytes(&wire.job_set_digest).ok_or(DecodeError::Invalid {
                message: "Manifest",
                what: "its digest is not 32 bytes",
            })?;
        let rejected = wire.rejected.into_iter();
        let stages = wire.stages.into_iter();
        Ok(Self {
            run_id: valid_run_id("Manifest", &wire.run_id)?,
            jobs: wire.jobs,
            rows_read: wire.rows_read,
            rows_accepted: wire.rows_accepted,
            rejected: rejected.map(|entry| (entry.reason, entry.rows)).collect(),
            job_set_digest,
            messages: wire.messages,
            stages: stages.map(|entry| (entry.stage, entry.seconds)).collect(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::digest::JobSetHasher;
    use crate::generation::{IndexRanges, VerdictKey};
    use crate::reconciled::OffsetRange;
    use crate::reconciliation::Verdict;
    use crate::writer_id::WriterId;

    pub(crate) fn manifest(jobs: u64, rows: u64) -> Manifest {
        Manifest {
            run_id: "a-run".parse().expect("a run id"),
            jobs,
            rows_read: rows,
            rows_accepted: rows,
            rejected: BTreeMap::new(),
            job_set_digest: JobSetHasher::new().finish(),
            messages: 1,
            stages: vec![("read".to_owned(), 0.5)],
        }
    }

    pub(crate) fn opened() -> RunOpened {
        RunOpened {
            run_id: "a-run".parse().expect("a run id"),
            numbering_version: NUMBERING_VERSION,
            grouping: Grouping {
                label_columns: vec!["country".to_owned()],
                time_column: "test_date".to_owned(),
                grain: Grain::Week,
                result_column: "result".to_owned(),
                positive: "positive".to_owned(),
                negative: "negative".to_owned(),
                max_rows_per_job: 10_000,
            },
            opened_at_ms: 1_594_718_631_000,
            jobs_start_offsets: vec![3, 0],
            outcomes_start_offsets: vec![7],
            results: ResultsPolicy::Reproducible,
        }
    }

    fn generation() -> GenerationOpened {
        GenerationOpened {
            run_id: "a-run".parse().expect("a run id"),
            generation: 3,
            writer: WriterId::fresh(),
            reopened: IndexRanges::of_ascending([0, 1, 7]),
            builds_on: Some(VerdictKey {
                generation: 1,
                writer: WriterId::fresh(),
            }),
            opened_by: "dlq replay on a-host".to_owned(),
        }
    }

    fn reconciled() -> RunReconciled {
        RunReconciled {
            run_id: "a-run".parse().expect("a run id"),
            generation: 2,
            writer: WriterId::fresh(),
            outcomes: vec![
                OffsetRange { start: 3, end: 3 },
                OffsetRange { start: 0, end: 9 },
            ],
            manifest_digest: manifest(3, 9).digest(),
            verdict: Verdict::CompleteWithDeadLetters,
            completed: 2,
            dead_lettered: 1,
            differing: 0,
            table_digest: ContentDigest::of(b"a table"),
            published_by: "aggregator on a-host".to_owned(),
        }
    }

    fn cancelled() -> RunCancelled {
        RunCancelled {
            run_id: "a-run".parse().expect("a run id"),
            generation: 0,
            writer: WriterId::fresh(),
            reason: "no longer wanted".to_owned(),
            cancelled_by: "somebody on a-host".to_owned(),
        }
    }

    #[test]
    fn every_event_comes_back_from_the_wire() {
        let mut dispatched = manifest(3, 9);
        dispatched.rejected.insert("unknown_result".to_owned(), 2);
        let events = [
            RunEvent::Opened(opened()),
            RunEvent::Dispatched(dispatched),
            RunEvent::Aborted(RunAborted {
                run_id: "a-run".parse().expect("a run id"),
                reason: "too many rejects".to_owned(),
            }),
            RunEvent::Generation(generation()),
            RunEvent::Reconciled(reconciled()),
            RunEvent::Cancelled(cancelled()),
        ];
        for event in events {
            let key = event.key();
            let is_abort = matches!(event, RunEvent::Aborted(_));
            assert_eq!(key == RunEvent::key_of_abort(event.run_id()), is_abort);
            let is_opening = matches!(event, RunEvent::Opened(_));
            assert_eq!(RunEvent::is_key_of_opening(key.as_bytes()), is_opening);
            let run_id = RunEvent::run_of_key(key.as_bytes());
            assert_eq!(run_id.as_ref(), Some(event.run_id()));
            let decoded = RunEvent::decode(key.as_bytes(), &event.encode());
            assert_eq!(decoded.expect("a valid event"), Some(event));
        }
    }

    #[test]
    fn a_key_that_names_another_generation_or_writer_is_refused() {
        let events = [
            RunEvent::Generation(generation()),
            RunEvent::Reconciled(reconciled()),
            RunEvent::Cancelled(cancelled()),
        ];
        for event in events {
            let key = event.key();
            let (kind, _) = key.rsplit_once('/').expect("a writer");
            let (of_run, _) = kind.rsplit_once('/').expect("a generation");
            let value = event.encode();
            let writer = WriterId::fresh();
            for other in [
                format!("{kind}/{writer}"),
                format!("{of_run}/9/{writer}"),
                format!("{key}/more"),
                of_run.to_owned(),
                kind.to_owned(),
            ] {
                assert!(
                    RunEvent::decode(other.as_bytes(), &value).is_err(),
                    "{other}"
                );
            }
        }
    }

    #[test]
    fn events_that_cannot_be_are_refused() {
        let first = GenerationOpened {
            generation: 0,
            builds_on: None,
            ..generation()
        };
        let last = GenerationOpened {
            generation: u32::MAX,
            ..generation()
        };
        let mut itself = generation();
        itself.builds_on = Some(VerdictKey {
            generation: 3,
            writer: WriterId::fresh(),
        });
        let incomplete = RunReconciled {
            verdict: Verdict::Incomplete,
            ..reconciled()
        };
        let backwards = RunReconciled {
            outcomes: vec![OffsetRange { start: 3, end: 2 }],
            ..reconciled()
        };
        for event in [
            RunEvent::Generation(first),
            RunEvent::Generation(last),
            RunEvent::Generation(itself),
            RunEvent::Reconciled(incomplete),
            RunEvent::Reconciled(backwards),
        ] {
            let decoded = RunEvent::decode(event.key().as_bytes(), &event.encode());
            assert!(decoded.is_err(), "{event:?}");
        }
    }

    #[test]
    fn a_key_of_another_kind_is_skipped_and_one_of_another_run_refused() {
        let value = RunEvent::Opened(opened()).encode();
        assert!(matches!(
            RunEvent::decode(b"a-run/paused", &value),
            Ok(None)
        ));
        assert!(matches!(RunEvent::decode(b"\xff", &value), Ok(None)));
        assert!(RunEvent::decode(b"b-run/opened", &value).is_err());
        assert!(RunEvent::decode(b"a-run/dispatched", &value).is_err());
    }

    #[test]
    fn manifests_agree_on_the_job_set_and_not_on_how_it_was_sent() {
        let one = manifest(3, 9);
        let mut repacked = one.clone();
        repacked.messages = 99;
        repacked.stages.clear();
        assert!(one.agrees_with(&repacked));
        assert_eq!(one.digest(), repacked.digest());
        let mut other = one.clone();
        other.rows_accepted = 8;
        assert!(!one.agrees_with(&other));
        assert_ne!(one.digest(), other.digest());
    }
}

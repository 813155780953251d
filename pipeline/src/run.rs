//! The events of a run on the runs topic. A run is opened, then dispatched (with a manifest) or
//! aborted. Generations, verdicts and cancellations follow, which have files of their own.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;
use serde::Serialize;

use crate::cancelled::RunCancelled;
use crate::computation::Computation;
use crate::content_digest::ContentDigest;
use crate::difference::Difference;
use crate::digest::JobSetDigest;
use crate::error::DecodeError;
use crate::generation::GenerationOpened;
use crate::grain::Grain;
use crate::protobuf::decode;
use crate::reconciled::RunReconciled;
use crate::run_id::RunId;
use crate::wire;

/// The version of the rule by which jobs are numbered: in the order of (labels as bytes, time, part).
pub const NUMBERING_VERSION: u32 = 2;

/// The rule by which rows become jobs: a job is a group of rows, or a part of a large group. The
/// indexes of jobs depend on it and on the data set alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The columns whose values are the labels, in order. Where it is empty, rows are grouped by time
    /// alone.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a row; `None` when groups have no time.
    pub time: Option<TimeColumn>,
    /// The largest number of rows in a job. A group with more is cut into parts.
    pub max_rows_per_job: u32,
}

/// A column of times, and the grain to which they are truncated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    /// The name of the column.
    pub name: String,
    /// The length of a time bucket.
    pub grain: Grain,
}

impl Cut {
    /// The grain of the times; `None` when groups have no time.
    pub fn grain(&self) -> Option<Grain> {
        self.time.as_ref().map(|time| time.grain)
    }
}

/// The rule for a job whose attempts gave different results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultsPolicy {
    /// The results contradict each other, and the run fails.
    #[default]
    Reproducible,
    /// The result that is the lowest by its bytes is kept. Jobs with several results are counted and
    /// listed.
    Any,
}

impl ResultsPolicy {
    /// Both policies, the default first.
    pub const ALL: [Self; 2] = [Self::Reproducible, Self::Any];

    /// The name of the policy in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproducible => "reproducible",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for ResultsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The options of a run. Its jobs and their results depend on these and on the data set alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The version of the rule by which jobs are numbered: [`NUMBERING_VERSION`].
    pub numbering_version: u32,
    /// The rule by which rows become jobs.
    pub cut: Cut,
    /// The computation that is applied to each job.
    pub computation: Computation,
    /// The rule for a job whose attempts gave different results.
    pub results: ResultsPolicy,
}

/// The event that opens a run, published before its first job. Where several dispatchers open one
/// run, a [`RunHistory`](crate::RunHistory) merges their events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOpened {
    /// The run.
    pub run_id: RunId,
    /// The options of the run.
    pub options: RunOptions,
    /// The time of opening, in milliseconds since 1970-01-01T00:00:00Z.
    pub opened_at_ms: i64,
    /// The end offset of the jobs topic at the time of opening, by partition. The run has no job before
    /// it.
    pub jobs_start_offsets: Vec<i64>,
    /// The end offset of the outcomes topic at the time of opening, by partition. The run has no
    /// outcome before it.
    pub outcomes_start_offsets: Vec<i64>,
}

/// The manifest of a run, which its dispatcher publishes after the last job: the number of jobs, their
/// digest, and the rows that they were made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The run.
    pub run_id: RunId,
    /// The number of jobs. Their indexes are 0 to `jobs` - 1.
    pub jobs: u64,
    /// The number of records of the data set, without the header.
    pub rows_read: u64,
    /// The number of rows that are in jobs.
    pub rows_accepted: u64,
    /// The number of rows that are not in jobs, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The digest of all jobs.
    pub job_set_digest: JobSetDigest,
    /// The number of messages that were published, for the report.
    pub messages: u64,
    /// The seconds that each stage of the dispatcher took, in the order of the stages, for the report.
    pub stages: Vec<(String, f64)>,
}

impl Manifest {
    /// The number of rows that were rejected, for all reasons together.
    pub fn rows_rejected(&self) -> u64 {
        let rows = self.rejected.values();
        rows.fold(0, |sum, &rows| sum.saturating_add(rows))
    }

    /// Whether two manifests describe the same job set. The number of messages and the durations of
    /// the stages may differ.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.run_id == other.run_id && Difference::of_manifests(self, other).is_none()
    }

    /// The BLAKE3 hash of the fields in which two manifests of one run must agree, so that it is equal
    /// for manifests that agree.
    pub fn digest(&self) -> ContentDigest {
        let agreed = wire::Manifest {
            messages: 0,
            stages: Vec::new(),
            ..self.to_wire()
        };
        ContentDigest::of(&agreed.encode_to_vec())
    }
}

/// The event of a dispatcher that gave up: it publishes no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAborted {
    /// The run.
    pub run_id: RunId,
    /// The reason, in one line.
    pub reason: String,
}

/// A message of the runs topic.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    /// The run is opened.
    Opened(RunOpened),
    /// All jobs of the run are published.
    Dispatched(Manifest),
    /// The dispatcher of the run gave up.
    Aborted(RunAborted),
    /// Jobs of the run are published again, as a new generation.
    Generation(GenerationOpened),
    /// An aggregator reconciled the run.
    Reconciled(RunReconciled),
    /// A generation of the run is cancelled.
    Cancelled(RunCancelled),
}

impl RunEvent {
    const OPENED: &'static str = "opened";
    const DISPATCHED: &'static str = "dispatched";
    const ABORTED: &'static str = "aborted";
    const GENERATION: &'static str = "generation";
    const RECONCILED: &'static str = "reconciled";
    const CANCELLED: &'static str = "cancelled";

    /// The run of the event.
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

    /// The key of the message, by which the topic is compacted: `RUN/KIND` for events that exist once,
    /// and `RUN/KIND/GENERATION/WRITER` for the others.
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

    /// The key of the event that aborts a run.
    pub fn key_of_abort(run_id: &RunId) -> String {
        format!("{run_id}/{}", Self::ABORTED)
    }

    /// The run of a key, also where the rest of the key is of a later version; `None` for a key that
    /// does not begin with a run id and a slash.
    pub fn run_of_key(key: &[u8]) -> Option<RunId> {
        let (run_id, _) = split_key(key)?;
        run_id.parse().ok()
    }

    /// Whether a key is that of a run's opening. A list of runs has those with such a key.
    pub fn is_key_of_opening(key: &[u8]) -> bool {
        split_key(key).is_some_and(|(_, kind)| kind == Self::OPENED)
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

    /// The event of a message of the runs topic; `None` for a key of an unknown kind, which is
    /// skipped.
    ///
    /// # Errors
    /// When the value is not a valid message of the key's kind, or has another key.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((_, kind)) = split_key(key) else {
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
            return Err(DecodeError::invalid(
                "RunEvent",
                "its key names another run, generation or writer",
            ));
        }
        Ok(Some(event))
    }
}

/// The run id of a key and the rest behind the slash; `None` for a key without a slash, or that is not
/// UTF-8. The run id is not checked.
fn split_key(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once('/')
}

/// Checks the run id of a message of this type.
pub(crate) fn valid_run_id(message: &'static str, run_id: &str) -> Result<RunId, DecodeError> {
    let run_id = run_id.parse();
    run_id.map_err(|_| DecodeError::invalid(message, "its run id is invalid"))
}

impl RunOpened {
    fn to_wire(&self) -> wire::RunOpened {
        let RunOptions {
            numbering_version,
            cut,
            computation,
            results,
        } = &self.options;
        let time = cut.time.as_ref().map(|time| wire::TimeColumn {
            name: time.name.clone(),
            grain: match time.grain {
                Grain::Hour => wire::Grain::Hour,
                Grain::Day => wire::Grain::Day,
                Grain::Week => wire::Grain::Week,
                Grain::Month => wire::Grain::Month,
            }
            .into(),
        });
        wire::RunOpened {
            run_id: self.run_id.to_string(),
            numbering_version: *numbering_version,
            cut: Some(wire::Cut {
                kind: Some(wire::cut::Kind::ByGroup(wire::GroupCut {
                    label_columns: cut.label_columns.clone(),
                    time,
                    max_rows_per_job: cut.max_rows_per_job,
                })),
            }),
            computation: Some(computation.to_wire()),
            results: match results {
                ResultsPolicy::Reproducible => wire::ResultsPolicy::Reproducible,
                ResultsPolicy::Any => wire::ResultsPolicy::Any,
            }
            .into(),
            opened_at_ms: self.opened_at_ms,
            jobs_start_offsets: self.jobs_start_offsets.clone(),
            outcomes_start_offsets: self.outcomes_start_offsets.clone(),
        }
    }

    fn from_wire(wire: wire::RunOpened) -> Result<Self, DecodeError> {
        let invalid = |what| DecodeError::invalid("RunOpened", what);
        let kind = wire.cut.and_then(|cut| cut.kind);
        let Some(wire::cut::Kind::ByGroup(cut)) = kind else {
            return Err(invalid("it has no cut that this version knows"));
        };
        let computation = wire.computation.ok_or(invalid("it has no computation"))?;
        Ok(Self {
            run_id: valid_run_id("RunOpened", &wire.run_id)?,
            options: RunOptions {
                numbering_version: wire.numbering_version,
                cut: Cut {
                    label_columns: cut.label_columns,
                    time: cut.time.map(TimeColumn::from_wire).transpose()?,
                    max_rows_per_job: cut.max_rows_per_job,
                },
                computation: Computation::from_wire(computation)?,
                results: ResultsPolicy::from_wire(wire.results)?,
            },
            opened_at_ms: wire.opened_at_ms,
            jobs_start_offsets: wire.jobs_start_offsets,
            outcomes_start_offsets: wire.outcomes_start_offsets,
        })
    }
}

impl TimeColumn {
    fn from_wire(wire: wire::TimeColumn) -> Result<Self, DecodeError> {
        let grain = match wire::Grain::try_from(wire.grain) {
            Ok(wire::Grain::Hour) => Grain::Hour,
            Ok(wire::Grain::Day) => Grain::Day,
            Ok(wire::Grain::Week) => Grain::Week,
            Ok(wire::Grain::Month) => Grain::Month,
            Ok(wire::Grain::Unspecified) | Err(_) => {
                return Err(DecodeError::Unknown {
                    message: "RunOpened",
                    what: "grain",
                    value: wire.grain,
                });
            }
        };
        Ok(Self {
            name: wire.name,
            grain,
        })
    }
}

impl ResultsPolicy {
    fn from_wire(value: i32) -> Result<Self, DecodeError> {
        match wire::ResultsPolicy::try_from(value) {
            Ok(wire::ResultsPolicy::Reproducible) => Ok(Self::Reproducible),
            Ok(wire::ResultsPolicy::Any) => Ok(Self::Any),
            Ok(wire::ResultsPolicy::Unspecified) | Err(_) => Err(DecodeError::Unknown {
                message: "RunOpened",
                what: "results policy",
                value,
            }),
        }
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
        let job_set_digest = JobSetDigest::from_bytes(&wire.job_set_digest);
        let job_set_digest = job_set_digest.ok_or(DecodeError::invalid(
            "Manifest",
            "its digest is not 32 bytes",
        ))?;
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
pub(crate) mod tests;

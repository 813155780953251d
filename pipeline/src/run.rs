//! The life of a run as the runs topic tells it: opened once, then dispatched (with a manifest) or
//! aborted.

use std::collections::BTreeMap;

use prost::Message;
use serde::Serialize;

use crate::computation::Computation;
use crate::difference::Difference;
use crate::digest::JobSetDigest;
use crate::error::DecodeError;
use crate::grain::Grain;
use crate::run_id::RunId;
use crate::wire;

/// The rule by which jobs are numbered: index order is (labels as bytes, time, part).
pub const NUMBERING_VERSION: u32 = 2;

/// How rows become jobs: by group, and a group in parts. Job indexes depend on it, besides the
/// data set itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The columns whose values are the labels, in order. Empty: grouped by time alone.
    pub label_columns: Vec<String>,
    /// The column that holds the time of a row; `None` when groups have no time.
    pub time: Option<TimeColumn>,
    /// A group with more rows is cut into parts.
    pub max_rows_per_job: u32,
}

/// A column of times, and how they are truncated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    /// The column.
    pub name: String,
    /// The length of a bucket.
    pub grain: Grain,
}

impl Cut {
    /// How times are truncated; `None` when groups have no time.
    pub fn grain(&self) -> Option<Grain> {
        self.time.as_ref().map(|time| time.grain)
    }
}

/// What becomes of a job whose attempts made different results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultsPolicy {
    /// They contradict each other: the run fails.
    #[default]
    Reproducible,
    /// The lowest result bytes count.
    Any,
}

impl ResultsPolicy {
    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproducible => "reproducible",
            Self::Any => "any",
        }
    }
}

/// The options on which a run's jobs and their results depend, besides the data set itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The rule by which jobs are numbered.
    pub numbering_version: u32,
    /// How rows become jobs.
    pub cut: Cut,
    /// What is made of a job.
    pub computation: Computation,
    /// What becomes of a job whose attempts made different results.
    pub results: ResultsPolicy,
}

/// What a run is, written before its first job. Where several dispatchers open one run, a
/// [`RunHistory`](crate::RunHistory) makes one of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOpened {
    /// The run.
    pub run_id: RunId,
    /// Its options.
    pub options: RunOptions,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub opened_at_ms: i64,
    /// By partition of the jobs topic: the offset at which the run may begin.
    pub jobs_start_offsets: Vec<i64>,
    /// By partition of the outcomes topic: the offset at which its outcomes may begin.
    pub outcomes_start_offsets: Vec<i64>,
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
}

impl RunEvent {
    const OPENED: &'static str = "opened";
    const DISPATCHED: &'static str = "dispatched";
    const ABORTED: &'static str = "aborted";

    /// The run that it is about.
    pub fn run_id(&self) -> &RunId {
        match self {
            Self::Opened(opened) => &opened.run_id,
            Self::Dispatched(manifest) => &manifest.run_id,
            Self::Aborted(aborted) => &aborted.run_id,
        }
    }

    /// The key of the message: the topic is compacted by it.
    pub fn key(&self) -> String {
        let kind = match self {
            Self::Opened(_) => Self::OPENED,
            Self::Dispatched(_) => Self::DISPATCHED,
            Self::Aborted(_) => Self::ABORTED,
        };
        format!("{}/{kind}", self.run_id())
    }

    /// Every key that a message about a run can have.
    pub fn keys_of(run_id: &RunId) -> [String; 3] {
        [Self::OPENED, Self::DISPATCHED, Self::ABORTED].map(|kind| format!("{run_id}/{kind}"))
    }

    /// The key under which a run is told to be aborted.
    pub fn key_of_abort(run_id: &RunId) -> String {
        format!("{run_id}/{}", Self::ABORTED)
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
        }
    }

    /// Reads a message of the runs topic; `None` for a key of a kind that this version does not
    /// know, which is skipped.
    ///
    /// # Errors
    /// When the value is not what the key says.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((run_id, kind)) = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.rsplit_once('/'))
        else {
            return Ok(None);
        };
        let event = match kind {
            Self::OPENED => Self::Opened(RunOpened::from_wire(decode("RunOpened", value)?)?),
            Self::DISPATCHED => Self::Dispatched(Manifest::from_wire(decode("Manifest", value)?)?),
            Self::ABORTED => {
                let wire: wire::RunAborted = decode("RunAborted", value)?;
                Self::Aborted(RunAborted {
                    run_id: valid_run_id("RunAborted", &wire.run_id)?,
                    reason: wire.reason,
                })
            }
            _ => return Ok(None),
        };
        if event.run_id().as_str() != run_id {
            return Err(DecodeError::Invalid {
                message: "RunEvent",
                what: "its key names another run",
            });
        }
        Ok(Some(event))
    }
}

fn decode<M: Message + Default>(message: &'static str, value: &[u8]) -> Result<M, DecodeError> {
    M::decode(value).map_err(|source| DecodeError::Protobuf { message, source })
}

fn valid_run_id(message: &'static str, run_id: &str) -> Result<RunId, DecodeError> {
    run_id.parse().map_err(|_| DecodeError::Invalid {
        message,
        what: "its run id is invalid",
    })
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
        let invalid = |what| DecodeError::Invalid {
            message: "RunOpened",
            what,
        };
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

    pub(crate) fn options() -> RunOptions {
        RunOptions {
            numbering_version: NUMBERING_VERSION,
            cut: Cut {
                label_columns: vec!["country".to_owned()],
                time: Some(TimeColumn {
                    name: "test_date".to_owned(),
                    grain: Grain::Week,
                }),
                max_rows_per_job: 10_000,
            },
            computation: Computation::named("a-computation").with("column", "result"),
            results: ResultsPolicy::Reproducible,
        }
    }

    pub(crate) fn opened() -> RunOpened {
        RunOpened {
            run_id: "a-run".parse().expect("a run id"),
            options: options(),
            opened_at_ms: 1_594_718_631_000,
            jobs_start_offsets: vec![3, 0],
            outcomes_start_offsets: vec![7],
        }
    }

    #[test]
    fn every_option_comes_back_from_the_wire() {
        let change = |change: &dyn Fn(&mut RunOptions)| {
            let mut opened = opened();
            change(&mut opened.options);
            opened
        };
        let all = [
            change(&|options| options.cut.time = None),
            change(&|options| options.cut.label_columns.clear()),
            change(&|options| options.results = ResultsPolicy::Any),
            change(&|options| options.numbering_version = 9),
        ];
        for opened in all {
            let event = RunEvent::Opened(opened);
            let decoded = RunEvent::decode(event.key().as_bytes(), &event.encode());
            assert_eq!(decoded.expect("a valid event"), Some(event));
        }
    }

    #[test]
    fn what_this_version_does_not_know_of_a_run_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut wire::RunOpened)| {
            let mut wire = opened().to_wire();
            change(&mut wire);
            let decoded = RunEvent::decode(b"a-run/opened", &wire.encode_to_vec());
            decoded.expect_err("it is not known").to_string()
        };
        let grain = refused(&|wire| {
            let Some(wire::Cut {
                kind: Some(wire::cut::Kind::ByGroup(cut)),
            }) = &mut wire.cut
            else {
                panic!("a run is cut by group");
            };
            cut.time.as_mut().expect("it has a time").grain = 99;
        });
        assert_eq!(grain, "RunOpened: unknown grain 99");
        let policy = refused(&|wire| wire.results = 3);
        assert_eq!(policy, "RunOpened: unknown results policy 3");
        let cut = refused(&|wire| wire.cut = Some(wire::Cut { kind: None }));
        assert_eq!(cut, "RunOpened: it has no cut that this version knows");
        let computation = refused(&|wire| wire.computation = None);
        assert_eq!(computation, "RunOpened: it has no computation");
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
        ];
        for event in events {
            assert!(RunEvent::keys_of(event.run_id()).contains(&event.key()));
            let is_abort = matches!(event, RunEvent::Aborted(_));
            let key_of_abort = RunEvent::key_of_abort(event.run_id());
            assert_eq!(event.key() == key_of_abort, is_abort);
            let decoded = RunEvent::decode(event.key().as_bytes(), &event.encode());
            assert_eq!(decoded.expect("a valid event"), Some(event));
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
        let mut other = one.clone();
        other.rows_accepted = 8;
        assert!(!one.agrees_with(&other));
    }
}

//! What a dispatcher says at its end: what was dispatched, for people and for machines.

use std::fmt;
use std::time::Instant;

use pipeline::Manifest;
use serde::Serialize;
use service::Exit;

/// What was dispatched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatched {
    /// The manifest that was published.
    pub manifest: Manifest,
    /// Bytes of the messages' payloads that were published now.
    pub bytes: u64,
    /// The file with the rejected rows, if there are any.
    pub rejects: Option<std::path::PathBuf>,
    /// `None` for a run that was not begun before.
    pub taken_up: Option<TakenUp>,
    /// When the broker had acknowledged the first job; `None` when none was missing.
    pub first_job_at: Option<Instant>,
}

/// What was found of a run that was begun before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenUp {
    /// Jobs that were missing and are published now.
    pub published_jobs: u64,
    /// Jobs that wait for workers, as far as was looked for.
    pub waiting_jobs: u64,
    /// Whether the manifest was there already.
    pub was_dispatched: bool,
}

impl fmt::Display for Dispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manifest = &self.manifest;
        let (run_id, jobs) = (&manifest.run_id, manifest.jobs);
        match self.taken_up {
            None => write!(
                f,
                "run {run_id} dispatched: {jobs} jobs in {} messages",
                manifest.messages
            )?,
            Some(found) => {
                let verb = match found.was_dispatched {
                    true => "was dispatched already",
                    false => "taken up and dispatched",
                };
                write!(f, "run {run_id} {verb}: ")?;
                match found.published_jobs {
                    0 => write!(f, "none of its {jobs} jobs was missing")?,
                    missing => write!(f, "{missing} of its {jobs} jobs were missing")?,
                }
                if found.waiting_jobs > 0 {
                    write!(f, ", {} wait for workers", found.waiting_jobs)?;
                }
            }
        }
        write!(
            f,
            "; {} rows read, {} accepted, {} rejected",
            manifest.rows_read,
            manifest.rows_accepted,
            manifest.rows_rejected(),
        )?;
        match &self.rejects {
            Some(file) => write!(f, " (see {})", file.display()),
            None => Ok(()),
        }
    }
}

/// The same for machines.
#[derive(Serialize)]
pub(crate) struct DispatchedResult<'a> {
    verdict: &'static str,
    exit_code: u8,
    run_id: &'a str,
    jobs: u64,
    messages: u64,
    bytes: u64,
    /// Those that were missing of a run that was taken up; null for one that was not.
    jobs_published: Option<u64>,
    /// Those that wait for workers, as far as was looked for.
    jobs_waiting: Option<u64>,
    rows: RowsResult,
    paths: Vec<String>,
}

#[derive(Serialize)]
struct RowsResult {
    read: u64,
    accepted: u64,
    rejected: u64,
}

impl<'a> DispatchedResult<'a> {
    pub(crate) fn new(dispatched: &'a Dispatched) -> Self {
        let manifest = &dispatched.manifest;
        let rejects = dispatched.rejects.iter();
        Self {
            verdict: "dispatched",
            exit_code: Exit::Complete.code(),
            run_id: manifest.run_id.as_str(),
            jobs: manifest.jobs,
            messages: manifest.messages,
            bytes: dispatched.bytes,
            jobs_published: dispatched.taken_up.map(|found| found.published_jobs),
            jobs_waiting: dispatched.taken_up.map(|found| found.waiting_jobs),
            rows: RowsResult {
                read: manifest.rows_read,
                accepted: manifest.rows_accepted,
                rejected: manifest.rows_rejected(),
            },
            paths: rejects.map(|path| path.display().to_string()).collect(),
        }
    }
}

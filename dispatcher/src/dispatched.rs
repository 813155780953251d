//! The result of a dispatcher, as it prints it at its end: as a line of text, or as JSON.

use std::fmt;
use std::time::Instant;

use pipeline::Manifest;
use serde::Serialize;
use service::Exit;

/// The result of dispatching a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatched {
    /// The manifest that was published.
    pub manifest: Manifest,
    /// The bytes of the payloads of the messages that this process published.
    pub bytes: u64,
    /// The file with the rejected rows; `None` when no row was rejected.
    pub rejects: Option<std::path::PathBuf>,
    /// The state that was published before; `None` for a new run.
    pub taken_up: Option<TakenUp>,
    /// When the broker acknowledged the first job; `None` when no job was missing.
    pub first_job_at: Option<Instant>,
}

/// The published state of a run that is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenUp {
    /// The number of jobs that were missing and are published by this process.
    pub published_jobs: u64,
    /// The number of published jobs that wait for workers, among those that were checked.
    pub waiting_jobs: u64,
    /// Whether the manifest was published already.
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
                    false => "resumed and dispatched",
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

/// The result as JSON.
#[derive(Serialize)]
pub(crate) struct DispatchedResult<'a> {
    verdict: &'static str,
    exit_code: u8,
    run_id: &'a str,
    jobs: u64,
    messages: u64,
    bytes: u64,
    /// The missing jobs that were published; null for a new run.
    jobs_published: Option<u64>,
    /// The jobs that wait for workers, among those that were checked; null for a new run.
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
    /// The result as JSON, of a run that was dispatched.
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

//! The fleet of worker processes of a run on one machine: children that are started again when they
//! die, and that end with this process, also when it is killed.
//!
//! A child watches its standard input. Only this process has the other end, so the child reads the
//! end of its input when this process is gone, and ends. Each child is a static member of the
//! consumer group, so that it is back in the group half a second after it was started again.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator::report::ProcessReport;
use service::{Exit, Progress, Shutdown, Usage};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use worker::UnreadLimit;

use crate::error::Error;

/// The pause before a worker is started again after its first death in a row. Each further death in
/// a row doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a worker is started again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The lifetime of a worker after which its death counts as the first in a row.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// The number of deaths in a row at which the run fails. A job that aborts its worker causes about
/// six deaths before it is a dead letter, and there may be several such jobs.
const MAX_DEATHS: u32 = 200;

/// The time for a worker to end after the end of its input, longer than its own time-out for that.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// The specification of the workers to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// This program.
    pub program: PathBuf,
    /// The arguments of every worker.
    pub arguments: Vec<OsString>,
    /// The environment variables of every worker.
    pub variables: Vec<(&'static str, OsString)>,
    /// The consumer group, of which each worker is a static member.
    pub group: String,
    /// The number of workers.
    pub workers: usize,
    /// The limit of outcomes that are not read yet, with the number of the first worker; `None` without
    /// a limit.
    pub unread_limit: Option<UnreadLimit>,
}

/// The deaths of a worker in a row, which decide whether and when it is started again.
#[derive(Clone, Copy, Debug, Default)]
struct Deaths {
    in_a_row: u32,
}

impl Deaths {
    /// The pause after a death at this age; `None` after [`MAX_DEATHS`] in a row.
    fn pause(&mut self, age: Duration) -> Option<Duration> {
        self.in_a_row = if age >= LONG_LIFE {
            1
        } else {
            self.in_a_row + 1
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.in_a_row - 1).min(16));
        (self.in_a_row < MAX_DEATHS).then_some(pause.min(MAX_PAUSE))
    }
}

/// A worker that has ended: its number and the usage of its process.
struct Slot {
    number: usize,
    process: ProcessReport,
}

/// A fleet of running workers.
pub struct Fleet {
    slots: JoinSet<Result<Slot, Error>>,
    /// The workers that have ended on request.
    ended: Vec<Slot>,
    stop: Shutdown,
}

impl Fleet {
    /// Starts all workers, and counts them in `progress`.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(spec: &Spec, progress: &Arc<Progress>) -> Result<Self, Error> {
        let stop = Shutdown::new();
        let mut slots = JoinSet::new();
        for number in 1..=spec.workers {
            let id = format!("worker-{number}");
            let spec = spec.of_worker(number);
            let worker = spec.spawn(&id).map_err(Error::StartWorker)?;
            progress.workers.started();
            let (stop, progress) = (stop.clone(), Arc::clone(progress));
            slots.spawn(async move {
                let usage = keep_alive(spec, &id, worker, stop, progress).await?;
                let process = ProcessReport::new(&id, usage);
                Ok(Slot { number, process })
            });
        }
        Ok(Self {
            slots,
            ended: Vec::new(),
            stop,
        })
    }

    /// Waits for the failure of a worker: too many deaths, or an exit that starting it again cannot
    /// change. Pending for ever without one.
    pub async fn failure(&mut self) -> Error {
        loop {
            match self.slots.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return Error::Thread(error.to_string()),
                Some(Ok(Ok(slot))) => self.ended.push(slot),
                None => std::future::pending().await,
            }
        }
    }

    /// Requests the end of all workers: each finishes its jobs in hand, commits and leaves the
    /// group.
    pub fn stop(&self) {
        self.stop.request(service::Signal::Terminate);
    }

    /// Ends all workers, and kills those that do not end in time. Returns the usage of each, in the
    /// order of their numbers.
    pub async fn end(mut self) -> Vec<ProcessReport> {
        self.stop();
        let mut slots = self.ended;
        while let Some(ended) = self.slots.join_next().await {
            slots.extend(ended.ok().and_then(Result::ok));
        }
        slots.sort_by_key(|slot| slot.number);
        slots.into_iter().map(|slot| slot.process).collect()
    }
}

impl Spec {
    /// The specification of the worker with this number, from 1.
    fn of_worker(&self, number: usize) -> Self {
        let mut own = self.clone();
        if let Some(limit) = &mut own.unread_limit {
            limit.number = number - 1;
            own.arguments.push("--unread-limit".into());
            own.arguments.push(limit.to_string().into());
        }
        own
    }

    fn spawn(&self, id: &str) -> io::Result<Worker> {
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--worker-id", id])
            .arg("--group-instance-id")
            .arg(format!("{}-{id}", self.group))
            .arg("--exit-with-stdin")
            .envs(self.variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // In a process group of its own, so that Ctrl-C in the terminal does not reach it: this
            // process ends its workers in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Worker {
            input: process.stdin.take(),
            output: process.stdout.take(),
            process,
        })
    }
}

/// A running worker process.
struct Worker {
    process: Child,
    /// Taken from the process, because waiting for the process would close it.
    input: Option<ChildStdin>,
    /// Its standard output, on which it prints its usage at its end: one line, for which the pipe's
    /// buffer is large enough.
    output: Option<ChildStdout>,
}

/// Keeps a worker alive until its end is requested. Returns its usage; `None` when one of its
/// processes died without printing it.
async fn keep_alive(
    spec: Spec,
    id: &str,
    mut worker: Worker,
    stop: Shutdown,
    progress: Arc<Progress>,
) -> Result<Option<Usage>, Error> {
    let mut died = false;
    let workers = &progress.workers;
    let mut deaths = Deaths::default();
    loop {
        let born = Instant::now();
        let status = tokio::select! {
            status = worker.process.wait() => status.map_err(Error::StartWorker)?,
            _ = stop.wait() => {
                let usage = end(id, worker).await;
                workers.ended();
                return Ok(usage.filter(|_| !died));
            }
        };
        if let Some(exit) = permanent(status) {
            workers.ended();
            return Err(Error::UselessWorker {
                id: id.to_owned(),
                exit,
            });
        }
        let Some(pause) = deaths.pause(born.elapsed()) else {
            workers.ended();
            return Err(Error::DyingWorker {
                id: id.to_owned(),
                deaths: deaths.in_a_row,
                status: describe(status),
            });
        };
        warn!(
            worker = id,
            status = describe(status),
            "worker died; starting it again"
        );
        workers.died();
        died = true;
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.wait() => return Ok(None),
        }
        worker = spec.spawn(id).map_err(Error::StartWorker)?;
        workers.restarted();
    }
}

/// Ends a worker by closing its standard input. Returns the usage that it has printed.
async fn end(id: &str, mut worker: Worker) -> Option<Usage> {
    drop(worker.input.take());
    match timeout(END_TIMEOUT, worker.process.wait()).await {
        Ok(Ok(status)) => debug!(worker = id, status = describe(status), "worker ended"),
        Ok(Err(error)) => warn!(worker = id, %error, "cannot wait for a worker"),
        Err(_) => {
            warn!(worker = id, "worker does not end; killing it");
            if let Err(error) = worker.process.kill().await {
                warn!(worker = id, %error, "cannot kill a worker");
            }
        }
    }
    // All its output is in the pipe now, unless a child of the worker holds the pipe open.
    let mut printed = Vec::new();
    let mut output = worker.output.take()?;
    let read = timeout(END_TIMEOUT, output.read_to_end(&mut printed)).await;
    if !matches!(read, Ok(Ok(_))) {
        warn!(worker = id, "cannot read the usage of a worker");
    }
    Usage::parse_last(&String::from_utf8_lossy(&printed))
}

/// The exit of a worker, if it would be the same after starting it again.
fn permanent(status: ExitStatus) -> Option<Exit> {
    let code = u8::try_from(status.code()?).ok()?;
    [Exit::Usage, Exit::Denied, Exit::Unable]
        .into_iter()
        .find(|exit| exit.code() == code)
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_long_life() {
        let mut deaths = Deaths::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..6).filter_map(|_| deaths.pause(short)).collect();
        let expected = [100, 200, 400, 800, 1_000, 1_000];
        assert_eq!(pauses, expected.map(Duration::from_millis));
        assert_eq!(deaths.pause(LONG_LIFE), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_worker_that_always_dies_is_not_started_for_ever() {
        let mut deaths = Deaths::default();
        let last = (1..).find(|_| deaths.pause(Duration::ZERO).is_none());
        assert_eq!(last, Some(MAX_DEATHS));
    }
}

//! The worker processes of a run on one machine: started as children, started again when they die,
//! and ended with this process however it ends.
//!
//! A child watches its standard input, the other end of which is this process's alone: when this
//! process is gone, even killed, the child sees the end of its input and ends. Each is a static
//! member of the group, so that one that is started again is back in half a second.

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

/// The pause before a dead worker is started again; doubled with each death in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A worker that lived so long starts afresh with its pauses.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// So many deaths in a row, each after a short life, are not bad luck. A job that kills costs some
/// six workers their life before it is a dead letter, and there may be several such jobs.
const MAX_DEATHS: u32 = 200;

/// How long a worker may take to end when its input does: longer than it allows itself.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// How workers are started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// This program.
    pub program: PathBuf,
    /// Arguments of every worker.
    pub arguments: Vec<OsString>,
    /// Variables of every worker.
    pub variables: Vec<(&'static str, OsString)>,
    /// The workers' group, of which each is a static member.
    pub group: String,
    /// How many.
    pub workers: usize,
    /// What of their outcomes is held back, of the first.
    pub unread_limit: Option<UnreadLimit>,
}

/// How often to start a worker that dies, and when no more.
#[derive(Clone, Copy, Debug, Default)]
struct Deaths {
    in_a_row: u32,
}

impl Deaths {
    /// The pause after a death at this age; `None` when there were too many.
    fn pause(&mut self, age: Duration) -> Option<Duration> {
        self.in_a_row = if age >= LONG_LIFE {
            1
        } else {
            self.in_a_row + 1
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.in_a_row - 1).min(16));
        (self.in_a_row < MAX_DEATHS).then_some(pause.min(LONGEST_PAUSE))
    }
}

/// What is left of a worker when the fleet has ended.
struct Slot {
    number: usize,
    process: ProcessReport,
}

/// Running workers.
pub struct Fleet {
    slots: JoinSet<Result<Slot, Error>>,
    /// Those that have ended as they were asked to.
    ended: Vec<Slot>,
    stop: Shutdown,
}

impl Fleet {
    /// Starts all workers. Their state is told to `progress`.
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

    /// Waits until a worker cannot be kept alive. While all can, it waits for ever.
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

    /// Asks all workers to end: each finishes the job in hand, commits and leaves.
    pub fn stop(&self) {
        self.stop.request(service::Signal::Terminate);
    }

    /// Ends all workers. One that does not end in time is killed. Returns what each has used, by its
    /// number.
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
    /// How the worker of this number, from 1, is started.
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
            // A Ctrl-C in the terminal is this process's to hear; it ends its workers in order.
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
    /// Kept apart, for waiting for a process closes its input.
    input: Option<ChildStdin>,
    /// Where it tells at its end what it has used: one line, for which a pipe has room.
    output: Option<ChildStdout>,
}

/// Keeps one worker alive until it is to end. Returns what it has used; `None` when one of its
/// processes ended without telling.
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
        if let Some(exit) = useless(status) {
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

/// Ends one worker through its standard input. Returns what it has told of its usage.
async fn end(id: &str, mut worker: Worker) -> Option<Usage> {
    drop(worker.input.take());
    match timeout(END_PATIENCE, worker.process.wait()).await {
        Ok(Ok(status)) => debug!(worker = id, status = describe(status), "worker ended"),
        Ok(Err(error)) => warn!(worker = id, %error, "cannot wait for a worker"),
        Err(_) => {
            warn!(worker = id, "worker does not end; killing it");
            if let Err(error) = worker.process.kill().await {
                warn!(worker = id, %error, "cannot kill a worker");
            }
        }
    }
    // All that it has said is in the pipe now, unless a child of its own holds that open.
    let mut said = Vec::new();
    let mut output = worker.output.take()?;
    let read = timeout(END_PATIENCE, output.read_to_end(&mut said)).await;
    if !matches!(read, Ok(Ok(_))) {
        warn!(worker = id, "cannot read what a worker says of its usage");
    }
    Usage::parse_last(&String::from_utf8_lossy(&said))
}

/// What a worker says that would say the same when it is started again.
fn useless(status: ExitStatus) -> Option<Exit> {
    let told = u8::try_from(status.code()?).ok()?;
    [Exit::Usage, Exit::Denied, Exit::Unable]
        .into_iter()
        .find(|exit| exit.code() == told)
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_a_long_life_forgives() {
        let mut deaths = Deaths::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..6).filter_map(|_| deaths.pause(short)).collect();
        let expected = [100, 200, 400, 800, 1_000, 1_000];
        assert_eq!(pauses, expected.map(Duration::from_millis));
        assert_eq!(deaths.pause(LONG_LIFE), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_worker_that_always_dies_is_given_up() {
        let mut deaths = Deaths::default();
        let given_up = (1..).find(|_| deaths.pause(Duration::ZERO).is_none());
        assert_eq!(given_up, Some(MAX_DEATHS));
    }
}

//! Whether the run is cancelled while its jobs are published: a thread reads the runs topic at
//! intervals, and the one that publishes looks at what it has found, which costs one load.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use kafka::{Cluster, RunsReader};
use pipeline::{RunCancelled, RunHistory, RunId};
use tracing::warn;

use crate::args::Config;
use crate::error::Error;

/// How often the runs topic is read. It is read first when jobs were published for as long, so that a
/// short dispatch does not read it at all.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long one read waits for events.
const STEP: Duration = Duration::from_millis(20);

/// Watches for a cancellation of a run, until it is dropped.
#[derive(Debug)]
pub struct CancelWatch {
    found: Arc<OnceLock<RunCancelled>>,
    /// Dropped, it ends the thread.
    _publishing: SyncSender<()>,
}

impl CancelWatch {
    /// Begins to watch for a cancellation of the generation in which jobs are published, or of a later
    /// one.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(config: &Config, generation: u32) -> Result<Self, Error> {
        let found = Arc::default();
        let (publishing, ended) = sync_channel(0);
        let watcher = Watcher {
            cluster: config.cluster.clone(),
            topic: config.topics.runs.clone(),
            run_id: config.run_id.clone(),
            generation,
            found: Arc::clone(&found),
            ended,
        };
        // Not joined: it may wait for a broker, and nothing depends on it any more.
        thread::Builder::new()
            .name("cancellation".to_owned())
            .spawn(move || watcher.run())
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self {
            found,
            _publishing: publishing,
        })
    }

    /// Returns at once.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the run was cancelled.
    pub fn check(&self) -> Result<(), Error> {
        match self.found.get() {
            None => Ok(()),
            Some(cancelled) => Err(Error::cancelled(cancelled)),
        }
    }
}

/// What the thread works with.
struct Watcher {
    cluster: Cluster,
    topic: String,
    run_id: RunId,
    generation: u32,
    found: Arc<OnceLock<RunCancelled>>,
    ended: Receiver<()>,
}

impl Watcher {
    /// Without it a cancelled run is published to its end, and nobody computes it: nothing that goes
    /// wrong here ends the dispatcher.
    fn run(&self) {
        let mut is_logged = false;
        while let Err(error) = self.read() {
            if !is_logged {
                warn!(%error, "cannot read whether the run is cancelled");
                is_logged = true;
            }
            if error.is_denied() {
                return;
            }
        }
    }

    /// Reads until the run is cancelled or nothing is published any more.
    fn read(&self) -> Result<(), kafka::Error> {
        if self.has_ended_within(INTERVAL) {
            return Ok(());
        }
        let mut history = RunHistory::new(self.run_id.clone());
        let mut reader = RunsReader::start(&self.cluster, &self.topic)?;
        loop {
            let events = reader.read(STEP)?;
            events.into_iter().for_each(|event| history.apply(event));
            if let Some(cancelled) = history.timeline().cancelled_since(self.generation) {
                // Nobody else sets it.
                let _ = self.found.set(cancelled.clone());
                return Ok(());
            }
            let pause = match reader.is_caught_up() {
                true => INTERVAL,
                false => Duration::ZERO,
            };
            if self.has_ended_within(pause) {
                return Ok(());
            }
        }
    }

    fn has_ended_within(&self, timeout: Duration) -> bool {
        self.ended.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
    }
}

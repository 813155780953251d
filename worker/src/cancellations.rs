//! The thread of a worker that follows which runs are cancelled.

use std::thread;
use std::time::{Duration, Instant};

use kafka::{CancellationReader, Cluster, SharedCancellations, TopicNames, topics};
use service::Shutdown;
use tracing::warn;

use crate::args::Config;
use crate::error::Error;

/// A worker has worked this long when it begins to follow the topic. The reader takes a client with
/// its threads and connections, which is more than the jobs of a run of a second.
const BEGIN_AFTER: Duration = Duration::from_secs(1);

/// How long one read waits for events.
const STEP: Duration = Duration::from_millis(500);

/// Begins to follow the runs topic, a moment later, until the shutdown is requested. Without it, jobs of
/// cancelled runs are computed, too, so nothing that goes wrong with it ends the worker.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn follow(config: &Config, shutdown: &Shutdown) -> Result<SharedCancellations, Error> {
    let known = SharedCancellations::default();
    let (cluster, topics) = (config.cluster.clone(), config.topics.clone());
    let (shared, shutdown) = (known.clone(), shutdown.clone());
    thread::Builder::new()
        .name("cancellations".to_owned())
        .spawn(move || {
            thread::sleep(BEGIN_AFTER);
            run(&cluster, &topics, &shutdown, &shared);
        })
        .map_err(|error| Error::Thread(error.to_string()))?;
    Ok(known)
}

fn run(cluster: &Cluster, topics: &TopicNames, shutdown: &Shutdown, shared: &SharedCancellations) {
    let mut failing_since: Option<Instant> = None;
    while let Err(error) = read(cluster, topics, shutdown, shared) {
        if error.is_denied() {
            warn!(%error, "jobs of cancelled runs are computed; grant Read on the runs topic");
            return;
        }
        let since = failing_since.get_or_insert_with(|| {
            warn!(%error, "cannot read which runs are cancelled; trying again");
            Instant::now()
        });
        thread::sleep(topics::pause(since.elapsed()));
    }
}

/// Reads until the shutdown is requested.
fn read(
    cluster: &Cluster,
    topics: &TopicNames,
    shutdown: &Shutdown,
    shared: &SharedCancellations,
) -> Result<(), kafka::Error> {
    let stopped = || shutdown.is_requested();
    let mut reader = CancellationReader::start(cluster, topics)?;
    while !stopped() {
        match reader.read(cluster, STEP, shared, &stopped) {
            Err(kafka::Error::Stopped) => return Ok(()),
            read => read?,
        }
    }
    Ok(())
}

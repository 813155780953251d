//! The thread of a worker that reads the cancellations of runs.

use std::thread;
use std::time::{Duration, Instant};

use kafka::{CancellationReader, Cluster, SharedCancellations, TopicNames, topics};
use service::Shutdown;
use tracing::warn;

use crate::args::Config;
use crate::error::Error;

/// The time from the start of the worker to that of the reader. The reader has a client with threads
/// and connections of its own, which would cost a run of a second more than its jobs.
const BEGIN_AFTER: Duration = Duration::from_secs(1);

/// The longest time for which one read waits for events.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Starts a thread that reads the runs topic until a shutdown is requested. Without the cancellations,
/// jobs of cancelled runs are computed, too, so an error of this thread does not end the worker.
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
            warn!(
                %error,
                "cannot read cancellations; jobs of cancelled runs are computed until Read on the \
                 runs topic is granted and the worker restarted"
            );
            return;
        }
        let since = failing_since.get_or_insert_with(|| {
            warn!(%error, "cannot read cancellations; retrying");
            Instant::now()
        });
        thread::sleep(topics::pause(since.elapsed()));
    }
}

/// Reads cancellations until a shutdown is requested.
fn read(
    cluster: &Cluster,
    topics: &TopicNames,
    shutdown: &Shutdown,
    shared: &SharedCancellations,
) -> Result<(), kafka::Error> {
    let stopped = || shutdown.is_requested();
    let mut reader = CancellationReader::start(cluster, topics)?;
    while !stopped() {
        match reader.read(cluster, READ_TIMEOUT, shared, &stopped) {
            Err(kafka::Error::Stopped) => return Ok(()),
            read => read?,
        }
    }
    Ok(())
}

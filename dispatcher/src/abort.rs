//! How others learn that a run is aborted: a dispatcher that cannot finish publishes it on the runs
//! topic, where the run is its own. [`Dispatch`] decides that.

use std::time::{Duration, Instant};

use kafka::{BatchProducer, Topic, publish_run_event, topics};
use pipeline::{RunAborted, RunEvent, RunHistory};
use tracing::warn;

use crate::args::Config;
use crate::dispatch::Dispatch;
use crate::error::Error;
use crate::run::options;

/// How long to try to publish that a run is aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads what the runs topic has of the run, where that decides whose it is.
pub(crate) fn look_before_abort(config: &Config, dispatch: &mut Dispatch) {
    if dispatch.looks_before_abort() {
        let started = Instant::now();
        let over = || started.elapsed() >= ABORT_TIMEOUT;
        let (cluster, runs) = (&config.cluster, &config.topics.runs);
        let history = kafka::run_history(cluster, runs, &config.run_id, &over);
        dispatch.apply_last_history(history.ok());
    }
}

/// Publishes that the run is aborted, if that can be done soon.
pub(crate) fn publish_abort(producer: &BatchProducer, runs: &Topic, aborted: RunAborted) {
    let event = RunEvent::Aborted(aborted);
    if let Err(error) = publish_run_event(producer, runs, &event, ABORT_TIMEOUT) {
        warn!(%error, "cannot publish that the run is aborted");
    }
}

/// Publishes the abort of a run whose data set cannot be opened, if other processes may know the run by
/// its name and a broker answers. A run that was opened is not aborted: it may be another dispatcher's,
/// and processes that wait for it can wait until this one is started again without the mistake.
pub(crate) fn abort_by_name(config: &Config, error: Error) -> Error {
    // One that was stopped is to end at once.
    if !config.run_is_named || matches!(error, Error::Stopped(_)) {
        return error;
    }
    // Logged before the broker is looked for, which may take a while.
    tracing::error!("{error}");
    let started = Instant::now();
    let over = || started.elapsed() >= ABORT_TIMEOUT;
    if config.cluster.wait_until_reachable(&over).is_err() {
        return error;
    }
    // Topics are not made for that: without them nobody waits.
    let topic = &config.topics.runs;
    let Ok(Some(_)) = topics::partition_count(&config.cluster, topic) else {
        return error;
    };
    let mut dispatch = Dispatch::new(options(config));
    // A topic that cannot be read has no run that is known to be another's.
    let history = kafka::run_history(&config.cluster, topic, &config.run_id, &over)
        .unwrap_or_else(|_| RunHistory::new(config.run_id.clone()));
    if dispatch.apply_history(history).is_err() {
        return error;
    }
    let Some(aborted) = dispatch.abort(&error) else {
        return error;
    };
    let made = BatchProducer::new(&config.cluster)
        .and_then(|mut producer| Ok((producer.topic(topic)?, producer)));
    match made {
        Ok((topic, producer)) => publish_abort(&producer, &topic, aborted),
        Err(error) => warn!(%error, "cannot publish that the run is aborted"),
    }
    error
}

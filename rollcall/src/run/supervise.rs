//! The supervision of a run on one machine: dispatcher and aggregator, which are threads of this
//! process, and the workers' processes.

use std::thread;
use std::time::{Duration, Instant};

use aggregator::Report;
use dispatcher::Dispatched;
use service::{Shutdown, Signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use crate::error::Error;
use crate::fleet::Fleet;

/// How long a dispatcher may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Running<T> = oneshot::Receiver<T>;

/// Runs a blocking service on a thread of its own.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    service: impl FnOnce() -> T + Send + 'static,
) -> Result<Running<T>, Error> {
    let (done, running) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody listens any more when the run has failed already.
            let _ = done.send(service());
        })
        .map_err(|error| Error::Thread(error.to_string()))?;
    Ok(running)
}

/// What goes on in this process.
pub(super) struct Parts {
    /// When the command began, as if the data set had been there.
    pub begun: Instant,
    /// The dispatcher.
    pub dispatching: Running<Result<Dispatched, dispatcher::Error>>,
    /// Ends when all outcomes are collected that will be.
    pub collecting: Running<()>,
    /// The aggregator.
    pub aggregating: Running<Result<Report, aggregator::Error>>,
}

/// Waits for the aggregator's judgement. The first failure of any part stops the others; workers
/// end while it judges and writes, for they have nothing left to do.
pub(super) async fn supervise(
    parts: Parts,
    fleet: &mut Fleet,
    shutdown: &Shutdown,
    stop: &Shutdown,
) -> Result<Report, Error> {
    let died = |name: &str| Error::Thread(format!("the {name} died"));
    let mut failure: Option<Error> = None;
    let mut dispatching = std::pin::pin!(parts.dispatching);
    let mut collecting = std::pin::pin!(parts.collecting);
    let mut aggregating = std::pin::pin!(parts.aggregating);
    let mut dispatched = false;
    let mut first_job_at = None;
    let mut collected = false;
    let mut fleet_failed = false;
    loop {
        tokio::select! {
            signal = shutdown.wait(), if !stop.is_requested() => stop.request(signal),
            result = &mut dispatching, if !dispatched => {
                dispatched = true;
                match result {
                    Ok(Ok(dispatched)) => {
                        first_job_at = dispatched.first_job_at;
                        debug!("{dispatched}");
                    }
                    Ok(Err(error)) => {
                        failure.get_or_insert(error.into());
                        stop.request(Signal::Terminate);
                    }
                    Err(_) => {
                        failure.get_or_insert(died("dispatcher"));
                        stop.request(Signal::Terminate);
                    }
                }
            }
            error = fleet.failure(), if !fleet_failed => {
                fleet_failed = true;
                failure.get_or_insert(error);
                stop.request(Signal::Terminate);
            }
            _ = &mut collecting, if !collected => {
                collected = true;
                fleet.stop();
            }
            result = &mut aggregating => {
                // Nothing that the dispatcher still does can matter, and it must be gone before
                // the broker is.
                stop.request(Signal::Terminate);
                if !dispatched {
                    match timeout(STOP_TIMEOUT, &mut dispatching).await {
                        Ok(Ok(Ok(dispatched))) => first_job_at = dispatched.first_job_at,
                        Ok(Ok(Err(error))) if !matches!(error, dispatcher::Error::Stopped(_)) => {
                            failure.get_or_insert(error.into());
                        }
                        _ => {}
                    }
                }
                let first_job = first_job_at.map(|at| at.saturating_duration_since(parts.begun));
                // The first failure is the cause; that the others were stopped is its consequence.
                return match (failure, result) {
                    (Some(error), _) => Err(error),
                    (None, Ok(Ok(mut report))) => {
                        report.first_job_seconds = first_job.map(|time| time.as_secs_f64());
                        Ok(report)
                    }
                    (None, Ok(Err(error))) => Err(error.into()),
                    (None, Err(_)) => Err(died("aggregator")),
                };
            }
        }
    }
}

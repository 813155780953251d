//! The worker process: it starts, runs until a shutdown is requested or an error ends it, and winds
//! down.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use computations::Registry;
use kafka::topics;
use service::{Exit, Shutdown, Signal, clock, listen, logging};
use tracing::{info, warn};

use crate::args::Config;
use crate::driver::{Driver, NO_PARTITIONS};
use crate::error::Error;
use crate::event_loop::Limits;
use crate::executor::{Executor, Inline};
use crate::metrics::Metrics;

/// The longest time to have finished work acknowledged and committed and to leave the group, where the
/// parent process has ended, and perhaps the broker with it.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a worker for jobs of these computations until `shutdown` is requested.
///
/// # Errors
/// When no broker answers in time, when an error ends the worker, or when a job is of another
/// computation. The next owners of its partitions repeat the work that it had in flight.
pub fn run(config: &Config, shutdown: &Shutdown, computations: &Registry) -> Result<Exit, Error> {
    let simulate_work = config.simulate_work;
    run_with(config, shutdown, || {
        Inline::new(computations.clone(), simulate_work)
    })
}

/// Runs a worker with executors of the caller: `executor` makes one for each compute thread.
///
/// # Errors
/// Those of [`run`].
pub fn run_with<E: Executor + Send + 'static>(
    config: &Config,
    shutdown: &Shutdown,
    executor: impl Fn() -> E,
) -> Result<Exit, Error> {
    logging::set_worker(&config.worker.id);
    clock::watch();
    let metrics = Metrics::default();
    // The server is dropped last, after the worker has ended.
    let _listening = config
        .listen
        .map(|address| {
            let health = Arc::clone(&metrics.health);
            listen::serve(address, health, metrics.registry(), shutdown)
        })
        .transpose()?;
    if config.exit_with_stdin {
        end_with_stdin(shutdown.clone());
    }
    let stopped = || shutdown.is_requested();
    metrics.health.set_not_ready("no broker has answered yet");
    match config.cluster.wait_until_reachable(&stopped) {
        Err(kafka::Error::Stopped) => return Ok(Exit::Complete),
        reached => reached?,
    }
    metrics
        .health
        .set_not_ready("waiting for a dispatcher to create the topics");
    let Some(outcome_partitions) = wait_for_topics(config, shutdown)? else {
        return Ok(Exit::Complete);
    };
    metrics.health.set_not_ready(NO_PARTITIONS);
    let limits = Limits {
        leave_timeout: match config.exit_with_stdin {
            true => ORPHAN_TIMEOUT,
            false => Limits::default().leave_timeout,
        },
        ..Limits::default()
    };
    let driver = Driver::start(
        config,
        limits,
        shutdown,
        outcome_partitions,
        &metrics,
        executor,
    )?;
    info!(group = config.membership.group, "worker is up");
    let result = driver.run(shutdown);
    metrics.health.rest();
    result.map(|()| Exit::Complete)
}

/// Requests a shutdown at the end of standard input, which means that the parent process has ended or
/// requests it.
fn end_with_stdin(shutdown: Shutdown) {
    let watching = thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // The bytes are ignored, and an error counts as the end.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            shutdown.request(Signal::Terminate);
            // Closing a client whose broker has died with the parent may never return.
            thread::sleep(Limits::default().jobs_timeout + 2 * ORPHAN_TIMEOUT);
            warn!("winding down took too long; exiting");
            std::process::exit(Signal::Terminate.exit_code().into());
        });
    if let Err(error) = watching {
        warn!(%error, "cannot watch standard input");
    }
}

/// The number of partitions of the outcomes topic, once a dispatcher has created the topics; `None`
/// where a shutdown is requested meanwhile.
fn wait_for_topics(config: &Config, shutdown: &Shutdown) -> Result<Option<usize>, Error> {
    let since = Instant::now();
    let stopped = || shutdown.is_requested();
    let mut is_logged = false;
    loop {
        if stopped() {
            return Ok(None);
        }
        let look_for = |topic: &str| topics::look_for(&config.cluster, topic, &stopped);
        let both = look_for(&config.topics.jobs)
            .and_then(|jobs| Ok((jobs, look_for(&config.topics.outcomes)?)));
        let both = match both {
            Err(kafka::Error::Stopped) => return Ok(None),
            both => both?,
        };
        if let (Some(_), Some(partitions)) = both {
            return Ok(Some(partitions));
        }
        if !is_logged {
            info!(
                topic = config.topics.jobs,
                "waiting for a dispatcher to create the topics"
            );
            is_logged = true;
        }
        thread::sleep(topics::pause(since.elapsed()));
    }
}

//! The life of a worker process: it comes up, works until it is asked to end or can go on no longer,
//! and winds down.

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

/// How long it takes at most to have finished work acknowledged, commit it and leave the group where
/// the parent process is gone, and maybe the broker with it.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(2);

/// Works until `shutdown` is requested, on jobs of these computations.
///
/// # Errors
/// When no broker answers in time, when the worker can go on no longer, or when a job is of another
/// computation. What it had in hand is done again by the next owners of its partitions.
pub fn run(config: &Config, shutdown: &Shutdown, computations: &Registry) -> Result<Exit, Error> {
    let simulate_work = config.simulate_work;
    run_with(config, shutdown, || {
        Inline::new(computations.clone(), simulate_work)
    })
}

/// The same with an executor of one's own for each compute thread.
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
    // Closed last, when everything else is.
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
    let worked = driver.run(shutdown);
    metrics.health.rest();
    worked.map(|()| Exit::Complete)
}

/// The end of standard input asks for the end: the parent process is gone, or wants it.
fn end_with_stdin(shutdown: Shutdown) {
    let watching = thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // Whatever comes, only the end matters, and an error is an end.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            shutdown.request(Signal::Terminate);
            // Closing a client whose broker has died with the parent may take for ever.
            thread::sleep(Limits::default().jobs_timeout + 2 * ORPHAN_TIMEOUT);
            warn!("the worker does not end by itself; leaving");
            std::process::exit(Signal::Terminate.exit_code().into());
        });
    if let Err(error) = watching {
        warn!(%error, "cannot watch standard input");
    }
}

/// Waits until a dispatcher has made the topics; tells how many partitions outcomes have. `None`
/// when it was asked to end meanwhile.
fn wait_for_topics(config: &Config, shutdown: &Shutdown) -> Result<Option<usize>, Error> {
    let since = Instant::now();
    let stopped = || shutdown.is_requested();
    let mut said = false;
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
        if !said {
            info!(
                topic = config.topics.jobs,
                "waiting for a dispatcher to create the topics"
            );
            said = true;
        }
        thread::sleep(topics::pause(since.elapsed()));
    }
}

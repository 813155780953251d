//! A whole dispatch, in order: read the data set while the broker is got ready, group, open the
//! run, publish every job, wait for every acknowledgement, and only then write the manifest.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kafka::{
    BatchProducer, GroupOffsets, RunsReader, Topic, end_offsets, publish_run_event, topics,
};
use pipeline::run::NUMBERING_VERSION;
use pipeline::{Manifest, RunAborted, RunEvent, RunOpened};
use serde::Serialize;
use service::listen::{self, Probing};
use service::metrics::set;
use service::{Exit, Progress, Show, Shutdown, logging, machine, say};
use tracing::{info, warn};

use crate::args::{Args, Config};
use crate::credit::Credit;
use crate::error::Error;
use crate::job_set::JobSet;
use crate::packing::Packing;
use crate::publish::{Published, Target, bytes_in_messages, publish};
use crate::rejects::Rejects;
use crate::source::{DataSet, Source};
use crate::spill::Spill;

/// How long the broker may take to acknowledge an event of the run.
const EVENT_PATIENCE: Duration = Duration::from_secs(30);

/// How long to try to tell others that a run is given up.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// What was dispatched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatched {
    /// What the dispatcher swore to.
    pub manifest: Manifest,
    /// Bytes of all messages' payloads.
    pub bytes: u64,
    /// The file with the rejected rows, if there are any.
    pub rejects: Option<std::path::PathBuf>,
}

impl fmt::Display for Dispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manifest = &self.manifest;
        write!(
            f,
            "run {} dispatched: {} jobs in {} messages; {} rows read, {} accepted, {} rejected",
            manifest.run_id,
            manifest.jobs,
            manifest.messages,
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

/// The `dispatcher` process: shows its progress, and says on standard output what was dispatched.
///
/// # Errors
/// Those of [`Args::config`] and [`run`].
pub fn serve(args: &Args, shutdown: &Shutdown) -> Result<Exit, Error> {
    let config = args.config()?;
    logging::set_run_id(config.run_id.as_str());
    let progress = Progress::new();
    // Closed last, when everything else is.
    let _watched = match args.listen.listen {
        None => None,
        Some(address) => {
            let health = &progress.health;
            let registry = config.metrics.registry(&progress);
            let listening = listen::serve(address, Arc::clone(health), registry, shutdown)?;
            Some((listening, probe(&config, &progress)))
        }
    };
    let shown = progress.show(Show::new(args.log.quiet, args.json.json));
    let dispatched = run(&config, shutdown, &progress);
    drop(shown);
    match &dispatched {
        Ok(dispatched) if args.json.json => machine::say_result(&DispatchedResult::new(dispatched)),
        Err(error) if args.json.json => machine::say_failure(error),
        Ok(dispatched) if !args.log.quiet => {
            say(&format_args!("{dispatched}\n")).map_err(Error::Say)?;
        }
        _ => {}
    }
    dispatched.map(|_| Exit::Complete)
}

/// A dispatcher is ready while a broker answers.
fn probe(config: &Config, progress: &Progress) -> Probing {
    let cluster = config.cluster.clone();
    Probing::start(Arc::clone(&progress.health), move || cluster.readiness())
}

/// What was dispatched, for machines.
#[derive(Serialize)]
struct DispatchedResult<'a> {
    verdict: &'static str,
    exit_code: u8,
    run_id: &'a str,
    jobs: u64,
    messages: u64,
    bytes: u64,
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
    fn new(dispatched: &'a Dispatched) -> Self {
        let manifest = &dispatched.manifest;
        let rejects = dispatched.rejects.iter();
        Self {
            verdict: "dispatched",
            exit_code: Exit::Complete.code(),
            run_id: manifest.run_id.as_str(),
            jobs: manifest.jobs,
            messages: manifest.messages,
            bytes: dispatched.bytes,
            rows: RowsResult {
                read: manifest.rows_read,
                accepted: manifest.rows_accepted,
                rejected: manifest.rows_rejected(),
            },
            paths: rejects.map(|path| path.display().to_string()).collect(),
        }
    }
}

/// Dispatches a data set.
///
/// # Errors
/// When the data set cannot be read, the broker cannot be used, or it was stopped. Whoever waits for
/// the run is then told that it is aborted.
pub fn run(config: &Config, shutdown: &Shutdown, progress: &Progress) -> Result<Dispatched, Error> {
    if config.input.contains(&config.rejects) {
        return Err(Error::RejectsOverDataSet(config.rejects.clone()));
    }
    if !config.input.is_rereadable() {
        info!("standard input cannot be read again: this run is not resumable");
    }
    // A data set that cannot be read is told at once, whatever the broker does.
    let source = match Source::open(&config.input, &config.grouping, &progress.read) {
        Ok(source) => source,
        Err(error) => return Err(abort_by_name(config, error)),
    };
    thread::scope(|scope| {
        let broker = thread::Builder::new()
            .name("broker".to_owned())
            .spawn_scoped(scope, || Broker::prepare(config, shutdown))
            .map_err(|error| Error::Thread(error.to_string()))?;
        let read = read_and_group(config, source, shutdown, progress);
        let broker = broker
            .join()
            .map_err(|_| Error::Thread("it panicked".to_owned()))?;
        match (read, broker) {
            (Ok(read), Ok(mut broker)) => {
                let dispatched = dispatch(config, shutdown, progress, &read, &mut broker);
                dispatched.map_err(|error| broker.abort(config, error))
            }
            (Err(error), Ok(broker)) => Err(broker.abort(config, error)),
            (Ok(_), Err(error)) => Err(error),
            // Whoever reads it can do more about the data set.
            (Err(error), Err(_)) => Err(error),
        }
    })
}

/// The data set, cut into jobs.
struct Read {
    rows_read: u64,
    rejected: std::collections::BTreeMap<String, u64>,
    rejects: Option<std::path::PathBuf>,
    jobs: JobSet,
    stages: Vec<(String, f64)>,
}

fn read_and_group(
    config: &Config,
    source: Source<'_>,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<Read, Error> {
    let started = Instant::now();
    let rejects = Rejects::new(&config.rejects, config.max_rejects);
    let spill = Spill::new(
        &config.spill_folder,
        config.grouping.grain,
        config.memory_budget_bytes,
    );
    let DataSet {
        rows,
        spill,
        rows_read,
        rejects,
    } = source.read(rejects, spill, shutdown)?;
    // Grouping has no rounds that it could beat in, and waits for nobody.
    progress.health.rest();
    let read_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let jobs = JobSet::new(rows, spill, &config.grouping)?;
    let group_seconds = started.elapsed().as_secs_f64();
    let metrics = &config.metrics;
    metrics.rows.inc_by(rows_read);
    metrics.rejected_rows.inc_by(rejects.total);
    metrics.stage_seconds.set("read", read_seconds);
    metrics.stage_seconds.set("group", group_seconds);
    metrics
        .jobs
        .set(i64::try_from(jobs.counts().jobs).unwrap_or(i64::MAX));
    info!(
        rows = rows_read,
        rejected = rejects.total,
        groups = jobs.counts().groups,
        jobs = jobs.counts().jobs,
        spilled_runs = jobs.counts().spilled_runs,
        "data set read"
    );
    Ok(Read {
        rows_read,
        rejected: rejects.by_reason,
        rejects: rejects.file,
        jobs,
        stages: vec![
            ("read".to_owned(), read_seconds),
            ("group".to_owned(), group_seconds),
        ],
    })
}

/// The broker, ready to be published to.
struct Broker {
    producer: BatchProducer,
    jobs: Topic,
    runs: Topic,
    jobs_start_offsets: Vec<i64>,
    outcomes_start_offsets: Vec<i64>,
}

impl Broker {
    /// Connects, makes the topics, and notes where they end.
    fn prepare(config: &Config, shutdown: &Shutdown) -> Result<Self, Error> {
        let cluster = &config.cluster;
        reach(config, shutdown)?;
        topics::create(cluster, &config.topics, &config.topic_spec)?;
        if config.uncommitted_limit.is_none() {
            let asked = config.topic_spec.retention;
            topics::warn_of_other_retention(cluster, &config.topics, asked);
        }
        if config.run_is_named {
            refuse_existing(config, shutdown)?;
        }
        let mut producer = BatchProducer::new(cluster)?;
        let ends = |topic: &str| -> Result<Vec<i64>, Error> {
            let partitions = topics::partition_count(cluster, topic)?;
            let partitions = partitions.ok_or_else(|| kafka::Error::NoTopic {
                topic: topic.to_owned(),
            })?;
            Ok(end_offsets(cluster, topic, partitions)?)
        };
        Ok(Self {
            jobs: producer.topic(&config.topics.jobs)?,
            runs: producer.topic(&config.topics.runs)?,
            jobs_start_offsets: ends(&config.topics.jobs)?,
            outcomes_start_offsets: ends(&config.topics.outcomes)?,
            producer,
        })
    }

    /// Tells whoever waits for the run that it will not come, and hands the error on.
    fn abort(&self, config: &Config, error: Error) -> Error {
        // That run is another dispatcher's.
        if matches!(error, Error::RunExists(_)) {
            return error;
        }
        if let Err(untold) = publish_abort(config, &self.producer, &self.runs, &error) {
            warn!(error = %untold, "cannot tell that the run is aborted");
        }
        error
    }
}

/// Waits for a broker.
fn reach(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    let stopped = || shutdown.is_requested();
    config
        .cluster
        .wait_until_reachable(&stopped)
        .map_err(|error| match (error, shutdown.requested()) {
            (kafka::Error::Stopped, Some(signal)) => Error::Stopped(signal),
            (error, _) => error.into(),
        })
}

/// The data set cannot be opened: if somebody may know the run by its name, and a broker is there,
/// they are told.
fn abort_by_name(config: &Config, error: Error) -> Error {
    if !config.run_is_named {
        return error;
    }
    // Said before the broker is looked for, which may take a while.
    tracing::error!("{error}");
    let started = Instant::now();
    let over = || started.elapsed() >= ABORT_PATIENCE;
    if config.cluster.wait_until_reachable(&over).is_err() {
        return error;
    }
    // Topics are not made for that: without them nobody waits.
    let topic = &config.topics.runs;
    let Ok(Some(_)) = topics::partition_count(&config.cluster, topic) else {
        return error;
    };
    let told = BatchProducer::new(&config.cluster).and_then(|mut producer| {
        let topic = producer.topic(topic)?;
        publish_abort(config, &producer, &topic, &error)
    });
    if let Err(untold) = told {
        warn!(error = %untold, "cannot tell that the run is aborted");
    }
    error
}

fn publish_abort(
    config: &Config,
    producer: &BatchProducer,
    runs: &Topic,
    error: &Error,
) -> Result<(), kafka::Error> {
    let event = RunEvent::Aborted(RunAborted {
        run_id: config.run_id.clone(),
        reason: error.without_rows(),
    });
    publish_run_event(producer, runs, &event, ABORT_PATIENCE)
}

/// A run is opened once: a name that is taken is refused.
fn refuse_existing(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(20);
    let mut reader = RunsReader::start(&config.cluster, &config.topics.runs)?;
    while !reader.is_caught_up() {
        for event in reader.read(STEP)? {
            // A run that was aborted before it was opened has left nothing behind.
            if matches!(&event, RunEvent::Opened(opened) if opened.run_id == config.run_id) {
                return Err(Error::RunExists(config.run_id.clone()));
            }
        }
        if let Some(signal) = shutdown.requested() {
            return Err(Error::Stopped(signal));
        }
    }
    Ok(())
}

fn dispatch(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
    read: &Read,
    broker: &mut Broker,
) -> Result<Dispatched, Error> {
    wait_for_workers(config, shutdown)?;
    let started = Instant::now();
    let opened = RunEvent::Opened(RunOpened {
        run_id: config.run_id.clone(),
        numbering_version: NUMBERING_VERSION,
        grouping: config.grouping.clone(),
        opened_at_ms: now_ms(),
        jobs_start_offsets: broker.jobs_start_offsets.clone(),
        outcomes_start_offsets: broker.outcomes_start_offsets.clone(),
    });
    publish_run_event(&broker.producer, &broker.runs, &opened, EVENT_PATIENCE)?;

    let partitions = broker.jobs_start_offsets.len();
    let counts = read.jobs.counts();
    let bytes = bytes_in_messages(counts.jobs, counts.rows);
    let packing = Packing::new(
        config.jobs_per_message,
        config.expected_job_time,
        bytes,
        partitions,
    );
    let credit = match &config.uncommitted_limit {
        None => None,
        Some(limit) => Some((
            Credit::new(&broker.jobs_start_offsets, limit.bytes_per_partition),
            GroupOffsets::new(
                &config.cluster,
                &limit.group,
                &config.topics.jobs,
                partitions,
            )?,
        )),
    };
    let target = Target {
        producer: &mut broker.producer,
        topic: &broker.jobs,
        partitions,
        packing,
        credit,
        metrics: &config.metrics,
    };
    let Published {
        messages,
        bytes,
        digest,
    } = publish(&config.run_id, &read.jobs, target, progress, shutdown)?;

    let mut stages = read.stages.clone();
    let publish_seconds = started.elapsed().as_secs_f64();
    config.metrics.stage_seconds.set("publish", publish_seconds);
    set(&config.metrics.in_flight_messages, 0);
    progress.health.rest();
    stages.push(("publish".to_owned(), publish_seconds));
    let manifest = Manifest {
        run_id: config.run_id.clone(),
        jobs: counts.jobs,
        rows_read: read.rows_read,
        rows_accepted: counts.rows,
        rejected: read.rejected.clone(),
        job_set_digest: digest,
        messages,
        stages,
    };
    let dispatched = RunEvent::Dispatched(manifest.clone());
    publish_run_event(&broker.producer, &broker.runs, &dispatched, EVENT_PATIENCE)?;
    info!(run_id = %config.run_id, jobs = manifest.jobs, messages, bytes, "run dispatched");
    Ok(Dispatched {
        manifest,
        bytes,
        rejects: read.rejects.clone(),
    })
}

/// Waits until as many workers as were asked for have joined their group.
fn wait_for_workers(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(100);
    let Some((wanted, group)) = &config.wait_for_workers else {
        return Ok(());
    };
    let patience = config.cluster.broker_timeout();
    let started = Instant::now();
    let mut said = false;
    loop {
        let joined = topics::group_size(&config.cluster, group)?;
        if joined >= *wanted {
            return Ok(());
        }
        if let Some(signal) = shutdown.requested() {
            return Err(Error::Stopped(signal));
        }
        if started.elapsed() >= patience {
            return Err(Error::TooFewWorkers {
                joined,
                wanted: *wanted,
                group: group.clone(),
                waited: patience,
            });
        }
        if !said {
            info!(group, wanted, joined, "waiting for workers");
            said = true;
        }
        thread::sleep(STEP);
    }
}

fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

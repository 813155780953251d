//! A whole dispatch: reads the data set while the broker is made ready, groups, and then does what the
//! [`Dispatch`] says, which decides the order.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use computations::Registry;
use kafka::{
    BatchProducer, GroupOffsets, Record, RunEventWriter, Topic, check_frozen_outcomes, end_offsets,
    publish_run_event, read_to_end, retract_abort, topics,
};
use pipeline::{JobHeader, Resume, RunEvent, RunHistory};
use service::listen::{self, Probing};
use service::metrics::set;
use service::{
    Exit, FaultPoint, Progress, Show, Shutdown, clock, json_output, logging, print, process,
};
use tracing::{info, warn};

use crate::abort::{abort_by_name, look_before_abort, publish_abort};
use crate::args::{Args, Config};
use crate::cancel_watch::CancelWatch;
use crate::columns::Selection;
use crate::dispatch::{Action, DataSetCounts, Dispatch, Options};
use crate::dispatched::{Dispatched, DispatchedResult, TakenUp};
use crate::error::Error;
use crate::job_set::JobSet;
use crate::publish::{Batching, FlowControl, Published, Publisher, Target, publish};
use crate::rejects::Rejects;
use crate::source::{DataSet, Source};
use crate::spill::Spill;
use crate::taken_up::committed;

/// How long the broker may take to acknowledge an event of the run; longer where it is waited for
/// longer.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The `dispatcher` process of a program that knows these computations: shows its progress, and says
/// on standard output what was dispatched.
///
/// # Errors
/// Those of [`Args::config`] and [`run`].
pub fn serve(args: &Args, shutdown: &Shutdown, computations: &Registry) -> Result<Exit, Error> {
    let config = args.config(computations)?;
    logging::set_run_id(config.run_id.as_str());
    clock::watch();
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
        Ok(dispatched) if args.json.json => {
            json_output::print_result(&DispatchedResult::new(dispatched))
        }
        Err(error) if args.json.json => json_output::print_failure(error),
        Ok(dispatched) if !args.log.quiet => {
            print(&format_args!("{dispatched}\n")).map_err(Error::Print)?;
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
    let selection = Selection {
        grouping: &config.grouping,
        payload: &config.payload,
    };
    let source = match Source::open(&config.input, selection, &progress.read, shutdown) {
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
            (Err(error), Ok(mut broker)) => Err(broker.abort(config, error)),
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
    partitions: usize,
    jobs_end_offsets: Vec<i64>,
    event_timeout: Duration,
    /// Decides what is done with the run.
    dispatch: Dispatch,
}

impl Broker {
    /// Connects, makes the topics, and goes as far with the run as can be done without the data set.
    fn prepare(config: &Config, shutdown: &Shutdown) -> Result<Self, Error> {
        let cluster = &config.cluster;
        // First of all: an idempotent one begins to ask for its id 500 ms after it was made.
        let mut producer = BatchProducer::new(cluster)?;
        reach(config, shutdown)?;
        let stopped = || shutdown.is_requested();
        topics::create(cluster, &config.topics, &config.topic_spec, &stopped)
            .map_err(|error| Error::of_cluster(error, shutdown))?;
        if config.uncommitted_limit.is_none() {
            let asked = config.topic_spec.retention;
            topics::warn_of_other_retention(cluster, &config.topics, asked);
        }
        let mut dispatch = Dispatch::new(options(config));
        let jobs_end_offsets = loop {
            match dispatch.next() {
                Action::ReadRuns => dispatch.apply_history(history(config, shutdown)?)?,
                Action::AskEndOffsets => {
                    let jobs = ends(config, &config.topics.jobs)?;
                    let outcomes = ends(config, &config.topics.outcomes)?;
                    dispatch.apply_end_offsets(jobs.clone(), outcomes);
                    break jobs;
                }
                action => unreachable!("{action:?} before the end offsets were asked for"),
            }
        };
        Ok(Self {
            jobs: producer.topic(&config.topics.jobs)?,
            runs: producer.topic(&config.topics.runs)?,
            producer,
            partitions: jobs_end_offsets.len(),
            jobs_end_offsets,
            event_timeout: EVENT_TIMEOUT.max(cluster.broker_timeout()),
            dispatch,
        })
    }

    /// Publishes an event of the run.
    fn publish_event(&mut self, event: &RunEvent) -> Result<(), Error> {
        publish_run_event(&self.producer, &self.runs, event, self.event_timeout)?;
        Ok(())
    }

    /// Publishes that the run is aborted, where that is this dispatcher's to say, and hands the error
    /// on.
    fn abort(&mut self, config: &Config, error: Error) -> Error {
        look_before_abort(config, &mut self.dispatch);
        if let Some(aborted) = self.dispatch.abort(&error) {
            publish_abort(&self.producer, &self.runs, aborted);
        }
        error
    }
}

fn ends(config: &Config, topic: &str) -> Result<Vec<i64>, Error> {
    let partitions = topics::partition_count(&config.cluster, topic)?;
    let partitions = partitions.ok_or_else(|| kafka::Error::NoTopic {
        topic: topic.to_owned(),
    })?;
    Ok(end_offsets(&config.cluster, topic, partitions)?)
}

pub(crate) fn options(config: &Config) -> Options {
    Options {
        run_id: config.run_id.clone(),
        run_is_named: config.run_is_named,
        run: config.options.clone(),
        is_rereadable: config.input.is_rereadable(),
        republishes: config.resume.is_some(),
        published_by: process::on_this_host("dispatcher"),
    }
}

/// What the runs topic has of the run.
fn history(config: &Config, shutdown: &Shutdown) -> Result<RunHistory, Error> {
    // It may have gone while the data set was read or jobs were published.
    reach(config, shutdown)?;
    let stopped = || shutdown.is_requested();
    let runs = &config.topics.runs;
    kafka::run_history(&config.cluster, runs, &config.run_id, &stopped)
        .map_err(|error| Error::of_cluster(error, shutdown))
}

/// Waits for a broker.
fn reach(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    let stopped = || shutdown.is_requested();
    config
        .cluster
        .wait_until_reachable(&stopped)
        .map_err(|error| Error::of_cluster(error, shutdown))
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
    let counts = read.jobs.counts();
    let data_set = DataSetCounts {
        jobs: counts.jobs,
        rows_read: read.rows_read,
        rows_accepted: counts.rows,
        rejected: read.rejected.clone(),
    };
    broker.dispatch.apply_data_set(data_set, now_ms())?;
    let mut published = None;
    loop {
        match broker.dispatch.next() {
            Action::PublishJobs => {
                let jobs = publish_missing(config, shutdown, progress, read, broker)?;
                let publish_seconds = started.elapsed().as_secs_f64();
                config.metrics.stage_seconds.set("publish", publish_seconds);
                set(&config.metrics.in_flight_messages, 0);
                progress.health.rest();
                let mut stages = read.stages.clone();
                stages.push(("publish".to_owned(), publish_seconds));
                broker.dispatch.apply_published(&jobs, stages);
                published = Some(jobs);
                FaultPoint::new("dispatcher.before-manifest").pass()?;
            }
            Action::Done => break,
            action => go_on(config, shutdown, read, broker, action)?,
        }
    }
    let dispatch = &broker.dispatch;
    let (published, manifest) = published
        .zip(dispatch.manifest())
        .expect("a run is dispatched when its jobs are published");
    info!(
        run_id = %config.run_id,
        jobs = manifest.jobs,
        messages = published.messages,
        bytes = published.bytes,
        "run dispatched"
    );
    Ok(Dispatched {
        manifest: manifest.clone(),
        bytes: published.bytes,
        rejects: read.rejects.clone(),
        taken_up: dispatch.resumed().map(|run| TakenUp {
            published_jobs: published.jobs,
            waiting_jobs: run.waiting(),
            was_dispatched: dispatch.was_dispatched(),
        }),
        first_job_at: published.first_at,
    })
}

/// Does one thing that the dispatch asks for, once the data set was read.
fn go_on(
    config: &Config,
    shutdown: &Shutdown,
    read: &Read,
    broker: &mut Broker,
    action: Action,
) -> Result<(), Error> {
    match action {
        Action::ReadRuns => broker.dispatch.apply_history(history(config, shutdown)?),
        Action::RetractAbort => {
            let timeout = broker.event_timeout;
            retract_abort(&broker.producer, &broker.runs, &config.run_id, timeout)?;
            broker.dispatch.apply_acknowledged()
        }
        Action::Open(opened) => {
            broker.publish_event(&RunEvent::Opened(opened))?;
            FaultPoint::new("dispatcher.after-opened").pass()?;
            broker.dispatch.apply_acknowledged()
        }
        Action::OpenAgain(opened) => {
            broker.publish_event(&RunEvent::Opened(opened))?;
            broker.dispatch.apply_acknowledged()
        }
        Action::AskCommitted => {
            let committed = match &config.resume {
                Some(group) => committed(config, group)?,
                None => Vec::new(),
            };
            broker.dispatch.apply_committed(committed)
        }
        Action::ReadJobs(from) => {
            let dispatch = &mut broker.dispatch;
            read_topic(
                config,
                shutdown,
                &config.topics.jobs,
                &from,
                &mut |record| {
                    dispatch.apply_job_record(record.partition, record.offset, record.payload);
                },
            )?;
            dispatch.apply_end_of_topic();
            Ok(())
        }
        Action::ReadOutcomes(from) => {
            let dispatch = &mut broker.dispatch;
            read_topic(
                config,
                shutdown,
                &config.topics.outcomes,
                &from,
                &mut |record| {
                    dispatch.apply_outcome_record(record.payload);
                },
            )?;
            dispatch.apply_end_of_topic();
            Ok(())
        }
        Action::Compare => {
            let undecodable = broker.dispatch.undecodable();
            if undecodable > 0 {
                warn!(
                    undecodable,
                    "messages on the topics cannot be read and are passed over"
                );
            }
            broker.dispatch.compare(&read.jobs)?;
            let waiting = broker.dispatch.resumed().map_or(0, Resume::waiting);
            info!(missing = broker.dispatch.missing(), waiting, "run resumed");
            Ok(())
        }
        Action::OpenGeneration(opened) => {
            let cluster = &config.cluster;
            check_frozen_outcomes(cluster, &config.topics, broker.dispatch.history())?;
            let writer = RunEventWriter::new(cluster, &config.topics.runs)?;
            writer.write(&RunEvent::Generation(opened), broker.event_timeout)?;
            broker.dispatch.apply_acknowledged()
        }
        Action::PublishManifest(manifest) => {
            broker.publish_event(&RunEvent::Dispatched(manifest))?;
            FaultPoint::new("dispatcher.after-manifest").pass()?;
            broker.dispatch.apply_acknowledged()
        }
        Action::AskEndOffsets | Action::ReadDataSet | Action::PublishJobs | Action::Done => {
            unreachable!("{action:?} once the data set was read and before jobs are published")
        }
    }
}

/// Hands over every record that a topic has now, from these offsets on. What retention has taken is as
/// if it had never been published.
fn read_topic(
    config: &Config,
    shutdown: &Shutdown,
    topic: &str,
    from: &[i64],
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<(), Error> {
    let stopped = || shutdown.is_requested();
    read_to_end(&config.cluster, topic, from, &stopped, visit)
        .map_err(|error| Error::of_cluster(error, shutdown))
}

fn publish_missing(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
    read: &Read,
    broker: &mut Broker,
) -> Result<Published, Error> {
    let missing = broker.dispatch.missing();
    progress.published.set_total(missing);
    let partitions = broker.partitions;
    let batching = Batching::of_missing(
        config.jobs_per_message,
        config.expected_job_time,
        read.jobs.counts(),
        missing,
        partitions,
    );
    let limit = config.uncommitted_limit.as_ref();
    let flow_control =
        limit.map(|limit| FlowControl::new(&broker.jobs_end_offsets, limit.bytes_per_partition));
    let group = limit.map(|limit| {
        let topic = &config.topics.jobs;
        GroupOffsets::new(&config.cluster, &limit.group, topic, partitions)
    });
    let generation = broker.dispatch.generation();
    // Of the in-process broker, nobody else knows.
    let cancel_watch = match limit {
        None => Some(CancelWatch::start(config, generation)?),
        Some(_) => None,
    };
    let header = JobHeader {
        run_id: config.run_id.clone(),
        generation,
        computation: config.options.computation.of_jobs().into(),
    };
    let publisher = Publisher::new(
        &header,
        missing,
        batching,
        partitions,
        flow_control,
        Instant::now(),
    );
    let target = Target {
        producer: &mut broker.producer,
        topic: &broker.jobs,
        group: group.transpose()?,
        cancel_watch,
        metrics: &config.metrics,
    };
    let resumed = broker.dispatch.resumed();
    publish(publisher, &read.jobs, resumed, target, progress, shutdown)
}

/// Waits until as many workers as were asked for have joined their group.
fn wait_for_workers(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(100);
    let Some((wanted, group)) = &config.wait_for_workers else {
        return Ok(());
    };
    let timeout = config.cluster.broker_timeout();
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
        if started.elapsed() >= timeout {
            return Err(Error::TooFewWorkers {
                joined,
                wanted: *wanted,
                group: group.clone(),
                waited: timeout,
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

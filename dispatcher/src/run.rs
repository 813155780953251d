//! A whole dispatch, in order: read the data set while the broker is got ready, group, open the
//! run or take it up, publish every job that is missing, wait for every acknowledgement, and only
//! then write the manifest. What to do with a run that others know is for [`pipeline::resume`].

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kafka::{
    BatchProducer, GroupOffsets, Topic, end_offsets, publish_run_event, retract_abort, topics,
};
use pipeline::resume::{Attempt, Plan, Refusal, plan};
use pipeline::{
    Difference, JobHeader, Manifest, Resume, RunAborted, RunEvent, RunHistory, RunOpened,
};
use serde::Serialize;
use service::listen::{self, Probing};
use service::metrics::set;
use service::{Exit, FaultPoint, Progress, Show, Shutdown, clock, logging, machine, say};
use tracing::{info, warn};

use crate::args::{Args, Config};
use crate::columns::Selection;
use crate::credit::Credit;
use crate::error::Error;
use crate::job_set::JobSet;
use crate::packing::Packing;
use crate::publish::{Published, Target, bytes_in_messages, publish};
use crate::rejects::Rejects;
use crate::source::{DataSet, Source};
use crate::spill::Spill;
use crate::taken_up::{compare, take_up};

/// How long the broker may take to acknowledge an event of the run; longer where it is waited for
/// longer.
const EVENT_PATIENCE: Duration = Duration::from_secs(30);

/// How long to try to tell others that a run is given up.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// What was dispatched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatched {
    /// What the dispatcher swore to.
    pub manifest: Manifest,
    /// Bytes of the messages' payloads that were published now.
    pub bytes: u64,
    /// The file with the rejected rows, if there are any.
    pub rejects: Option<std::path::PathBuf>,
    /// `None` for a run that nobody had begun.
    pub taken_up: Option<TakenUp>,
    /// When the broker had acknowledged the first job; `None` when none was missing.
    pub first_job_at: Option<Instant>,
}

/// What was found of a run that somebody had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenUp {
    /// Jobs that were missing and are published now.
    pub published_jobs: u64,
    /// Jobs that wait for workers, as far as was looked for.
    pub waiting_jobs: u64,
    /// Whether the manifest was there already.
    pub was_dispatched: bool,
}

impl fmt::Display for Dispatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manifest = &self.manifest;
        let (run_id, jobs) = (&manifest.run_id, manifest.jobs);
        match self.taken_up {
            None => write!(
                f,
                "run {run_id} dispatched: {jobs} jobs in {} messages",
                manifest.messages
            )?,
            Some(found) => {
                let verb = match found.was_dispatched {
                    true => "was dispatched already",
                    false => "taken up and dispatched",
                };
                write!(f, "run {run_id} {verb}: ")?;
                match found.published_jobs {
                    0 => write!(f, "none of its {jobs} jobs was missing")?,
                    missing => write!(f, "{missing} of its {jobs} jobs were missing")?,
                }
                if found.waiting_jobs > 0 {
                    write!(f, ", {} wait for workers", found.waiting_jobs)?;
                }
            }
        }
        write!(
            f,
            "; {} rows read, {} accepted, {} rejected",
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
    /// Those that were missing of a run that was taken up; null for one that was not.
    jobs_published: Option<u64>,
    /// Those that wait for workers, as far as was looked for.
    jobs_waiting: Option<u64>,
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
            jobs_published: dispatched.taken_up.map(|found| found.published_jobs),
            jobs_waiting: dispatched.taken_up.map(|found| found.waiting_jobs),
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
    event_patience: Duration,
    /// The run, as the runs topic told of it last.
    history: RunHistory,
    /// Whether it is for this dispatcher to say that the run is aborted: not while it may be
    /// another's.
    is_ours: bool,
}

impl Broker {
    /// Connects, makes the topics, notes where they end, and looks whether the run can be
    /// dispatched at all.
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
        let history = history(config, shutdown)?;
        plan(&history, &attempt(config, false))?;
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
            event_patience: EVENT_PATIENCE.max(cluster.broker_timeout()),
            is_ours: history.opened().is_none(),
            history,
        })
    }

    fn tell(&self, event: &RunEvent) -> Result<(), Error> {
        publish_run_event(&self.producer, &self.runs, event, self.event_patience)?;
        Ok(())
    }

    /// Opens the run, unless somebody has, and says what is left to do.
    ///
    /// An opening is never overwritten by a later one: where several dispatchers have opened the
    /// run, each that sees more than one publishes what they are together, for the topic is
    /// compacted to the last. Each looks at the topic's ends before it opens the run, and publishes
    /// jobs only after, so the first opening alone would serve all of them, too.
    fn open(&mut self, config: &Config, shutdown: &Shutdown) -> Result<Plan, Error> {
        // Somebody may have come while the data set was read.
        self.history = history(config, shutdown)?;
        let mut planned = plan(&self.history, &attempt(config, false))?;
        if self.history.aborted().is_some() {
            retract_abort(
                &self.producer,
                &self.runs,
                &config.run_id,
                self.event_patience,
            )?;
        }
        if planned != Plan::Open {
            self.is_ours = false;
            self.open_again()?;
            return Ok(planned);
        }
        let opened = RunEvent::Opened(RunOpened {
            run_id: config.run_id.clone(),
            options: config.options.clone(),
            opened_at_ms: now_ms(),
            jobs_start_offsets: self.jobs_start_offsets.clone(),
            outcomes_start_offsets: self.outcomes_start_offsets.clone(),
        });
        self.tell(&opened)?;
        FaultPoint::new("dispatcher.after-opened").pass()?;
        if config.run_is_named {
            // Up to its own opening at least, so of two that come at once one sees both.
            self.history = history(config, shutdown)?;
            self.is_ours = self.history.openings() <= 1;
            self.open_again()?;
        } else {
            self.history.hear(opened);
        }
        planned = plan(&self.history, &attempt(config, true))?;
        match planned {
            Plan::Open => Err(Error::Removed(config.run_id.clone())),
            planned => Ok(planned),
        }
    }

    /// Makes the last opening on the topic the one that stands.
    fn open_again(&self) -> Result<(), Error> {
        match self.history.to_be_opened_again() {
            Some(opened) => self.tell(&RunEvent::Opened(opened.clone())),
            None => Ok(()),
        }
    }

    /// Tells whoever waits for the run that it will not come, and hands the error on.
    fn abort(&self, config: &Config, error: Error) -> Error {
        if !self.is_ours || matches!(error, Error::Refused(_)) {
            return error;
        }
        if let Err(untold) = publish_abort(config, &self.producer, &self.runs, &error) {
            warn!(error = %untold, "cannot tell that the run is aborted");
        }
        error
    }
}

/// What the runs topic tells of the run; nothing is asked for one that nobody else can know.
fn history(config: &Config, shutdown: &Shutdown) -> Result<RunHistory, Error> {
    if !config.run_is_named {
        return Ok(RunHistory::new(config.run_id.clone()));
    }
    // It may have gone while the data set was read or jobs were published.
    reach(config, shutdown)?;
    let stopped = || shutdown.is_requested();
    kafka::run_history(
        &config.cluster,
        &config.topics.runs,
        &config.run_id,
        &stopped,
    )
    .map_err(|error| Error::of_cluster(error, shutdown))
}

fn attempt(config: &Config, has_opened: bool) -> Attempt<'_> {
    Attempt {
        options: &config.options,
        is_rereadable: config.input.is_rereadable(),
        has_opened,
    }
}

/// Waits for a broker.
fn reach(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    let stopped = || shutdown.is_requested();
    config
        .cluster
        .wait_until_reachable(&stopped)
        .map_err(|error| Error::of_cluster(error, shutdown))
}

/// The data set cannot be opened: if somebody may know the run by its name, and a broker is there,
/// they are told. Not where the run was opened, though: it may be another dispatcher's, and whoever
/// waits for it can go on waiting until this one is started again without the mistake.
fn abort_by_name(config: &Config, error: Error) -> Error {
    // One that was stopped is to end at once.
    if !config.run_is_named || matches!(error, Error::Stopped(_)) {
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
    let opened = kafka::run_history(&config.cluster, topic, &config.run_id, &over)
        .is_ok_and(|history| history.opened().is_some());
    if opened {
        return error;
    }
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

fn dispatch(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
    read: &Read,
    broker: &mut Broker,
) -> Result<Dispatched, Error> {
    wait_for_workers(config, shutdown)?;
    let started = Instant::now();
    let planned = broker.open(config, shutdown)?;
    let taken_up = match planned {
        Plan::Open | Plan::PublishAll => None,
        Plan::GoOn | Plan::Compare => Some(look_at_run(config, shutdown, read, broker)?),
    };
    // The run is this one, so from here on its end is this dispatcher's to tell, unless it was told.
    broker.is_ours = planned != Plan::Compare;
    let counts = read.jobs.counts();
    let published = publish_missing(config, shutdown, progress, read, broker, taken_up.as_ref())?;

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
        job_set_digest: published.digest,
        messages: published.messages + taken_up.as_ref().map_or(0, Resume::messages),
        stages,
    };
    swear(config, shutdown, broker, planned, &manifest)?;
    info!(
        run_id = %config.run_id,
        jobs = manifest.jobs,
        messages = published.messages,
        bytes = published.bytes,
        "run dispatched"
    );
    Ok(Dispatched {
        manifest,
        bytes: published.bytes,
        rejects: read.rejects.clone(),
        taken_up: taken_up.map(|run| TakenUp {
            published_jobs: published.jobs,
            waiting_jobs: run.waiting(),
            was_dispatched: planned == Plan::Compare,
        }),
        first_job_at: published.first_at,
    })
}

/// Reads what the run has on its topics, and compares it with the data set, before anything is
/// published.
fn look_at_run(
    config: &Config,
    shutdown: &Shutdown,
    read: &Read,
    broker: &Broker,
) -> Result<Resume, Error> {
    let Some(opened) = broker.history.opened() else {
        return Err(Error::Removed(config.run_id.clone()));
    };
    let run = take_up(config, shutdown, opened, read.jobs.counts().jobs)?;
    let digest = compare(&config.run_id, &read.jobs, &run)?;
    let counts = read.jobs.counts();
    let own = Manifest {
        run_id: config.run_id.clone(),
        jobs: counts.jobs,
        rows_read: read.rows_read,
        rows_accepted: counts.rows,
        rejected: read.rejected.clone(),
        job_set_digest: digest,
        messages: 0,
        stages: Vec::new(),
    };
    refuse_other_manifests(&broker.history, &own)?;
    info!(
        missing = run.missing(),
        waiting = run.waiting(),
        "run taken up"
    );
    Ok(run)
}

fn refuse_other_manifests(history: &RunHistory, own: &Manifest) -> Result<(), Refusal> {
    let mut differences = history
        .manifests()
        .filter_map(|known| Difference::of_manifests(own, known));
    match differences.next() {
        Some(difference) => Err(Refusal::differs(history.run_id(), difference)),
        None => Ok(()),
    }
}

fn publish_missing(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
    read: &Read,
    broker: &mut Broker,
    taken_up: Option<&Resume>,
) -> Result<Published, Error> {
    let partitions = broker.jobs_start_offsets.len();
    let counts = read.jobs.counts();
    let bytes = bytes_in_messages(counts.jobs, counts.payload_bytes);
    // Those that are missing, as if all were alike.
    let missing = taken_up.map_or(counts.jobs, Resume::missing);
    let bytes = u128::from(bytes) * u128::from(missing) / u128::from(counts.jobs.max(1));
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
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
    let header = JobHeader {
        run_id: config.run_id.clone(),
        generation: 0,
        computation: config.options.computation.clone(),
    };
    publish(&header, &read.jobs, taken_up, target, progress, shutdown)
}

/// Writes the manifest, unless one that agrees is there: of two dispatchers of one run the one that
/// is done first writes it. One that disagrees is answered with the own, for this dispatcher has
/// published jobs by then, and both together fail the run for everybody.
fn swear(
    config: &Config,
    shutdown: &Shutdown,
    broker: &mut Broker,
    planned: Plan,
    manifest: &Manifest,
) -> Result<(), Error> {
    FaultPoint::new("dispatcher.before-manifest").pass()?;
    if planned == Plan::Compare {
        return Ok(());
    }
    if config.run_is_named {
        broker.history = history(config, shutdown)?;
    }
    let refused = refuse_other_manifests(&broker.history, manifest);
    if broker.history.manifest().is_none() || refused.is_err() {
        broker.tell(&RunEvent::Dispatched(manifest.clone()))?;
        FaultPoint::new("dispatcher.after-manifest").pass()?;
    }
    Ok(refused?)
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

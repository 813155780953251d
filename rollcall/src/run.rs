//! A whole run on one machine: data set, broker, dispatcher, workers, aggregator, and the end of
//! all of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aggregator::outputs::Outputs;
use aggregator::run::ReportResult;
use aggregator::{Report, RunChoice};
use dispatcher::Dispatched;
use dispatcher::args::UncommittedLimit;
use dispatcher::rejects::Rejects;
use kafka::args::PROPERTIES_VARIABLE;
use kafka::{BrokerArgs, Cluster, InProcessBroker, TopicNames, in_process, topics};
use pipeline::RunId;
use service::progress::grouped;
use service::{Exit, Progress, Show, Shutdown, Signal, logging, machine};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::args::{Engine, RunArgs};
use crate::error::Error;
use crate::fleet::{Fleet, Spec};
use crate::local;

/// The generated data set, in the output folder.
const DATA_SET: &str = "covid-tests.csv";

/// The rejected rows, in the output folder.
const REJECTS: &str = "rejects.csv";

/// What may be uncommitted of a partition on the in-process broker: less than half of what it
/// keeps, so that what was collected and is not committed yet has room, too.
const CREDIT_BYTES: usize = in_process::RETAINED_BYTES * 2 / 5;

/// What an outcome takes on its topic, at most: one in a batch of its own.
const OUTCOME_BYTES: usize = 160;

/// On one machine, offsets are committed often: a commit costs little, and credit waits for it.
const COMMIT_INTERVAL: &str = "20ms";

/// For workers that begin together, stay to the end, and come back under their old names: the
/// rebalances are those at the start, where one round is better than the two of a cooperative one
/// (0.3 s instead of 1 s until all work), and a short heartbeat tells of each at once.
const FLEET_PROPERTIES: [(&str, &str); 2] = [
    ("partition.assignment.strategy", "range"),
    ("heartbeat.interval.ms", "100"),
];

/// Runs the pipeline on this machine.
///
/// # Errors
/// When any part of it fails; what it was is said by the part.
pub fn run(args: &RunArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let report = run_and_say(args, shutdown);
    if args.json.json {
        match &report {
            Ok(report) => {
                let result = ReportResult::new(report, &args.out);
                machine::say_result(&match has_rejects(report) {
                    true => result.with_path(&args.out.join(REJECTS)),
                    false => result,
                });
            }
            Err(error) => machine::say_failure(error),
        }
    }
    report.map(|report| report.exit())
}

fn run_and_say(args: &RunArgs, shutdown: &Shutdown) -> Result<Report, Error> {
    let started = Instant::now();
    let outputs = Outputs::new(&args.out)?;
    let (data_set, generated_in) = match &args.data_set {
        Some(path) => (path.clone(), None),
        None => generate(args, shutdown)?,
    };
    let progress = Progress::new();
    let shown = progress.show(Show::new(args.log.quiet, args.json.json));
    let (report, where_it_ran) = match args.engine {
        Engine::Local => run_local(args, &data_set, &outputs, shutdown, &progress)?,
        Engine::Kafka => run_on_kafka(args, &data_set, shutdown, &progress)?,
    };
    drop(shown);
    if !args.log.quiet && !args.json.json {
        say(
            args,
            &report,
            &where_it_ran,
            generated_in,
            started.elapsed(),
        );
    }
    Ok(report)
}

/// The summary, on standard output.
fn say(
    args: &RunArgs,
    report: &Report,
    where_it_ran: &str,
    generated_in: Option<Duration>,
    elapsed: Duration,
) {
    print!("{report}");
    let generated = generated_in.unwrap_or_default();
    print!(
        "\n  {:.2} s {where_it_ran}",
        (elapsed - generated).as_secs_f64()
    );
    match generated_in {
        Some(generated) => println!(", after {:.2} s to generate", generated.as_secs_f64()),
        None => println!(),
    }
    let rejects = has_rejects(report).then_some(REJECTS);
    for name in ["series.csv", "report.json"].into_iter().chain(rejects) {
        println!("  {}", args.out.join(name).display());
    }
}

fn has_rejects(report: &Report) -> bool {
    let manifest = report.manifest.as_ref();
    manifest.is_some_and(|manifest| manifest.rows_rejected > 0)
}

/// Makes a data set.
fn generate(args: &RunArgs, shutdown: &Shutdown) -> Result<(PathBuf, Option<Duration>), Error> {
    let started = Instant::now();
    let path = args.out.join(DATA_SET);
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = datagen::Config {
        rows: args.rows,
        threads: cores,
        ..datagen::Config::default()
    };
    if !args.log.quiet {
        eprintln!(
            "generating {} rows in {}",
            grouped(args.rows),
            path.display()
        );
    }
    datagen::write_file(&config, &path, shutdown, &|_| {})?;
    Ok((path, Some(started.elapsed())))
}

fn run_local(
    args: &RunArgs,
    data_set: &Path,
    outputs: &Outputs,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<(Report, String), Error> {
    let grouping = args.grouping.grouping()?;
    let rejects = Rejects::new(
        &data_set.to_string_lossy(),
        &args.out.join(REJECTS),
        args.grouping.max_rejects,
    );
    let (series, mut report) = local::compute(data_set, &grouping, rejects, shutdown, progress)?;
    aggregator::run::write_outputs(outputs, &series, &mut report)?;
    Ok((report, "in one process, without Kafka".to_owned()))
}

/// Everything that the parts of a run on Kafka have in common.
struct Stage {
    run_id: RunId,
    cluster: Cluster,
    broker_args: BrokerArgs,
    topics: TopicNames,
    prefix: String,
    group: String,
    /// `None` on Apache Kafka. Dropped last, when all its clients are gone.
    broker: Option<InProcessBroker>,
}

impl Stage {
    fn set(args: &RunArgs) -> Result<Self, Error> {
        let run_id = RunId::fresh();
        logging::set_run_id(run_id.as_str());
        let prefix = args
            .topic_prefix
            .clone()
            .unwrap_or_else(|| format!("rollcall.{run_id}"));
        let topics = TopicNames::new(&prefix);
        let mut broker_args = args.broker.clone();
        let broker = match broker_args.bootstrap_servers {
            Some(_) => None,
            None => {
                let broker = InProcessBroker::start(&topics, args.messages.partitions.get())?;
                broker_args.bootstrap_servers = Some(broker.bootstrap_servers().to_owned());
                Some(broker)
            }
        };
        Ok(Self {
            cluster: Cluster::new(&broker_args, "rollcall-run")?,
            group: format!("{prefix}.worker"),
            run_id,
            broker_args,
            topics,
            prefix,
            broker,
        })
    }

    fn dispatcher(&self, args: &RunArgs, data_set: &Path) -> Result<dispatcher::Config, Error> {
        let partitions = args.messages.partitions.get();
        let uncommitted_limit = self.broker.as_ref().map(|_| UncommittedLimit {
            group: self.group.clone(),
            bytes_per_partition: CREDIT_BYTES,
            uncollected_jobs: (partitions * CREDIT_BYTES / OUTCOME_BYTES) as u64,
        });
        Ok(dispatcher::Config {
            data_set: data_set.to_owned(),
            grouping: args.grouping.grouping()?,
            run_id: self.run_id.clone(),
            run_is_named: false,
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            topic_spec: args.messages.topic_spec(),
            jobs_per_message: args.messages.jobs_per_message,
            expected_job_time: args.messages.expected_job_time.max(args.simulate_work),
            wait_for_workers: None,
            max_rejects: args.grouping.max_rejects,
            rejects: args.out.join(REJECTS),
            uncommitted_limit,
            metrics: dispatcher::metrics::Metrics::default(),
        })
    }

    fn aggregator(&self, args: &RunArgs) -> aggregator::Config {
        aggregator::Config {
            run: RunChoice::Named(self.run_id.clone()),
            out: args.out.clone(),
            timeout: args.timeout,
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            metrics: aggregator::metrics::Metrics::default(),
        }
    }

    fn fleet(&self, args: &RunArgs) -> Result<Spec, Error> {
        let mut arguments: Vec<OsString> = vec!["worker".into()];
        let mut option = |name: &str, value: String| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        option("--topic-prefix", self.prefix.clone());
        option("--group", self.group.clone());
        option("--max-attempts", args.max_attempts.to_string());
        option("--commit-interval", COMMIT_INTERVAL.to_owned());
        let show = |duration| humantime::format_duration(duration).to_string();
        option("--simulate-work", show(args.simulate_work));
        option("--log-format", args.log.log_format.word().to_owned());
        option("--broker-timeout", show(args.broker.broker_timeout));
        if args.log.quiet {
            arguments.push("--quiet".into());
        }
        for _ in 0..args.log.verbose {
            arguments.push("-v".into());
        }
        let mut properties: Vec<String> = self
            .broker_args
            .properties
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        for (key, value) in FLEET_PROPERTIES {
            if !properties.iter().any(|property| property.starts_with(key)) {
                properties.push(format!("{key}={value}"));
            }
        }
        if self.broker.is_some() {
            let timeout = in_process::SESSION_TIMEOUT_MS;
            properties.push(format!("session.timeout.ms={timeout}"));
        }
        let mut variables: Vec<(&'static str, OsString)> = vec![(
            "KAFKA_BOOTSTRAP_SERVERS",
            self.cluster.bootstrap_servers().into(),
        )];
        if !properties.is_empty() {
            // Not as arguments, which every user of the machine can read.
            variables.push((PROPERTIES_VARIABLE, properties.join("\n").into()));
        }
        if args.log.verbose == 0 && std::env::var_os("RUST_LOG").is_none() {
            variables.push(("RUST_LOG", "warn,librdkafka=error".into()));
        }
        Ok(Spec {
            program: std::env::current_exe().map_err(Error::StartWorker)?,
            arguments,
            variables,
            group: self.group.clone(),
            workers: args.workers(),
        })
    }

    /// Removes what the run alone has used, once nobody needs it any more.
    fn tidy_up(&self, args: &RunArgs, report: &Report) {
        if self.broker.is_some() || args.topic_prefix.is_some() || args.keep_topics {
            return;
        }
        if report.exit() != Exit::Complete {
            eprintln!(
                "topics {}.* are kept, for the run is not complete",
                self.prefix
            );
            return;
        }
        let removed = topics::delete(&self.cluster, &self.topics)
            .and_then(|()| topics::delete_group(&self.cluster, &self.group));
        if let Err(error) = removed {
            warn!(%error, "cannot remove the run's topics {}.*", self.prefix);
        }
    }

    fn describe(&self, args: &RunArgs) -> String {
        let workers = args.workers();
        let plural = if workers == 1 { "" } else { "s" };
        let broker = match self.broker {
            Some(_) => "the in-process broker".to_owned(),
            None => format!("Kafka at {}", self.cluster.bootstrap_servers()),
        };
        format!(
            "on {broker} with {workers} worker process{}",
            if plural.is_empty() { "" } else { "es" }
        )
    }
}

fn run_on_kafka(
    args: &RunArgs,
    data_set: &Path,
    shutdown: &Shutdown,
    progress: &Arc<Progress>,
) -> Result<(Report, String), Error> {
    let stage = Stage::set(args)?;
    let dispatcher = stage.dispatcher(args, data_set)?;
    let aggregator = stage.aggregator(args);
    let fleet = stage.fleet(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Thread(error.to_string()))?;
    // Dispatcher and aggregator are stopped by a signal, and by each other's failure.
    let stop = Shutdown::new();
    let report = runtime.block_on(async {
        let dispatching = spawn("dispatcher", {
            let (stop, progress) = (stop.clone(), Arc::clone(progress));
            move || dispatcher::run(&dispatcher, &stop, &progress)
        })?;
        let aggregating = spawn("aggregator", {
            let (stop, progress) = (stop.clone(), Arc::clone(progress));
            move || aggregator::run(&aggregator, &stop, &progress)
        })?;
        let mut fleet = Fleet::start(&fleet, progress)?;
        let report = supervise(dispatching, aggregating, &mut fleet, shutdown, &stop).await;
        fleet.end().await;
        report
    })?;
    stage.tidy_up(args, &report);
    Ok((report, stage.describe(args)))
}

type Running<T> = oneshot::Receiver<T>;

/// Runs a blocking service on a thread of its own.
fn spawn<T: Send + 'static>(
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

/// Waits for the aggregator's judgement. The first failure of any part stops the others.
async fn supervise(
    dispatching: Running<Result<Dispatched, dispatcher::Error>>,
    aggregating: Running<Result<Report, aggregator::Error>>,
    fleet: &mut Fleet,
    shutdown: &Shutdown,
    stop: &Shutdown,
) -> Result<Report, Error> {
    let died = |name: &str| Error::Thread(format!("the {name} died"));
    let mut failure: Option<Error> = None;
    let mut dispatching = std::pin::pin!(dispatching);
    let mut aggregating = std::pin::pin!(aggregating);
    let mut dispatched = false;
    let mut fleet_failed = false;
    loop {
        tokio::select! {
            signal = shutdown.wait(), if !stop.is_requested() => stop.request(signal),
            result = &mut dispatching, if !dispatched => {
                dispatched = true;
                match result {
                    Ok(Ok(dispatched)) => debug!("{dispatched}"),
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
            result = &mut aggregating => {
                // The first failure is the cause; that the others were stopped is its consequence.
                return match (failure, result) {
                    (Some(error), _) => Err(error),
                    (None, Ok(Ok(report))) => Ok(report),
                    (None, Ok(Err(error))) => Err(error.into()),
                    (None, Err(_)) => Err(died("aggregator")),
                };
            }
        }
    }
}

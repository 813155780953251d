//! A whole run on one machine: data set, broker, dispatcher, workers, aggregator, and the end of
//! all of them.

mod supervise;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aggregator::outputs::Outputs;
use aggregator::outputs::REPORT_JSON;
use aggregator::report::ProcessReport;
use aggregator::run::{Left, ReportResult};
use aggregator::{OutputChoice, Report, RunChoice};
use computations::{Registry, positivity};
use dispatcher::args::{DEFAULT_PARTITIONS, UncommittedLimit};
use dispatcher::input::InputFile;
use dispatcher::rejects::Rejects;
use dispatcher::{Input, input};
use kafka::args::{PROPERTIES_VARIABLE, property, write_properties};
use kafka::settings::PROTOCOL;
use kafka::{Cluster, InProcessBroker, TopicNames, TopicSpec, default_group, in_process, topics};
use pipeline::{Grain, RunId, Verdict};
use service::progress::grouped;
use service::{Exit, Progress, Show, Shutdown, Usage, clock, json_output, logging, print};
use tokio::sync::oneshot;
use tracing::warn;
use worker::{Delivery, UnreadLimit};

use crate::args::{Engine, RunArgs};
use crate::config_file::CONFIG_VARIABLE;
use crate::error::Error;
use crate::fleet::{Fleet, Spec};
use crate::{build, local, plain_loop};
use supervise::{Parts, spawn, supervise};

/// The generated data set, in the output folder.
const DATA_SET: &str = "covid-tests.csv";

/// The rejected rows, in the output folder, unless they are to be elsewhere.
const REJECTS: &str = "rejects.csv";

/// The name of this process in the report.
const OWN_NAME: &str = "rollcall";

/// What may be uncommitted of a partition on the in-process broker: less than half of what it
/// keeps, so that what was collected and is not committed yet has room, too.
const CREDIT_BYTES: usize = in_process::RETAINED_BYTES * 2 / 5;

/// What may be unread of a partition of outcomes there: what one message and the next worker of the
/// same number add to it has room, too.
const UNREAD_BYTES: usize = in_process::RETAINED_BYTES / 5;

/// On one machine, offsets are committed often: a commit costs little, and credit waits for it.
const COMMIT_INTERVAL: &str = "20ms";

/// For workers that begin together, stay to the end, and come back under their old names: the
/// rebalances are those at the start, where one round is better than the two of a cooperative one
/// (0.3 s instead of 1 s until all work), and with a short heartbeat members learn of each at once.
const FLEET_PROPERTIES: [(&str, &str); 2] = [
    ("partition.assignment.strategy", "range"),
    ("heartbeat.interval.ms", "30"),
];

/// The heartbeat interval on the in-process broker, which waits for all members before their first
/// assignment. So there is no rebalance to learn of in a run in which no worker dies.
const IN_PROCESS_HEARTBEAT_MS: &str = "100";

/// Runs the pipeline on this machine, in a program that knows these computations: the workers are
/// processes of the same program.
///
/// # Errors
/// When any part of it fails; what it was is said by the part.
pub fn run(args: &RunArgs, shutdown: &Shutdown, computations: &Registry) -> Result<Exit, Error> {
    let report = run_and_say(args, shutdown, computations).map_err(|error| match error {
        // What was dispatched is gone with the broker: there is nothing to resume.
        Error::Dispatcher(dispatcher::Error::Stopped(signal))
        | Error::Aggregator(aggregator::Error::Stopped(signal))
            if !names_brokers(args) =>
        {
            Error::Stopped(signal)
        }
        error => error,
    });
    if args.json.json {
        match &report {
            Ok(report) => {
                json_output::print_result(&ReportResult::new(report, &args.out));
            }
            Err(error) => json_output::print_failure(error),
        }
    }
    report.map(|report| report.exit())
}

fn run_and_say(
    args: &RunArgs,
    shutdown: &Shutdown,
    computations: &Registry,
) -> Result<Report, Error> {
    let started = Instant::now();
    let in_transactions = args.delivery == Delivery::ExactlyOnce;
    // Whatever is made of them.
    let properties = args.broker.all_properties()?;
    if args.engine == Engine::Kafka && !names_brokers(args) {
        if in_transactions {
            return Err(Error::NoTransactions);
        }
        refuse_protocol(&properties)?;
    }
    let choice = args.outputs.choice()?;
    choice.check(args.grouping.every)?;
    refuse_data_set_among_outputs(&args.data_sets, &args.out)?;
    // The report of an earlier run is removed before an error in the data set is reported.
    let outputs = Outputs::new(&args.out)?;
    let (input, generated_in) = match args.data_sets.as_slice() {
        [] => {
            let (path, generated_in) = generate(args, shutdown)?;
            (Input::of(&path), generated_in)
        }
        arguments => (args.input.input(arguments)?, None),
    };
    remove_stale_rejects(args, &input)?;
    if !input.is_rereadable() && !args.log.quiet {
        eprintln!("standard input cannot be read again: this run is not resumable");
    }
    let progress = Progress::new();
    let shown = progress.show(Show::new(args.log.quiet, args.json.json));
    let (mut report, where_it_ran) = match args.engine {
        Engine::Local | Engine::Loop => {
            run_without_kafka(args, &choice, &input, &outputs, shutdown, &progress)?
        }
        Engine::Kafka => {
            let begun = started + generated_in.unwrap_or_default();
            run_on_kafka(
                args,
                choice,
                &input,
                begun,
                shutdown,
                &progress,
                computations,
            )?
        }
    };
    drop(shown);
    // What everything took is known now that everything has ended.
    let wall = started.elapsed() - generated_in.unwrap_or_default();
    report.wall_seconds = Some(wall.as_secs_f64());
    let own = ProcessReport::new(OWN_NAME, Some(Usage::of_this_process()));
    report.processes.insert(0, own);
    report.versions.extend(build::versions());
    aggregator::run::write_report(&outputs, &report)?;
    if !args.log.quiet && !args.json.json {
        let text = summary(args, &report, &where_it_ran, generated_in, wall);
        print(&text).map_err(Error::Print)?;
    } else if args.log.quiet && report.status != Verdict::Complete {
        // With --quiet, a run that is not complete is still reported.
        let (run, status) = (&report.run.run_id, report.status.word());
        let path = args.out.join(REPORT_JSON);
        // Where standard error is closed, the exit code has the verdict.
        let _ = writeln!(io::stderr(), "run {run}: {status}, see {}", path.display());
    }
    Ok(report)
}

/// Whether the run is on a cluster. An empty variable, as compose files leave it, names none.
fn names_brokers(args: &RunArgs) -> bool {
    let named = args.broker.bootstrap_servers.as_deref();
    named.is_some_and(|named| !named.trim().is_empty())
}

/// The in-process broker speaks plain text on loopback, and would never answer.
fn refuse_protocol(properties: &[(String, String)]) -> Result<(), Error> {
    match property(properties, PROTOCOL) {
        Some(protocol) if !protocol.eq_ignore_ascii_case("plaintext") => {
            Err(Error::ProtocolInProcess(protocol.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The summary that is printed at the end.
fn summary(
    args: &RunArgs,
    report: &Report,
    where_it_ran: &str,
    generated_in: Option<Duration>,
    wall: Duration,
) -> String {
    let seconds = wall.as_secs_f64();
    let mut text = format!("{report}\n  {seconds:.2} s {where_it_ran}");
    if let Some(generated) = generated_in {
        text.push_str(&format!(
            ", after {:.2} s to generate",
            generated.as_secs_f64()
        ));
    }
    text.push('\n');
    let files = report.files.iter().map(|file| file.name.as_str());
    let files = files.chain([REPORT_JSON]).map(|name| args.out.join(name));
    for path in files {
        text.push_str(&format!("  {}\n", path.display()));
    }
    text
}

/// Rejects of an earlier run must not be taken for this one's; a data set must not be taken for
/// rejects.
fn remove_stale_rejects(args: &RunArgs, input: &Input) -> Result<(), Error> {
    let rejects = rejects_file(args);
    if input.contains(&rejects) {
        return Err(dispatcher::Error::RejectsOverDataSet(rejects).into());
    }
    if is_output(&rejects, &args.out) {
        return Err(Error::RejectsOverOutput(rejects));
    }
    if !rejects.is_file() {
        return Ok(());
    }
    std::fs::remove_file(&rejects).map_err(|source| {
        aggregator::Error::OutputFolder {
            path: args.out.clone(),
            source,
        }
        .into()
    })
}

/// Outputs must not take the place of what they are made of, whatever names or links lead to it, and
/// whatever else is wrong with the arguments: an earlier run's report is removed before that is
/// reported.
pub(crate) fn refuse_data_set_among_outputs(
    data_sets: &[PathBuf],
    out: &Path,
) -> Result<(), Error> {
    let files = data_sets.iter().flat_map(|argument| {
        let expanded = input::expand(std::slice::from_ref(argument));
        expanded.unwrap_or_else(|_| vec![InputFile::Path(argument.clone())])
    });
    let data_set = Input {
        files: files.collect(),
        ..Input::of(out)
    };
    let mut outputs = names_of_outputs().map(|name| out.join(name));
    let taken = outputs.find(|path| data_set.contains(path));
    taken.map_or(Ok(()), |path| Err(Error::OutputOverDataSet(path)))
}

/// Whether a file has the name of an output and is in the folder of the outputs.
fn is_output(file: &Path, out: &Path) -> bool {
    let whole = |folder: &Path| folder.canonicalize().ok();
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let in_out = whole(parent.unwrap_or(Path::new("."))).is_some_and(|own| whole(out) == Some(own));
    let name = file.file_name().unwrap_or_default();
    in_out && names_of_outputs().any(|known| *known == *name)
}

/// By which names a run or a benchmark may put something in place: `series.csv`, `series-day.svg`,
/// `report.json`, `bench.md` and the like.
fn names_of_outputs() -> impl Iterator<Item = String> {
    const STEMS: [&str; 5] = ["series", "report", "bench", "base", "comparison"];
    const ENDINGS: [&str; 6] = ["csv", "parquet", "svg", "json", "md", "html"];
    let stems = STEMS.map(str::to_owned).into_iter();
    let stems = stems.chain(Grain::ALL.map(|grain| format!("series-{grain}")));
    stems.flat_map(|stem| ENDINGS.map(|ending| format!("{stem}.{ending}")))
}

/// The file of rejected rows.
fn rejects_file(args: &RunArgs) -> PathBuf {
    let given = args.rejects.clone();
    given.unwrap_or_else(|| args.out.join(REJECTS))
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
    datagen::write_file(&config, datagen::Format::Csv, &path, shutdown, &|_| {})?;
    Ok((path, Some(started.elapsed())))
}

fn run_without_kafka(
    args: &RunArgs,
    choice: &OutputChoice,
    input: &Input,
    outputs: &Outputs,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<(Report, String), Error> {
    let grouping = args.grouping.grouping(&Registry::standard())?;
    if grouping.computation.name != positivity::DEFINITION.name {
        return Err(Error::EngineOfPositivity);
    }
    let path = rejects_file(args);
    let rejects = Rejects::new(&path, args.input.max_rejects);
    let (series, mut report) = match args.engine {
        Engine::Loop => {
            let work = args.simulate_work;
            plain_loop::compute(input, &grouping, rejects, work, shutdown, progress)?
        }
        _ => local::compute(input, &grouping, rejects, shutdown, progress)?,
    };
    let left = Left::Series(&series);
    aggregator::run::write_outputs(outputs, choice, left, Some(&path), &mut report)?;
    Ok((report, "in one process, without Kafka".to_owned()))
}

/// How the run's topics are made. Apache Kafka takes some milliseconds for each partition that is
/// made, written to for the first time, and removed, so topics that nobody else will use have no
/// more there than the workers need to share them evenly. The in-process broker takes no time for
/// them, and keeps more of a run on more of them.
fn topic_spec(args: &RunArgs) -> TopicSpec {
    const FOR_EACH_WORKER: usize = 4;
    const LEAST: usize = 8;
    let own_on_a_cluster = args.topic_prefix.is_none() && names_brokers(args);
    args.messages.topic_spec(match own_on_a_cluster {
        true => (FOR_EACH_WORKER * args.workers()).clamp(LEAST, DEFAULT_PARTITIONS),
        false => DEFAULT_PARTITIONS,
    })
}

/// Everything that the parts of a run on Kafka have in common.
struct Stage {
    run_id: RunId,
    cluster: Cluster,
    topics: TopicNames,
    prefix: String,
    group: String,
    computations: Registry,
    /// `None` on Apache Kafka. Dropped last, when all its clients are gone.
    broker: Option<InProcessBroker>,
}

impl Stage {
    fn set(args: &RunArgs, computations: &Registry) -> Result<Self, Error> {
        let run_id = args.run_id.clone().unwrap_or_else(RunId::fresh);
        logging::set_run_id(run_id.as_str());
        let prefix = args
            .topic_prefix
            .clone()
            .unwrap_or_else(|| format!("rollcall.{run_id}"));
        let topics = TopicNames::new(&prefix);
        let mut broker_args = args.broker.clone();
        let broker = if names_brokers(args) {
            None
        } else {
            let broker =
                InProcessBroker::start(&topics, topic_spec(args).partitions, args.workers())?;
            broker_args.bootstrap_servers = Some(broker.bootstrap_servers().to_owned());
            Some(broker)
        };
        if args.delivery == Delivery::ExactlyOnce {
            // A job that the dispatcher's retry had written twice would be done twice.
            let idempotent = ("enable.idempotence".to_owned(), "true".to_owned());
            broker_args.properties.insert(0, idempotent);
        }
        Ok(Self {
            cluster: Cluster::new(&broker_args, "rollcall-run")?,
            group: default_group(&prefix),
            run_id,
            topics,
            prefix,
            computations: computations.clone(),
            broker,
        })
    }

    fn dispatcher(&self, args: &RunArgs, input: &Input) -> Result<dispatcher::Config, Error> {
        let uncommitted_limit = self.broker.as_ref().map(|_| UncommittedLimit {
            group: self.group.clone(),
            bytes_per_partition: CREDIT_BYTES,
        });
        let grouping = args.grouping.grouping(&self.computations)?;
        Ok(dispatcher::Config {
            input: input.clone(),
            options: args.results.options(&grouping),
            payload: dispatcher::payload_columns(&grouping, &self.computations)?,
            grouping,
            run_id: self.run_id.clone(),
            // What the in-process broker has began with this process.
            run_is_named: args.run_id.is_some() && self.broker.is_none(),
            resume: args.resume.then(|| self.group.clone()),
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            topic_spec: topic_spec(args),
            jobs_per_message: args.messages.jobs_per_message,
            expected_job_time: args
                .messages
                .expected_job_time
                .max(args.simulate_work.at_least()),
            wait_for_workers: None,
            max_rejects: args.input.max_rejects,
            rejects: rejects_file(args),
            memory_budget_bytes: args.memory.memory_budget.as_u64(),
            spill_folder: args.memory.spill_folder(),
            uncommitted_limit,
            metrics: dispatcher::metrics::Metrics::default(),
        })
    }

    fn aggregator(&self, args: &RunArgs, outputs: OutputChoice) -> aggregator::Config {
        aggregator::Config {
            run: RunChoice::Named(self.run_id.clone()),
            out: args.out.clone(),
            outputs,
            rejects: Some(rejects_file(args)),
            read_positions: self.broker.as_ref().map(|_| self.reader()),
            computations: self.computations.clone(),
            timeout: args.timeout,
            memory_budget_bytes: args.memory.memory_budget.as_u64(),
            spill_folder: args.memory.spill_folder(),
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            group: self.group.clone(),
            metrics: aggregator::metrics::Metrics::default(),
        }
    }

    /// The group as whose offsets the aggregator makes known how far it has read.
    fn reader(&self) -> String {
        format!("{}.aggregator", self.prefix)
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
        option("--delivery", args.delivery.word().to_owned());
        let show = |duration| humantime::format_duration(duration).to_string();
        option("--simulate-work", show(args.simulate_work.waiting));
        option("--simulate-cpu", show(args.simulate_work.computing));
        if let Some(timeout) = args.job_timeout {
            option("--job-timeout", show(timeout));
        }
        option("--log-format", args.log.log_format.as_str().to_owned());
        option("--broker-timeout", show(args.broker.broker_timeout));
        if args.log.quiet {
            arguments.push("--quiet".into());
        }
        for _ in 0..args.log.verbose {
            arguments.push("-v".into());
        }
        let mut properties = self.cluster.properties().to_vec();
        let session_timeout = in_process::SESSION_TIMEOUT_MS.to_string();
        let in_process = self.broker.as_ref();
        let heartbeat = in_process.map(|_| {
            [
                ("session.timeout.ms", session_timeout.as_str()),
                ("heartbeat.interval.ms", IN_PROCESS_HEARTBEAT_MS),
            ]
        });
        let own = heartbeat.into_iter().flatten().chain(FLEET_PROPERTIES);
        for (key, value) in own {
            if !properties.iter().any(|(known, _)| known == key) {
                properties.push((key.to_owned(), value.to_owned()));
            }
        }
        let mut variables: Vec<(&'static str, OsString)> = vec![(
            "KAFKA_BOOTSTRAP_SERVERS",
            self.cluster.bootstrap_servers().into(),
        )];
        // A worker has what the run was given, and no options of its own from a file.
        variables.push((CONFIG_VARIABLE, OsString::new()));
        // Not as arguments, which every user of the machine can read.
        variables.push((PROPERTIES_VARIABLE, write_properties(&properties).into()));
        if args.log.verbose == 0 && !args.log.quiet && std::env::var_os("RUST_LOG").is_none() {
            variables.push(("RUST_LOG", "warn,librdkafka=error".into()));
        }
        let partitions = topic_spec(args).partitions;
        let unread_limit = in_process.map(|_| UnreadLimit {
            reader: self.reader(),
            bytes_per_partition: UNREAD_BYTES / args.workers().div_ceil(partitions),
            number: 0,
            workers: args.workers(),
        });
        Ok(Spec {
            program: std::env::current_exe().map_err(Error::StartWorker)?,
            arguments,
            variables,
            group: self.group.clone(),
            workers: args.workers(),
            unread_limit,
        })
    }

    /// Removes what the run alone has used, once nobody needs it any more; says so where somebody
    /// may.
    fn tidy_up(&self, args: &RunArgs, report: Option<&Report>) {
        if self.broker.is_some() || args.topic_prefix.is_some() || args.keep_topics {
            return;
        }
        if !report.is_some_and(|report| report.exit() == Exit::Complete) {
            eprintln!(
                "topics {}.* are kept, for not every job was counted",
                self.prefix
            );
            return;
        }
        // Side by side: each asks the broker and waits.
        let removed = thread::scope(|scope| {
            let group = scope.spawn(|| topics::delete_group(&self.cluster, &self.group));
            let topics = topics::delete(&self.cluster, &self.topics);
            topics.and(group.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        if let Err(error) = removed {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, cause, "cannot remove the run's topics {}.*", self.prefix);
        }
    }

    fn describe(&self, args: &RunArgs) -> String {
        let workers = args.workers();
        let broker = match self.broker {
            Some(_) => "the in-process broker".to_owned(),
            None => format!("Kafka at {}", self.cluster.bootstrap_servers()),
        };
        let plural = if workers == 1 { "" } else { "es" };
        format!("on {broker} with {workers} worker process{plural}")
    }
}

fn run_on_kafka(
    args: &RunArgs,
    choice: OutputChoice,
    input: &Input,
    begun: Instant,
    shutdown: &Shutdown,
    progress: &Arc<Progress>,
    computations: &Registry,
) -> Result<(Report, String), Error> {
    clock::watch();
    let stage = Stage::set(args, computations)?;
    let dispatcher = stage.dispatcher(args, input)?;
    let aggregator = stage.aggregator(args, choice);
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
        let (collected, collecting) = oneshot::channel();
        let aggregating = spawn("aggregator", {
            let (stop, progress) = (stop.clone(), Arc::clone(progress));
            let when_collected = move || {
                // Nobody listens any more when the run has failed already.
                let _ = collected.send(());
            };
            move || aggregator::run(&aggregator, &stop, &progress, when_collected)
        })?;
        let parts = Parts {
            begun,
            dispatching,
            collecting,
            aggregating,
        };
        let mut fleet = Fleet::start(&fleet, progress)?;
        let report = supervise(parts, &mut fleet, shutdown, &stop).await;
        let processes = fleet.end().await;
        report.map(|mut report| {
            report.processes = processes;
            report
        })
    });
    stage.tidy_up(args, report.as_ref().ok());
    Ok((report?, stage.describe(args)))
}

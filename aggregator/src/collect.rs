//! Reads the runs topic until the run is known, then its outcomes until the collection is settled.
//! What is read is handed to a [`Collection`], which decides.

use std::time::{Duration, Instant};

use kafka::{Reader, RecordBatch, RunsReader, beginning_offsets, end_offsets, topics};
use pipeline::run::NUMBERING_VERSION;
use pipeline::{Collection, OutcomeBatch, RunEvent, RunHistory, RunOpened};
use service::metrics::set;
use service::{Progress, Shutdown, logging};
use tracing::{info, warn};

use crate::args::{Config, RunChoice};
use crate::error::Error;
use crate::judging::{self, Look, Next};
use crate::memory::{self, MemoryWatch};
use crate::table::Tabulation;

/// How long one look at the outcomes waits for more.
const LOOK: Duration = Duration::from_millis(5);

/// How often the runs topic is looked at once the manifest is known.
const RUNS_LOOK: Duration = Duration::from_millis(200);

/// What was collected.
pub struct Collected {
    /// The run.
    pub opened: RunOpened,
    /// What is made of its results.
    pub tabulation: Tabulation,
    /// Everything that was heard of it.
    pub collection: Collection,
    /// Messages on the outcomes topic that are none.
    pub undecodable: u64,
    /// From the first outcome to the last.
    pub seconds: f64,
}

/// Collects a run until it is settled, or until nothing new has come for as long as the
/// configuration allows.
///
/// # Errors
/// When the run does not appear, was aborted, cannot be read, or has a grain that what is to be
/// written cannot be made of.
pub fn collect(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<Collected, Error> {
    let mut quiet = Quiet::new(config.timeout);
    wait_for_topic(config, shutdown, &quiet)?;
    let mut runs = RunsReader::start(&config.cluster, &config.topics.runs)?;
    let (mut run, opened) = find_run(config, shutdown, &mut runs, &mut quiet)?;
    let options = &opened.options;
    if options.numbering_version != NUMBERING_VERSION {
        return Err(Error::Numbering {
            run_id: opened.run_id.clone(),
            version: options.numbering_version,
        });
    }
    let tabulation = Tabulation::new(config, options)?;
    logging::set_run_id(opened.run_id.as_str());
    info!("collecting");

    let topic = &config.topics.outcomes;
    let partitions = topics::partition_count(&config.cluster, topic)?;
    let partitions = partitions.ok_or_else(|| kafka::Error::NoTopic {
        topic: topic.clone(),
    })?;
    let end = end_offsets(&config.cluster, topic, partitions)?;
    let mut start = opened.outcomes_start_offsets.clone();
    // Partitions that were added since hold nothing older than the run.
    start.resize(partitions, 0);
    // What retention has taken is missing, which reconciliation tells and `--resume` mends; an offset
    // out of range would be an error for good.
    let kept = beginning_offsets(&config.cluster, topic, partitions)?;
    for (start, kept) in start.iter_mut().zip(kept) {
        *start = kept.max(*start);
    }
    let mut reader = Reader::start(&config.cluster, topic, &start)?;

    let mut collection = memory::collection(config);
    let mut memory = MemoryWatch::new(config);
    hear_manifests(&mut collection, &run, progress);
    let mut undecodable = 0;
    let mut counted = 0;
    let mut duplicates = 0;
    let metrics = &config.metrics;
    let mut first_outcome = None;
    let mut last_outcome = Instant::now();
    let mut looked_at_runs = Instant::now();
    loop {
        let mut batch = RecordBatch::default();
        reader.read(LOOK, &mut batch)?;
        metrics.consumed_messages.inc_by(batch.len() as u64);
        metrics.consumed_bytes.inc_by(batch.bytes() as u64);
        for record in batch.iter() {
            match OutcomeBatch::decode(record.payload) {
                Ok(outcomes) if *outcomes.run_id() != opened.run_id => {}
                Ok(outcomes) => {
                    last_outcome = Instant::now();
                    first_outcome.get_or_insert(last_outcome);
                    let is_new = collection.hear_outcomes(&outcomes);
                    if is_new.map_err(Error::of_spill(&config.spill_folder))? {
                        quiet.end();
                    }
                }
                Err(error) => {
                    undecodable += 1;
                    metrics.undecodable_messages.inc();
                    warn!(partition = record.partition, offset = record.offset, %error, "dropped");
                }
            }
        }
        let known = collection.manifest().is_some();
        if !known || looked_at_runs.elapsed() >= RUNS_LOOK {
            looked_at_runs = Instant::now();
            for event in runs.read(Duration::ZERO)? {
                // Other runs come and go; that is no progress of this one.
                if *event.run_id() == opened.run_id {
                    quiet.end();
                }
                run.hear(event);
            }
            runs.check(&opened.run_id)?;
            let unreadable = &metrics.unreadable_run_events;
            unreadable.inc_by(runs.unreadable() - unreadable.get());
            hear_manifests(&mut collection, &run, progress);
        }
        let jobs = collection.jobs_with_outcome();
        progress.collected.add(jobs.saturating_sub(counted));
        counted = counted.max(jobs);
        let dropped = collection.recorded().duplicates;
        metrics.duplicates.inc_by(dropped - duplicates);
        duplicates = dropped;
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        set(&metrics.conflicts, number(collection.recorded().conflicts));
        memory.look(collection.memory_use());
        if let Some(ledger) = collection.ledger() {
            set(&metrics.jobs, number(ledger.jobs()));
            set(&metrics.missing_jobs, number(ledger.missing()));
            set(&metrics.dead_lettered_jobs, ledger.dead().len());
        }

        let look = Look {
            caught_up: runs.is_caught_up() && reader.has_reached(&end),
            aborted: run.aborted(),
            is_quiet: quiet.is_over(),
        };
        let next = judging::next(&collection, &look);
        match next {
            Next::Judge => break,
            Next::Abort(reason) => {
                return Err(Error::Aborted {
                    run_id: opened.run_id,
                    reason: reason.to_owned(),
                });
            }
            Next::GiveUp | Next::ReadOn => {}
        }
        if let Some(signal) = shutdown.requested() {
            return Err(Error::Stopped(signal));
        }
        if next == Next::GiveUp {
            warn!(
                "nothing new for {}, giving up",
                humantime::format_duration(config.timeout)
            );
            break;
        }
    }
    let seconds = first_outcome.map_or(Duration::ZERO, |first| last_outcome - first);
    Ok(Collected {
        opened,
        tabulation,
        collection,
        undecodable,
        seconds: seconds.as_secs_f64(),
    })
}

/// Those that were heard before change nothing.
fn hear_manifests(collection: &mut Collection, run: &RunHistory, progress: &Progress) {
    for manifest in run.manifests() {
        progress.collected.set_total(manifest.jobs);
        collection.hear_manifest(manifest.clone());
    }
}

/// The time since something new came.
struct Quiet {
    since: Instant,
    limit: Duration,
}

impl Quiet {
    fn new(limit: Duration) -> Self {
        Self {
            since: Instant::now(),
            limit,
        }
    }

    fn end(&mut self) {
        self.since = Instant::now();
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.limit
    }
}

/// A dispatcher makes the topics; an aggregator may be there before it.
fn wait_for_topic(config: &Config, shutdown: &Shutdown, quiet: &Quiet) -> Result<(), Error> {
    let since = Instant::now();
    let stopped = || shutdown.is_requested();
    let interrupted = |error| match (error, shutdown.requested()) {
        (kafka::Error::Stopped, Some(signal)) => Error::Stopped(signal),
        (error, _) => error.into(),
    };
    config
        .cluster
        .wait_until_reachable(&stopped)
        .map_err(interrupted)?;
    let mut said = false;
    while topics::look_for(&config.cluster, &config.topics.runs, &stopped)
        .map_err(interrupted)?
        .is_none()
    {
        if !said {
            info!(
                topic = config.topics.runs,
                "waiting for a dispatcher to create the topics"
            );
            said = true;
        }
        give_up(config, shutdown, quiet)?;
        std::thread::sleep(topics::pause(since.elapsed()));
    }
    Ok(())
}

fn give_up(config: &Config, shutdown: &Shutdown, quiet: &Quiet) -> Result<(), Error> {
    if let Some(signal) = shutdown.requested() {
        return Err(Error::Stopped(signal));
    }
    if quiet.is_over() {
        return Err(Error::NoRun {
            run: config.run.to_string(),
            topic: config.topics.runs.clone(),
            waited: config.timeout,
        });
    }
    Ok(())
}

/// Reads the runs topic until the chosen run was opened. Later events of it may be among those
/// that were read with it.
///
/// The outcomes are read from where this opening says, whatever a later one adds: no dispatcher of
/// the run publishes a job before an opening of it is there.
fn find_run(
    config: &Config,
    shutdown: &Shutdown,
    runs: &mut RunsReader,
    quiet: &mut Quiet,
) -> Result<(RunHistory, RunOpened), Error> {
    let mut chosen = match &config.run {
        RunChoice::Latest => None,
        RunChoice::Named(run_id) => Some(RunHistory::new(run_id.clone())),
    };
    // The latest is known only when all is read; what was told of it before comes then.
    let mut heard: Vec<RunEvent> = Vec::new();
    loop {
        for event in runs.read(LOOK)? {
            match &mut chosen {
                Some(run) => run.hear(event),
                None => heard.push(event),
            }
        }
        if runs.is_caught_up() {
            if chosen.is_none() {
                chosen = latest(&mut heard);
            }
            if let Some(run) = chosen.take() {
                runs.check(run.run_id())?;
                if let Some(opened) = run.opened().cloned() {
                    quiet.end();
                    if let Some(difference) = run.contradiction() {
                        warn!(%difference, "another dispatcher has tried to open the run");
                    }
                    return Ok((run, opened));
                }
                // A run that could not be opened at all is aborted without ever having been.
                if let Some(reason) = run.aborted() {
                    return Err(Error::Aborted {
                        run_id: run.run_id().clone(),
                        reason: reason.to_owned(),
                    });
                }
                chosen = Some(run);
            }
        }
        give_up(config, shutdown, quiet)?;
    }
}

/// The run that was opened last, with all that was told of it.
fn latest(heard: &mut Vec<RunEvent>) -> Option<RunHistory> {
    let last = heard.iter().rev().find_map(|event| match event {
        RunEvent::Opened(opened) => Some(opened.run_id.clone()),
        _ => None,
    });
    // What is told of runs without an opening is of no use, now or later.
    let heard = std::mem::take(heard);
    let mut run = RunHistory::new(last?);
    for event in heard {
        run.hear(event);
    }
    Some(run)
}

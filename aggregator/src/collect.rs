//! Drives the [`Completion`] of a run, which decides, with the runs topic and the outcomes topic.

use std::time::{Duration, Instant};

use kafka::{Reader, RecordBatch, RunsReader, beginning_offsets, end_offsets, topics};
use service::metrics::set;
use service::{Progress, Shutdown, logging};
use tracing::{info, warn};

use crate::args::Config;
use crate::collecting::{Collected, Unrecorded};
use crate::completion::{Backlog, Completion, End, Next};
use crate::error::Error;
use crate::memory::{self, MemoryWatch};
use crate::read_positions::ReadPositions;
use crate::table::Tabulation;
use crate::workers::workers_seen;

/// The longest time for which one read waits for records.
const STEP: Duration = Duration::from_millis(5);

/// A run that was collected, and what it was read with.
pub struct ReadRun {
    /// The collected run.
    pub collected: Collected,
    /// The table that the run leaves.
    pub tabulation: Tabulation,
    /// The runs topic, to be read on.
    pub runs: RunsReader,
    /// The clients with which outcomes were read.
    pub clients: OutcomesClients,
}

/// The clients that outcomes were read with. To drop them takes as long as their threads need to end.
pub struct OutcomesClients {
    _reader: Option<Reader>,
    _read_positions: Option<ReadPositions>,
}

/// Collects a run until it is complete or has a verdict, or until nothing new has come for as long as the
/// configuration allows and the workers have none of its jobs before them.
///
/// # Errors
/// When the run does not appear, was aborted, cannot be read, or has a grain that what is to be
/// written cannot be made of.
pub fn collect(
    config: &Config,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<ReadRun, Error> {
    let mut driver = Driver {
        completion: Completion::new(&config.run, config.timeout, Instant::now()),
        config,
        shutdown,
        progress,
        runs: None,
        outcomes: None,
        read_positions: None,
        tabulation: None,
        batch: RecordBatch::default(),
        counted_jobs: 0,
        counted_duplicates: 0,
        memory: MemoryWatch::new(config),
    };
    driver.reach()?;
    let end = driver.run()?;
    driver.finish(end)
}

struct Driver<'a> {
    completion: Completion,
    config: &'a Config,
    shutdown: &'a Shutdown,
    progress: &'a Progress,
    runs: Option<RunsReader>,
    outcomes: Option<Reader>,
    read_positions: Option<ReadPositions>,
    tabulation: Option<Tabulation>,
    batch: RecordBatch,
    counted_jobs: u64,
    counted_duplicates: u64,
    memory: MemoryWatch<'a>,
}

impl Driver<'_> {
    /// Waits for a broker.
    fn reach(&self) -> Result<(), Error> {
        let stopped = || self.shutdown.is_requested();
        let reached = self.config.cluster.wait_until_reachable(&stopped);
        reached.map_err(|error| self.interrupted(error))
    }

    fn interrupted(&self, error: kafka::Error) -> Error {
        match (error, self.shutdown.requested()) {
            (kafka::Error::Stopped, Some(signal)) => Error::Stopped(signal),
            (error, _) => error.into(),
        }
    }

    /// Does what the completion says until nothing more is to be read.
    fn run(&mut self) -> Result<End, Error> {
        let started = Instant::now();
        let mut looked = false;
        loop {
            let is_stopped = self.shutdown.is_requested();
            match self.completion.next(Instant::now(), is_stopped) {
                Next::LookForRunsTopic => {
                    if looked {
                        std::thread::sleep(topics::pause(started.elapsed()));
                    }
                    self.look_for_runs_topic(looked)?;
                    looked = true;
                }
                Next::ReadRuns => self.read_runs()?,
                Next::AskOffsets => self.ask_offsets()?,
                Next::ReadOutcomes => self.read_outcomes()?,
                Next::AskWorkers => self.ask_workers(),
                Next::End(end) => return Ok(end),
            }
        }
    }

    fn look_for_runs_topic(&mut self, looked: bool) -> Result<(), Error> {
        let stopped = || self.shutdown.is_requested();
        let topic = &self.config.topics.runs;
        let found = topics::look_for(&self.config.cluster, topic, &stopped)
            .map_err(|error| self.interrupted(error))?;
        if found.is_none() && !looked {
            info!(topic, "waiting for a dispatcher to create the topics");
        }
        self.completion.apply_runs_topic(found.is_some());
        Ok(())
    }

    fn read_runs(&mut self) -> Result<(), Error> {
        let is_found = self.completion.run().is_some();
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => none.insert(RunsReader::start(
                &self.config.cluster,
                &self.config.topics.runs,
            )?),
        };
        let events = runs.read(if is_found { Duration::ZERO } else { STEP })?;
        let is_caught_up = runs.is_caught_up();
        self.completion
            .apply_run_events(events, is_caught_up, Instant::now());
        if let Some(run_id) = self.completion.run_id() {
            runs.check(run_id)?;
        }
        let unreadable = &self.config.metrics.unreadable_run_events;
        unreadable.inc_by(runs.unreadable() - unreadable.get());
        self.show_progress();
        Ok(())
    }

    /// The run is found.
    fn ask_offsets(&mut self) -> Result<(), Error> {
        let config = self.config;
        if let Some(run) = self.completion.run() {
            if let Some(difference) = run.contradiction() {
                warn!(%difference, "another dispatcher has tried to open the run");
            }
            if let Some(opened) = run.opened() {
                self.tabulation = Some(Tabulation::new(config, &opened.options)?);
            }
            logging::set_run_id(run.run_id().as_str());
        }
        info!("collecting");
        let topic = &config.topics.outcomes;
        let partitions = topics::partition_count(&config.cluster, topic)?;
        let partitions = partitions.ok_or_else(|| kafka::Error::NoTopic {
            topic: topic.clone(),
        })?;
        let end = end_offsets(&config.cluster, topic, partitions)?;
        let kept = beginning_offsets(&config.cluster, topic, partitions)?;
        let collection = |rules| memory::collection(config, rules);
        self.completion
            .apply_offsets(&kept, end, collection, Instant::now());
        let read = self.completion.outcomes_read();
        let start = read.map_or(&[][..], |read| read.start());
        self.outcomes = Some(Reader::start(&config.cluster, topic, start)?);
        self.read_positions = ReadPositions::new(config, partitions)?;
        self.show_progress();
        Ok(())
    }

    fn read_outcomes(&mut self) -> Result<(), Error> {
        let Some(reader) = &mut self.outcomes else {
            return Ok(());
        };
        let metrics = &self.config.metrics;
        self.batch.clear();
        reader.read(STEP, &mut self.batch)?;
        let now = Instant::now();
        metrics.consumed_messages.inc_by(self.batch.len() as u64);
        metrics.consumed_bytes.inc_by(self.batch.bytes() as u64);
        for record in self.batch.iter() {
            let (partition, offset) = (record.partition, record.offset);
            let payload = record.payload;
            match (self.completion).apply_outcomes(partition, offset, payload, now) {
                Ok(()) => {}
                Err(Unrecorded::Undecodable(error)) => {
                    metrics.undecodable_messages.inc();
                    warn!(partition, offset, %error, "dropped");
                }
                Err(Unrecorded::Spill(error)) => {
                    return Err(Error::of_spill(&self.config.spill_folder)(error));
                }
            }
        }
        self.completion
            .apply_outcomes_read(reader.next_offsets(), now);
        if let Some(positions) = &mut self.read_positions {
            positions.read(self.batch.bytes(), reader.next_offsets())?;
        }
        self.show_progress();
        Ok(())
    }

    /// Nothing new has come for a while.
    fn ask_workers(&mut self) {
        let stopped = || self.shutdown.is_requested();
        let silence = humantime::format_duration(self.config.timeout);
        let group = &self.config.group;
        let seen = match workers_seen(self.config, self.progress, &stopped) {
            Ok(seen) => Some(seen),
            Err(kafka::Error::Stopped) => None,
            Err(error) => {
                warn!(group, %error, "cannot ask what the workers have before them");
                None
            }
        };
        let backlog = self.completion.apply_workers(seen, Instant::now());
        if let Some(Backlog { members, messages }) = backlog {
            info!(
                group,
                members, messages, "nothing new for {silence}, waiting for workers that have jobs"
            );
        }
    }

    fn show_progress(&mut self) {
        let Some(collection) = self.completion.collection() else {
            return;
        };
        if let Some(manifest) = collection.manifest() {
            self.progress.collected.set_total(manifest.jobs);
        }
        let jobs = collection.jobs_with_outcome();
        let metrics = &self.config.metrics;
        let collected = &self.progress.collected;
        collected.add(jobs.saturating_sub(self.counted_jobs));
        self.counted_jobs = self.counted_jobs.max(jobs);
        let duplicates = collection.recorded().duplicates;
        metrics
            .duplicates
            .inc_by(duplicates.saturating_sub(self.counted_duplicates));
        // Fewer after a generation was opened: outcomes are then read again.
        self.counted_duplicates = self.counted_duplicates.max(duplicates);
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        set(&metrics.conflicts, number(collection.recorded().conflicts));
        self.memory.look(collection.memory_use());
        if let Some(ledger) = collection.ledger() {
            set(&metrics.jobs, number(ledger.jobs()));
            set(&metrics.missing_jobs, number(ledger.missing()));
            set(&metrics.dead_lettered_jobs, ledger.dead().len());
        }
    }

    /// The collected run, where it can be reconciled.
    fn finish(self, end: End) -> Result<ReadRun, Error> {
        let no_run = || Error::NoRun {
            run: self.config.run.to_string(),
            topic: self.config.topics.runs.clone(),
            waited: self.config.timeout,
        };
        match end {
            End::Complete | End::HasVerdict => {}
            End::Cancelled(cancelled) => return Err(Error::cancelled(&cancelled)),
            End::GaveUp(why) => warn!(
                group = self.config.group,
                "nothing new for {}, giving up: {why}",
                humantime::format_duration(self.config.timeout)
            ),
            End::NoRun => return Err(no_run()),
            End::Aborted(run_id, reason) => return Err(Error::Aborted { run_id, reason }),
            End::OtherNumbering(run_id, version) => {
                return Err(Error::Numbering { run_id, version });
            }
            End::Stopped => {
                if let Some(signal) = self.shutdown.requested() {
                    return Err(Error::Stopped(signal));
                }
            }
        }
        let collected = self.completion.into_collected();
        let all = collected.zip(self.tabulation).zip(self.runs);
        let ((collected, tabulation), runs) = all.ok_or_else(no_run)?;
        Ok(ReadRun {
            collected,
            tabulation,
            runs,
            clients: OutcomesClients {
                _reader: self.outcomes,
                _read_positions: self.read_positions,
            },
        })
    }
}

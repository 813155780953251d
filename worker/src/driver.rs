//! The driver of the event loop: it carries out the actions of [`EventLoop`] with Kafka, threads and
//! the clock, and applies their results.

mod shared;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use kafka::{GroupConsumer, RecordBatch};
use service::Shutdown;
use service::metrics::set;
use tracing::{debug, warn};

use crate::args::{Config, Delivery as DeliveryKind};
use crate::cancellations;
use crate::client::{Client, Producing};
use crate::delivery::{AtLeastOnce, Delivery, ExactlyOnce};
use crate::error::Error;
use crate::event_loop::{self, Action, Attempt, Consume, EventLoop, Failure, Limits, ThreadStatus};
use crate::executor::{self, Executor, Inability, Settings, Watch, WorkUnit};
use crate::metrics::Metrics;
use crate::state::outbox::{Destination, Finished};
use crate::transactions::Transactions;
use shared::{Core, SharedCore};

/// The number of work units that are queued for each compute thread.
const QUEUED_WORK_UNITS: usize = 2;

/// The number of batches of finished work that are queued for the event loop.
const QUEUED_FINISHED: usize = 64;

/// The interval between two updates of the gauges.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// The reason for which a worker without partitions is not ready.
pub(crate) const NO_PARTITIONS: &str = "no partitions are assigned";

/// The reason for which a worker without the computation of a run is not ready.
const UNABLE: &str = "a run has a computation that this worker does not have; shutting down";

/// A compute thread.
struct ComputeThread {
    handle: JoinHandle<()>,
    watch: Arc<Watch>,
}

/// Whether the driver continues after an action.
enum Flow {
    Continue,
    Exit,
}

/// The driver of a worker's event loop.
pub(crate) struct Driver {
    member: Option<GroupConsumer<SharedCore>>,
    core: SharedCore,
    /// The queue of the compute threads; `None` while the worker winds down.
    work_units: Option<Sender<WorkUnit>>,
    finished: Receiver<Finished>,
    threads: Vec<ComputeThread>,
    inability: Inability,
    outcomes_topic: String,
    dlq_topic: String,
    is_winding_down: bool,
    metrics: Metrics,
    observed_at: Instant,
}

impl Driver {
    /// Joins the group and starts the compute threads.
    ///
    /// # Errors
    /// When a client cannot be created or a thread cannot be started.
    pub(crate) fn start<E: Executor + Send + 'static>(
        config: &Config,
        limits: Limits,
        shutdown: &Shutdown,
        outcome_partitions: usize,
        metrics: &Metrics,
        executor: impl Fn() -> E,
    ) -> Result<Self, Error> {
        let (finished_sender, finished) = crossbeam_channel::bounded(QUEUED_FINISHED);
        let now = Instant::now();
        let (delivery, client): (Box<dyn Delivery>, Box<dyn Client>) = match config.delivery {
            DeliveryKind::AtLeastOnce => (
                Box::new(AtLeastOnce::new(&limits, now)),
                Box::new(Producing::new(config, outcome_partitions, metrics)?),
            ),
            DeliveryKind::ExactlyOnce => (
                Box::new(ExactlyOnce::new()),
                Box::new(Transactions::start(
                    config,
                    shutdown,
                    outcome_partitions,
                    metrics,
                )?),
            ),
        };
        let threads = config.threads.get();
        let loop_config = event_loop::Config {
            commit_interval: config.commit_interval,
            job_timeout: config.job_timeout,
            threads,
            limits,
        };
        let core = SharedCore::new(Core {
            event_loop: EventLoop::new(loop_config, delivery, now),
            client,
            finished: finished.clone(),
            error: None,
            metrics: metrics.clone(),
        });
        let member = GroupConsumer::join(
            &config.cluster,
            &config.membership,
            &config.topics.jobs,
            core.clone(),
        )?;
        let (work_units, taken) = crossbeam_channel::bounded(threads * QUEUED_WORK_UNITS);
        let settings = Settings {
            worker: config.worker.clone(),
            retry: config.retry,
            apart_by_partition: config.delivery == DeliveryKind::ExactlyOnce,
            seconds: metrics.compute_seconds.clone(),
            inability: Inability::default(),
            cancellations: cancellations::follow(config, shutdown)?,
            cancelled_jobs: metrics.cancelled_jobs.clone(),
        };
        let inability = settings.inability.clone();
        let threads = (0..threads)
            .map(|number| {
                let (settings, shutdown) = (settings.clone(), shutdown.clone());
                let (taken, finished) = (taken.clone(), finished_sender.clone());
                let watch = Arc::<Watch>::default();
                let watched = Arc::clone(&watch);
                let executor = executor();
                let handle = thread::Builder::new()
                    .name(format!("compute-{number}"))
                    .spawn(move || {
                        executor::run(settings, shutdown, watched, executor, &taken, finished);
                    })
                    .map_err(|error| Error::Thread(error.to_string()))?;
                Ok(ComputeThread { handle, watch })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            member: Some(member),
            core,
            work_units: Some(work_units),
            finished,
            threads,
            inability,
            outcomes_topic: config.topics.outcomes.clone(),
            dlq_topic: config.topics.dlq.clone(),
            is_winding_down: false,
            metrics: metrics.clone(),
            observed_at: now,
        })
    }

    /// Runs the worker until a shutdown is requested or an error ends it, and winds it down.
    ///
    /// # Errors
    /// The error that ended the worker.
    pub(crate) fn run(mut self, shutdown: &Shutdown) -> Result<(), Error> {
        let mut result = Ok(());
        loop {
            let action = self.core.lock().event_loop.next(Instant::now());
            if matches!(action, Action::Poll) && !self.is_winding_down && shutdown.is_requested() {
                self.wind_down();
                continue;
            }
            match self.carry_out(action) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Exit) => break,
                Err(error) if self.is_winding_down => {
                    warn!(%error, "error while winding down; not waiting for the compute threads");
                    self.core.lock().event_loop.give_up_serving();
                }
                Err(error) => {
                    result = Err(error);
                    self.wind_down();
                }
            }
        }
        debug!("worker stopped");
        result
    }

    fn wind_down(&mut self) {
        self.is_winding_down = true;
        self.core.lock().event_loop.wind_down(Instant::now());
    }

    fn carry_out(&mut self, action: Action) -> Result<Flow, Error> {
        match action {
            Action::Poll => {
                self.metrics.health.beat();
                if let Some(member) = &mut self.member {
                    member.poll()?;
                }
            }
            Action::Collect => self.core.lock().collect(),
            Action::AwaitFinished(timeout) => {
                if let Ok(finished) = self.finished.recv_timeout(timeout) {
                    self.core.lock().apply_finished(finished);
                }
            }
            Action::Deliver(step) => {
                let member = self.member.as_ref();
                let metadata = || member.and_then(GroupConsumer::group_metadata);
                self.core.lock().deliver(step, &metadata);
            }
            Action::Commit(commits) => {
                if let Some(member) = &self.member {
                    member.commit(&commits);
                    self.metrics.commits.inc();
                }
            }
            Action::CommitAndWait(commits) => {
                self.metrics.commits.inc();
                let member = self.member.as_ref();
                let committed = member.is_some_and(|member| member.commit_now(&commits));
                self.core.lock().event_loop.apply_commit_answer(committed);
            }
            Action::HandOut(unit) => self.hand_out(unit),
            Action::Threads => self.check_threads(),
            Action::JoinOthers(partition) => {
                if let Some(member) = &mut self.member {
                    member.join_others(partition);
                }
            }
            Action::Consume(consume, records) => self.consume(consume, records)?,
            Action::Wait(pause) => thread::sleep(pause),
            Action::End(failure) => return Err(self.error(failure)),
            Action::CloseWorkUnits => self.work_units = None,
            Action::Leave(timeout) => {
                if let Some(member) = self.member.take() {
                    member.close(timeout);
                }
            }
            Action::Exit => return Ok(Flow::Exit),
        }
        Ok(Flow::Continue)
    }

    fn hand_out(&self, unit: WorkUnit) {
        let Some(work_units) = &self.work_units else {
            return;
        };
        if let Err(TrySendError::Full(unit) | TrySendError::Disconnected(unit)) =
            work_units.try_send(unit)
        {
            self.core.lock().event_loop.apply_no_room(unit);
        }
    }

    fn check_threads(&mut self) {
        self.observe();
        let status = |thread: &ComputeThread| ThreadStatus {
            is_finished: thread.handle.is_finished(),
            is_unable: self.inability.get().is_some(),
            at_work: oldest_attempt(&thread.watch),
        };
        let threads = self.threads.iter().map(status);
        let mut core = self.core.lock();
        core.event_loop.apply_threads(threads, Instant::now());
    }

    fn consume(&mut self, consume: Consume, mut records: RecordBatch) -> Result<(), Error> {
        let (messages, bytes) = (records.len(), records.bytes());
        if let Some(member) = &mut self.member {
            match consume {
                Consume::Isolated { partition, at_most } => {
                    member.consume_apart(partition, at_most, &mut records)?;
                }
                Consume::One(timeout) => member.consume_one(timeout, &mut records)?,
                Consume::Batch(timeout) => member.consume(timeout, &mut records)?,
            }
        }
        let metrics = &self.metrics;
        metrics
            .consumed_messages
            .inc_by((records.len() - messages) as u64);
        metrics
            .consumed_bytes
            .inc_by((records.bytes() - bytes) as u64);
        let mut core = self.core.lock();
        core.event_loop.apply_records(records, Instant::now());
        Ok(())
    }

    /// Sets the gauges, at most once in [`OBSERVE_INTERVAL`].
    fn observe(&mut self) {
        if self.observed_at.elapsed() < OBSERVE_INTERVAL {
            return;
        }
        self.observed_at = Instant::now();
        let metrics = &self.metrics;
        let core = self.core.lock();
        let queued = self.work_units.as_ref().map_or(0, Sender::len);
        let waiting = core.event_loop.waiting_work_units() + queued;
        set(&metrics.waiting_work_units, waiting);
        let state = core.event_loop.state();
        set(&metrics.in_hand_messages, state.in_flight().in_hand());
        set(&metrics.outbox_bytes, state.delivery().unconfirmed_bytes());
        if let Some(in_flight) = core.client.in_flight() {
            set(&metrics.in_flight_messages, in_flight);
        }
        if let Some(member) = &self.member {
            let positions = state.in_flight().positions();
            metrics.lag_messages.set(member.lag(positions));
        }
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::ThreadDied => Error::Thread("a compute thread died".to_owned()),
            Failure::Unable => match self.inability.get() {
                Some(unable) => {
                    self.metrics.health.set_not_ready(UNABLE);
                    Error::Unable(unable.clone())
                }
                None => Error::Thread(
                    "a compute thread cannot compute its jobs, for an unknown reason".to_owned(),
                ),
            },
            Failure::Hang { partition, timeout } => Error::JobTimeout { partition, timeout },
            Failure::NotAcknowledged { waited } => kafka::Error::NotAcknowledged {
                topic: self.outcomes_topic.clone(),
                waited,
            }
            .into(),
            Failure::Undelivered {
                destination,
                partition,
                code,
            } => {
                let topic = match destination {
                    Some(Destination::Dlq) => &self.dlq_topic,
                    _ => &self.outcomes_topic,
                };
                kafka::Error::undelivered(topic, partition, code).into()
            }
            Failure::Client => {
                let error = self.core.lock().error.take();
                error.unwrap_or_else(|| Error::Thread("the transaction thread died".to_owned()))
            }
        }
    }
}

/// The oldest attempt that a compute thread has in flight, or else the one that it computes now.
fn oldest_attempt(watch: &Watch) -> Option<Attempt> {
    if let Some(oldest) = watch.in_flight().first() {
        return Some(Attempt {
            id: oldest.id,
            partition: oldest.partition,
            since: Some(oldest.since),
        });
    }
    let (id, partition) = watch.at_work()?;
    Some(Attempt {
        id,
        partition,
        since: None,
    })
}

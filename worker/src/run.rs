//! The thread that moves a worker's data, and the order in which it comes up and winds down.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use computations::Registry;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use kafka::{
    Assigned, BatchProducer, Delivery, GroupConsumer, GroupMetadata, RebalanceListener,
    RecordBatch, topics,
};
use pipeline::JobBatch;
use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Start};
use service::metrics::set;
use service::{Exit, FaultPoint, Shutdown, Signal, clock, listen, logging};
use tracing::{debug, info, warn};

use crate::args::{self, Config};
use crate::desk::{CarefulJob, Desk};
use crate::error::Error;
use crate::executor::{
    self, Executor, Inability, Inline, Lease, Leases, Settings, Watch, WorkUnit,
};
use crate::metrics::Metrics;
use crate::outbox::{Destination, Finished};
use crate::output::Output;
use crate::transactions::{Ended, Ending, Transaction, Transactions};

/// While there is work in hand, the queue of messages is looked at so often.
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// While there is nothing to do at all, the worker sleeps so long at a time.
const IDLE_WAIT: Duration = Duration::from_millis(10);

/// Finished work that the broker has not confirmed yet, at most. Beyond it no more messages are
/// taken. Nor is finished work, unless it is for transactions: there it may be what the rest waits
/// for.
const MAX_UNCONFIRMED_BYTES: usize = 8 * 1024 * 1024;

/// Slices that wait for a compute thread, for each of them.
const WAITING_SLICES: usize = 2;

/// A partition that is read alone and of which nothing comes for so long has nothing that kills.
const ALONE_PATIENCE: Duration = Duration::from_secs(10);

/// How often the gauges are set.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a rebalance waits for outcomes that are on their way to be acknowledged.
const REVOKE_PATIENCE: Duration = Duration::from_millis(500);

/// How long messages may be on their way without a single acknowledgement. A broker that is away so
/// long is rare; a client that has lost sight of one that is there, after restarts in a row, was seen
/// to stand still for good (librdkafka 2.12), and a new process is the cure.
const ACKNOWLEDGE_PATIENCE: Duration = Duration::from_secs(120);

/// How long a transaction is waited for before polling goes on.
const COMMIT_PATIENCE: Duration = Duration::from_millis(100);

/// How long winding down waits for the jobs in hand.
const JOB_PATIENCE: Duration = Duration::from_secs(20);

/// How long it then takes at most to have them acknowledged, commit them and leave the group.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// The same where the parent process is gone, and maybe the broker with it.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

/// Why a worker that leaves jobs to others is not ready.
const UNABLE: &str = "a run asks for a computation that this worker cannot do; it is leaving";

/// Why a worker without work is not ready.
const NO_PARTITIONS: &str = "no partitions are assigned";

/// Works until `shutdown` is requested, on jobs of these computations.
///
/// # Errors
/// When no broker answers in time, when the worker can go on no longer, or when a job is of another
/// computation. What it had in hand is done again by whoever gets its partitions.
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
    let mut mover = Mover::start(
        config,
        shutdown,
        outcome_partitions,
        metrics.clone(),
        executor,
    )?;
    info!(group = config.membership.group, "worker is up");
    let worked = mover.work(shutdown);
    mover.wind_down(if config.exit_with_stdin {
        ORPHAN_PATIENCE
    } else {
        LEAVE_PATIENCE
    });
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
            thread::sleep(JOB_PATIENCE + 2 * ORPHAN_PATIENCE);
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

/// What the data mover and the rebalances that it serves both work on. One thread uses it; the lock
/// is there because the client's callbacks cannot know that.
struct Hands {
    desk: Desk,
    leases: Leases,
    /// Leases that have ended and may still be in use by compute threads.
    ended: Vec<Weak<Lease>>,
    /// Partitions that are read apart from the others.
    apart: BTreeSet<i32>,
    /// From the compute threads.
    finished: Receiver<Finished>,
    way: Way,
    /// Why it was closed, until the mover has heard of it.
    failure: Option<Error>,
    metrics: Metrics,
}

/// The way of finished work to the broker.
enum Way {
    /// Messages are produced, and offsets are committed behind those that are acknowledged.
    Acknowledged(Box<Producing>),
    /// Messages and offsets are committed together.
    Together(Transactions),
    /// No further transaction can be committed.
    Closed,
}

/// What it takes to produce without transactions.
struct Producing {
    producer: BatchProducer,
    deliveries: Vec<Delivery>,
    /// When something was acknowledged last, or nothing was on its way.
    heard_at: Instant,
    output: Output,
    before_produce: FaultPoint,
    before_commit: FaultPoint,
}

#[derive(Clone)]
struct SharedHands(Arc<Mutex<Hands>>);

impl SharedHands {
    fn lock(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RebalanceListener for SharedHands {
    /// Each partition's mark is committed before its first message comes.
    fn assigned(&self, starts: &[Start]) -> Assigned {
        let mut hands = self.lock();
        let epochs = hands.desk.assigned(starts);
        for (start, epoch) in starts.iter().zip(epochs) {
            let partition = start.partition;
            let reading = hands.desk.reading(partition).unwrap_or(Reading::Freely);
            if reading > Reading::Freely {
                warn!(
                    partition,
                    offset = start.offset,
                    ?reading,
                    "workers died with this partition"
                );
                hands.apart.insert(partition);
            }
            hands.leases.insert(partition, Arc::new(Lease::new(epoch)));
        }
        hands.metrics.assigned.inc();
        hands.tell_assignment();
        let partitions: Vec<i32> = starts.iter().map(|start| start.partition).collect();
        Assigned {
            commits: hands.desk.first_commits(&partitions),
            apart: hands.apart.iter().copied().collect(),
        }
    }

    /// Finished work is committed, unfinished work is forgotten.
    fn revoked(
        &self,
        partitions: &[i32],
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Vec<Commit> {
        let mut hands = self.lock();
        hands.take_in_all();
        hands.drain(REVOKE_PATIENCE);
        let commits = hands.desk.release(partitions);
        hands.commit_all(REVOKE_PATIENCE, member);
        hands.forget(partitions);
        hands.metrics.revoked.inc();
        commits
    }

    fn lost(&self, partitions: &[i32]) {
        let mut hands = self.lock();
        hands.forget(partitions);
        hands.metrics.lost.inc();
    }

    fn committed(&self, commits: &[Commit]) {
        self.lock().desk.committed(commits);
    }

    fn commit_failed(&self) {
        let mut hands = self.lock();
        hands.desk.commit_failed();
        hands.metrics.failed_commits.inc();
    }
}

impl Producing {
    fn new(
        config: &Config,
        outcome_partitions: usize,
        metrics: &Metrics,
    ) -> Result<Self, kafka::Error> {
        let mut producer = BatchProducer::new(&config.cluster)?;
        let output = Output::new(config, outcome_partitions, metrics, |name| {
            producer.topic(name)
        })?;
        Ok(Self {
            producer,
            deliveries: Vec::new(),
            heard_at: Instant::now(),
            output,
            before_produce: FaultPoint::new("worker.before-produce"),
            before_commit: FaultPoint::new("worker.before-commit"),
        })
    }
}

impl Hands {
    fn forget(&mut self, partitions: &[i32]) {
        self.desk.forget(partitions);
        for partition in partitions {
            self.apart.remove(partition);
            if let Some(lease) = self.leases.remove(partition) {
                lease.end();
                self.ended.push(Arc::downgrade(&lease));
            }
        }
        self.look_for_stale_work();
        self.tell_assignment();
    }

    /// Whoever works on a message has its partition's lease.
    fn look_for_stale_work(&mut self) {
        self.ended.retain(|lease| lease.strong_count() > 0);
        self.desk.set_stale_work(!self.ended.is_empty());
    }

    /// A worker is ready while it has partitions.
    fn tell_assignment(&self) {
        let assigned = self.desk.assigned_partitions();
        set(&self.metrics.assigned_partitions, assigned);
        if assigned > 0 {
            self.metrics.health.set_ready();
        } else {
            self.metrics.health.set_not_ready(NO_PARTITIONS);
        }
    }

    fn take_in(&mut self, finished: Finished) {
        self.metrics.retries.inc_by(u64::from(finished.retries));
        self.desk.finish(finished);
    }

    /// Takes in what the compute threads have finished, as far as there is room.
    fn take_in_all(&mut self) {
        while !matches!(self.way, Way::Acknowledged(_))
            || self.desk.unconfirmed_bytes() < MAX_UNCONFIRMED_BYTES
        {
            let Ok(finished) = self.finished.try_recv() else {
                break;
            };
            self.take_in(finished);
        }
    }

    /// Sends what may be sent and hears what became of what was sent before.
    fn send(&mut self) -> Result<(), Error> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.produce()?;
        self.hear_deliveries()?;
        // What the DLQ has acknowledged can be told now.
        self.produce()?;
        self.hear_end(Duration::ZERO)
    }

    /// Hands to the producer what may be produced, as far as its queue has room.
    fn produce(&mut self) -> Result<(), Error> {
        let Way::Acknowledged(own) = &mut self.way else {
            return Ok(());
        };
        while let Some((id, destination)) = self.desk.outbox().next() {
            own.before_produce.pass()?;
            let outbox = self.desk.outbox();
            let produced = match (destination, outbox.dead_letter(id)) {
                (Destination::Dlq, Some(letter)) => {
                    own.output.dead_letter(&own.producer, id, letter)?
                }
                _ => {
                    let payload = outbox.outcomes(id).unwrap_or_default();
                    own.output.outcomes(&mut own.producer, id, payload)?
                }
            };
            if !produced {
                break;
            }
            self.desk.produced();
        }
        Ok(())
    }

    /// Hears what became of messages. The producer tries again by itself for as long as that can
    /// help; what it gives up would fail again for ever.
    fn hear_deliveries(&mut self) -> Result<(), Error> {
        let Way::Acknowledged(own) = &mut self.way else {
            return Ok(());
        };
        own.producer.poll(&mut own.deliveries);
        if !own.deliveries.is_empty() {
            own.before_commit.pass()?;
        }
        if !own.deliveries.is_empty() || own.producer.in_flight() == 0 {
            own.heard_at = Instant::now();
        } else if own.heard_at.elapsed() >= ACKNOWLEDGE_PATIENCE {
            return Err(kafka::Error::NotAcknowledged {
                topic: own.output.outcomes_topic().to_owned(),
                waited: ACKNOWLEDGE_PATIENCE,
            }
            .into());
        }
        for delivery in own.deliveries.drain(..) {
            if let Some(code) = delivery.error {
                let topic = match self.desk.outbox().stage(delivery.id) {
                    Some(Destination::Dlq) => own.output.dlq_topic(),
                    _ => own.output.outcomes_topic(),
                };
                return Err(kafka::Error::undelivered(topic, delivery.partition, code).into());
            }
            let outbox = self.desk.outbox();
            let has_outcomes = outbox.outcomes(delivery.id).is_some();
            let is_dead = outbox.dead_letter(delivery.id).is_some();
            let settles = self.desk.acknowledged(delivery.id);
            // Where an outcome is to follow, the DLQ's acknowledgement settles nothing yet.
            if is_dead && (settles.is_empty() || !has_outcomes) {
                self.metrics.dead_letters.inc();
            }
            self.metrics.settled(&settles, has_outcomes, is_dead);
        }
        Ok(())
    }

    /// Hears how the transaction under way has ended, if it has or does within `patience`.
    fn hear_end(&mut self, patience: Duration) -> Result<(), Error> {
        let Way::Together(transactions) = &self.way else {
            return Ok(());
        };
        if !self.desk.is_under_way() {
            return Ok(());
        }
        let ended = transactions.ended(patience);
        let Some(Ended { cut, ending }) = ended.inspect_err(|_| self.way = Way::Closed)? else {
            return Ok(());
        };
        let committed = match ending {
            Ending::Committed => true,
            Ending::Aborted => false,
            Ending::Unknown(found) => {
                let committed = self.desk.is_committed(&cut, &found);
                info!(committed, "found out how the transaction has ended");
                committed
            }
        };
        if committed {
            for finished in cut.finished() {
                let is_dead = finished.dead_letter.is_some();
                if is_dead {
                    self.metrics.dead_letters.inc();
                }
                let has_outcomes = finished.outcomes.is_some();
                self.metrics
                    .settled(&finished.settles, has_outcomes, is_dead);
            }
        } else {
            self.metrics.failed_commits.inc();
        }
        self.desk.ended(cut, committed);
        Ok(())
    }

    /// Begins the next transaction, unless one is under way or there is nothing to commit. Returns
    /// whether it did.
    fn begin(&mut self, member: &dyn Fn() -> Option<GroupMetadata>) -> bool {
        let Way::Together(transactions) = &self.way else {
            return false;
        };
        let Some(cut) = self.desk.cut() else {
            return false;
        };
        let Some(member) = member() else {
            // Partitions without a membership: they are about to be lost.
            self.desk.ended(cut, false);
            return false;
        };
        self.metrics.commits.inc();
        transactions.begin(Transaction { cut, member });
        true
    }

    /// Commits everything that can be committed in transactions, as far as patience goes.
    fn commit_all(&mut self, patience: Duration, member: &dyn Fn() -> Option<GroupMetadata>) {
        let until = Instant::now() + patience;
        while let Way::Together(_) = self.way {
            self.begin(member);
            let left = until.saturating_duration_since(Instant::now());
            if !self.desk.is_under_way() || left.is_zero() {
                return;
            }
            if let Err(error) = self.hear_end(left) {
                self.failure = Some(error);
            }
        }
    }

    /// Produces and waits until everything finished is acknowledged, or patience is over.
    fn drain(&mut self, patience: Duration) {
        const STEP: Duration = Duration::from_micros(250);
        let until = Instant::now() + patience;
        while !self.desk.outbox().is_empty() && Instant::now() < until {
            if let Err(error) = self.send() {
                warn!(%error, "while draining");
                return;
            }
            thread::sleep(STEP);
        }
    }
}

/// A compute thread, and what was last seen of it.
struct ComputeThread {
    handle: JoinHandle<()>,
    watch: Arc<Watch>,
    /// The attempt that was under way, and since when it was seen to be.
    attempt: Option<(u64, Instant)>,
    hangs: bool,
}

impl ComputeThread {
    /// The partition of the job that this thread has been at for longer than `timeout`.
    fn hanging(&mut self, timeout: Duration) -> Option<i32> {
        let in_flight = self.watch.in_flight();
        let oldest = in_flight.first();
        if let Some(oldest) = oldest.filter(|own| own.since.elapsed() >= timeout) {
            self.hangs = true;
            return Some(oldest.partition);
        }
        let Some((attempt, partition)) = self.watch.at_work() else {
            self.attempt = None;
            return None;
        };
        match self.attempt {
            Some((seen, since)) if seen == attempt => {
                self.hangs = since.elapsed() >= timeout;
                self.hangs.then_some(partition)
            }
            _ => {
                self.attempt = Some((attempt, Instant::now()));
                None
            }
        }
    }
}

/// Moves data between the broker and the compute threads.
struct Mover {
    member: Option<GroupConsumer<SharedHands>>,
    hands: SharedHands,
    /// `None` once winding down has begun.
    slices: Option<Sender<WorkUnit>>,
    finished: Receiver<Finished>,
    threads: Vec<ComputeThread>,
    inability: Inability,
    job_timeout: Option<Duration>,
    /// Since when nothing has come of a partition that is read alone.
    alone_since: Option<Instant>,
    /// The record of the message that is worked on job by job.
    careful: Option<Arc<RecordBatch>>,
    /// Slices that found no room with the compute threads.
    waiting: Vec<WorkUnit>,
    commit_interval: Duration,
    committed_at: Instant,
    metrics: Metrics,
    observed_at: Instant,
}

impl Mover {
    fn start<E: Executor + Send + 'static>(
        config: &Config,
        shutdown: &Shutdown,
        outcome_partitions: usize,
        metrics: Metrics,
        executor: impl Fn() -> E,
    ) -> Result<Self, Error> {
        let (finished_sender, finished) = crossbeam_channel::bounded(64);
        let (desk, way) = match config.delivery {
            args::Delivery::AtLeastOnce => {
                let producing = Producing::new(config, outcome_partitions, &metrics)?;
                (Desk::new(), Way::Acknowledged(Box::new(producing)))
            }
            args::Delivery::ExactlyOnce => {
                let transactions =
                    Transactions::start(config, shutdown, outcome_partitions, &metrics)?;
                (Desk::with_transactions(), Way::Together(transactions))
            }
        };
        let hands = SharedHands(Arc::new(Mutex::new(Hands {
            desk,
            leases: Leases::new(),
            ended: Vec::new(),
            apart: BTreeSet::new(),
            finished: finished.clone(),
            way,
            failure: None,
            metrics: metrics.clone(),
        })));
        let member = GroupConsumer::join(
            &config.cluster,
            &config.membership,
            &config.topics.jobs,
            hands.clone(),
        )?;
        let threads_count = config.threads.get();
        let (slices, taken) = crossbeam_channel::bounded(threads_count * WAITING_SLICES);
        let settings = Settings {
            worker: config.worker.clone(),
            retry: config.retry,
            apart_by_partition: config.delivery == args::Delivery::ExactlyOnce,
            seconds: metrics.compute_seconds.clone(),
            inability: Inability::default(),
        };
        let inability = settings.inability.clone();
        let threads = (0..threads_count)
            .map(|number| {
                let settings = settings.clone();
                let shutdown = shutdown.clone();
                let taken = taken.clone();
                let finished = finished_sender.clone();
                let watch = Arc::<Watch>::default();
                let watched = Arc::clone(&watch);
                let executor = executor();
                let handle = thread::Builder::new()
                    .name(format!("compute-{number}"))
                    .spawn(move || {
                        executor::run(settings, shutdown, watched, executor, &taken, finished);
                    })
                    .map_err(|error| Error::Thread(error.to_string()))?;
                Ok(ComputeThread {
                    handle,
                    watch,
                    attempt: None,
                    hangs: false,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            member: Some(member),
            hands,
            slices: Some(slices),
            finished,
            threads,
            inability,
            job_timeout: config.job_timeout,
            alone_since: None,
            careful: None,
            waiting: Vec::new(),
            commit_interval: config.commit_interval,
            committed_at: Instant::now(),
            metrics,
            observed_at: Instant::now(),
        })
    }

    /// Takes, produces and commits until it is asked to end.
    fn work(&mut self, shutdown: &Shutdown) -> Result<(), Error> {
        while !shutdown.is_requested() {
            self.serve()?;
            self.offer_waiting();
            self.observe();
            if self
                .threads
                .iter()
                .any(|thread| thread.handle.is_finished())
            {
                return Err(Error::Thread("a compute thread died".to_owned()));
            }
            self.look_for_hanging()?;
            if let Some(unable) = self.inability.get() {
                self.metrics.health.set_not_ready(UNABLE);
                return Err(Error::Unable(unable.clone()));
            }
            if self.hands.lock().desk.unconfirmed_bytes() >= MAX_UNCONFIRMED_BYTES {
                // The broker is slow or away: everything waits for it, but for polling.
                thread::sleep(BUSY_WAIT);
            } else if self.waiting.is_empty() {
                self.take()?;
            } else {
                // The compute threads are busy: whatever they finish next is moved on.
                self.wait_for_finished();
            }
        }
        Ok(())
    }

    /// Sets the gauges, now and then.
    fn observe(&mut self) {
        if self.observed_at.elapsed() < OBSERVE_INTERVAL {
            return;
        }
        self.observed_at = Instant::now();
        let metrics = &self.metrics;
        let queued = self.slices.as_ref().map_or(0, Sender::len);
        set(&metrics.waiting_slices, self.waiting.len() + queued);
        let hands = self.hands.lock();
        set(&metrics.in_hand_messages, hands.desk.in_hand());
        set(&metrics.outbox_bytes, hands.desk.unconfirmed_bytes());
        if let Way::Acknowledged(own) = &hands.way {
            set(&metrics.in_flight_messages, own.producer.in_flight());
        }
        if let Some(member) = &self.member {
            metrics.lag_messages.set(member.lag(hands.desk.positions()));
        }
    }

    /// Everything but taking new work: rebalances, finished work, delivery reports, commits.
    fn serve(&mut self) -> Result<(), Error> {
        self.metrics.health.beat();
        if let Some(member) = &mut self.member {
            member.poll()?;
        }
        let mut hands = self.hands.lock();
        hands.take_in_all();
        hands.send()?;
        let is_time =
            hands.desk.in_hand() == 0 || self.committed_at.elapsed() >= self.commit_interval;
        let Some(member) = self.member.as_ref().filter(|_| is_time) else {
            return Ok(());
        };
        if let Way::Together(_) = hands.way {
            if hands.begin(&|| member.group_metadata()) {
                self.committed_at = Instant::now();
            }
            return Ok(());
        }
        // Marks that must be there before the next message are committed by whoever takes that.
        if hands.desk.alone().is_some() || hands.desk.marks_are_due() {
            return Ok(());
        }
        let commits = hands.desk.commits();
        drop(hands);
        if !commits.is_empty() {
            member.commit(&commits);
            self.metrics.commits.inc();
            self.committed_at = Instant::now();
        }
        Ok(())
    }

    /// Takes messages and hands them to the compute threads.
    fn take(&mut self) -> Result<(), Error> {
        let alone = {
            let mut hands = self.hands.lock();
            hands.look_for_stale_work();
            hands.desk.alone()
        };
        if let Some(partition) = alone {
            return self.take_alone(partition);
        }
        self.alone_since = None;
        let (marks_are_due, is_clear) = {
            let hands = self.hands.lock();
            (hands.desk.marks_are_due(), hands.desk.is_clear())
        };
        if marks_are_due && !self.commit_now() {
            thread::sleep(BUSY_WAIT);
            return Ok(());
        }
        let mut records = self.take_apart()?;
        let Some(member) = &mut self.member else {
            return Ok(());
        };
        if is_clear && records.is_empty() {
            // A batch call waits its whole time-out to fill; for one message it returns at once.
            member.consume_one(IDLE_WAIT, &mut records)?;
            if !records.is_empty() {
                member.consume(Duration::ZERO, &mut records)?;
            }
        } else {
            member.consume(BUSY_WAIT, &mut records)?;
        }
        self.hand_out(records, None);
        Ok(())
    }

    /// Takes messages of partitions that are read apart, as many as may be in hand; those that need
    /// not be apart any more join the others.
    fn take_apart(&mut self) -> Result<RecordBatch, Error> {
        let mut records = RecordBatch::default();
        let Some(member) = &mut self.member else {
            return Ok(records);
        };
        let mut hands = self.hands.lock();
        let hands = &mut *hands;
        let apart: Vec<i32> = hands.apart.iter().copied().collect();
        for partition in apart {
            if hands.desk.reading(partition) == Some(Reading::Freely) {
                member.join_others(partition);
                hands.apart.remove(&partition);
                info!(partition, "the partition is read with the others again");
            } else {
                member.consume_apart(partition, hands.desk.room(partition), &mut records)?;
            }
        }
        Ok(records)
    }

    /// Takes the next message, or the next job, of a partition that is read alone: what is in hand
    /// is finished first, and its mark is committed before it is begun.
    fn take_alone(&mut self, partition: i32) -> Result<(), Error> {
        if self.hands.lock().desk.is_careful() {
            return self.work_carefully(partition);
        }
        if self.hands.lock().desk.room(partition) == 0 {
            self.wait_for_finished();
            return Ok(());
        }
        let suspect = {
            let mut hands = self.hands.lock();
            let careful = hands.desk.reading(partition) == Some(Reading::Carefully);
            careful.then(|| hands.desk.suspect_first(partition))
        };
        if !self.commit_now() {
            thread::sleep(BUSY_WAIT);
            return Ok(());
        }
        let mut records = RecordBatch::default();
        if let Some(member) = &mut self.member {
            member.consume_apart(partition, 1, &mut records)?;
        }
        let Some(record) = records.iter().next() else {
            let since = *self.alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= ALONE_PATIENCE {
                self.alone_since = None;
                self.hands.lock().desk.nothing_comes(partition);
            }
            thread::sleep(BUSY_WAIT);
            return Ok(());
        };
        self.alone_since = None;
        let Some(suspect) = suspect else {
            self.hand_out(records, None);
            return Ok(());
        };
        // Whoever dies of the very look into the message has its death counted, too.
        let batch = (!suspect.message_is_to_be_buried()).then(|| JobBatch::decode(record.payload));
        let Some(Ok(batch)) = batch else {
            self.hand_out(records, Some(suspect));
            return Ok(());
        };
        let jobs = batch.jobs_count();
        let offset = record.offset;
        let mut hands = self.hands.lock();
        hands.desk.take(partition, offset);
        hands.desk.begin_carefully(partition, offset, jobs);
        drop(hands);
        self.careful = Some(Arc::new(records));
        Ok(())
    }

    /// Begins the next job of the message that is worked on job by job.
    fn work_carefully(&mut self, partition: i32) -> Result<(), Error> {
        let next = self.hands.lock().desk.next_carefully();
        let (Some(job), Some(records)) = (next, self.careful.clone()) else {
            self.wait_for_finished();
            return Ok(());
        };
        if !self.commit_now() {
            thread::sleep(BUSY_WAIT);
            return Ok(());
        }
        let mut hands = self.hands.lock();
        // The commit may have taken long enough for the partition to be gone.
        let Some(lease) = hands.leases.get(&partition).map(Arc::clone) else {
            return Ok(());
        };
        hands.desk.begun(job.position);
        drop(hands);
        self.waiting.push(WorkUnit {
            range: 0..records.len(),
            records,
            leases: Arc::new(Leases::from([(partition, lease)])),
            job: Some(job),
        });
        self.offer_waiting();
        Ok(())
    }

    /// Waits a moment for whatever the compute threads finish next.
    fn wait_for_finished(&mut self) {
        if let Ok(finished) = self.finished.recv_timeout(BUSY_WAIT) {
            self.hands.lock().take_in(finished);
        }
    }

    /// Commits what may be committed, and waits for it.
    fn commit_now(&mut self) -> bool {
        let mut hands = self.hands.lock();
        let Some(member) = &self.member else {
            return false;
        };
        if let Way::Together(_) = hands.way {
            // What is not committed soon is waited for by coming again, and polling meanwhile.
            hands.commit_all(COMMIT_PATIENCE, &|| member.group_metadata());
            return hands.desk.is_settled();
        }
        let commits = hands.desk.commits_to_wait_for();
        drop(hands);
        if commits.is_empty() {
            return true;
        }
        self.metrics.commits.inc();
        self.committed_at = Instant::now();
        member.commit_now(&commits)
    }

    /// Hands records to the compute threads, each its share. `job`: the only one that is meant.
    fn hand_out(&mut self, records: RecordBatch, job: Option<CarefulJob>) {
        if records.is_empty() {
            return;
        }
        self.metrics.consumed_messages.inc_by(records.len() as u64);
        self.metrics.consumed_bytes.inc_by(records.bytes() as u64);
        let mut hands = self.hands.lock();
        let mut leases = Leases::new();
        for record in records.iter() {
            // Records of a partition that was just revoked have no lease and are skipped.
            if hands.desk.take(record.partition, record.offset).is_some()
                && let Some(lease) = hands.leases.get(&record.partition)
            {
                leases
                    .entry(record.partition)
                    .or_insert_with(|| Arc::clone(lease));
            }
        }
        drop(hands);
        let records = Arc::new(records);
        let leases = Arc::new(leases);
        let share = records.len().div_ceil(self.threads.len()).max(1);
        for start in (0..records.len()).step_by(share) {
            self.waiting.push(WorkUnit {
                records: Arc::clone(&records),
                range: start..records.len().min(start + share),
                leases: Arc::clone(&leases),
                job,
            });
        }
        self.waiting.reverse();
        self.offer_waiting();
    }

    /// A job that takes longer than it may is taken for one that never ends. No thread can be
    /// stopped, so the process ends, and the mark of the job's partition tells the next worker why.
    fn look_for_hanging(&mut self) -> Result<(), Error> {
        let Some(timeout) = self.job_timeout else {
            return Ok(());
        };
        for thread in &mut self.threads {
            if let Some(partition) = thread.hanging(timeout) {
                self.hands.lock().desk.hangs(partition);
                return Err(Error::JobTimeout { partition, timeout });
            }
        }
        Ok(())
    }

    /// Hands slices to the compute threads as far as they have room. The last of `waiting` is the
    /// first to go.
    fn offer_waiting(&mut self) {
        let Some(slices) = &self.slices else {
            return;
        };
        while let Some(slice) = self.waiting.pop() {
            match slices.try_send(slice) {
                Ok(()) => {}
                Err(TrySendError::Full(slice) | TrySendError::Disconnected(slice)) => {
                    self.waiting.push(slice);
                    return;
                }
            }
        }
    }

    /// The order of winding down: the compute threads finish the job in hand and end; what they
    /// finished is produced and acknowledged; leaving the group commits it; the client is closed.
    fn wind_down(mut self, leave_patience: Duration) {
        self.slices = None;
        self.waiting.clear();
        let until = Instant::now() + JOB_PATIENCE;
        let is_busy = |thread: &ComputeThread| !thread.hangs && !thread.handle.is_finished();
        while self.threads.iter().any(is_busy) && Instant::now() < until {
            // Keeps the membership alive and the compute threads from waiting for room.
            if let Err(error) = self.serve() {
                warn!(%error, "while winding down");
                break;
            }
            self.wait_for_finished();
        }
        let until = Instant::now() + leave_patience;
        {
            let mut hands = self.hands.lock();
            hands.take_in_all();
            hands.drain(leave_patience);
            if let Some(member) = &self.member {
                hands.commit_all(leave_patience, &|| member.group_metadata());
            }
        }
        if let Some(member) = self.member.take() {
            member.close(until.saturating_duration_since(Instant::now()));
        }
        debug!("worker is down");
    }
}

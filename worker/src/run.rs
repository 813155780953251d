//! The thread that moves a worker's data, and the order in which it comes up and winds down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use kafka::{
    BatchProducer, Delivery, GroupConsumer, Header, Outgoing, RebalanceListener, RecordBatch,
    Topic, topics,
};
use pipeline::offsets::OffsetTracker;
use service::metrics::set;
use service::{Exit, Shutdown, Signal, listen, logging};
use tracing::{debug, info, warn};

use crate::args::Config;
use crate::computing::{self, Lease, Leases, Settings, Slice};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::outbox::{Destination, Finished, Outbox};

/// While there is work in hand, the queue of messages is looked at so often.
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// While there is nothing to do at all, the worker sleeps so long at a time.
const IDLE_WAIT: Duration = Duration::from_millis(10);

/// Finished work that is not acknowledged yet, at most. Beyond it no more is taken from the compute
/// threads, which then wait, and so the whole worker waits for the broker.
const MAX_OUTBOX_BYTES: usize = 8 * 1024 * 1024;

/// Slices that wait for a compute thread, for each of them.
const WAITING_SLICES: usize = 2;

/// An outcomes partition gets so many bytes before the next one's turn: fewer, fuller requests.
const ROTATE_AFTER_BYTES: usize = 128 * 1024;

/// How often the gauges are set.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a rebalance waits for outcomes that are on their way to be acknowledged.
const REVOKE_PATIENCE: Duration = Duration::from_millis(500);

/// How long winding down waits for the jobs in hand.
const JOB_PATIENCE: Duration = Duration::from_secs(20);

/// How long it then takes at most to have them acknowledged, commit them and leave the group.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// The same where the parent process is gone, and maybe the broker with it.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

/// Why a worker without work is not ready.
const NO_PARTITIONS: &str = "no partitions are assigned";

/// Works until `shutdown` is requested.
///
/// # Errors
/// When no broker answers in time, or when the worker can go on no longer. What it had in hand is
/// done again by whoever gets its partitions.
pub fn run(config: &Config, shutdown: &Shutdown) -> Result<Exit, Error> {
    logging::set_worker(&config.worker.id);
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
    let mut mover = Mover::start(config, shutdown, outcome_partitions, metrics.clone())?;
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
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);
    let mut pause = Duration::from_millis(10);
    let mut said = false;
    loop {
        if shutdown.is_requested() {
            return Ok(None);
        }
        let jobs = topics::partition_count(&config.cluster, &config.topics.jobs)?;
        let outcomes = topics::partition_count(&config.cluster, &config.topics.outcomes)?;
        if let (Some(_), Some(partitions)) = (jobs, outcomes) {
            return Ok(Some(partitions));
        }
        if !said {
            info!(
                topic = config.topics.jobs,
                "waiting for a dispatcher to create the topics"
            );
            said = true;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the data mover and the rebalances that it serves both work on. One thread uses it; the lock
/// is there because the client's callbacks cannot know that.
struct Hands {
    tracker: OffsetTracker,
    leases: Leases,
    outbox: Outbox,
    producer: BatchProducer,
    deliveries: Vec<Delivery>,
    /// From the compute threads.
    finished: Receiver<Finished>,
    outcomes: Topic,
    outcome_partitions: i32,
    /// Where outcomes go now, and how many bytes went there.
    turn: (i32, usize),
    dlq: Topic,
    jobs_topic: String,
    group: String,
    metrics: Metrics,
}

#[derive(Clone)]
struct SharedHands(Arc<Mutex<Hands>>);

impl SharedHands {
    fn lock(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RebalanceListener for SharedHands {
    fn assigned(&self, partitions: &[i32]) {
        let mut hands = self.lock();
        for &partition in partitions {
            let epoch = hands.tracker.assign(partition);
            hands.leases.insert(partition, Arc::new(Lease::new(epoch)));
        }
        hands.metrics.assigned.inc();
        hands.tell_assignment();
    }

    /// Finished work is committed, unfinished work is forgotten.
    fn revoked(&self, partitions: &[i32]) -> Vec<(i32, i64)> {
        let mut hands = self.lock();
        hands.take_in_all();
        hands.drain(REVOKE_PATIENCE);
        let mut offsets = hands.tracker.committable();
        offsets.retain(|(partition, _)| partitions.contains(partition));
        // Offsets of other partitions that were given out here are committed with the next ones.
        hands.tracker.give_out_again();
        hands.forget(partitions);
        hands.metrics.revoked.inc();
        offsets
    }

    fn lost(&self, partitions: &[i32]) {
        let mut hands = self.lock();
        hands.forget(partitions);
        hands.metrics.lost.inc();
    }

    fn commit_failed(&self) {
        let mut hands = self.lock();
        hands.tracker.give_out_again();
        hands.metrics.failed_commits.inc();
    }
}

impl Hands {
    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.tracker.revoke(*partition);
            if let Some(lease) = self.leases.remove(partition) {
                lease.end();
            }
        }
        self.tell_assignment();
    }

    /// A worker is ready while it has partitions.
    fn tell_assignment(&self) {
        let assigned = self.tracker.assigned();
        set(&self.metrics.assigned_partitions, assigned);
        if assigned > 0 {
            self.metrics.health.set_ready();
        } else {
            self.metrics.health.set_not_ready(NO_PARTITIONS);
        }
    }

    fn take_in(&mut self, finished: Finished) {
        self.metrics.retries.inc_by(u64::from(finished.retries));
        for settled in self.outbox.add(finished) {
            self.tracker.settle(&settled);
        }
    }

    /// Takes in what the compute threads have finished, as far as the outbox has room.
    fn take_in_all(&mut self) {
        while self.outbox.bytes() < MAX_OUTBOX_BYTES {
            let Ok(finished) = self.finished.try_recv() else {
                break;
            };
            self.take_in(finished);
        }
    }

    /// Hands to the producer what may be produced, as far as its queue has room.
    fn produce(&mut self) -> Result<(), Error> {
        while let Some((id, destination)) = self.outbox.next() {
            let produced = match destination {
                Destination::Outcomes => self.produce_outcomes(id)?,
                Destination::Dlq => self.produce_dead_letter(id)?,
            };
            if !produced {
                break;
            }
            self.outbox.produced();
        }
        Ok(())
    }

    fn produce_outcomes(&mut self, id: usize) -> Result<bool, Error> {
        let payload = self.outbox.outcomes(id).unwrap_or_default();
        let (partition, bytes) = self.turn;
        let message = Outgoing { payload, id };
        let refused = self
            .producer
            .produce(&self.outcomes, partition, &[message])?;
        if !refused.is_empty() {
            return Ok(false);
        }
        self.metrics.produced_messages.inc();
        self.metrics.produced_bytes.inc_by(payload.len() as u64);
        let bytes = bytes + payload.len();
        self.turn = if bytes < ROTATE_AFTER_BYTES {
            (partition, bytes)
        } else {
            ((partition + 1) % self.outcome_partitions, 0)
        };
        Ok(true)
    }

    fn produce_dead_letter(&mut self, id: usize) -> Result<bool, Error> {
        let Some(letter) = self.outbox.dead_letter(id) else {
            return Ok(true);
        };
        let partition = letter.partition.to_string();
        let offset = letter.offset.to_string();
        let attempts = letter.attempts.to_string();
        let header = |key, value| Header { key, value };
        // The names are those of KIP-1191.
        let headers = [
            header("__dlq.errors.topic", self.jobs_topic.as_str()),
            header("__dlq.errors.partition", &partition),
            header("__dlq.errors.offset", &offset),
            header("__dlq.errors.group", &self.group),
            header("__dlq.errors.delivery.count", &attempts),
            header("__dlq.errors.message", &letter.reason),
        ];
        let message = Outgoing {
            payload: &letter.payload,
            id,
        };
        let bytes = letter.payload.len() as u64;
        let produced = self
            .producer
            .produce_one(&self.dlq, 0, None, &headers, message)?;
        if produced {
            self.metrics.produced_messages.inc();
            self.metrics.produced_bytes.inc_by(bytes);
        }
        Ok(produced)
    }

    /// Hears what became of messages. The producer tries again by itself for as long as that can
    /// help; what it gives up would fail again for ever.
    fn hear_deliveries(&mut self) -> Result<(), Error> {
        let mut deliveries = std::mem::take(&mut self.deliveries);
        self.producer.poll(&mut deliveries);
        let (mut counted, mut dead_lettered) = (0, 0);
        for delivery in deliveries.drain(..) {
            if let Some(code) = delivery.error {
                return Err(Error::Kafka(kafka::Error::Delivery {
                    topic: match self.outbox.stage(delivery.id) {
                        Some(Destination::Dlq) => self.dlq.name().to_owned(),
                        _ => self.outcomes.name().to_owned(),
                    },
                    partition: delivery.partition,
                    code,
                }));
            }
            let has_outcomes = self.outbox.outcomes(delivery.id).is_some();
            let is_dead = self.outbox.dead_letter(delivery.id).is_some();
            let settles = self.outbox.acknowledged(delivery.id);
            // Where an outcome is to follow, the DLQ's acknowledgement settles nothing yet.
            if is_dead && (settles.is_empty() || !has_outcomes) {
                self.metrics.dead_letters.inc();
            }
            for settled in settles {
                self.tracker.settle(&settled);
                match (has_outcomes, is_dead) {
                    (true, false) => counted += u64::from(settled.jobs),
                    (true, true) => dead_lettered += u64::from(settled.jobs),
                    // A message that could not be decoded: which jobs it held nobody knows.
                    (false, _) => {}
                }
            }
        }
        self.metrics.counted.inc_by(counted);
        self.metrics.dead_lettered.inc_by(dead_lettered);
        self.deliveries = deliveries;
        Ok(())
    }

    /// Produces and waits until everything finished is acknowledged, or patience is over.
    fn drain(&mut self, patience: Duration) {
        const STEP: Duration = Duration::from_micros(250);
        let until = Instant::now() + patience;
        loop {
            if let Err(error) = self.produce().and_then(|()| self.hear_deliveries()) {
                warn!(%error, "while draining");
                return;
            }
            if self.outbox.is_empty() || Instant::now() >= until {
                return;
            }
            thread::sleep(STEP);
        }
    }
}

/// Moves data between the broker and the compute threads.
struct Mover {
    member: Option<GroupConsumer<SharedHands>>,
    hands: SharedHands,
    /// `None` once winding down has begun.
    slices: Option<Sender<Slice>>,
    finished: Receiver<Finished>,
    threads: Vec<JoinHandle<()>>,
    /// Slices that found no room with the compute threads.
    waiting: Vec<Slice>,
    commit_interval: Duration,
    committed_at: Instant,
    metrics: Metrics,
    observed_at: Instant,
}

impl Mover {
    fn start(
        config: &Config,
        shutdown: &Shutdown,
        outcome_partitions: usize,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let (finished_sender, finished) = crossbeam_channel::bounded(64);
        let mut producer = BatchProducer::new(&config.cluster)?;
        let outcome_partitions = i32::try_from(outcome_partitions).unwrap_or(i32::MAX);
        let hands = SharedHands(Arc::new(Mutex::new(Hands {
            tracker: OffsetTracker::new(),
            leases: Leases::new(),
            outbox: Outbox::new(),
            deliveries: Vec::new(),
            finished: finished.clone(),
            outcomes: producer.topic(&config.topics.outcomes)?,
            outcome_partitions,
            // Workers begin at different partitions, so that a few of them fill all.
            turn: (
                (std::process::id() % outcome_partitions.unsigned_abs()) as i32,
                0,
            ),
            dlq: producer.topic(&config.topics.dlq)?,
            jobs_topic: config.topics.jobs.clone(),
            group: config.membership.group.clone(),
            metrics: metrics.clone(),
            producer,
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
            simulate_work: config.simulate_work,
            seconds: metrics.compute_seconds.clone(),
        };
        let threads = (0..threads_count)
            .map(|number| {
                let settings = settings.clone();
                let shutdown = shutdown.clone();
                let taken = taken.clone();
                let finished = finished_sender.clone();
                thread::Builder::new()
                    .name(format!("compute-{number}"))
                    .spawn(move || computing::run(settings, shutdown, &taken, finished))
                    .map_err(|error| Error::Thread(error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            member: Some(member),
            hands,
            slices: Some(slices),
            finished,
            threads,
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
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err(Error::Thread("it died".to_owned()));
            }
            if self.hands.lock().outbox.bytes() >= MAX_OUTBOX_BYTES {
                // The broker is slow or away: everything waits for it, but for polling.
                thread::sleep(BUSY_WAIT);
            } else if self.waiting.is_empty() {
                self.take()?;
            } else if let Ok(finished) = self.finished.recv_timeout(BUSY_WAIT) {
                // The compute threads are busy: whatever they finish next is moved on.
                self.hands.lock().take_in(finished);
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
        set(&metrics.in_hand_messages, hands.tracker.in_hand());
        set(&metrics.outbox_bytes, hands.outbox.bytes());
        set(&metrics.in_flight_messages, hands.producer.in_flight());
        if let Some(member) = &self.member {
            metrics
                .lag_messages
                .set(member.lag(hands.tracker.positions()));
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
        hands.produce()?;
        hands.hear_deliveries()?;
        // What the DLQ has acknowledged can be told now.
        hands.produce()?;
        let idle = hands.tracker.in_hand() == 0;
        if idle || self.committed_at.elapsed() >= self.commit_interval {
            let offsets = hands.tracker.committable();
            drop(hands);
            if let (false, Some(member)) = (offsets.is_empty(), &self.member) {
                member.commit(&offsets);
                self.metrics.commits.inc();
                self.committed_at = Instant::now();
            }
        }
        Ok(())
    }

    /// Takes messages and hands them to the compute threads.
    fn take(&mut self) -> Result<(), Error> {
        let Some(member) = &mut self.member else {
            return Ok(());
        };
        let idle = {
            let hands = self.hands.lock();
            hands.tracker.in_hand() == 0 && hands.outbox.is_empty()
        };
        let mut records = RecordBatch::default();
        if idle {
            // A batch call waits its whole time-out to fill; for one message it returns at once.
            member.consume_one(IDLE_WAIT, &mut records)?;
            if !records.is_empty() {
                member.consume(Duration::ZERO, &mut records)?;
            }
        } else {
            member.consume(BUSY_WAIT, &mut records)?;
        }
        if records.is_empty() {
            return Ok(());
        }
        self.metrics.consumed_messages.inc_by(records.len() as u64);
        self.metrics.consumed_bytes.inc_by(records.bytes() as u64);
        let mut hands = self.hands.lock();
        let mut leases = Leases::new();
        for record in records.iter() {
            // Records of a partition that was just revoked have no lease and are skipped.
            if hands
                .tracker
                .take(record.partition, record.offset)
                .is_some()
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
            self.waiting.push(Slice {
                records: Arc::clone(&records),
                range: start..records.len().min(start + share),
                leases: Arc::clone(&leases),
            });
        }
        self.waiting.reverse();
        self.offer_waiting();
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
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            // Keeps the membership alive and the compute threads from waiting for room.
            if let Err(error) = self.serve() {
                warn!(%error, "while winding down");
                break;
            }
            if let Ok(finished) = self.finished.recv_timeout(BUSY_WAIT) {
                self.hands.lock().take_in(finished);
            }
        }
        let until = Instant::now() + leave_patience;
        {
            let mut hands = self.hands.lock();
            hands.take_in_all();
            hands.drain(leave_patience);
        }
        if let Some(member) = self.member.take() {
            member.close(until.saturating_duration_since(Instant::now()));
        }
        debug!("worker is down");
    }
}

//! Publishes jobs: packs them into messages, hands these to the producer a batch at a time, and
//! waits until the broker has acknowledged every one.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use kafka::{BatchProducer, Delivery, GroupOffsets, Outgoing, Topic};
use pipeline::{JobBatchEncoder, JobHeader, JobSetDigest, JobSetHasher, Resume};
use service::metrics::set;
use service::{FaultPoint, Progress, Shutdown};
use tracing::{info, warn};

use crate::credit::Credit;
use crate::error::Error;
use crate::job_set::JobSet;
use crate::metrics::Metrics;
use crate::packing::{Packing, TurnLimit, stride};

/// How long to wait where there is nothing to do but wait.
const STEP: Duration = Duration::from_micros(500);

/// The same for credit, which costs a request to ask for.
const CREDIT_STEP: Duration = Duration::from_millis(4);

/// A broker that acknowledges nothing for so long is worth a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a record costs on the broker beyond its payload, roughly.
const RECORD_OVERHEAD_BYTES: usize = 70;

/// Where jobs go, and how.
pub struct Target<'a> {
    /// The producer; it has nothing in flight.
    pub producer: &'a mut BatchProducer,
    /// The jobs topic.
    pub topic: &'a Topic,
    /// Its partitions.
    pub partitions: usize,
    /// When a message is full.
    pub packing: Packing,
    /// A limit to what is not yet worked off; `None`: the broker keeps it all.
    pub credit: Option<(Credit, GroupOffsets)>,
    /// Where what is sent is counted.
    pub metrics: &'a Metrics,
}

/// What was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Messages, every one acknowledged.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Over all jobs of the run, those that were not published now included.
    pub digest: JobSetDigest,
    /// When the broker had acknowledged the first of them; `None` when none was published.
    pub first_at: Option<Instant>,
}

/// Publishes the jobs of a run that are missing, all if it was not taken up, and waits for every
/// acknowledgement.
///
/// # Errors
/// When a message cannot be delivered, or when it was stopped.
pub fn publish(
    header: &JobHeader,
    jobs: &JobSet,
    taken_up: Option<&Resume>,
    target: Target<'_>,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Published, Error> {
    let missing = taken_up.map_or(jobs.counts().jobs, Resume::missing);
    progress.published.set_total(missing);
    let turn_limit = TurnLimit::new(missing, target.partitions);
    FaultPoint::new("dispatcher.before-produce").pass()?;
    let stride = stride(target.partitions);
    let mut publisher = Publisher {
        target,
        progress,
        shutdown,
        partition: 0,
        stride,
        turn: Turn::default(),
        turn_limit,
        messages: 0,
        bytes: 0,
        jobs: 0,
        deliveries: Vec::new(),
        first_delivery: None,
        last_delivery: Instant::now(),
        mid_publish: FaultPoint::new("dispatcher.mid-publish"),
    };
    let packing = publisher.target.packing;
    let mut encoder = JobBatchEncoder::new(header);
    let mut hasher = JobSetHasher::new();
    jobs.for_each(|job| {
        hasher.update(job);
        if taken_up.is_some_and(|run| !run.is_missing(job.index)) {
            return Ok(());
        }
        if !encoder.takes(job.index) {
            publisher.add(&mut encoder)?;
        }
        encoder.push(job);
        if packing.is_full(encoder.jobs_count() as u64, encoder.bytes_bound() as u64) {
            publisher.add(&mut encoder)?;
        }
        Ok(())
    })?;
    if encoder.jobs_count() > 0 {
        publisher.add(&mut encoder)?;
    }
    publisher.send_turn()?;
    publisher.wait_for_all()?;
    Ok(Published {
        messages: publisher.messages,
        bytes: publisher.bytes,
        jobs: publisher.jobs,
        digest: hasher.finish(),
        first_at: publisher.first_delivery,
    })
}

/// What jobs add to messages, about: their columns, and their payloads.
pub(crate) fn bytes_in_messages(jobs: u64, payload_bytes: u64) -> u64 {
    const COLUMNS: u64 = 18;
    COLUMNS * jobs + payload_bytes
}

/// Messages for one partition that go to the producer in one call.
#[derive(Default)]
struct Turn {
    buffer: Vec<u8>,
    /// Where each message is in the buffer, and how many jobs it has.
    messages: Vec<(Range<usize>, usize)>,
    jobs: u64,
}

struct Publisher<'a> {
    target: Target<'a>,
    progress: &'a Progress,
    shutdown: &'a Shutdown,
    /// Whose turn it is.
    partition: usize,
    /// How many partitions on the next turn is.
    stride: usize,
    turn: Turn,
    turn_limit: TurnLimit,
    messages: u64,
    bytes: u64,
    jobs: u64,
    deliveries: Vec<Delivery>,
    first_delivery: Option<Instant>,
    last_delivery: Instant,
    /// Passed whenever acknowledgements have come.
    mid_publish: FaultPoint,
}

impl Publisher<'_> {
    /// Adds the encoder's batch as a message.
    fn add(&mut self, encoder: &mut JobBatchEncoder) -> Result<(), Error> {
        let jobs = encoder.jobs_count();
        let start = self.turn.buffer.len();
        encoder.finish(&mut self.turn.buffer);
        let turn = &mut self.turn;
        turn.messages.push((start..turn.buffer.len(), jobs));
        turn.jobs += jobs as u64;
        self.jobs += jobs as u64;
        let (messages, bytes) = (turn.messages.len(), turn.buffer.len());
        if self.turn_limit.is_reached(turn.jobs, messages, bytes) {
            self.send_turn()?;
        }
        Ok(())
    }

    /// Sends what was added to the next partition that may have it.
    fn send_turn(&mut self) -> Result<(), Error> {
        if self.turn.messages.is_empty() {
            return Ok(());
        }
        self.find_credit()?;
        let turn = std::mem::take(&mut self.turn);
        let mut left: Vec<Outgoing<'_>> = turn
            .messages
            .iter()
            .map(|(range, jobs)| Outgoing {
                payload: &turn.buffer[range.clone()],
                // Comes back with the delivery, as what was published by it.
                id: *jobs,
            })
            .collect();
        if let Some((credit, _)) = &mut self.target.credit {
            for message in &left {
                let bytes = message.payload.len() + RECORD_OVERHEAD_BYTES;
                credit.sent(self.partition, bytes, message.id as u64);
            }
        }
        self.messages += left.len() as u64;
        self.bytes += turn.buffer.len() as u64;
        self.progress.health.beat();
        let metrics = self.target.metrics;
        metrics.produced_messages.inc_by(left.len() as u64);
        metrics.produced_bytes.inc_by(turn.buffer.len() as u64);
        set(
            &metrics.in_flight_messages,
            self.target.producer.in_flight(),
        );
        loop {
            let partition = self.partition as i32;
            left = self
                .target
                .producer
                .produce(self.target.topic, partition, &left)?;
            self.hear_deliveries()?;
            if left.is_empty() {
                break;
            }
            // The producer's queue is full: its bound is the back-pressure.
            self.pause(STEP)?;
        }
        drop(left);
        self.turn = turn;
        self.turn.buffer.clear();
        self.turn.messages.clear();
        self.turn.jobs = 0;
        self.partition = (self.partition + self.stride) % self.target.partitions;
        Ok(())
    }

    /// Moves on to a partition that has credit, and waits until one has.
    fn find_credit(&mut self) -> Result<(), Error> {
        loop {
            let Some((credit, group)) = &mut self.target.credit else {
                return Ok(());
            };
            let collected = self.progress.collected.done();
            let partitions = self.target.partitions;
            let allowed = (0..partitions)
                .map(|ahead| (self.partition + ahead) % partitions)
                .find(|&partition| credit.allows(partition, collected));
            if let Some(partition) = allowed {
                self.partition = partition;
                return Ok(());
            }
            credit.committed(&group.committed()?);
            self.hear_deliveries()?;
            self.pause(CREDIT_STEP)?;
        }
    }

    fn hear_deliveries(&mut self) -> Result<(), Error> {
        self.target.producer.poll(&mut self.deliveries);
        if self.deliveries.is_empty() {
            return Ok(());
        }
        self.last_delivery = Instant::now();
        let mut jobs = 0;
        for delivery in self.deliveries.drain(..) {
            if let Some(code) = delivery.error {
                let topic = self.target.topic.name();
                return Err(kafka::Error::undelivered(topic, delivery.partition, code).into());
            }
            jobs += delivery.id as u64;
        }
        if self.first_delivery.is_none() {
            self.first_delivery = Some(self.last_delivery);
            info!(jobs, "the broker has the first jobs");
        }
        self.progress.published.add(jobs);
        self.mid_publish.pass()?;
        Ok(())
    }

    fn wait_for_all(&mut self) -> Result<(), Error> {
        loop {
            self.hear_deliveries()?;
            if self.target.producer.in_flight() == 0 {
                // What was reported between the two looks.
                return self.hear_deliveries();
            }
            self.pause(STEP)?;
        }
    }

    /// Waits a little, unless it is to stop.
    fn pause(&mut self, step: Duration) -> Result<(), Error> {
        if let Some(signal) = self.shutdown.requested() {
            return Err(Error::Stopped(signal));
        }
        // What a broker has refused it will not acknowledge later.
        self.target.producer.check_admission()?;
        // Waiting for a broker is no reason to be taken for dead.
        self.progress.health.beat();
        let in_flight = self.target.producer.in_flight();
        set(&self.target.metrics.in_flight_messages, in_flight);
        if in_flight > 0 && self.last_delivery.elapsed() >= PATIENCE {
            warn!(
                "no acknowledgement for {} s, {in_flight} messages wait for the broker",
                PATIENCE.as_secs()
            );
            self.last_delivery = Instant::now();
        }
        thread::sleep(step);
        Ok(())
    }
}

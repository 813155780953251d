//! Publishes jobs: drives the [`Publisher`], which decides, with a producer.

pub mod acknowledgements;
pub mod batching;
pub mod flow_control;
pub mod partition_rotation;
pub mod publisher;

use std::thread;
use std::time::{Duration, Instant};

use kafka::{BatchProducer, Delivery, GroupOffsets, Outgoing, Topic};
use pipeline::Resume;
use service::metrics::set;
use service::{FaultPoint, Progress, Shutdown};
use tracing::{info, warn};

pub use self::batching::{Batching, JobsPerMessage};
pub use self::flow_control::FlowControl;
pub use self::publisher::{Next, PartitionBatch, Published, Publisher, Wait};
use crate::cancel_watch::CancelWatch;
use crate::error::Error;
use crate::job_set::JobSet;
use crate::metrics::Metrics;

/// The pause of a wait for acknowledgements.
const STEP: Duration = Duration::from_micros(500);

/// The pause of a wait for flow control, which is longer because each check is a request.
const FLOW_CONTROL_STEP: Duration = Duration::from_millis(4);

/// The clients and topics with which jobs are published.
pub struct Target<'a> {
    /// The producer; it has nothing in flight.
    pub producer: &'a mut BatchProducer,
    /// The jobs topic.
    pub topic: &'a Topic,
    /// The offsets of the workers' group, which flow control asks for.
    pub group: Option<GroupOffsets>,
    /// Whether the run is cancelled meanwhile; `None` where nobody can.
    pub cancel_watch: Option<CancelWatch>,
    /// The metrics in which sent jobs are counted.
    pub metrics: &'a Metrics,
}

/// Publishes the jobs that the publisher finds missing, and waits for every acknowledgement.
///
/// # Errors
/// When a message cannot be delivered, the run is cancelled, or it was stopped.
pub fn publish(
    publisher: Publisher,
    jobs: &JobSet,
    resumed: Option<&Resume>,
    target: Target<'_>,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Published, Error> {
    FaultPoint::new("dispatcher.before-produce").pass()?;
    let mut driver = Driver {
        publisher,
        target,
        progress,
        shutdown,
        deliveries: Vec::new(),
        mid_publish: FaultPoint::new("dispatcher.mid-publish"),
    };
    jobs.for_each(|job| match driver.publisher.push(job, resumed) {
        false => Ok(()),
        true => driver.drive(),
    })?;
    driver.publisher.end_of_jobs();
    driver.drive()?;
    driver.check_cancelled()?;
    let published = driver.publisher.finish();
    Ok(published.expect("a publisher that wants no more jobs is done"))
}

struct Driver<'a> {
    publisher: Publisher,
    target: Target<'a>,
    progress: &'a Progress,
    shutdown: &'a Shutdown,
    deliveries: Vec<Delivery>,
    /// Passed whenever acknowledgements have come.
    mid_publish: FaultPoint,
}

impl Driver<'_> {
    /// Does what the publisher says until it wants further jobs or is done.
    fn drive(&mut self) -> Result<(), Error> {
        loop {
            match self.next() {
                Next::Jobs | Next::Done => return Ok(()),
                Next::Produce { partition } => self.produce(partition)?,
                Next::CommittedOffsets => self.ask_for_committed()?,
                Next::Wait(Wait::Acknowledgements) => {
                    self.poll_deliveries()?;
                    if self.publisher.in_flight() > 0 {
                        self.pause(STEP)?;
                    }
                }
                Next::Wait(Wait::Queue) => self.pause(STEP)?,
                Next::Wait(Wait::FlowControl) => {
                    self.poll_deliveries()?;
                    self.pause(FLOW_CONTROL_STEP)?;
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        self.publisher.next(self.progress.collected.done())
    }

    fn ask_for_committed(&mut self) -> Result<(), Error> {
        let committed = match &mut self.target.group {
            Some(group) => group.committed()?,
            None => Vec::new(),
        };
        self.publisher.apply_committed(&committed);
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        match &self.target.cancel_watch {
            Some(watch) => watch.check(),
            None => Ok(()),
        }
    }

    /// Has the producer take a whole batch.
    fn produce(&mut self, partition: usize) -> Result<(), Error> {
        self.check_cancelled()?;
        let batch = self.publisher.take_batch();
        let mut left: Vec<Outgoing<'_>> = batch
            .messages()
            .map(|(payload, jobs)| Outgoing {
                payload,
                // Comes back with the delivery, as what was published by it.
                id: jobs,
            })
            .collect();
        self.progress.health.beat();
        let metrics = self.target.metrics;
        metrics.produced_messages.inc_by(left.len() as u64);
        metrics.produced_bytes.inc_by(batch.bytes() as u64);
        set(
            &metrics.in_flight_messages,
            self.target.producer.in_flight(),
        );
        loop {
            let offered = left.len();
            left = self
                .target
                .producer
                .produce(self.target.topic, partition as i32, &left)?;
            self.publisher.produced(offered - left.len());
            self.poll_deliveries()?;
            if left.is_empty() {
                break;
            }
            while let Next::Wait(_) = self.next() {
                self.pause(STEP)?;
            }
        }
        drop(left);
        self.publisher.give_back(batch);
        Ok(())
    }

    fn poll_deliveries(&mut self) -> Result<(), Error> {
        self.target.producer.poll(&mut self.deliveries);
        if self.deliveries.is_empty() {
            return Ok(());
        }
        let messages = self.deliveries.len() as u64;
        let mut jobs = 0;
        for delivery in self.deliveries.drain(..) {
            if let Some(code) = delivery.error {
                let topic = self.target.topic.name();
                return Err(kafka::Error::undelivered(topic, delivery.partition, code).into());
            }
            jobs += delivery.id as u64;
        }
        if self.publisher.apply_acknowledged(messages, Instant::now()) {
            info!(jobs, "the broker has the first jobs");
        }
        self.progress.published.add(jobs);
        self.mid_publish.pass()?;
        Ok(())
    }

    /// Waits a little, unless it is to stop.
    fn pause(&mut self, step: Duration) -> Result<(), Error> {
        if let Some(signal) = self.shutdown.requested() {
            return Err(Error::Stopped(signal));
        }
        self.check_cancelled()?;
        // What a broker has refused it will not acknowledge later.
        self.target.producer.check_admission()?;
        // Waiting for a broker is no reason to be taken for dead.
        self.progress.health.beat();
        let in_flight = self.target.producer.in_flight();
        set(&self.target.metrics.in_flight_messages, in_flight);
        if self.publisher.is_overdue(Instant::now()) {
            warn!(
                "no acknowledgement for {} s, {in_flight} messages wait for the broker",
                acknowledgements::TIMEOUT.as_secs()
            );
        }
        thread::sleep(step);
        Ok(())
    }
}

//! The Kafka client of a delivery, which carries out its steps and decides nothing.

use std::time::{Duration, Instant};

use kafka::{BatchProducer, Delivery as DeliveryReport, GroupMetadata, GroupOffsets, end_offsets};
use service::FaultPoint;

use crate::args::Config;
use crate::delivery::{Delivery, Message, Report, Step};
use crate::error::Error;
use crate::flow_control::FlowControl;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::transactions::{Transaction, Transactions};

/// The interval between two requests for the reader's committed offsets.
const READ_POSITION_INTERVAL: Duration = Duration::from_millis(2);

/// A client that carries out the steps of a delivery.
pub trait Client: Send {
    /// Carries out a step. `member`: this worker's present membership of the group.
    ///
    /// # Errors
    /// When the client has failed for good.
    fn carry_out(
        &mut self,
        step: Step,
        delivery: &dyn Delivery,
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Report, Error>;

    /// The error for which a report ended the worker, where no step returned it.
    fn take_error(&mut self) -> Option<Error> {
        None
    }

    /// The number of messages in the producer's queue or in flight; `None` where it is unknown.
    fn in_flight(&self) -> Option<usize>;
}

/// The flow control of outcomes, with the consumer group that reads them.
struct Unread {
    flow_control: FlowControl,
    reader: GroupOffsets,
    asked_at: Option<Instant>,
}

impl Unread {
    fn new(config: &Config, partitions: usize) -> Result<Option<Self>, kafka::Error> {
        let Some(limit) = &config.unread_limit else {
            return Ok(None);
        };
        let (cluster, topic) = (&config.cluster, &config.topics.outcomes);
        let end = end_offsets(cluster, topic, partitions)?;
        Ok(Some(Self {
            flow_control: FlowControl::new(&end, limit.bytes_per_partition),
            reader: GroupOffsets::new(cluster, &limit.reader, topic, partitions)?,
            asked_at: None,
        }))
    }

    /// Whether one more message may be sent to a partition. Where it may not, the reader's committed
    /// offsets are fetched first.
    fn allows(&mut self, partition: i32) -> Result<bool, kafka::Error> {
        if self.flow_control.allows(partition) {
            return Ok(true);
        }
        if self
            .asked_at
            .is_none_or(|at| at.elapsed() >= READ_POSITION_INTERVAL)
        {
            self.flow_control.apply_read(&self.reader.committed()?);
            self.asked_at = Some(Instant::now());
        }
        Ok(self.flow_control.allows(partition))
    }
}

/// The client without transactions.
pub struct Producing {
    producer: BatchProducer,
    output: Output,
    unread: Option<Unread>,
    before_produce: FaultPoint,
    before_commit: FaultPoint,
}

impl Producing {
    /// A client that produces to the topics of a configuration.
    ///
    /// # Errors
    /// When the producer cannot be created.
    pub fn new(
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
            output,
            unread: Unread::new(config, outcome_partitions)?,
            before_produce: FaultPoint::new("worker.before-produce"),
            before_commit: FaultPoint::new("worker.before-commit"),
        })
    }

    fn reports(&mut self) -> Result<Vec<DeliveryReport>, Error> {
        let mut reports = Vec::new();
        self.producer.poll(&mut reports);
        if !reports.is_empty() {
            self.before_commit.pass()?;
        }
        if let Some(unread) = &mut self.unread {
            for report in reports.iter().filter(|own| own.error.is_none()) {
                let flow_control = &mut unread.flow_control;
                flow_control.delivered(report.partition, report.id, report.offset);
            }
        }
        Ok(reports)
    }

    /// Hands a batch of outcomes to the producer. Returns false where it is held back.
    fn outcomes(&mut self, id: usize, payload: &[u8]) -> Result<bool, kafka::Error> {
        let partition = self.output.next_partition();
        if let Some(unread) = &mut self.unread
            && !unread.allows(partition)?
        {
            self.output.rotate();
            return Ok(false);
        }
        let produced = self.output.outcomes(&mut self.producer, id, payload)?;
        if let Some(unread) = &mut self.unread
            && produced
        {
            unread.flow_control.sent(partition, id, payload.len());
        }
        Ok(produced)
    }
}

impl Client for Producing {
    fn carry_out(
        &mut self,
        step: Step,
        delivery: &dyn Delivery,
        _: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Report, Error> {
        match step {
            Step::Produce { id, .. } => {
                self.before_produce.pass()?;
                let produced = match delivery.message(id) {
                    Some(Message::DeadLetter(letter)) => {
                        self.output.dead_letter(&self.producer, id, letter)?
                    }
                    Some(Message::Outcomes(payload)) => self.outcomes(id, payload)?,
                    None => false,
                };
                Ok(Report::Produced(produced))
            }
            Step::DeliveryReports => Ok(Report::Delivered {
                reports: self.reports()?,
                unreported: self.producer.in_flight(),
            }),
            Step::Begin(transaction) => Ok(Report::NoMember(transaction)),
            Step::TransactionEnd(_) | Step::Wait(_) => Ok(Report::UnderWay),
        }
    }

    fn in_flight(&self) -> Option<usize> {
        Some(self.producer.in_flight())
    }
}

impl Client for Transactions {
    fn carry_out(
        &mut self,
        step: Step,
        _: &dyn Delivery,
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Report, Error> {
        match step {
            Step::Begin(pending) => Ok(match member() {
                Some(member) => {
                    self.begin(Transaction { pending, member });
                    Report::Begun
                }
                None => Report::NoMember(pending),
            }),
            Step::TransactionEnd(timeout) => Ok(match self.ended(timeout)? {
                Some(ended) => {
                    self.gave_up = ended.gave_up;
                    Report::Ended(ended.pending, ended.ending)
                }
                None => Report::UnderWay,
            }),
            Step::Produce { .. } => Ok(Report::Produced(false)),
            Step::DeliveryReports | Step::Wait(_) => Ok(Report::UnderWay),
        }
    }

    fn take_error(&mut self) -> Option<Error> {
        self.gave_up.take()
    }

    fn in_flight(&self) -> Option<usize> {
        None
    }
}

//! The Kafka client behind a delivery: it carries out its steps and decides nothing.

use kafka::{BatchProducer, Delivery as DeliveryReport, GroupMetadata};
use service::FaultPoint;

use crate::args::Config;
use crate::delivery::{Delivery, Message, Report, Step};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::transactions::{Transaction, Transactions};

/// Carries out the steps of a delivery.
pub trait Client: Send {
    /// Carries out a step. `member`: the member of the group that this worker is now.
    ///
    /// # Errors
    /// When the client can go on no longer.
    fn carry_out(
        &mut self,
        step: Step,
        delivery: &dyn Delivery,
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Report, Error>;

    /// Messages in the producer's queue or on their way, where that can be told.
    fn in_flight(&self) -> Option<usize>;
}

/// Produces messages without transactions.
pub struct Producing {
    producer: BatchProducer,
    output: Output,
    before_produce: FaultPoint,
    before_commit: FaultPoint,
}

impl Producing {
    /// A client that produces to the topics of a configuration.
    ///
    /// # Errors
    /// When no producer can be made.
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
        Ok(reports)
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
                    Some(Message::Outcomes(payload)) => {
                        self.output.outcomes(&mut self.producer, id, payload)?
                    }
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
                Some(ended) => Report::Ended(ended.pending, ended.ending),
                None => Report::UnderWay,
            }),
            Step::Produce { .. } => Ok(Report::Produced(false)),
            Step::DeliveryReports | Step::Wait(_) => Ok(Report::UnderWay),
        }
    }

    fn in_flight(&self) -> Option<usize> {
        None
    }
}

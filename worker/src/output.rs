//! The output of a worker: outcomes in rotation over the partitions of their topic, and dead letters
//! with their headers. The producer that the caller passes may be one with transactions.

use kafka::{BatchProducer, Header, Outgoing, Topic};

use crate::args::Config;
use crate::metrics::Metrics;
use crate::outbox::DeadLetterMessage;

/// The number of bytes that an outcomes partition gets before the rotation to the next one. Rotation by
/// bytes instead of by message makes fewer and larger produce requests.
const ROTATE_AFTER_BYTES: usize = 128 * 1024;

/// The topics that a worker produces to.
#[derive(Debug)]
pub struct Output {
    outcomes: Topic,
    /// The partitions that outcomes are sent to.
    outcome_partitions: Vec<i32>,
    /// The position of the next partition in `outcome_partitions`, and the bytes that it got since the
    /// last rotation.
    rotation: (usize, usize),
    dlq: Topic,
    jobs_topic: String,
    group: String,
    metrics: Metrics,
}

impl Output {
    /// The output of a configuration. `topic` opens a topic by its name for the producer.
    ///
    /// # Errors
    /// When `topic` fails.
    pub fn new(
        config: &Config,
        outcome_partitions: usize,
        metrics: &Metrics,
        mut topic: impl FnMut(&str) -> Result<Topic, kafka::Error>,
    ) -> Result<Self, kafka::Error> {
        let partitions = i32::try_from(outcome_partitions).unwrap_or(i32::MAX);
        let outcome_partitions: Vec<i32> = match &config.unread_limit {
            None => (0..partitions).collect(),
            // Only its own partitions, so that one worker counts all unread bytes of a partition.
            Some(limit) => {
                let first = limit.number % outcome_partitions;
                let own = (0..partitions).skip(first);
                own.step_by(limit.workers).collect()
            }
        };
        Ok(Self {
            outcomes: topic(&config.topics.outcomes)?,
            // Workers start at different partitions, so that a few of them use all.
            rotation: (std::process::id() as usize % outcome_partitions.len(), 0),
            outcome_partitions,
            dlq: topic(&config.topics.dlq)?,
            jobs_topic: config.topics.jobs.clone(),
            group: config.membership.group.clone(),
            metrics: metrics.clone(),
        })
    }

    /// The name of the outcomes topic.
    pub fn outcomes_topic(&self) -> &str {
        self.outcomes.name()
    }

    /// The name of the dead-letter queue.
    pub fn dlq_topic(&self) -> &str {
        self.dlq.name()
    }

    /// The partition to which the next batch of outcomes is sent.
    pub fn next_partition(&self) -> i32 {
        self.outcome_partitions[self.rotation.0]
    }

    /// Moves on to the next partition.
    pub fn rotate(&mut self) {
        self.rotation = ((self.rotation.0 + 1) % self.outcome_partitions.len(), 0);
    }

    /// Hands a batch of outcomes to a producer. Returns false when its queue is full.
    ///
    /// # Errors
    /// When the message cannot be produced, now or later.
    pub fn outcomes(
        &mut self,
        producer: &mut BatchProducer,
        id: usize,
        payload: &[u8],
    ) -> Result<bool, kafka::Error> {
        let partition = self.next_partition();
        let message = Outgoing { payload, id };
        let refused = producer.produce(&self.outcomes, partition, &[message])?;
        if !refused.is_empty() {
            return Ok(false);
        }
        self.metrics.produced_messages.inc();
        self.metrics.produced_bytes.inc_by(payload.len() as u64);
        self.rotation.1 += payload.len();
        if self.rotation.1 >= ROTATE_AFTER_BYTES {
            self.rotate();
        }
        Ok(true)
    }

    /// Hands a dead letter to a producer. Returns false when its queue is full.
    ///
    /// # Errors
    /// When the message cannot be produced, now or later.
    pub fn dead_letter(
        &self,
        producer: &BatchProducer,
        id: usize,
        letter: &DeadLetterMessage,
    ) -> Result<bool, kafka::Error> {
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
        let produced = producer.produce_one(&self.dlq, 0, None, &headers, message)?;
        if produced {
            let bytes = letter.payload.len() as u64;
            self.metrics.produced_messages.inc();
            self.metrics.produced_bytes.inc_by(bytes);
        }
        Ok(produced)
    }
}

//! Where a worker's messages go: outcomes in turns over the partitions of their topic, dead letters
//! with their headers. Whether they go there in a transaction is for the producer to know.

use kafka::{BatchProducer, Header, Outgoing, Topic};

use crate::args::Config;
use crate::metrics::Metrics;
use crate::outbox::DeadLetterMessage;

/// An outcomes partition gets so many bytes before the next one's turn: fewer, fuller requests.
const ROTATE_AFTER_BYTES: usize = 128 * 1024;

/// The topics that a worker writes.
#[derive(Debug)]
pub struct Output {
    outcomes: Topic,
    /// The partitions that outcomes go to.
    outcome_partitions: Vec<i32>,
    /// Which of them is next, and how many bytes went there.
    turn: (usize, usize),
    dlq: Topic,
    jobs_topic: String,
    group: String,
    metrics: Metrics,
}

impl Output {
    /// The topics of a configuration. `topic` names them to the producer that they are for.
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
            // Its own alone: what is not read of a partition is to be known by one worker.
            Some(limit) => {
                let first = limit.number % outcome_partitions;
                let own = (0..partitions).skip(first);
                own.step_by(limit.workers).collect()
            }
        };
        Ok(Self {
            outcomes: topic(&config.topics.outcomes)?,
            // Workers begin at different partitions, so that a few of them fill all.
            turn: (std::process::id() as usize % outcome_partitions.len(), 0),
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

    /// The partition that the next batch of outcomes goes to.
    pub fn next_partition(&self) -> i32 {
        self.outcome_partitions[self.turn.0]
    }

    /// The next batch goes to the next partition.
    pub fn rotate(&mut self) {
        self.turn = ((self.turn.0 + 1) % self.outcome_partitions.len(), 0);
    }

    /// Hands a batch of outcomes to a producer. Returns false when its queue is full.
    ///
    /// # Errors
    /// When it can never be produced.
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
        self.turn.1 += payload.len();
        if self.turn.1 >= ROTATE_AFTER_BYTES {
            self.rotate();
        }
        Ok(true)
    }

    /// Hands a dead letter to a producer. Returns false when its queue is full.
    ///
    /// # Errors
    /// When it can never be produced.
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

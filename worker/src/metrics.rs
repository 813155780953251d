//! What a worker counts. The thread that moves data adds once a batch and sets the gauges once a
//! second; compute threads add their seconds once a slice.

use std::sync::Arc;

use pipeline::offsets::Settled;
use service::Health;
use service::metrics::{Counter, Gauge, Labelled, Registry, SecondsCounter, Unit, labelled};

/// The prefix of the names.
const PREFIX: &str = "rollcall_worker";

/// What a worker tells of itself while it works.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Whether it is alive and ready.
    pub health: Arc<Health>,
    jobs: Labelled<Counter>,
    /// Jobs whose result is acknowledged.
    pub counted: Counter,
    /// Jobs whose dead letter and outcome are acknowledged.
    pub dead_lettered: Counter,
    /// Attempts at jobs beyond the first.
    pub retries: Counter,
    /// Messages that the dead-letter queue has acknowledged.
    pub dead_letters: Counter,
    /// Jobs of cancelled runs that were passed over.
    pub cancelled_jobs: Counter,
    /// Messages taken from the jobs topic.
    pub consumed_messages: Counter,
    /// Their payloads.
    pub consumed_bytes: Counter,
    /// Messages of outcomes and dead letters handed to the producer.
    pub produced_messages: Counter,
    /// Their payloads.
    pub produced_bytes: Counter,
    /// Commits that were asked for.
    pub commits: Counter,
    /// Commits that failed.
    pub failed_commits: Counter,
    rebalances: Labelled<Counter>,
    /// Times that partitions came.
    pub assigned: Counter,
    /// Times that partitions were given back.
    pub revoked: Counter,
    /// Times that partitions were found to be another member's.
    pub lost: Counter,
    /// Seconds that compute threads were at work.
    pub compute_seconds: SecondsCounter,
    /// Partitions that are this worker's.
    pub assigned_partitions: Gauge,
    /// Slices that wait for a compute thread.
    pub waiting_slices: Gauge,
    /// Messages that are taken and not settled.
    pub in_hand_messages: Gauge,
    /// Bytes that are finished and not acknowledged.
    pub outbox_bytes: Gauge,
    /// Messages in the producer's queue or on their way.
    pub in_flight_messages: Gauge,
    /// Messages on the assigned partitions that are not settled.
    pub lag_messages: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let jobs = Labelled::default();
        let rebalances = Labelled::default();
        Self {
            health: Arc::default(),
            counted: labelled(&jobs, "outcome", "counted"),
            dead_lettered: labelled(&jobs, "outcome", "dead_lettered"),
            jobs,
            retries: Counter::default(),
            dead_letters: Counter::default(),
            cancelled_jobs: Counter::default(),
            consumed_messages: Counter::default(),
            consumed_bytes: Counter::default(),
            produced_messages: Counter::default(),
            produced_bytes: Counter::default(),
            commits: Counter::default(),
            failed_commits: Counter::default(),
            assigned: labelled(&rebalances, "event", "assigned"),
            revoked: labelled(&rebalances, "event", "revoked"),
            lost: labelled(&rebalances, "event", "lost"),
            rebalances,
            compute_seconds: SecondsCounter::default(),
            assigned_partitions: Gauge::default(),
            waiting_slices: Gauge::default(),
            in_hand_messages: Gauge::default(),
            outbox_bytes: Gauge::default(),
            in_flight_messages: Gauge::default(),
            lag_messages: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counts jobs whose outcomes the broker has confirmed.
    pub fn settled(&self, settles: &[Settled], has_outcomes: bool, is_dead: bool) {
        let jobs = settles.iter().map(|settled| u64::from(settled.jobs)).sum();
        match (has_outcomes, is_dead) {
            (true, false) => _ = self.counted.inc_by(jobs),
            (true, true) => _ = self.dead_lettered.inc_by(jobs),
            // A message that could not be decoded, of whose jobs nothing is known, or jobs of a cancelled
            // run, which are counted apart.
            (false, _) => {}
        }
    }

    /// All of them, by name.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "jobs",
            "Jobs whose outcome the broker has acknowledged",
            self.jobs.clone(),
        );
        registry.register(
            "retries",
            "Attempts beyond the first at jobs that are finished",
            self.retries.clone(),
        );
        registry.register(
            "dead_letters",
            "Messages that the dead-letter queue has acknowledged",
            self.dead_letters.clone(),
        );
        registry.register(
            "cancelled_jobs",
            "Jobs of cancelled runs that were passed over",
            self.cancelled_jobs.clone(),
        );
        registry.register(
            "consumed_messages",
            "Messages taken from the jobs topic",
            self.consumed_messages.clone(),
        );
        registry.register_with_unit(
            "consumed",
            "Payloads of the messages taken",
            Unit::Bytes,
            self.consumed_bytes.clone(),
        );
        registry.register(
            "produced_messages",
            "Messages of outcomes and dead letters handed to the producer",
            self.produced_messages.clone(),
        );
        registry.register_with_unit(
            "produced",
            "Payloads of the messages handed to the producer",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        registry.register(
            "commits",
            "Commits of offsets that were asked for",
            self.commits.clone(),
        );
        registry.register(
            "failed_commits",
            "Commits of offsets that failed and are made again",
            self.failed_commits.clone(),
        );
        registry.register(
            "rebalances",
            "Times that partitions came, were given back, or were lost",
            self.rebalances.clone(),
        );
        registry.register_with_unit(
            "compute",
            "Time that compute threads were at work",
            Unit::Seconds,
            self.compute_seconds.clone(),
        );
        for (name, help, gauge) in [
            (
                "assigned_partitions",
                "Partitions of the jobs topic that are this worker's",
                &self.assigned_partitions,
            ),
            (
                "waiting_slices",
                "Slices of messages that wait for a compute thread",
                &self.waiting_slices,
            ),
            (
                "in_hand_messages",
                "Messages that are taken and whose outcomes are not all acknowledged",
                &self.in_hand_messages,
            ),
            (
                "in_flight_messages",
                "Messages in the producer's queue or on their way",
                &self.in_flight_messages,
            ),
            (
                "lag_messages",
                "Messages on the assigned partitions whose outcomes are not all acknowledged",
                &self.lag_messages,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register_with_unit(
            "outbox",
            "Finished work that is not acknowledged yet",
            Unit::Bytes,
            self.outbox_bytes.clone(),
        );
        registry
    }
}

//! The metrics of a worker. The thread that moves data adds to the counters once a batch and sets the
//! gauges once a second. Compute threads add their seconds once a work unit.

use std::sync::Arc;

use pipeline::offsets::Settled;
use service::Health;
use service::metrics::{Counter, Gauge, Labelled, Registry, SecondsCounter, Unit, labelled};

/// The prefix of the metrics' names.
const PREFIX: &str = "rollcall_worker";

/// The metrics and the health of a worker.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The liveness and readiness of the worker.
    pub health: Arc<Health>,
    jobs: Labelled<Counter>,
    /// The number of jobs whose result is acknowledged.
    pub counted: Counter,
    /// The number of jobs whose dead letter and outcome are acknowledged.
    pub dead_lettered: Counter,
    /// The number of attempts at jobs after the first.
    pub retries: Counter,
    /// The number of messages that the dead-letter queue has acknowledged.
    pub dead_letters: Counter,
    /// The number of skipped jobs of cancelled runs.
    pub cancelled_jobs: Counter,
    /// The number of messages taken from the jobs topic.
    pub consumed_messages: Counter,
    /// The bytes of their payloads.
    pub consumed_bytes: Counter,
    /// The number of messages, outcomes and dead letters, that were handed to the producer.
    pub produced_messages: Counter,
    /// The bytes of their payloads.
    pub produced_bytes: Counter,
    /// The number of commits that were requested.
    pub commits: Counter,
    /// The number of commits that failed.
    pub failed_commits: Counter,
    rebalances: Labelled<Counter>,
    /// The number of rebalances that assigned partitions.
    pub assigned: Counter,
    /// The number of rebalances that revoked partitions.
    pub revoked: Counter,
    /// The number of rebalances in which partitions were lost to another member.
    pub lost: Counter,
    /// The seconds for which compute threads computed.
    pub compute_seconds: SecondsCounter,
    /// The number of partitions that are assigned to this worker.
    pub assigned_partitions: Gauge,
    /// The number of work units that wait for a compute thread.
    pub waiting_work_units: Gauge,
    /// The number of messages that are taken and not settled.
    pub in_hand_messages: Gauge,
    /// The bytes of finished work that is not acknowledged.
    pub outbox_bytes: Gauge,
    /// The number of messages in the producer's queue or in flight to the broker.
    pub in_flight_messages: Gauge,
    /// The number of messages of the assigned partitions that are not settled.
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
            waiting_work_units: Gauge::default(),
            in_hand_messages: Gauge::default(),
            outbox_bytes: Gauge::default(),
            in_flight_messages: Gauge::default(),
            lag_messages: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counts jobs that are settled.
    pub fn settled(&self, settles: &[Settled], has_outcomes: bool, is_dead: bool) {
        let jobs = settles.iter().map(|settled| u64::from(settled.jobs)).sum();
        match (has_outcomes, is_dead) {
            (true, false) => _ = self.counted.inc_by(jobs),
            (true, true) => _ = self.dead_lettered.inc_by(jobs),
            // These are the unknown jobs of a message that could not be decoded, or jobs of a cancelled
            // run, which have a counter of their own.
            (false, _) => {}
        }
    }

    /// The registry of all metrics, with their names and help texts.
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
            "Jobs of cancelled runs that were skipped",
            self.cancelled_jobs.clone(),
        );
        registry.register(
            "consumed_messages",
            "Messages taken from the jobs topic",
            self.consumed_messages.clone(),
        );
        registry.register_with_unit(
            "consumed",
            "Payload bytes of the messages taken",
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
            "Payload bytes of the messages handed to the producer",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        registry.register(
            "commits",
            "Commits of offsets that were requested",
            self.commits.clone(),
        );
        registry.register(
            "failed_commits",
            "Commits of offsets that failed and are repeated",
            self.failed_commits.clone(),
        );
        registry.register(
            "rebalances",
            "Rebalances that assigned, revoked or lost partitions",
            self.rebalances.clone(),
        );
        registry.register_with_unit(
            "compute",
            "Time for which compute threads computed",
            Unit::Seconds,
            self.compute_seconds.clone(),
        );
        for (name, help, gauge) in [
            (
                "assigned_partitions",
                "Partitions of the jobs topic that are assigned to this worker",
                &self.assigned_partitions,
            ),
            (
                "waiting_work_units",
                "Work units that wait for a compute thread",
                &self.waiting_work_units,
            ),
            (
                "in_hand_messages",
                "Messages that are taken and whose outcomes are not all acknowledged",
                &self.in_hand_messages,
            ),
            (
                "in_flight_messages",
                "Messages in the producer's queue or in flight to the broker",
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

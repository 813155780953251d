//! What a dispatcher counts, beside its progress. The thread that publishes adds once a turn.

use service::Progress;
use service::metrics::{Counter, Gauge, Registry, StageSeconds, Unit};

/// The prefix of the names.
const PREFIX: &str = "rollcall_dispatcher";

/// What a dispatcher tells of itself while it works.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Rows of the data set, known when all of it was read.
    pub rows: Counter,
    /// Rows that are in no job.
    pub rejected_rows: Counter,
    /// Messages handed to the producer.
    pub produced_messages: Counter,
    /// Their payloads.
    pub produced_bytes: Counter,
    /// Messages in the producer's queue or on their way.
    pub in_flight_messages: Gauge,
    /// Jobs that there are to publish.
    pub jobs: Gauge,
    /// Seconds of the stages.
    pub stage_seconds: StageSeconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            rows: Counter::default(),
            rejected_rows: Counter::default(),
            produced_messages: Counter::default(),
            produced_bytes: Counter::default(),
            in_flight_messages: Gauge::default(),
            jobs: Gauge::default(),
            stage_seconds: StageSeconds::new(&["read", "group", "publish"]),
        }
    }
}

impl Metrics {
    /// All of them, by name, and those of the progress.
    pub fn registry(&self, progress: &Progress) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_with_unit(
            "read",
            "Bytes of the data set that were read",
            Unit::Bytes,
            progress.read.counter(),
        );
        registry.register("rows", "Rows that were read", self.rows.clone());
        registry.register(
            "rejected_rows",
            "Rows that are in no job",
            self.rejected_rows.clone(),
        );
        registry.register(
            "published_jobs",
            "Jobs whose publication the broker has acknowledged",
            progress.published.counter(),
        );
        registry.register(
            "produced_messages",
            "Messages of jobs handed to the producer",
            self.produced_messages.clone(),
        );
        registry.register_with_unit(
            "produced",
            "Payloads of the messages handed to the producer",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        registry.register(
            "in_flight_messages",
            "Messages in the producer's queue or on their way",
            self.in_flight_messages.clone(),
        );
        registry.register(
            "jobs",
            "Jobs of the run, once the data set is grouped",
            self.jobs.clone(),
        );
        self.stage_seconds.register(&mut registry);
        registry
    }
}

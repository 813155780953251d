//! The metrics of a dispatcher, in addition to those of its progress. The thread that publishes updates
//! them once in each iteration of its loop.

use service::Progress;
use service::metrics::{Counter, Gauge, Registry, StageSeconds, Unit};

/// The prefix of the metrics' names.
const PREFIX: &str = "rollcall_dispatcher";

/// The counters and gauges of a dispatcher.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Rows of the data set; set when all of it is read.
    pub rows: Counter,
    /// Rejected rows; set when all of the data set is read.
    pub rejected_rows: Counter,
    /// Messages of jobs handed to the producer.
    pub produced_messages: Counter,
    /// Bytes of their payloads.
    pub produced_bytes: Counter,
    /// Messages in the producer's queue or on their way.
    pub in_flight_messages: Gauge,
    /// Jobs of the run; set when the data set is grouped.
    pub jobs: Gauge,
    /// Seconds that each stage took.
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
    /// A registry of all metrics by name, with those of the progress.
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

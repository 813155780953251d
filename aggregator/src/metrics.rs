//! What an aggregator counts, beside its progress. The thread that collects adds once a batch.

use service::Progress;
use service::metrics::{Counter, Gauge, Registry, StageSeconds, Unit};

/// The prefix of the names.
const PREFIX: &str = "rollcall_aggregator";

/// What an aggregator tells of itself while it works.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Messages taken from the outcomes topic, of any run.
    pub consumed_messages: Counter,
    /// Their payloads.
    pub consumed_bytes: Counter,
    /// Messages on the outcomes topic that are none.
    pub undecodable_messages: Counter,
    /// Messages on the runs topic that are none.
    pub unreadable_run_events: Counter,
    /// Outcomes that said nothing new.
    pub duplicates: Counter,
    /// Jobs of the run.
    pub jobs: Gauge,
    /// Jobs without an outcome.
    pub missing_jobs: Gauge,
    /// Jobs that are dead letters.
    pub dead_lettered_jobs: Gauge,
    /// Outcomes that contradict each other.
    pub conflicts: Gauge,
    /// Bytes of what was collected that are in memory.
    pub held_bytes: Gauge,
    /// Bytes of results that are on disk.
    pub spilled_bytes: Gauge,
    /// Seconds of the stages.
    pub stage_seconds: StageSeconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            consumed_messages: Counter::default(),
            consumed_bytes: Counter::default(),
            undecodable_messages: Counter::default(),
            unreadable_run_events: Counter::default(),
            duplicates: Counter::default(),
            jobs: Gauge::default(),
            missing_jobs: Gauge::default(),
            dead_lettered_jobs: Gauge::default(),
            conflicts: Gauge::default(),
            held_bytes: Gauge::default(),
            spilled_bytes: Gauge::default(),
            stage_seconds: StageSeconds::new(&["collect", "reconcile"]),
        }
    }
}

impl Metrics {
    /// All of them, by name, and those of the progress.
    pub fn registry(&self, progress: &Progress) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "collected_jobs",
            "Jobs of the run that have an outcome",
            progress.collected.counter(),
        );
        registry.register(
            "consumed_messages",
            "Messages taken from the outcomes topic, of any run",
            self.consumed_messages.clone(),
        );
        registry.register_with_unit(
            "consumed",
            "Payloads of the messages taken",
            Unit::Bytes,
            self.consumed_bytes.clone(),
        );
        registry.register(
            "undecodable_messages",
            "Messages on the outcomes topic that cannot be decoded",
            self.undecodable_messages.clone(),
        );
        registry.register(
            "unreadable_run_events",
            "Messages on the runs topic that are no events of a run, and were skipped",
            self.unreadable_run_events.clone(),
        );
        registry.register(
            "duplicates",
            "Outcomes that said nothing new, and were dropped",
            self.duplicates.clone(),
        );
        for (name, help, gauge) in [
            (
                "jobs",
                "Jobs of the run, once its manifest is known",
                &self.jobs,
            ),
            (
                "missing_jobs",
                "Jobs without an outcome, once the manifest is known",
                &self.missing_jobs,
            ),
            (
                "dead_lettered_jobs",
                "Jobs whose outcome is a dead letter",
                &self.dead_lettered_jobs,
            ),
            (
                "conflicts",
                "Outcomes that contradict each other",
                &self.conflicts,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            (
                "held",
                "Memory that outcomes take: lines, labels, results, dead letters and conflicts",
                &self.held_bytes,
            ),
            (
                "spilled",
                "Results on disk, for which the memory budget has no room",
                &self.spilled_bytes,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        self.stage_seconds.register(&mut registry);
        registry
    }
}

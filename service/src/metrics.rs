//! The types of the services' metrics. The threads that move data add to atomics once per batch; a
//! request for `/metrics` reads them. Names and units follow OpenMetrics.

use std::sync::atomic::AtomicU64;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::registry::{Registry, Unit};

/// A metric with one label.
pub type Labelled<M> = Family<[(&'static str, &'static str); 1], M>;

/// A counter of seconds.
pub type SecondsCounter = Counter<f64, AtomicU64>;

/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// The metric for a value of the label. It is exported from now on, even while it is 0.
pub fn labelled<M: Clone + Default>(
    family: &Labelled<M>,
    label: &'static str,
    value: &'static str,
) -> M {
    family.get_or_create(&[(label, value)]).clone()
}

/// Sets a gauge to a count.
pub fn set(gauge: &Gauge, number: usize) {
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
}

/// The wall seconds of each stage of a service.
#[derive(Clone, Debug, Default)]
pub struct StageSeconds(Labelled<SecondsGauge>);

impl StageSeconds {
    /// The metric for these stages, with 0 seconds for each.
    pub fn new(stages: &[&'static str]) -> Self {
        let seconds = Self::default();
        for stage in stages {
            seconds.set(stage, 0.0);
        }
        seconds
    }

    /// Sets the wall seconds that a stage took.
    pub fn set(&self, stage: &'static str, seconds: f64) {
        labelled(&self.0, "stage", stage).set(seconds);
    }

    /// Registers the metric as `stage_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "stage",
            "Wall seconds that a stage took; 0 until it is over",
            Unit::Seconds,
            self.0.clone(),
        );
    }
}

/// Every metric of a registry as (name, type), sorted; for documentation and its test.
pub fn names(registry: &Registry) -> Vec<(String, String)> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| {
            // `# TYPE` has a counter's name without the suffix that its samples have.
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_exported_before_it_is_over() {
        let mut registry = Registry::with_prefix("rollcall_test");
        let seconds = StageSeconds::new(&["read"]);
        seconds.register(&mut registry);
        seconds.set("read", 1.5);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("it is written");
        let line = "rollcall_test_stage_seconds{stage=\"read\"} 1.5\n";
        assert!(text.contains(line), "{text}");
        let named = vec![("rollcall_test_stage_seconds".into(), "gauge".into())];
        assert_eq!(names(&registry), named);
    }
}

//! What the rows came to, for people (a table in markdown) and for machines (JSON).

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::play::{Delivery, Outcome};
use super::rows::Row;

/// The runs of one row with one delivery.
pub struct Result {
    row: Row,
    delivery: Delivery,
    outcomes: Vec<Outcome>,
    /// Why runs failed.
    pub failures: Vec<String>,
    /// Why it was not run.
    skipped: Option<&'static str>,
}

impl Result {
    pub fn new(row: &Row, delivery: Delivery) -> Self {
        Self {
            row: *row,
            delivery,
            outcomes: Vec::new(),
            failures: Vec::new(),
            skipped: None,
        }
    }

    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    pub fn fail(&mut self, reason: String) {
        self.failures.push(reason);
    }

    pub fn skip(&mut self, reason: &'static str) {
        self.skipped = Some(reason);
    }

    pub fn name(&self) -> String {
        format!("{}, {}", self.row.fault, self.delivery.name())
    }

    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.outcomes.iter().map(of).sum()
    }

    /// Median and longest, in seconds.
    fn longest(&self, of: impl Fn(&Outcome) -> Option<Duration>) -> Option<(f64, f64)> {
        let recoveries = self.outcomes.iter().filter_map(of);
        let mut seconds: Vec<f64> = recoveries.map(|it: Duration| it.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        Some((*seconds.get(seconds.len() / 2)?, *seconds.last()?))
    }

    fn verdict(&self) -> String {
        match (self.skipped, self.failures.len()) {
            (Some(reason), _) => format!("not run: {reason}"),
            (None, 0) => self.row.must.word().to_owned(),
            (None, failed) => format!("**{failed} failed**"),
        }
    }

    fn notes(&self) -> Vec<&str> {
        let notes = self
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.note.as_deref());
        notes.collect()
    }

    fn json(&self) -> Value {
        let seconds = |of: fn(&Outcome) -> Option<Duration>| {
            let seconds = self
                .outcomes
                .iter()
                .map(|it| of(it).map(|it| it.as_secs_f64()));
            seconds.collect::<Vec<_>>()
        };
        json!({
            "fault": self.row.fault,
            "delivery": self.delivery.name(),
            "runs": self.outcomes.len() + self.failures.len(),
            "jobs": self.sum(|it| it.figures.jobs),
            "lost": self.sum(|it| it.figures.lost),
            "counted_twice": self.sum(|it| it.figures.counted_twice),
            "duplicates_sorted_out": self.sum(|it| it.figures.duplicates),
            "missing_and_told": self.sum(|it| it.figures.missing),
            "recovery_seconds": seconds(|it| it.recovery),
            "recovery_seconds_of_all_partitions": seconds(|it| it.recovery_of_all),
            "verdict": self.row.must.word(),
            "notes": self.notes(),
            "failures": self.failures,
            "skipped": self.skipped,
        })
    }
}

/// All of them as JSON.
pub fn json(results: &[Result]) -> Value {
    results.iter().map(Result::json).collect()
}

/// All of them as a table in markdown.
pub fn markdown(results: &[Result]) -> String {
    let mut table = String::from(
        "| fault | delivery | runs | jobs | lost | counted twice | duplicates sorted out | \
         recovery, s | verdict |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for result in results {
        let shown = |it: Option<(f64, f64)>| match it {
            Some((median, longest)) if longest > median => format!("{median:.1} (≤ {longest:.1})"),
            Some((median, _)) => format!("{median:.1}"),
            None => "–".to_owned(),
        };
        let mut recovery = shown(result.longest(|it| it.recovery));
        if let all @ Some(_) = result.longest(|it| it.recovery_of_all) {
            let _ = write!(recovery, "; all {}", shown(all));
        }
        let mut verdict = result.verdict();
        if let missing @ 1.. = result.sum(|it| it.figures.missing) {
            let _ = write!(verdict, "; {missing} missing, and told to be");
        }
        if let Some(note) = result.notes().last() {
            let _ = write!(verdict, "; {note}");
        }
        // Writing to a string never fails.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {} | {recovery} | {verdict} |",
            result.row.fault,
            result.delivery.name(),
            result.outcomes.len() + result.failures.len(),
            result.sum(|it| it.figures.jobs),
            result.sum(|it| it.figures.lost),
            result.sum(|it| it.figures.counted_twice),
            result.sum(|it| it.figures.duplicates),
        );
    }
    table
}

//! From which cost of a job on the dispatcher is faster than one process: jobs of rising cost, by
//! the loop and by the dispatcher, and where their times cross. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::args::BenchEngine;
use super::benchmark::{Measured, Row};
use super::statistics::{is_beyond_chance, mann_whitney_p};

/// The costs of a job that are measured.
pub const COSTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(10),
    Duration::from_micros(100),
    Duration::from_millis(1),
];

/// What was measured, and where it crosses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// Jobs in each run.
    pub jobs: Option<u64>,
    /// A row for each engine and cost.
    pub rows: Vec<Row>,
    /// Where each of the dispatcher's rows overtakes the loop.
    pub crossings: Vec<Crossing>,
}

/// Where the dispatcher overtakes the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// The dispatcher's row.
    pub name: String,
    /// Its workers.
    pub workers: Option<usize>,
    /// How it ends.
    #[serde(flatten)]
    pub pays: Pays,
}

/// From which cost on dispatching is the faster way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "pays", rename_all = "kebab-case")]
pub enum Pays {
    /// Even jobs that cost nothing.
    Always,
    /// From this cost of a job on.
    From {
        /// Seconds of a core.
        job_cost_seconds: f64,
    },
    /// At none that was measured.
    NotYet,
    /// The runs on the two sides of where the medians cross cannot be told from chance.
    Unclear,
}

/// One row's times.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// The row's name.
    pub name: &'a str,
    /// The engine.
    pub engine: BenchEngine,
    /// Its workers.
    pub workers: Option<usize>,
    /// Cost of a job and median wall seconds, by rising cost.
    pub points: Vec<(f64, f64)>,
}

impl BreakEven {
    /// Of rows at several costs.
    pub fn new(measured: &Measured, cores: usize) -> Self {
        let rows = measured.rows(cores);
        let lines = lines(&rows);
        let own = lines.iter().find(|line| line.engine == BenchEngine::Loop);
        let crossings = own.into_iter().flat_map(|own| {
            let others = lines.iter().filter(|line| line.engine.dispatches());
            others.map(|line| Crossing {
                name: line.name.to_owned(),
                workers: line.workers,
                pays: beyond_noise(pays(&own.points, &line.points), &rows, own.name, line.name),
            })
        });
        Self {
            jobs: measured.agreed.jobs,
            crossings: crossings.collect(),
            rows,
        }
    }

    /// The times of each row.
    pub fn lines(&self) -> Vec<Line<'_>> {
        lines(&self.rows)
    }
}

/// A crossing is one only where the runs at the costs on both of its sides differ beyond chance; with
/// fewer than four of them they never do.
fn beyond_noise(pays: Pays, rows: &[Row], alone: &str, dispatched: &str) -> Pays {
    let walls = |name: &str, cost: f64| -> Vec<f64> {
        rows.iter()
            .filter(|row| row.name == name && row.job_cost_seconds == cost)
            .flat_map(Row::walls)
            .collect()
    };
    let differ = |cost: f64| {
        is_beyond_chance(mann_whitney_p(
            &walls(alone, cost),
            &walls(dispatched, cost),
        ))
    };
    let costs = rows.iter().map(|row| row.job_cost_seconds);
    let (below, above) = match pays {
        Pays::From { job_cost_seconds } => (
            costs
                .clone()
                .filter(|&cost| cost <= job_cost_seconds)
                .reduce(f64::max),
            costs
                .filter(|&cost| cost > job_cost_seconds)
                .reduce(f64::min),
        ),
        Pays::Always => (None, costs.reduce(f64::min)),
        Pays::NotYet | Pays::Unclear => (None, None),
    };
    match below.into_iter().chain(above).all(differ) {
        true => pays,
        false => Pays::Unclear,
    }
}

fn lines(rows: &[Row]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in rows {
        let point = (row.job_cost_seconds, row.wall_seconds.median);
        match lines.iter_mut().find(|line| line.name == row.name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name: &row.name,
                engine: row.engine,
                workers: row.workers,
                points: vec![point],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// Where `dispatched` stays below `alone`: both times grow linearly with the cost of a job, so
/// between two measured costs their difference is taken for a straight line.
fn pays(alone: &[(f64, f64)], dispatched: &[(f64, f64)]) -> Pays {
    let differences: Vec<(f64, f64)> = alone
        .iter()
        .zip(dispatched)
        .map(|(&(cost, alone), &(_, dispatched))| (cost, dispatched - alone))
        .collect();
    // The last cost at which the loop is the faster one: beyond it, dispatching stays ahead.
    let Some(last) = differences
        .iter()
        .rposition(|&(_, difference)| difference >= 0.0)
    else {
        return match differences.is_empty() {
            true => Pays::NotYet,
            false => Pays::Always,
        };
    };
    let (cost, difference) = differences[last];
    match differences.get(last + 1) {
        None => Pays::NotYet,
        Some(&(next_cost, next_difference)) => Pays::From {
            job_cost_seconds: cost
                + (next_cost - cost) * difference / (difference - next_difference),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::benchmark::tests::benchmark;

    /// The time of 20,000 jobs at each cost, with so much before and so many at a time.
    fn times(before: f64, at_a_time: f64) -> Vec<(f64, f64)> {
        let costs = COSTS.map(|cost| cost.as_secs_f64());
        costs
            .map(|cost| (cost, before + 20_000.0 * cost / at_a_time))
            .into()
    }

    #[test]
    fn lines_cross_where_the_head_start_is_worked_off() {
        // 0.5 s of head start, and half of 20,000 jobs' cost saved: 50 us.
        let Pays::From { job_cost_seconds } = pays(&times(0.1, 1.0), &times(0.6, 2.0)) else {
            panic!("they cross");
        };
        assert!(
            (job_cost_seconds - 50e-6).abs() < 1e-12,
            "{job_cost_seconds}"
        );
    }

    #[test]
    fn lines_that_do_not_cross_are_said_to_pay_always_or_not_yet() {
        assert_eq!(pays(&times(1.0, 1.0), &times(0.6, 2.0)), Pays::Always);
        assert_eq!(pays(&times(0.1, 1.0), &times(0.6, 1.0)), Pays::NotYet);
        assert_eq!(pays(&[], &[]), Pays::NotYet);
    }

    #[test]
    fn being_ahead_for_a_moment_by_chance_is_no_crossing() {
        let alone = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)];
        let dispatched = [(0.0, 0.9), (1.0, 2.5), (2.0, 2.5), (3.0, 3.0)];
        let expected = Pays::From {
            job_cost_seconds: 1.5,
        };
        assert_eq!(pays(&alone, &dispatched), expected);
    }

    /// Wall seconds of the loop and of two workers at one cost of a job.
    type Walls<'a> = [&'a [f64]; 2];

    /// Their rows at the costs 0, 1, 2, ….
    fn rows(walls: &[Walls<'_>]) -> Vec<Row> {
        let at = |(cost, &[alone, dispatched]): (u32, &Walls<'_>)| {
            let rows = benchmark(&[
                (BenchEngine::Loop, None, alone),
                (BenchEngine::Packed, Some(2), dispatched),
            ]);
            let rows = rows.rows.into_iter();
            rows.map(move |row| Row {
                job_cost_seconds: cost.into(),
                ..row
            })
        };
        (0..).zip(walls).flat_map(at).collect()
    }

    const LOW: [f64; 4] = [1.0, 1.1, 1.2, 1.3];
    const HIGH: [f64; 4] = [2.0, 2.1, 2.2, 2.3];
    /// Its median is above that of `LOW`, but not beyond chance.
    const WILD: [f64; 4] = [0.9, 1.25, 2.0, 2.1];

    fn judged(pays: Pays, walls: &[Walls<'_>]) -> Pays {
        beyond_noise(pays, &rows(walls), "loop", "packed-2")
    }

    #[test]
    fn a_crossing_is_clear_only_where_both_sides_of_it_differ_beyond_chance() {
        let crossing = Pays::From {
            job_cost_seconds: 1.5,
        };
        let (behind, ahead): (Walls<'_>, Walls<'_>) = ([&LOW, &HIGH], [&HIGH, &LOW]);
        let wild: Walls<'_> = [&LOW, &WILD];
        // Costs beyond its two neighbours say nothing of it.
        let at = |below, above| judged(crossing, &[wild, below, above, wild]);
        assert_eq!(at(behind, ahead), crossing);
        assert_eq!(at(wild, ahead), Pays::Unclear);
        assert_eq!(at(behind, wild), Pays::Unclear);
        // Three runs never tell.
        assert_eq!(at([&LOW[..3], &HIGH[..3]], ahead), Pays::Unclear);
        assert_eq!(at(behind, [&HIGH[..3], &LOW[..3]]), Pays::Unclear);
    }

    #[test]
    fn ahead_always_is_clear_where_jobs_that_cost_nothing_are_ahead_beyond_chance() {
        let (ahead, wild): (Walls<'_>, Walls<'_>) = ([&HIGH, &LOW], [&WILD, &LOW]);
        assert_eq!(judged(Pays::Always, &[ahead, wild]), Pays::Always);
        assert_eq!(judged(Pays::Always, &[wild, ahead]), Pays::Unclear);
        assert_eq!(judged(Pays::NotYet, &[wild]), Pays::NotYet);
    }
}

//! The break-even: the cost of a job from which the dispatcher is faster than one process. Jobs of
//! increasing cost are measured by the loop and by the dispatcher; it is where their times cross.
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::BenchEngine;
use crate::benchmark::{Measured, Row};
use crate::statistics::{is_significant, mann_whitney_p};

/// The measured costs of a job, in CPU time.
pub const COSTS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_micros(10),
    Duration::from_micros(100),
    Duration::from_millis(1),
];

/// The measurements of a break-even, and the crossings computed from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// The number of jobs in each run.
    pub jobs: Option<u64>,
    /// The rows, one for each engine and cost.
    pub rows: Vec<Row>,
    /// The crossing of each of the dispatcher's rows with the loop.
    pub crossings: Vec<Crossing>,
}

/// The crossing of a row of the dispatcher with the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// The dispatcher's row.
    pub name: String,
    /// Its number of workers.
    pub workers: Option<usize>,
    /// The cost of a job from which this row is faster.
    #[serde(flatten)]
    pub pays: Pays,
}

/// The cost of a job from which the dispatcher is faster than the loop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "pays", rename_all = "kebab-case")]
pub enum Pays {
    /// Any cost, also 0.
    Always,
    /// This cost.
    From {
        /// CPU seconds.
        job_cost_seconds: f64,
    },
    /// None of the measured costs.
    NotYet,
    /// Unknown: at a cost next to the crossing of the medians, the runs do not differ
    /// significantly.
    Unclear,
}

/// The times of one row by the cost of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// The row's name.
    pub name: &'a str,
    /// The engine.
    pub engine: BenchEngine,
    /// Its number of workers.
    pub workers: Option<usize>,
    /// The cost of a job in CPU seconds and the median wall seconds, by ascending cost.
    pub points: Vec<(f64, f64)>,
}

impl BreakEven {
    /// The break-even of rows at several costs.
    pub fn new(measured: &Measured, cores: usize) -> Self {
        let rows = measured.rows(cores);
        let lines = lines(&rows);
        let alone = lines.iter().find(|line| line.engine == BenchEngine::Loop);
        let crossings = alone.into_iter().flat_map(|alone| {
            let dispatched = lines.iter().filter(|line| line.engine.dispatches());
            dispatched.map(|line| Crossing {
                name: line.name.to_owned(),
                workers: line.workers,
                pays: if_significant(
                    pays(&alone.points, &line.points),
                    &rows,
                    alone.name,
                    line.name,
                ),
            })
        });
        Self {
            jobs: measured.agreed.jobs,
            crossings: crossings.collect(),
            rows,
        }
    }

    /// The times of each row by the cost of a job.
    pub fn lines(&self) -> Vec<Line<'_>> {
        lines(&self.rows)
    }
}

/// `pays`, or [`Pays::Unclear`] unless the runs differ significantly at the costs on both sides of
/// the crossing. With fewer than four runs they never do.
fn if_significant(pays: Pays, rows: &[Row], alone: &str, dispatched: &str) -> Pays {
    let walls = |name: &str, cost: f64| -> Vec<f64> {
        rows.iter()
            .filter(|row| row.name == name && row.job_cost_seconds == cost)
            .flat_map(Row::walls)
            .collect()
    };
    let differ = |cost: f64| {
        is_significant(mann_whitney_p(
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

/// The cost from which `dispatched` stays below `alone`. Both times grow linearly with the cost of
/// a job, so between two measured costs their difference is interpolated linearly.
fn pays(alone: &[(f64, f64)], dispatched: &[(f64, f64)]) -> Pays {
    let differences: Vec<(f64, f64)> = alone
        .iter()
        .zip(dispatched)
        .map(|(&(cost, alone), &(_, dispatched))| (cost, dispatched - alone))
        .collect();
    // The last cost at which the loop is not slower: at all higher ones the dispatcher is faster.
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
    use crate::benchmark::tests::benchmark;

    /// The time of 20,000 jobs at each cost, after a start of `start` seconds, `at_a_time` in
    /// parallel.
    fn times(start: f64, at_a_time: f64) -> Vec<(f64, f64)> {
        let costs = COSTS.map(|cost| cost.as_secs_f64());
        costs
            .map(|cost| (cost, start + 20_000.0 * cost / at_a_time))
            .into()
    }

    #[test]
    fn lines_cross_where_the_parallel_work_has_saved_the_longer_start() {
        // 0.5 s of longer start, and half of the cost of 20,000 jobs saved: 50 us.
        let Pays::From { job_cost_seconds } = pays(&times(0.1, 1.0), &times(0.6, 2.0)) else {
            panic!("they cross");
        };
        assert!(
            (job_cost_seconds - 50e-6).abs() < 1e-12,
            "{job_cost_seconds}"
        );
    }

    #[test]
    fn lines_that_do_not_cross_pay_always_or_not_yet() {
        assert_eq!(pays(&times(1.0, 1.0), &times(0.6, 2.0)), Pays::Always);
        assert_eq!(pays(&times(0.1, 1.0), &times(0.6, 1.0)), Pays::NotYet);
        assert_eq!(pays(&[], &[]), Pays::NotYet);
    }

    #[test]
    fn being_faster_at_one_cost_by_chance_is_no_crossing() {
        let alone = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)];
        let dispatched = [(0.0, 0.9), (1.0, 2.5), (2.0, 2.5), (3.0, 3.0)];
        let expected = Pays::From {
            job_cost_seconds: 1.5,
        };
        assert_eq!(pays(&alone, &dispatched), expected);
    }

    /// Wall seconds of the loop and of two workers at one cost of a job.
    type Walls<'a> = [&'a [f64]; 2];

    /// The rows at the costs 0, 1, 2, ….
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
    /// Its median is above that of `LOW`, but not significantly.
    const WILD: [f64; 4] = [0.9, 1.25, 2.0, 2.1];

    fn checked(pays: Pays, walls: &[Walls<'_>]) -> Pays {
        if_significant(pays, &rows(walls), "loop", "packed-2")
    }

    #[test]
    fn a_crossing_is_clear_only_where_both_sides_of_it_differ_significantly() {
        let crossing = Pays::From {
            job_cost_seconds: 1.5,
        };
        let (slower, faster): (Walls<'_>, Walls<'_>) = ([&LOW, &HIGH], [&HIGH, &LOW]);
        let wild: Walls<'_> = [&LOW, &WILD];
        // Only the two costs next to the crossing matter.
        let at = |below, above| checked(crossing, &[wild, below, above, wild]);
        assert_eq!(at(slower, faster), crossing);
        assert_eq!(at(wild, faster), Pays::Unclear);
        assert_eq!(at(slower, wild), Pays::Unclear);
        // Three runs are never significant.
        assert_eq!(at([&LOW[..3], &HIGH[..3]], faster), Pays::Unclear);
        assert_eq!(at(slower, [&HIGH[..3], &LOW[..3]]), Pays::Unclear);
    }

    #[test]
    fn always_is_clear_only_where_jobs_without_cost_are_significantly_faster() {
        let (faster, wild): (Walls<'_>, Walls<'_>) = ([&HIGH, &LOW], [&WILD, &LOW]);
        assert_eq!(checked(Pays::Always, &[faster, wild]), Pays::Always);
        assert_eq!(checked(Pays::Always, &[wild, faster]), Pays::Unclear);
        assert_eq!(checked(Pays::NotYet, &[wild]), Pays::NotYet);
    }
}

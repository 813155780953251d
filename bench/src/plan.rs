//! The runs of a benchmark and their order: warm-up rounds, which are not measured, and then
//! measured rounds, each of all rows. Pure.

use std::fmt;
use std::time::Duration;

use crate::args::BenchEngine;
use crate::figures;

/// The largest number of runs of a row.
pub const MAX_RUNS: usize = 100;

/// One row of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The engine.
    pub engine: BenchEngine,
    /// The number of workers; `None` without the dispatcher.
    pub workers: Option<usize>,
    /// The CPU time that is added to each job.
    pub job_cost: Duration,
}

impl Case {
    /// The row's name, such as `packed-2`.
    pub fn name(&self) -> String {
        let engine = self.engine.name();
        match self.workers {
            None => engine.to_owned(),
            Some(workers) => format!("{engine}-{workers}"),
        }
    }
}

/// The row's name, with the CPU time that is added to a job.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match self.job_cost.is_zero() {
            true => Ok(()),
            false => write!(
                f,
                " at {} per job",
                figures::seconds(self.job_cost.as_secs_f64())
            ),
        }
    }
}

/// The rows of a benchmark: one for each engine without the dispatcher, and one for each number of
/// workers and each engine with it.
pub fn cases(engines: &[BenchEngine], workers: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &engine in engines {
        let job_cost = Duration::ZERO;
        let case = |workers| Case {
            engine,
            workers,
            job_cost,
        };
        match engine.dispatches() {
            false => cases.push(case(None)),
            true => cases.extend(workers.iter().map(|&workers| case(Some(workers)))),
        }
    }
    cases
}

/// The rows of a break-even at each cost of a job: the loop, and the dispatcher with the largest
/// number of workers that is not above the number of cores.
pub fn break_even_cases(workers: &[usize], cores: usize, costs: &[Duration]) -> Vec<Case> {
    let fitting = workers.iter().filter(|&&workers| workers <= cores).max();
    let Some(&workers) = fitting.or(workers.iter().min()) else {
        return Vec::new();
    };
    let engines = [
        BenchEngine::Loop,
        BenchEngine::Packed,
        BenchEngine::OneAMessage,
    ];
    let mut rows = Vec::new();
    for &job_cost in costs {
        for case in cases(&engines, &[workers]) {
            rows.push(Case { job_cost, ..case });
        }
    }
    rows
}

/// A round: one run of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// A warm-up round, which is not measured; numbered from 1.
    WarmUp(u32),
    /// A measured round; numbered from 1.
    Measured(u32),
}

impl Round {
    /// The round's number among those of its kind.
    pub fn number(self) -> u32 {
        match self {
            Self::WarmUp(number) | Self::Measured(number) => number,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::WarmUp(number) => format!("warm-up {number}"),
            Self::Measured(number) => format!("round {number}"),
        };
        f.pad(&text)
    }
}

/// All rounds, in order.
pub fn rounds(warm_up: u32, runs: usize) -> impl Iterator<Item = Round> {
    let runs = u32::try_from(runs.min(MAX_RUNS)).unwrap_or(u32::MAX);
    let warm_up = (1..=warm_up).map(Round::WarmUp);
    warm_up.chain((1..=runs).map(Round::Measured))
}

/// The index of a measured program; the head is 0, the base 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side(pub usize);

/// One run of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The index of the row.
    pub case: usize,
    /// The program.
    pub side: Side,
}

/// The runs of a round, in order; every second round is in reverse order. So slow changes, such as
/// a processor's temperature or other load, affect all rows alike, and no row always follows the
/// same one. Each row is run by all programs before the next row.
pub fn steps(cases: usize, sides: usize, round: Round) -> Vec<Step> {
    let forwards = (0..cases).flat_map(|case| {
        (0..sides).map(move |side| Step {
            case,
            side: Side(side),
        })
    });
    let mut steps: Vec<Step> = forwards.collect();
    if round.number().is_multiple_of(2) {
        steps.reverse();
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_with_the_dispatcher_have_a_row_for_each_number_of_workers() {
        let names: Vec<_> = cases(&BenchEngine::ALL, &[1, 8])
            .iter()
            .map(Case::name)
            .collect();
        let expected = [
            "loop",
            "polars",
            "packed-1",
            "packed-8",
            "one-a-message-1",
            "one-a-message-8",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn every_second_round_is_reversed_and_every_run_is_in_it_once() {
        let first = steps(3, 2, Round::Measured(1));
        let mut second = steps(3, 2, Round::Measured(2));
        assert_ne!(first, second);
        second.reverse();
        assert_eq!(first, second);
        for case in 0..3 {
            for side in 0..2 {
                let step = Step {
                    case,
                    side: Side(side),
                };
                assert_eq!(first.iter().filter(|&&made| made == step).count(), 1);
            }
        }
    }

    #[test]
    fn warm_up_rounds_are_first() {
        let rounds: Vec<_> = rounds(1, 2).map(|round| round.to_string()).collect();
        assert_eq!(rounds, ["warm-up 1", "round 1", "round 2"]);
    }

    #[test]
    fn a_break_even_has_the_largest_number_of_workers_not_above_the_cores() {
        let workers = |listed: &[usize], cores| {
            let cases = break_even_cases(listed, cores, &[Duration::ZERO]);
            cases.iter().find_map(|case| case.workers)
        };
        assert_eq!(workers(&[1, 2, 4, 8], 2), Some(2));
        assert_eq!(workers(&[1, 2, 4, 8], 6), Some(4));
        assert_eq!(workers(&[4, 8], 2), Some(4));
        let costs = [Duration::ZERO, Duration::from_millis(1)];
        assert_eq!(break_even_cases(&[1], 1, &costs).len(), 6);
    }
}

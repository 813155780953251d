//! Which runs are made, and in which order: rounds of all rows, after rounds that are thrown away.
//! Pure.

use std::fmt;
use std::time::Duration;

use super::args::BenchEngine;
use super::show;

/// A row has at most so many runs.
pub const MOST_RUNS: usize = 100;

/// One row of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What runs the work.
    pub engine: BenchEngine,
    /// With how many workers; `None` without the dispatcher.
    pub workers: Option<usize>,
    /// What each job costs a core beyond its own.
    pub job_cost: Duration,
}

impl Case {
    /// Its name, such as `packed-2`.
    pub fn name(&self) -> String {
        let engine = self.engine.name();
        match self.workers {
            None => engine.to_owned(),
            Some(workers) => format!("{engine}-{workers}"),
        }
    }
}

/// Its name, with what a job costs.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match self.job_cost.is_zero() {
            true => Ok(()),
            false => write!(
                f,
                " at {} a job",
                show::seconds(self.job_cost.as_secs_f64())
            ),
        }
    }
}

/// The rows: those without the dispatcher once, those with it for each number of workers.
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

/// The rows of a break-even: the loop, and the dispatcher with the most workers that there are cores
/// for, at each cost of a job.
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
    /// Thrown away; numbered from 1.
    WarmUp(u32),
    /// Measured; numbered from 1.
    Measured(u32),
}

impl Round {
    /// Its number among those of its kind.
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
    let runs = u32::try_from(runs.min(MOST_RUNS)).unwrap_or(u32::MAX);
    let warm_up = (1..=warm_up).map(Round::WarmUp);
    warm_up.chain((1..=runs).map(Round::Measured))
}

/// Which of the programs that are measured: the head is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side(pub usize);

/// One run of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Position of the row.
    pub case: usize,
    /// The program.
    pub side: Side,
}

/// The runs of a round, in order: there, and back in the next round. So what drifts slowly, such as
/// a processor's heat or another process's load, is shared out evenly, and a row does not always
/// follow the same one. Programs take turns at each row.
pub fn steps(cases: usize, sides: usize, round: Round) -> Vec<Step> {
    let there = (0..cases).flat_map(|case| {
        (0..sides).map(move |side| Step {
            case,
            side: Side(side),
        })
    });
    let mut steps: Vec<Step> = there.collect();
    if round.number().is_multiple_of(2) {
        steps.reverse();
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_the_dispatcher_come_once_and_others_for_each_number_of_workers() {
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
    fn rounds_go_there_and_back_and_make_every_run_once() {
        let there = steps(3, 2, Round::Measured(1));
        let mut back = steps(3, 2, Round::Measured(2));
        assert_ne!(there, back);
        back.reverse();
        assert_eq!(there, back);
        for case in 0..3 {
            for side in 0..2 {
                let step = Step {
                    case,
                    side: Side(side),
                };
                assert_eq!(there.iter().filter(|&&made| made == step).count(), 1);
            }
        }
    }

    #[test]
    fn warm_up_comes_first() {
        let rounds: Vec<_> = rounds(1, 2).map(|round| round.to_string()).collect();
        assert_eq!(rounds, ["warm-up 1", "round 1", "round 2"]);
    }

    #[test]
    fn a_break_even_has_the_most_workers_that_there_are_cores_for() {
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

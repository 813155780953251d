//! Two benchmarks of one host and one setting, row by row: how much longer a row takes, and whether
//! that is more than noise. Pure.

use std::fmt;

use super::benchmark::{Benchmark, Row, Settings};
use super::host::Host;
use super::show;
use super::statistics::{is_beyond_chance, mann_whitney_p};
use crate::table::{Align, table};

/// With fewer runs on either side, no difference can be told from noise: the least p of 3 and 3 runs
/// is 0.1.
pub const FEWEST_RUNS: usize = 4;

/// Why two benchmarks are not compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They were made under other conditions.
    #[error(
        "not to be compared: the base has {what} {base}, here it is {head}; measure the base here"
    )]
    Differs {
        /// What.
        what: &'static str,
        /// In the base.
        base: String,
        /// Here.
        head: String,
    },

    /// They have no row in common.
    #[error("not to be compared: no row is in both; name the base's --engines and --workers")]
    NoCommonRow,

    /// A limit that could never be passed.
    #[error(
        "--fail-above needs at least {FEWEST_RUNS} runs of each row on both sides, {row} has {runs}; \
         give more --runs"
    )]
    TooFewRuns {
        /// The row.
        row: String,
        /// The fewer of both sides' runs.
        runs: usize,
    },

    /// A limit without anything to compare with.
    #[error("--fail-above compares; give --compare or --base, too")]
    NothingToCompare,
}

/// Checks that a benchmark of these conditions can be compared with a base.
///
/// # Errors
/// The first difference that matters.
pub fn check(
    base_host: &Host,
    head_host: &Host,
    base_settings: &Settings,
    head_settings: &Settings,
) -> Result<(), Refusal> {
    let hosts = base_host.differences(head_host);
    let settings = base_settings.differences(head_settings);
    match hosts.into_iter().chain(settings).next() {
        None => Ok(()),
        Some((what, base, head)) => Err(Refusal::Differs { what, base, head }),
    }
}

/// What a row's times say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It takes longer.
    Slower,
    /// It takes less time.
    Faster,
    /// The difference may be chance.
    Noise,
    /// There are too few runs to tell.
    Unknown,
}

impl Change {
    /// In a word or two.
    pub fn words(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Noise => "noise",
            Self::Unknown => "too few runs",
        }
    }
}

/// A row of both.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Its name.
    pub name: String,
    /// Median wall seconds of the base.
    pub base: f64,
    /// Median wall seconds of the head.
    pub head: f64,
    /// Head by base.
    pub ratio: f64,
    /// The same of seconds of cores.
    pub cpu_ratio: Option<f64>,
    /// How likely so great a difference is by chance.
    pub p: Option<f64>,
    /// The fewer of both sides' runs.
    pub runs: usize,
    /// What it says.
    pub change: Change,
}

/// Two benchmarks beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The rows that are in both, in the head's order.
    pub rows: Vec<RowChange>,
    /// Rows that are in one alone.
    pub alone: Vec<String>,
}

impl Comparison {
    /// Compares.
    ///
    /// # Errors
    /// When they were made under other conditions, or have come to other results.
    pub fn new(base: &Benchmark, head: &Benchmark) -> Result<Self, Refusal> {
        check(&base.host, &head.host, &base.settings, &head.settings)?;
        let profile = |side: &Benchmark| match side.is_of_a_debug_build() {
            true => "debug",
            false => "release",
        };
        let digest = |side: &Benchmark| side.agreed.series_sha256.clone();
        let pairs = [
            ("the profile", profile(base).into(), profile(head).into()),
            ("a series with the digest", digest(base), digest(head)),
        ];
        for (what, base, head) in pairs {
            if base != head {
                return Err(Refusal::Differs { what, base, head });
            }
        }
        let rows: Vec<RowChange> = head
            .rows
            .iter()
            .filter_map(|row| Some(RowChange::new(base.row(&row.name)?, row)))
            .collect();
        if rows.is_empty() {
            return Err(Refusal::NoCommonRow);
        }
        let alone = |of: &Benchmark, other: &Benchmark| -> Vec<String> {
            let alone = of.rows.iter().filter(|row| other.row(&row.name).is_none());
            alone.map(|row| row.name.clone()).collect()
        };
        Ok(Self {
            rows,
            alone: [alone(base, head), alone(head, base)].concat(),
        })
    }

    /// Whether a limit can be passed at all: a gate that cannot fail is none.
    ///
    /// # Errors
    /// When a row has too few runs.
    pub fn can_fail(&self) -> Result<(), Refusal> {
        match self.rows.iter().find(|row| row.runs < FEWEST_RUNS) {
            None => Ok(()),
            Some(row) => Err(Refusal::TooFewRuns {
                row: row.name.clone(),
                runs: row.runs,
            }),
        }
    }

    /// The rows that seem slower by more than a share, but by chance for all one can tell.
    pub fn noisy_beyond(&self, share: f64) -> Vec<&RowChange> {
        let rows = self.rows.iter();
        rows.filter(|row| row.change != Change::Slower && row.ratio > 1.0 + share)
            .collect()
    }

    /// The rows that are slower by more than a share, beyond chance.
    pub fn slower_than(&self, share: f64) -> Vec<&RowChange> {
        let rows = self.rows.iter();
        rows.filter(|row| row.change == Change::Slower && row.ratio > 1.0 + share)
            .collect()
    }
}

impl RowChange {
    fn new(base: &Row, head: &Row) -> Self {
        let (base_walls, head_walls) = (base.walls(), head.walls());
        let ratio = head.wall_seconds.median / base.wall_seconds.median;
        let cpu = base.cpu_seconds.zip(head.cpu_seconds);
        let p = mann_whitney_p(&base_walls, &head_walls);
        let runs = base_walls.len().min(head_walls.len());
        let change = match p {
            _ if runs < FEWEST_RUNS => Change::Unknown,
            p if is_beyond_chance(p) && ratio > 1.0 => Change::Slower,
            p if is_beyond_chance(p) && ratio < 1.0 => Change::Faster,
            _ => Change::Noise,
        };
        Self {
            name: head.name.clone(),
            base: base.wall_seconds.median,
            head: head.wall_seconds.median,
            ratio,
            cpu_ratio: cpu
                .filter(|(base, _)| base.median > 0.0)
                .map(|(base, head)| head.median / base.median),
            p,
            runs,
            change,
        }
    }

    /// Its cells, as a table shows them.
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            show::seconds(self.base),
            show::seconds(self.head),
            show::change(self.ratio),
            show::known(self.cpu_ratio, show::change),
            show::known(self.p, |p| format!("{p:.3}")),
            self.change.words().to_owned(),
        ]
    }
}

/// The columns of a comparison.
pub const COLUMNS: [&str; 7] = ["row", "base", "here", "wall", "CPU", "p", "says"];

/// A table for people.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = COLUMNS.map(|name| (name, Align::Right));
        head[0].1 = Align::Left;
        head[6].1 = Align::Left;
        f.write_str(&table(&head, self.rows.iter().map(RowChange::cells)))?;
        if !self.alone.is_empty() {
            writeln!(f, "only on one side: {}", self.alone.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::BenchEngine;
    use crate::bench::benchmark::tests::benchmark;

    fn of(walls: &[f64]) -> Benchmark {
        benchmark(&[(BenchEngine::Packed, Some(2), walls)])
    }

    fn change(base: &[f64], head: &[f64]) -> Change {
        let comparison = Comparison::new(&of(base), &of(head)).expect("comparable");
        comparison.rows[0].change
    }

    const QUIET: [f64; 5] = [1.00, 1.01, 0.99, 1.02, 1.00];

    #[test]
    fn a_row_is_slower_or_faster_only_where_chance_does_not_explain_it() {
        let slower = QUIET.map(|wall| wall * 1.2);
        assert_eq!(change(&QUIET, &slower), Change::Slower);
        assert_eq!(change(&slower, &QUIET), Change::Faster);
        // Far in the median, but all over the place.
        let wild = [0.7, 1.3, 1.4, 0.8, 1.35];
        assert_eq!(change(&QUIET, &wild), Change::Noise);
        assert_eq!(change(&QUIET, &QUIET), Change::Noise);
        assert_eq!(change(&QUIET[..3], &slower[..3]), Change::Unknown);
    }

    #[test]
    fn the_limit_is_passed_by_more_than_it_and_not_by_noise() {
        let head = QUIET.map(|wall| wall * 1.2);
        let comparison = Comparison::new(&of(&QUIET), &of(&head)).expect("comparable");
        assert_eq!(comparison.slower_than(0.25), Vec::<&RowChange>::new());
        assert_eq!(comparison.slower_than(0.1).len(), 1);
        comparison.can_fail().expect("enough runs");
        let few = Comparison::new(&of(&QUIET[..3]), &of(&head)).expect("comparable");
        assert_eq!(few.slower_than(0.0), Vec::<&RowChange>::new());
        let refusal = few.can_fail().expect_err("too few runs").to_string();
        assert!(refusal.contains("packed-2 has 3"), "{refusal}");
    }

    #[test]
    fn other_hosts_settings_profiles_and_results_are_refused_by_name() {
        type Changed = (&'static str, fn(&mut Benchmark));
        let changes: [Changed; 6] = [
            ("host", |base| base.host.name = "elsewhere".to_owned()),
            ("cores", |base| base.host.cores = 64),
            ("rows to generate", |base| base.settings.rows = Some(7)),
            ("broker", |base| {
                base.settings.broker = "kafka:9092".to_owned()
            }),
            ("profile", |base| {
                base.versions
                    .insert("profile".to_owned(), "debug".to_owned());
            }),
            ("digest", |base| base.agreed.series_sha256 = "ef".to_owned()),
        ];
        for (what, change) in changes {
            let mut base = of(&QUIET);
            change(&mut base);
            let refusal = Comparison::new(&base, &of(&QUIET)).expect_err("it is refused");
            assert!(refusal.to_string().contains(what), "{refusal}");
        }
    }

    #[test]
    fn rows_of_one_side_alone_are_named_and_no_common_row_is_refused() {
        let both = benchmark(&[
            (BenchEngine::Packed, Some(2), &QUIET),
            (BenchEngine::Loop, None, &QUIET),
        ]);
        let comparison = Comparison::new(&both, &of(&QUIET)).expect("comparable");
        assert_eq!(comparison.alone, ["loop"]);
        let other = benchmark(&[(BenchEngine::Loop, None, &QUIET)]);
        assert_eq!(
            Comparison::new(&other, &of(&QUIET)),
            Err(Refusal::NoCommonRow)
        );
    }
}

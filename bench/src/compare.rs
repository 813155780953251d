//! The comparison of two benchmarks of the same host and settings, row by row: the ratio of the
//! times, and whether it is significant. Pure.

use std::fmt;

use service::table::{Align, table};

use crate::benchmark::{Benchmark, Row, Settings};
use crate::figures;
use crate::host::Host;
use crate::statistics::{is_significant, mann_whitney_p};

/// The least number of runs on both sides for a significant difference: the least p of 3 and 3 runs
/// is 0.1.
pub const MIN_RUNS: usize = 4;

/// The reason why two benchmarks are not compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Their conditions or results differ.
    #[error("cannot compare: the base has {what} {base}, here it is {head}; measure the base here")]
    Differs {
        /// The condition or result that differs.
        what: &'static str,
        /// Its value in the base.
        base: String,
        /// Its value here.
        head: String,
    },

    /// They have no row in common.
    #[error("cannot compare: no row is in both; give the base's --engines and --workers")]
    NoCommonRow,

    /// A limit that no row could exceed, because there are too few runs.
    #[error(
        "--fail-above needs at least {MIN_RUNS} runs of each row on both sides, {row} has {runs}; \
         give more --runs"
    )]
    TooFewRuns {
        /// The row.
        row: String,
        /// The smaller number of runs of the two sides.
        runs: usize,
    },

    /// A limit without a base.
    #[error("--fail-above needs a base; give --compare or --base, too")]
    NothingToCompare,
}

/// Checks that a benchmark with these conditions can be compared with a base.
///
/// # Errors
/// The first condition that differs.
pub fn check(
    base_host: &Host,
    head_host: &Host,
    base_settings: &Settings,
    head_settings: &Settings,
) -> Result<(), Refusal> {
    let hosts = base_host.mismatches(head_host);
    let settings = base_settings.mismatches(head_settings);
    match hosts.into_iter().chain(settings).next() {
        None => Ok(()),
        Some((what, base, head)) => Err(Refusal::Differs { what, base, head }),
    }
}

/// The change of a row's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row takes significantly longer.
    Slower,
    /// The row takes significantly less time.
    Faster,
    /// The difference is not significant.
    Noise,
    /// There are too few runs for a significant difference.
    Unknown,
}

impl Change {
    /// The change in a word or two.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Noise => "noise",
            Self::Unknown => "too few runs",
        }
    }
}

/// A row that is in both benchmarks.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// The row's name.
    pub name: String,
    /// The median wall seconds of the base.
    pub base: f64,
    /// The median wall seconds of the head.
    pub head: f64,
    /// The head's median divided by the base's.
    pub ratio: f64,
    /// The same ratio of CPU seconds.
    pub cpu_ratio: Option<f64>,
    /// The probability of a difference at least as large by chance: [`mann_whitney_p`].
    pub p: Option<f64>,
    /// The smaller number of runs of the two sides.
    pub runs: usize,
    /// The change, by `p` and `ratio`.
    pub change: Change,
}

/// The comparison of a benchmark, the head, with a base.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The rows in both benchmarks, in the head's order.
    pub rows: Vec<RowChange>,
    /// The names of rows that are in one benchmark only.
    pub on_one_side: Vec<String>,
}

impl Comparison {
    /// Compares two benchmarks.
    ///
    /// # Errors
    /// When their conditions or results differ, or they have no row in common.
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
        let only_in = |side: &Benchmark, other: &Benchmark| -> Vec<String> {
            let rows = side.rows.iter();
            rows.filter(|row| other.row(&row.name).is_none())
                .map(|row| row.name.clone())
                .collect()
        };
        Ok(Self {
            rows,
            on_one_side: [only_in(base, head), only_in(head, base)].concat(),
        })
    }

    /// Checks that a row could exceed a limit: a check that cannot fail proves nothing.
    ///
    /// # Errors
    /// When a row has too few runs.
    pub fn can_fail(&self) -> Result<(), Refusal> {
        match self.rows.iter().find(|row| row.runs < MIN_RUNS) {
            None => Ok(()),
            Some(row) => Err(Refusal::TooFewRuns {
                row: row.name.clone(),
                runs: row.runs,
            }),
        }
    }

    /// The rows that are slower by more than a share, but not significantly.
    pub fn possibly_slower_than(&self, share: f64) -> Vec<&RowChange> {
        let rows = self.rows.iter();
        rows.filter(|row| row.change != Change::Slower && row.ratio > 1.0 + share)
            .collect()
    }

    /// The rows that are significantly slower, and by more than a share.
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
            _ if runs < MIN_RUNS => Change::Unknown,
            p if is_significant(p) && ratio > 1.0 => Change::Slower,
            p if is_significant(p) && ratio < 1.0 => Change::Faster,
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

    /// The cells of the row, one for each of [`COLUMNS`].
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            figures::seconds(self.base),
            figures::seconds(self.head),
            figures::change(self.ratio),
            figures::known(self.cpu_ratio, figures::change),
            figures::known(self.p, |p| format!("{p:.3}")),
            self.change.as_str().to_owned(),
        ]
    }
}

/// The columns of a comparison.
pub const COLUMNS: [&str; 7] = ["row", "base", "here", "wall", "CPU", "p", "change"];

/// A table for a terminal.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = COLUMNS.map(|name| (name, Align::Right));
        head[0].1 = Align::Left;
        head[6].1 = Align::Left;
        f.write_str(&table(&head, self.rows.iter().map(RowChange::cells)))?;
        if !self.on_one_side.is_empty() {
            let names = self.on_one_side.join(", ");
            writeln!(f, "only on one side: {names}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::BenchEngine;
    use crate::benchmark::tests::benchmark;

    fn of(walls: &[f64]) -> Benchmark {
        benchmark(&[(BenchEngine::Packed, Some(2), walls)])
    }

    fn change(base: &[f64], head: &[f64]) -> Change {
        let comparison = Comparison::new(&of(base), &of(head)).expect("comparable");
        comparison.rows[0].change
    }

    const QUIET: [f64; 5] = [1.00, 1.01, 0.99, 1.02, 1.00];

    #[test]
    fn a_row_is_slower_or_faster_only_where_the_difference_is_significant() {
        let slower = QUIET.map(|wall| wall * 1.2);
        assert_eq!(change(&QUIET, &slower), Change::Slower);
        assert_eq!(change(&slower, &QUIET), Change::Faster);
        // A large difference of the medians, but a wide spread.
        let wild = [0.7, 1.3, 1.4, 0.8, 1.35];
        assert_eq!(change(&QUIET, &wild), Change::Noise);
        assert_eq!(change(&QUIET, &QUIET), Change::Noise);
        assert_eq!(change(&QUIET[..3], &slower[..3]), Change::Unknown);
    }

    #[test]
    fn the_limit_is_exceeded_by_a_significant_difference_only() {
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
    fn other_hosts_settings_profiles_and_results_are_refused_with_their_names() {
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
    fn rows_on_one_side_are_named_and_no_common_row_is_refused() {
        let both = benchmark(&[
            (BenchEngine::Packed, Some(2), &QUIET),
            (BenchEngine::Loop, None, &QUIET),
        ]);
        let comparison = Comparison::new(&both, &of(&QUIET)).expect("comparable");
        assert_eq!(comparison.on_one_side, ["loop"]);
        let other = benchmark(&[(BenchEngine::Loop, None, &QUIET)]);
        assert_eq!(
            Comparison::new(&other, &of(&QUIET)),
            Err(Refusal::NoCommonRow)
        );
    }
}

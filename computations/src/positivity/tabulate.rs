//! The table of positivity: tests, positive tests and their rate for each group.

use pipeline::Ledger;
use pipeline::ledger::{Labels, SpillError};
use pipeline::reconciliation::Check;

use super::{Positivity, Series, SeriesRow, Tally};
use crate::Tabulate;
use crate::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows};

impl Tabulate for Positivity {
    fn columns(&self) -> &'static [ResultColumn] {
        const fn column(name: &'static str, kind: Kind) -> ResultColumn {
            ResultColumn { name, kind }
        }
        const COLUMNS: [ResultColumn; 3] = [
            column("tests", Kind::Integer),
            column("positive", Kind::Integer),
            column("rate", Kind::Real),
        ];
        &COLUMNS
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let (mut tests, mut positive) = (0i64, 0i64);
        for part in parts {
            let tally = Tally::read(part).ok_or(MalformedResult)?;
            tests += i64::from(tally.tests);
            positive += i64::from(tally.positive);
        }
        let rate = match tests {
            0 => Cell::Missing,
            _ => Cell::Real(positive as f64 / tests as f64),
        };
        out.push([Cell::Integer(tests), Cell::Integer(positive), rate]);
        Ok(())
    }

    /// A result that is malformed has no tests, which breaks the equality, for a job has rows.
    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        let (mut tests, mut malformed) = (0u64, 0u64);
        ledger.for_each_completed(|_, result| match Tally::read(result) {
            Some(tally) => tests += u64::from(tally.tests),
            None => malformed += 1,
        })?;
        let rows = ledger.totals().weight_completed;
        let found = match malformed {
            0 => tests.to_string(),
            _ => format!("{tests}, and {malformed} results that are malformed"),
        };
        Ok(vec![Check::new(
            "tests in tallies = rows in completed jobs",
            &rows.to_string(),
            &found,
            malformed == 0 && tests == rows,
        )])
    }
}

impl Series {
    /// The series of a run: one row for each group that has an outcome, in key order. What is
    /// malformed adds nothing: a run with such a result has failed.
    ///
    /// Groups without a time are not part of a series; a run of positivity has none.
    ///
    /// # Errors
    /// When spilled results cannot be read back. Those of positivity are in the lines of a ledger.
    pub fn of(ledger: &Ledger) -> Result<Self, SpillError> {
        let groups = ledger.groups();
        let label_sets = groups.label_sets().map(Labels::to_label_set).collect();
        let mut rows: Vec<SeriesRow> = Vec::new();
        groups.for_each(|group| {
            let Some(time) = group.time else {
                return Ok::<_, SpillError>(());
            };
            let (tests, positive) = match group.parts {
                // Most groups are of one job.
                [part] => counts(part),
                parts => sum(parts),
            };
            rows.push(SeriesRow {
                label_set: group.label_set,
                hours: time.hours(),
                tests,
                positive,
            });
            Ok(())
        })?;
        Ok(Self { label_sets, rows })
    }

    /// Tests and positive tests of all rows.
    pub fn totals(&self) -> (u64, u64) {
        let rows = self.rows.iter();
        rows.fold((0, 0), |(tests, positive), row| {
            (tests + row.tests, positive + row.positive)
        })
    }
}

/// Tests and positive tests of several results.
#[inline(never)]
fn sum(parts: &[&[u8]]) -> (u64, u64) {
    let all = parts.iter().map(|part| counts(part));
    all.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// Tests and positive tests of a result; none where it is malformed.
#[inline]
fn counts(result: &[u8]) -> (u64, u64) {
    Tally::read(result).map_or((0, 0), |tally| (tally.tests.into(), tally.positive.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::ledger_of;

    #[test]
    fn the_parts_of_a_group_are_added_up_and_divided_once() {
        let mut rows = ResultRows::default();
        Positivity
            .rows(&[&[3, 1], &[5, 1]], &mut rows)
            .expect("results of positivity");
        let row = [Cell::Integer(8), Cell::Integer(2), Cell::Real(0.25)];
        assert_eq!(rows.rows(3).collect::<Vec<_>>(), [row]);
        let failed = Positivity.rows(&[&[3, 1], &[5]], &mut rows);
        assert_eq!(failed, Err(MalformedResult));
    }

    #[test]
    fn tests_that_are_not_the_rows_fail_the_run() {
        let check = |results: &[&[u8]]| {
            let checks = Positivity.checks(&ledger_of(2, results));
            let [check] = &checks.expect("all is in memory")[..] else {
                panic!("there is one check");
            };
            (check.found.clone(), check.holds)
        };
        assert_eq!(check(&[&[2, 1], &[2, 0]]), ("4".to_owned(), true));
        assert_eq!(check(&[&[2, 1], &[3, 0]]), ("5".to_owned(), false));
        let malformed = "2, and 1 results that are malformed".to_owned();
        assert_eq!(check(&[&[2, 1], &[]]), (malformed, false));
    }

    #[test]
    fn a_series_has_each_group_with_an_outcome() {
        let series = Series::of(&ledger_of(2, &[&[2, 1], &[2, 0]]));
        let series = series.expect("all is in memory");
        assert_eq!(series.totals(), (4, 1));
        let tests: Vec<u64> = series.rows.iter().map(|row| row.tests).collect();
        assert_eq!(tests, [2, 2]);
        assert_eq!(series.label_sets.len(), 1);
    }
}

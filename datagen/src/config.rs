//! The configuration of a data set, which is checked once, before anything is computed.

use jiff::civil::{Date, date};

use crate::countries::COUNTRIES;
use crate::error::Error;

/// The longest range in days. It bounds the tables, which have an entry for each country and day.
const LONGEST_RANGE_DAYS: i32 = 3_660;

/// The earliest first day of a range. Birth dates are up to a hundred years earlier.
const EARLIEST: Date = date(1900, 1, 1);

/// The largest number of threads; a larger one is taken for a typing error.
const MOST_THREADS: usize = 1_024;

/// The configuration of a data set. All fields except `threads` determine its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Rows, without the header; at least 1.
    pub rows: u64,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The number of countries, most populous first.
    pub countries: usize,
    /// The first day of tests, inclusive.
    pub from: Date,
    /// The day after the last day of tests.
    pub to: Date,
    /// The share of rows to spoil, from 0 to 1, in steps of 2^-32. It is a probability per row, so
    /// the number of spoiled rows is near this share of all rows, not equal to it.
    pub malformed: f64,
    /// The number of threads that generate rows; the caller's thread writes them.
    pub threads: usize,
}

impl Default for Config {
    /// The configuration of a command line without options, with one thread.
    fn default() -> Self {
        Self {
            rows: 2_000_000,
            seed: 42,
            countries: COUNTRIES.len(),
            from: date(2020, 3, 1),
            to: date(2021, 1, 1),
            malformed: 0.0,
            threads: 1,
        }
    }
}

impl Config {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    /// An error of wrong usage for the first field that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let Self {
            rows,
            seed: _,
            countries,
            from,
            to,
            malformed,
            threads,
        } = *self;
        if rows == 0 {
            return Err(Error::NoRows);
        }
        if countries == 0 || countries > COUNTRIES.len() {
            return Err(Error::Countries {
                asked: countries,
                available: COUNTRIES.len(),
            });
        }
        if from >= to {
            return Err(Error::EmptyRange { from, to });
        }
        if from < EARLIEST {
            return Err(Error::EarlyRange {
                from,
                earliest: EARLIEST,
            });
        }
        let days = to.duration_since(from).as_hours() / 24;
        if days > i64::from(LONGEST_RANGE_DAYS) {
            return Err(Error::LongRange {
                days,
                longest: LONGEST_RANGE_DAYS,
            });
        }
        // A comparison with NaN is false, so NaN is no share either.
        if !(0.0..=1.0).contains(&malformed) {
            return Err(Error::Share { asked: malformed });
        }
        if threads == 0 || threads > MOST_THREADS {
            return Err(Error::Threads {
                asked: threads,
                most: MOST_THREADS,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use service::{Ending, Exit};

    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        let error = config.check().expect_err("the configuration is refused");
        assert_eq!(error.exit(), Exit::Usage);
        error.to_string()
    }

    #[test]
    fn the_default_is_valid() {
        Config::default().check().expect("valid");
    }

    #[test]
    fn fields_out_of_range_are_refused_as_wrong_usage() {
        assert_eq!(
            refused(|c| c.rows = 0),
            "--rows 0: at least one row is needed"
        );
        assert_eq!(
            refused(|c| c.countries = 196),
            "--countries 196: the range is 1 to 195"
        );
        assert_eq!(
            refused(|c| c.countries = 0),
            "--countries 0: the range is 1 to 195"
        );
        assert_eq!(
            refused(|c| c.to = c.from),
            "no day between --from 2020-03-01 (inclusive) and --to 2020-03-01 (exclusive); \
             --to has to be later"
        );
        assert_eq!(
            refused(|c| c.from = date(1899, 12, 31)),
            "--from 1899-12-31: the earliest day is 1900-01-01"
        );
        assert_eq!(
            refused(|c| c.to = date(2031, 1, 1)),
            "--from and --to: 3958 days, but at most 3660 are allowed"
        );
        for share in [-0.1, 1.1, f64::NAN] {
            assert_eq!(
                refused(|c| c.malformed = share),
                format!("--malformed {share}: the range is 0 to 1")
            );
        }
        assert_eq!(
            refused(|c| c.threads = 0),
            "--threads 0: the range is 1 to 1024"
        );
    }
}

//! The time series of a run: tests and positive tests by group, in key order. The exporters compute the
//! rate, which is the only division of the counts.

use pipeline::{Grain, LabelSet, TimeBucket};

/// Tests and positive tests by labels and time, ordered by both as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The label sets, in order; [`SeriesRow::label_set`] points into them.
    pub label_sets: Vec<LabelSet>,
    /// One row for each group.
    pub rows: Vec<SeriesRow>,
}

/// One group of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesRow {
    /// Position of the labels in [`Series::label_sets`].
    pub label_set: u32,
    /// The truncated time, as [`TimeBucket::hours`]: the grains of a series are of whole hours.
    pub hours: i32,
    /// Tests in the counted jobs of the group; 0 when none of its jobs was counted, so that the
    /// value is not known.
    pub tests: u64,
    /// Positive tests among them.
    pub positive: u64,
}

impl Series {
    /// The series of a coarser grain that the same tallies make: integers are added, nothing is
    /// divided. A group of it is known as far as the groups in it are.
    ///
    /// Meant for the grains that the series' own one [makes](Grain::makes).
    pub fn coarsened(&self, grain: Grain) -> Self {
        let mut rows: Vec<SeriesRow> = Vec::new();
        for row in &self.rows {
            let hours = grain.of(row.time()).hours();
            match rows.last_mut() {
                Some(last) if (last.label_set, last.hours) == (row.label_set, hours) => {
                    last.tests += row.tests;
                    last.positive += row.positive;
                }
                _ => rows.push(SeriesRow { hours, ..*row }),
            }
        }
        Self {
            label_sets: self.label_sets.clone(),
            rows,
        }
    }
}

impl SeriesRow {
    /// The truncated time.
    pub fn time(&self) -> TimeBucket {
        TimeBucket::from_hours(self.hours.into()).expect("the hours are those of a bucket")
    }

    /// Positive tests per test; `None` over no tests.
    pub fn rate(&self) -> Option<f64> {
        (self.tests > 0).then(|| self.positive as f64 / self.tests as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Tests as (label set, seconds, positive), grouped from scratch.
    fn grouped(tests: &[(u32, i64, bool)], grain: Grain) -> Series {
        let mut groups: BTreeMap<(u32, TimeBucket), (u64, u64)> = BTreeMap::new();
        for &(label_set, seconds, positive) in tests {
            let time = grain.truncate(seconds).expect("in range");
            let (all, of_them) = groups.entry((label_set, time)).or_default();
            *all += 1;
            *of_them += u64::from(positive);
        }
        let row =
            |((label_set, time), (tests, positive)): ((u32, TimeBucket), (u64, u64))| SeriesRow {
                label_set,
                hours: time.hours(),
                tests,
                positive,
            };
        Series {
            label_sets: ["Chile", "Italy", "Togo"]
                .map(|name| LabelSet::new([name]))
                .into(),
            rows: groups.into_iter().map(row).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_coarser_series_is_the_one_that_a_run_at_its_grain_makes(
            tests in prop::collection::vec((0u32..3, -9_000_000i64..9_000_000, any::<bool>()), 0..300),
        ) {
            for fine in Grain::ALL {
                let series = grouped(&tests, fine);
                for &coarse in fine.makes() {
                    let made = series.coarsened(coarse);
                    prop_assert_eq!(&made, &grouped(&tests, coarse), "{} to {}", fine, coarse);
                    let sum = made.rows.iter().map(|row| row.tests).sum::<u64>();
                    prop_assert_eq!(sum, tests.len() as u64);
                }
            }
        }
    }

    #[test]
    fn a_row_takes_twenty_four_bytes() {
        assert_eq!(size_of::<SeriesRow>(), 24);
    }

    #[test]
    fn a_week_makes_no_month() {
        assert_eq!(Grain::Week.makes(), [Grain::Week]);
        // Nor could it: this week is of two months.
        let tests = [
            (0, 1_593_561_600 - 3_600, true),
            (0, 1_593_561_600 + 3_600, true),
        ];
        let by_week = grouped(&tests, Grain::Week).coarsened(Grain::Month);
        assert_ne!(by_week, grouped(&tests, Grain::Month));
    }

    #[test]
    fn what_is_not_known_stays_unknown_until_something_of_it_is() {
        let row = |hours, tests, positive| SeriesRow {
            label_set: 0,
            hours,
            tests,
            positive,
        };
        let series = Series {
            label_sets: vec![LabelSet::default()],
            rows: vec![row(0, 0, 0), row(1, 3, 1), row(24, 0, 0)],
        };
        let by_day = series.coarsened(Grain::Day);
        assert_eq!(by_day.rows, [row(0, 3, 1), row(24, 0, 0)]);
        assert_eq!(by_day.rows[1].rate(), None);
    }
}

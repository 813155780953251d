//! The part of a series that is on the page `report.html`: days instead of hours, as columns of
//! integers, and limited to what a browser handles quickly. The page states what is left out, which is
//! in the other files.

use computations::positivity::{Series, SeriesRow};
use pipeline::Grain;
use serde::Serialize;

/// The largest number of groups: 200 label sets by the day for three years, at most 3 MB. With more
/// groups the page has a coarser grain.
const MOST_GROUPS: usize = 220_000;

/// The largest number of points in time from the first to the last: fifty years of days. With more the
/// page has a coarser grain.
const MOST_TIMES: usize = 18_300;

/// The largest number of label sets times points in time, which the overview of all label sets iterates
/// over. With more the page has a coarser grain.
const MOST_CELLS: usize = 4_000_000;

/// The largest number of label sets. With more, those with most tests are on the page.
const MOST_LABEL_SETS: usize = 5_000;

/// The largest number of characters of a label value, which is truncated to it.
const MOST_LABEL_CHARS: usize = 200;

/// The limits of the part of a series that is on a page.
#[derive(Clone, Copy, Debug)]
struct Limits {
    groups: usize,
    times: usize,
    cells: usize,
    label_sets: usize,
}

const LIMITS: Limits = Limits {
    groups: MOST_GROUPS,
    times: MOST_TIMES,
    cells: MOST_CELLS,
    label_sets: MOST_LABEL_SETS,
};

/// The series in the JSON of the page. Times are days since 1970, and the other fields refer to a time
/// by its position in `times`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PageSeries {
    /// The names of the label columns.
    label_columns: Vec<String>,
    /// The grain of the run's series.
    run_grain: Grain,
    /// The grain on the page.
    grain: Grain,
    /// The grains that the series on the page can be added up to, its own first.
    grains: &'static [Grain],
    /// The times with a group: the first one, then the difference of each to the one before.
    times: Vec<i32>,
    /// The number of label sets in the whole series.
    label_sets_in_all: usize,
    /// The sums over all label sets, with those that are not on the page, by time.
    all: Tallies,
    /// The label sets on the page, in order.
    label_sets: Vec<PageLabelSet>,
}

/// One label set on the page.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PageLabelSet {
    labels: Vec<String>,
    at: Positions,
    #[serde(flatten)]
    tallies: Tallies,
}

/// The positions of a label set's times in `times`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Positions {
    /// The position of the first time, where the others follow it without a gap.
    From(usize),
    /// The position of the first time, then the difference of each to the one before.
    Steps(Vec<usize>),
}

/// The numbers of tests and of positive tests; `None` for a group without a completed job.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Tallies {
    tests: Vec<Option<u64>>,
    positive: Vec<Option<u64>>,
}

impl Tallies {
    fn push(&mut self, tests: u64, positive: u64) {
        let known = tests > 0;
        self.tests.push(known.then_some(tests));
        self.positive.push(known.then_some(positive));
    }
}

impl PageSeries {
    /// The part of a run's series that is on its page.
    pub fn new(series: &Series, label_columns: &[String], run_grain: Grain) -> Self {
        Self::fitting(series, label_columns, run_grain, LIMITS)
    }

    fn fitting(
        series: &Series,
        label_columns: &[String],
        run_grain: Grain,
        limits: Limits,
    ) -> Self {
        let finest = match run_grain {
            Grain::Hour => Grain::Day,
            coarse => coarse,
        };
        let mut grain = finest;
        let mut drawn = series.coarsened(finest);
        let label_sets_in_all = drawn.rows.chunk_by(same_labels).count();
        let label_sets = label_sets_in_all.min(limits.label_sets);
        for &coarser in finest.makes() {
            let times = length(&drawn, grain);
            let cells = times.saturating_mul(label_sets);
            if drawn.rows.len() <= limits.groups && times <= limits.times && cells <= limits.cells {
                break;
            }
            // It is coarsened from the series itself, because weeks do not add up to months.
            (grain, drawn) = (coarser, series.coarsened(coarser));
        }
        let mut times: Vec<i32> = drawn.rows.iter().map(day).collect();
        times.sort_unstable();
        times.dedup();
        let at = |row: &SeriesRow| times.partition_point(|&time| time < day(row));

        let mut sums = vec![(0u64, 0u64); times.len()];
        for row in &drawn.rows {
            let (tests, positive) = &mut sums[at(row)];
            *tests += row.tests;
            *positive += row.positive;
        }
        let mut all = Tallies::default();
        for (tests, positive) in sums {
            all.push(tests, positive);
        }

        let most = (limits.cells / length(&drawn, grain).max(1)).clamp(1, limits.label_sets);
        let sets = kept(&drawn, most, limits.groups)
            .into_iter()
            .map(|(label_set, rows)| {
                let labels = &drawn.label_sets[label_set as usize].values;
                let mut tallies = Tallies::default();
                for row in rows {
                    tallies.push(row.tests, row.positive);
                }
                PageLabelSet {
                    labels: labels.iter().map(|label| truncated(label)).collect(),
                    at: positions(rows.iter().map(at).collect()),
                    tallies,
                }
            });
        Self {
            label_columns: label_columns.to_vec(),
            run_grain,
            grain,
            grains: grain.makes(),
            label_sets_in_all,
            label_sets: sets.collect(),
            times: distances(&times),
            all,
        }
    }
}

/// The number of points in time from the first of a series to the last, with those without a group. For
/// months it is an upper bound.
fn length(series: &Series, grain: Grain) -> usize {
    let days = series.rows.iter().map(day);
    let days = days.clone().min().zip(days.max());
    let bucket = match grain {
        Grain::Hour | Grain::Day => 1,
        Grain::Week => 7,
        Grain::Month => 28,
    };
    days.map_or(0, |(first, last)| (last - first) as usize / bucket + 1)
}

/// The label sets with their rows, in order: at most `most` label sets and `most_groups` rows, those with
/// most tests.
fn kept(series: &Series, most: usize, most_groups: usize) -> Vec<(u32, &[SeriesRow])> {
    let tests = |rows: &[SeriesRow]| rows.iter().map(|row| row.tests).sum::<u64>();
    let sets = series.rows.chunk_by(same_labels);
    let mut sets: Vec<_> = sets.map(|rows| (rows[0].label_set, rows)).collect();
    // The sort is stable, so label sets with as many tests are in the order of labels.
    sets.sort_by_key(|(_, rows)| std::cmp::Reverse(tests(rows)));
    let mut groups = 0;
    let fitting = sets.iter().take(most).take_while(|(_, rows)| {
        groups += rows.len();
        groups <= most_groups
    });
    let fitting = fitting.count();
    sets.truncate(fitting);
    sets.sort_by_key(|&(label_set, _)| label_set);
    sets
}

fn same_labels(one: &SeriesRow, other: &SeriesRow) -> bool {
    one.label_set == other.label_set
}

fn day(row: &SeriesRow) -> i32 {
    row.hours.div_euclid(24)
}

fn truncated(label: &str) -> String {
    match label.char_indices().nth(MOST_LABEL_CHARS) {
        None => label.to_owned(),
        Some((end, _)) => format!("{}…", &label[..end]),
    }
}

fn positions(at: Vec<usize>) -> Positions {
    match at.as_slice() {
        [first, .., last] if last - first + 1 != at.len() => {
            let steps = at.windows(2).map(|pair| pair[1] - pair[0]);
            Positions::Steps([*first].into_iter().chain(steps).collect())
        }
        [first, ..] => Positions::From(*first),
        [] => Positions::From(0),
    }
}

fn distances(times: &[i32]) -> Vec<i32> {
    let first = times.first().copied().into_iter();
    let others = times.windows(2).map(|pair| pair[1] - pair[0]);
    first.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::test_series::{columns, row, series};
    use super::*;

    const DAY: i64 = 24;

    fn page(series: &Series, grain: Grain, limits: Limits) -> Value {
        let page = PageSeries::fitting(series, &columns(&["country"]), grain, limits);
        serde_json::to_value(page).expect("JSON")
    }

    #[test]
    fn hours_become_days_in_columns_with_their_gaps() {
        let rows = vec![
            row(0, 10 * DAY, 2, 1),
            row(0, 10 * DAY + 5, 3, 0),
            row(0, 11 * DAY, 1, 1),
            row(1, 10 * DAY, 4, 2),
            row(1, 14 * DAY, 0, 0),
        ];
        let page = page(&series(&["Chile", "Italy"], rows), Grain::Hour, LIMITS);
        assert_eq!(
            page,
            json!({
                "label_columns": ["country"],
                "run_grain": "hour",
                "grain": "day",
                "grains": ["day", "week", "month"],
                "times": [10, 1, 3],
                "label_sets_in_all": 2,
                "all": { "tests": [9, 1, null], "positive": [3, 1, null] },
                "label_sets": [
                    { "labels": ["Chile"], "at": 0, "tests": [5, 1], "positive": [1, 1] },
                    { "labels": ["Italy"], "at": [0, 2], "tests": [4, null], "positive": [2, null] },
                ],
            })
        );
    }

    #[test]
    fn weeks_keep_their_grain() {
        let rows = vec![row(0, 4 * DAY, 2, 1), row(0, 11 * DAY, 2, 1)];
        let page = page(&series(&["Chile"], rows), Grain::Week, LIMITS);
        assert_eq!(page["grain"], "week");
        assert_eq!(page["grains"], json!(["week"]));
        assert_eq!(page["times"], json!([4, 7]));
    }

    #[test]
    fn too_many_days_become_weeks_and_then_months() {
        let rows = (0..60).map(|day| row(0, day * DAY, 1, 0)).collect();
        let series = series(&["Chile"], rows);
        let grain =
            |groups| page(&series, Grain::Hour, Limits { groups, ..LIMITS })["grain"].clone();
        assert_eq!([grain(60), grain(59), grain(5)], ["day", "week", "month"]);
        let long = |limits| page(&series, Grain::Hour, limits)["grain"].clone();
        assert_eq!(
            long(Limits {
                times: 59,
                ..LIMITS
            }),
            "week"
        );
        assert_eq!(long(Limits { cells: 8, ..LIMITS }), "month");
    }

    #[test]
    fn a_series_over_a_long_time_has_fewer_label_sets() {
        // Ten thousand years, as from a wrong date.
        let rows = (0..100).flat_map(|set| [row(set, 0, 1, 0), row(set, 70_000_000, 1, 0)]);
        let labels: Vec<String> = (100..200).map(|number| number.to_string()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let page = page(&series(&labels, rows.collect()), Grain::Hour, LIMITS);
        assert_eq!(page["grain"], "month");
        let sets = page["label_sets"].as_array().map_or(0, Vec::len);
        assert_eq!(sets, MOST_CELLS / (70_000_000 / 24 / 28 + 1));
    }

    #[test]
    fn over_the_limits_the_label_sets_with_most_tests_are_kept_in_their_order() {
        let rows = vec![
            row(0, 0, 1, 0),
            row(1, 0, 7, 1),
            row(2, 0, 9, 1),
            row(2, 31 * DAY, 9, 1),
            row(3, 0, 2, 0),
        ];
        let series = series(&["a", "b", "c", "d"], rows);
        let labels = |groups, label_sets| {
            let limits = Limits {
                groups,
                label_sets,
                ..LIMITS
            };
            let page = page(&series, Grain::Month, limits);
            assert_eq!(page["label_sets_in_all"], 4);
            assert_eq!(page["all"]["tests"], json!([19, 9]), "all of them");
            let sets = page["label_sets"].as_array().expect("sets").clone();
            let labels = sets.iter().map(|set| set["labels"][0].clone());
            Value::Array(labels.collect())
        };
        assert_eq!(labels(10, 2), json!(["b", "c"]));
        assert_eq!(labels(4, 10), json!(["b", "c", "d"]));
    }

    #[test]
    fn a_long_label_is_truncated_between_characters() {
        assert_eq!(truncated("Österreich"), "Österreich");
        let long = "ö".repeat(MOST_LABEL_CHARS + 1);
        assert_eq!(
            truncated(&long),
            format!("{}…", "ö".repeat(MOST_LABEL_CHARS))
        );
    }

    #[test]
    fn an_empty_series_is_an_empty_page() {
        let page = page(&Series::default(), Grain::Hour, LIMITS);
        assert_eq!(page["times"], json!([]));
        assert_eq!(page["label_sets"], json!([]));
    }
}

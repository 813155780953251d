//! The lines in the picture of a series: the rates over time of the label sets with most tests. Daily
//! rates are smoothed by a trailing mean. Integers are added up first and divided once, so that a day
//! with few tests has little weight.

use computations::positivity::{Series, SeriesRow};
use pipeline::{Grain, LabelSet};

/// The largest number of lines. More could not be distinguished.
const MOST_LINES: usize = 6;

/// The number of days in a mean.
const MEAN_DAYS: i32 = 7;

/// The smallest number of days for which means are drawn. Fewer would have hardly any mean.
const FEWEST_DAYS_FOR_MEAN: i32 = 14;

/// The largest number of points in time, ten years of days. A longer series is drawn at a coarser
/// grain.
const MOST_TIMES: i32 = 3_660;

/// The content of the picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lines {
    /// The lines, in descending order of tests.
    pub lines: Vec<Line>,
    /// The number of label sets with at least one test.
    pub label_sets: usize,
    /// The grain that is drawn.
    pub grain: Grain,
    /// Whether each point is the mean of the seven days that end with it.
    pub mean: bool,
    /// The number of tests in the whole series.
    pub tests: u64,
    /// The first and the last day with a group, in days since 1970; `None` when there is no group.
    pub days: Option<(i32, i32)>,
}

/// One line of the picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// The label values as one text.
    pub label: String,
    /// The parts of the line without a gap, each as points (days since 1970, rate) in order of time.
    pub stretches: Vec<Vec<(i32, f64)>>,
}

impl Line {
    /// The last point of the line.
    pub fn last(&self) -> Option<(i32, f64)> {
        self.stretches.last()?.last().copied()
    }
}

/// The lines that are drawn of a series.
pub(super) fn lines(series: &Series, grain: Grain) -> Lines {
    let (drawn, grain) = drawn(series, grain);
    let days = extent(&drawn);
    let mean = grain == Grain::Day
        && days.is_some_and(|(first, last)| last - first + 1 >= FEWEST_DAYS_FOR_MEAN);
    let mut tests_of = vec![0u64; drawn.label_sets.len()];
    for row in &drawn.rows {
        tests_of[row.label_set as usize] += row.tests;
    }
    let mut most: Vec<usize> = (0..tests_of.len())
        .filter(|&set| tests_of[set] > 0)
        .collect();
    // The sort is stable, so label sets with as many tests are in the order of labels.
    most.sort_by_key(|&set| std::cmp::Reverse(tests_of[set]));
    let label_sets = most.len();
    most.truncate(MOST_LINES);
    let lines = most.into_iter().map(|set| {
        let from = drawn
            .rows
            .partition_point(|row| (row.label_set as usize) < set);
        let to = drawn
            .rows
            .partition_point(|row| (row.label_set as usize) <= set);
        let points = match (mean, days) {
            (true, Some((first, _))) => means(&drawn.rows[from..to], first),
            _ => rates(&drawn.rows[from..to]),
        };
        Line {
            label: label_text(&drawn.label_sets[set]),
            stretches: stretches(points, grain),
        }
    });
    Lines {
        lines: lines.filter(|line| !line.stretches.is_empty()).collect(),
        label_sets,
        grain,
        mean,
        tests: tests_of.iter().sum(),
        days,
    }
}

/// The series at the finest grain, days at most, that has at most [`MOST_TIMES`] points in time.
fn drawn(series: &Series, grain: Grain) -> (Series, Grain) {
    let finest = match grain {
        Grain::Hour => Grain::Day,
        coarse => coarse,
    };
    let by_finest = series.coarsened(finest);
    let days = extent(&by_finest).map_or(0, |(first, last)| last - first + 1);
    let fits = |grain: Grain| {
        let times = match grain {
            Grain::Hour | Grain::Day => days,
            Grain::Week => days / 7,
            Grain::Month => days / 30,
        };
        times <= MOST_TIMES
    };
    let coarser = finest.makes().iter().copied();
    let grain = coarser
        .clone()
        .find(|&grain| fits(grain))
        .or(coarser.last());
    let grain = grain.unwrap_or(finest);
    match grain == finest {
        true => (by_finest, grain),
        false => (by_finest.coarsened(grain), grain),
    }
}

fn day(row: &SeriesRow) -> i32 {
    row.hours.div_euclid(24)
}

fn extent(series: &Series) -> Option<(i32, i32)> {
    let days = series.rows.iter().map(day);
    days.clone().min().zip(days.max())
}

/// The rate of each group with a test, as (days since 1970, rate).
fn rates(rows: &[SeriesRow]) -> Vec<(i32, f64)> {
    let points = rows.iter().filter_map(|row| Some((day(row), row.rate()?)));
    points.collect()
}

/// The mean rate of the seven days that end with a day, by day: positive tests of the seven days
/// divided by tests of the seven days. A day has no mean where the seven days have no test, or begin
/// before `first`, the first day of the series.
fn means(rows: &[SeriesRow], first: i32) -> Vec<(i32, f64)> {
    let (Some(begin), Some(end)) = (rows.first().map(day), rows.last().map(day)) else {
        return Vec::new();
    };
    let (mut tests, mut positive) = (0u64, 0u64);
    let (mut entered, mut left) = (0, 0);
    let mut points = Vec::new();
    for today in begin..=end {
        while let Some(row) = rows.get(entered).filter(|row| day(row) <= today) {
            tests += row.tests;
            positive += row.positive;
            entered += 1;
        }
        while let Some(row) = rows.get(left).filter(|row| day(row) <= today - MEAN_DAYS) {
            tests -= row.tests;
            positive -= row.positive;
            left += 1;
        }
        if tests > 0 && today >= first + MEAN_DAYS - 1 {
            points.push((today, positive as f64 / tests as f64));
        }
    }
    points
}

/// Divides points where a time between two of them is missing, so that no line is drawn across it.
fn stretches(points: Vec<(i32, f64)>, grain: Grain) -> Vec<Vec<(i32, f64)>> {
    let next = match grain {
        Grain::Hour | Grain::Day => 1,
        Grain::Week => 7,
        Grain::Month => 31,
    };
    let follows = |a: &(i32, f64), b: &(i32, f64)| b.0 - a.0 <= next;
    points.chunk_by(follows).map(<[_]>::to_vec).collect()
}

/// The label values as one line of text that fits beside the plot.
fn label_text(labels: &LabelSet) -> String {
    const MOST_CHARS: usize = 18;
    if labels.values.is_empty() {
        return "all".to_owned();
    }
    let values = labels.values.iter().map(|value| match value.as_str() {
        "" => "(empty)",
        value => value,
    });
    let text = values.collect::<Vec<_>>().join(", ");
    truncated(text, MOST_CHARS)
}

/// A text truncated to at most `most_chars` characters, with an ellipsis at the end of a longer one.
pub(super) fn truncated(text: String, most_chars: usize) -> String {
    if text.chars().count() <= most_chars {
        return text;
    }
    let beginning: String = text.chars().take(most_chars - 1).collect();
    format!("{}…", beginning.trim_end())
}

#[cfg(test)]
mod tests {
    use super::super::test_series::{row, series};
    use super::*;

    fn daily(label_set: u32, days: std::ops::Range<i64>, tests: u64) -> Vec<SeriesRow> {
        days.map(|day| row(label_set, 24 * day, tests, 1)).collect()
    }

    #[test]
    fn the_six_label_sets_with_most_tests_are_drawn_and_equal_ones_in_their_order() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "untested"];
        let tests = [5, 9, 5, 5, 5, 5, 5, 0];
        let rows = (0..8)
            .map(|set| row(set, 0, tests[set as usize], 0))
            .collect();
        let lines = lines(&series(&names, rows), Grain::Day);
        let labels: Vec<_> = lines.lines.iter().map(|line| line.label.as_str()).collect();
        assert_eq!(labels, ["b", "a", "c", "d", "e", "f"]);
        assert_eq!((lines.label_sets, lines.tests), (7, 39));
    }

    #[test]
    fn a_mean_is_the_quotient_of_sums_over_the_seven_days_that_end_with_its_day() {
        let mut rows = daily(0, 0..20, 1);
        rows[10].tests = 93;
        let lines = lines(&series(&["Italy"], rows), Grain::Day);
        assert!(lines.mean);
        let points = &lines.lines[0].stretches[0];
        // The first whole week ends with day 6.
        assert_eq!((points[0], points.len()), ((6, 1.0), 14));
        // Days 4 to 10: 6 tests of one and one of 93.
        assert_eq!(points[4], (10, 7.0 / 99.0));
        assert_eq!(points[11], (17, 1.0));
    }

    #[test]
    fn hours_are_added_up_to_days_first() {
        let by_hour = (0..24 * 20).map(|hour| row(0, hour, 2, 1)).collect();
        let lines = lines(&series(&["Italy"], by_hour), Grain::Hour);
        assert_eq!((lines.grain, lines.mean), (Grain::Day, true));
        assert_eq!(lines.lines[0].stretches[0].len(), 14);
    }

    #[test]
    fn a_few_days_weeks_and_months_are_drawn_as_they_are() {
        let few = series(&["Italy"], daily(0, 0..13, 2));
        let days = lines(&few, Grain::Day);
        assert_eq!((days.mean, days.lines[0].stretches[0].len()), (false, 13));
        for grain in [Grain::Week, Grain::Month] {
            let series = series(&["Italy"], daily(0, 0..90, 2)).coarsened(grain);
            let drawn = lines(&series, grain);
            assert_eq!((drawn.grain, drawn.mean), (grain, false));
            assert_eq!(drawn.lines[0].stretches.len(), 1);
        }
    }

    #[test]
    fn a_line_has_a_gap_where_there_is_no_test() {
        let mut rows = daily(0, 0..5, 2);
        rows[2].tests = 0;
        rows[2].positive = 0;
        let short = lines(&series(&["Italy"], rows), Grain::Day);
        let lengths = short.lines[0].stretches.iter().map(Vec::len);
        assert_eq!(lengths.collect::<Vec<_>>(), [2, 2]);
        let mut rows = daily(0, 0..20, 2);
        rows.extend(daily(0, 30..40, 2));
        let long = lines(&series(&["Italy"], rows), Grain::Day);
        let ends: Vec<_> = long.lines[0]
            .stretches
            .iter()
            .map(|stretch| (stretch[0].0, stretch[stretch.len() - 1].0))
            .collect();
        // A week after the last test, the seven days have no test and the day has no mean.
        assert_eq!(ends, [(6, 25), (30, 39)]);
    }

    #[test]
    fn a_series_of_decades_is_drawn_by_the_week_or_month() {
        let century = series(&["Italy"], daily(0, 0..36_500, 2));
        assert_eq!(lines(&century, Grain::Hour).grain, Grain::Month);
        let decades = series(&["Italy"], daily(0, 0..20_000, 2));
        assert_eq!(lines(&decades, Grain::Day).grain, Grain::Week);
        assert_eq!(lines(&century, Grain::Week).grain, Grain::Week);
    }

    #[test]
    fn a_series_without_a_group_or_without_a_test_has_no_line() {
        let nothing = lines(&Series::default(), Grain::Hour);
        assert!(nothing.lines.is_empty() && nothing.days.is_none());
        let unknown = lines(&series(&["Italy"], vec![row(0, 0, 0, 0)]), Grain::Hour);
        assert!(unknown.lines.is_empty());
    }

    #[test]
    fn label_values_are_one_short_line() {
        assert_eq!(label_text(&LabelSet::default()), "all");
        assert_eq!(label_text(&LabelSet::new(["Chile", ""])), "Chile, (empty)");
        let long = label_text(&LabelSet::new([
            "Saint Helena, Ascension and Tristan da Cunha",
        ]));
        assert_eq!(long, "Saint Helena, Asc…");
    }
}

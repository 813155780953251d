//! The axes of the picture of a series: the grid lines at round rates, and the dates at the beginning
//! of a day, week, month or year, with their labels.

use std::ops::RangeInclusive;

use jiff::civil::Date;
use pipeline::TimeBucket;

/// The largest number of dates, which is limited by the width of the plot.
const MOST_DATES: usize = 9;

/// The largest number of steps between the grid lines of rates.
const MOST_RATES: f64 = 5.0;

/// The rates at which there is a grid line, from 0 to the top of the plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates {
    /// The rates, in ascending order.
    pub at: Vec<f64>,
    /// The number of decimals of a percentage.
    decimals: usize,
}

impl Rates {
    /// The grid lines for rates up to `highest`. Their distance is 1, 2 or 5 times a power of ten.
    pub fn up_to(highest: f64) -> Self {
        // A plot has a height even where no test is positive.
        const LEAST: f64 = 0.001;
        let highest = highest.clamp(LEAST, 1.0);
        let mut exponent = -4;
        let (step, decimals) = 'found: loop {
            for factor in [1.0, 2.0, 5.0] {
                let step = factor * 10f64.powi(exponent);
                if highest / step <= MOST_RATES {
                    break 'found (step, (-2 - exponent).max(0) as usize);
                }
            }
            exponent += 1;
        };
        // A rate that exceeds a grid line by a rounding error alone counts as on it.
        let steps = (highest / step - 1e-9).ceil() as u32;
        Self {
            at: (0..=steps).map(|number| f64::from(number) * step).collect(),
            decimals,
        }
    }

    /// The rate at the top of the plot.
    pub fn top(&self) -> f64 {
        self.at.last().copied().unwrap_or(1.0)
    }

    /// The label of a grid line, a percentage.
    pub fn label(&self, rate: f64) -> String {
        format!("{:.*} %", self.decimals, 100.0 * rate)
    }
}

/// The dates at which the axis has a tick, each as days since 1970 and its label.
pub(super) fn dates(days: RangeInclusive<i32>) -> Vec<(i32, String)> {
    let (first, last) = (*days.start(), *days.end());
    let steps = [1, 2, 7, 14].map(Step::Days).into_iter();
    let steps = steps.chain([1, 2, 3, 6].map(Step::Months));
    let years = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000];
    let steps = steps.chain(years.map(|years| Step::Months(12 * years)));
    let at = |step: Step| step.within(first, last);
    let mut found = Vec::new();
    for step in steps {
        found = at(step);
        if found.len() <= MOST_DATES {
            return label(found, step);
        }
    }
    label(found, Step::Months(12))
}

/// The distance between two ticks.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A number of days, counted from Monday 1970-01-05.
    Days(i32),
    /// A number of months, counted from January of the year 0.
    Months(i32),
}

impl Step {
    fn within(self, first: i32, last: i32) -> Vec<i32> {
        const A_MONDAY: i32 = 4;
        match self {
            Self::Days(step) => {
                let from = first + (A_MONDAY - first).rem_euclid(step);
                (from..=last).step_by(step as usize).collect()
            }
            Self::Months(step) => {
                let Some(date) = date(first) else {
                    return Vec::new();
                };
                let month = i32::from(date.year()) * 12 + i32::from(date.month()) - 1;
                let from = month - month.rem_euclid(step);
                (from..)
                    .step_by(step as usize)
                    .map_while(month_begins)
                    .skip_while(|&day| day < first)
                    .take_while(|&day| day <= last)
                    .collect()
            }
        }
    }
}

fn date(day: i32) -> Option<Date> {
    TimeBucket::from_hours(24 * i64::from(day)).map(TimeBucket::date)
}

/// The first day of a month, which is counted from January of the year 0, as days since 1970.
fn month_begins(month: i32) -> Option<i32> {
    let year = i16::try_from(month.div_euclid(12)).ok()?;
    let date = Date::new(year, month.rem_euclid(12) as i8 + 1, 1).ok()?;
    let since = date.since(Date::constant(1970, 1, 1)).ok()?;
    Some(since.get_days())
}

/// The labels of ticks. The first tick, and the first one of each further year, have the year.
fn label(days: Vec<i32>, step: Step) -> Vec<(i32, String)> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut year = None;
    let mut labelled = Vec::with_capacity(days.len());
    for day in days {
        let Some(date) = date(day) else {
            continue;
        };
        let new_year = year.replace(date.year()) != Some(date.year());
        let month = MONTHS[date.month() as usize - 1];
        let text = match step {
            Step::Months(months) if months % 12 == 0 => date.year().to_string(),
            Step::Months(_) if new_year => format!("{month} {}", date.year()),
            Step::Months(_) => month.to_owned(),
            Step::Days(_) if new_year => format!("{} {month} {}", date.day(), date.year()),
            Step::Days(_) => format!("{} {month}", date.day()),
        };
        labelled.push((day, text));
    }
    labelled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(rates: &Rates) -> Vec<String> {
        rates.at.iter().map(|&rate| rates.label(rate)).collect()
    }

    #[test]
    fn rates_are_round_and_reach_the_highest() {
        let cases: [(f64, &[&str]); 6] = [
            (0.237, &["0 %", "5 %", "10 %", "15 %", "20 %", "25 %"]),
            (0.3, &["0 %", "10 %", "20 %", "30 %"]),
            (1.0, &["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
            (
                0.009,
                &["0.0 %", "0.2 %", "0.4 %", "0.6 %", "0.8 %", "1.0 %"],
            ),
            (
                0.0,
                &["0.00 %", "0.02 %", "0.04 %", "0.06 %", "0.08 %", "0.10 %"],
            ),
            (0.041, &["0 %", "1 %", "2 %", "3 %", "4 %", "5 %"]),
        ];
        for (highest, expected) in cases {
            assert_eq!(labels(&Rates::up_to(highest)), expected, "{highest}");
        }
    }

    fn day(text: &str) -> i32 {
        let date: Date = text.parse().expect("a date");
        date.since(Date::constant(1970, 1, 1))
            .expect("in range")
            .get_days()
    }

    fn date_labels(first: &str, last: &str) -> Vec<String> {
        let ticks = dates(day(first)..=day(last));
        ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn dates_are_days_weeks_months_or_years_by_the_length_of_the_series() {
        assert_eq!(date_labels("2020-03-01", "2020-03-01"), ["1 Mar 2020"]);
        assert_eq!(
            date_labels("2020-03-11", "2020-04-30"),
            [
                "16 Mar 2020",
                "23 Mar",
                "30 Mar",
                "6 Apr",
                "13 Apr",
                "20 Apr",
                "27 Apr"
            ]
        );
        assert_eq!(
            date_labels("2020-11-15", "2021-04-15"),
            ["Dec 2020", "Jan 2021", "Feb", "Mar", "Apr"]
        );
        assert_eq!(
            date_labels("2019-01-01", "2021-12-31"),
            ["Jan 2019", "Jul", "Jan 2020", "Jul", "Jan 2021", "Jul"]
        );
        assert_eq!(
            date_labels("2001-05-01", "2020-12-31"),
            ["2005", "2010", "2015", "2020"]
        );
    }

    #[test]
    fn a_series_of_any_length_has_at_most_nine_dates() {
        for last in [0, 1, 5, 30, 100, 400, 1_000, 10_000, 100_000, 2_900_000] {
            let ticks = dates(0..=last);
            assert!((1..=MOST_DATES).contains(&ticks.len()), "{last}: {ticks:?}");
        }
        let all = dates(-719_528..=2_932_895);
        assert!((2..=MOST_DATES).contains(&all.len()), "{all:?}");
    }
}

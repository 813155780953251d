//! The shapes that a plot of a data set shows: hours, weekdays and waves.

use std::collections::HashMap;

use datagen::Config;
use jiff::civil::Date;

use crate::generate;
use crate::reader::{Row, read};

fn rows(config: &Config) -> Vec<Row> {
    read(&generate(config).0).into_iter().flatten().collect()
}

fn big() -> Config {
    Config {
        rows: 400_000,
        countries: 4,
        threads: 2,
        ..Config::default()
    }
}

#[test]
fn most_tests_are_in_the_morning_and_fewest_at_night() {
    let mut hours = [0.0f64; 24];
    for row in rows(&big()) {
        hours[row.tested.hour() as usize] += 1.0;
    }
    let busiest = (0..24).max_by(|&a, &b| hours[a].total_cmp(&hours[b]));
    assert!(matches!(busiest, Some(9..=11)), "{busiest:?}");
    let ratio = hours[10] / hours[3];
    assert!((1.8..2.2).contains(&ratio), "{ratio}");
}

#[test]
fn weekends_have_fewer_tests() {
    let mut weekdays = [0.0f64; 7];
    for row in rows(&big()) {
        weekdays[row.tested.weekday().to_monday_zero_offset() as usize] += 1.0;
    }
    let working = weekdays[..5].iter().copied().fold(f64::MAX, f64::min);
    let weekend = weekdays[5..].iter().copied().fold(0.0, f64::max);
    assert!(weekend < 0.9 * working, "{weekdays:?}");
}

#[test]
fn testing_grows_over_the_range() {
    let (mut first, mut last) = (0, 0);
    let start = Config::default().from;
    for row in rows(&big()) {
        match row.tested.date().duration_since(start).as_hours() / 24 {
            0..28 => first += 1,
            278..306 => last += 1,
            _ => {}
        }
    }
    assert!(f64::from(last) > 1.2 * f64::from(first), "{first} {last}");
}

#[test]
fn each_country_has_waves_of_its_own() {
    let mut weeks: HashMap<(String, i64), (f64, f64)> = HashMap::new();
    let start: Date = Config::default().from;
    for row in rows(&big()) {
        let week = row.tested.date().duration_since(start).as_hours() / 24 / 7;
        let (tests, positive) = weeks.entry((row.country, week)).or_default();
        *tests += 1.0;
        *positive += f64::from(u8::from(row.positive));
    }
    let mut highest_weeks = Vec::new();
    for country in ["China", "India", "United States", "Indonesia"] {
        let shares: Vec<f64> = (0..43)
            .map(|week| weeks[&(country.to_owned(), week)])
            .map(|(tests, positive)| positive / tests)
            .collect();
        let lowest = shares.iter().copied().fold(1.0, f64::min);
        let highest = shares.iter().copied().fold(0.0, f64::max);
        assert!(highest > 0.12 && highest < 0.36, "{country}: {highest}");
        assert!(lowest < 0.05, "{country}: {lowest}");
        // Waves, not noise: from one week to the next there is less than a third of the whole way.
        let steepest = shares
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).abs())
            .fold(0.0, f64::max);
        assert!(steepest < highest / 2.0, "{country}: {steepest}");
        highest_weeks.push((0..43).max_by(|&a, &b| shares[a].total_cmp(&shares[b])));
    }
    highest_weeks.dedup();
    assert!(highest_weeks.len() > 1, "{highest_weeks:?}");
}

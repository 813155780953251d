//! The properties of every data set: it depends on its configuration alone and has the columns of its
//! header.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use datagen::countries::COUNTRIES;
use datagen::{Config, Error, HEADER};
use jiff::civil::date;
use service::{Ending, Exit, Shutdown, Signal};

use crate::reader::{lines, read};
use crate::{generate, small};

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    for malformed in [0.0, 0.05] {
        let with = |threads| {
            generate(&Config {
                threads,
                malformed,
                ..small()
            })
        };
        let one = with(1);
        for threads in [2, 3, 100] {
            assert!(one == with(threads), "{threads} threads");
        }
    }
}

#[test]
fn another_seed_gives_other_rows() {
    let (one, _) = generate(&small());
    let (other, _) = generate(&Config {
        seed: 43,
        ..small()
    });
    let common = read(&one)
        .iter()
        .zip(&read(&other))
        .filter(|(one, other)| one == other)
        .count();
    assert_eq!(common, 0);
}

#[test]
fn more_rows_begin_with_the_rows_of_fewer() {
    let (fewer, _) = generate(&small());
    let (more, _) = generate(&Config {
        rows: 60_001,
        ..small()
    });
    assert!(more.starts_with(&fewer));
}

#[test]
fn a_data_set_is_a_header_and_its_rows() {
    for rows in [1, 8_191, 8_192, 8_193] {
        let (bytes, _) = generate(&Config { rows, ..small() });
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().next(), Some(HEADER));
        assert_eq!(text.lines().count() as u64, rows + 1);
        assert!(text.ends_with('\n'));
    }
}

#[test]
fn every_row_is_good_and_within_the_range() {
    let config = Config {
        from: date(2020, 2, 28),
        to: date(2020, 3, 2),
        ..small()
    };
    let (bytes, generated) = generate(&config);
    assert_eq!(generated.spoiled.total(), 0);
    let mut days = HashSet::new();
    for row in read(&bytes) {
        let row = row.unwrap();
        assert!(config.from <= row.tested.date() && row.tested.date() < config.to);
        assert!(row.born < config.from);
        days.insert(row.tested.date());
    }
    assert_eq!(days.len(), 3);
}

#[test]
fn a_range_of_one_day_and_one_of_ten_years_have_rows_too() {
    for to in [date(2020, 3, 2), date(2030, 3, 1)] {
        let (bytes, _) = generate(&Config { to, ..small() });
        assert!(read(&bytes).iter().all(Option::is_some));
    }
}

#[test]
fn only_the_most_populous_countries_have_rows() {
    let (bytes, _) = generate(&small());
    let seen: HashSet<String> = read(&bytes)
        .into_iter()
        .map(|row| row.unwrap().country)
        .collect();
    let heaviest: HashSet<String> = COUNTRIES[..20]
        .iter()
        .map(|country| country.name.to_owned())
        .collect();
    assert_eq!(seen, heaviest);
}

#[test]
fn more_populous_countries_have_more_rows() {
    let (bytes, _) = generate(&Config {
        rows: 400_000,
        ..Config::default()
    });
    let mut rows: HashMap<String, u32> = HashMap::new();
    for row in read(&bytes) {
        *rows.entry(row.unwrap().country).or_default() += 1;
    }
    assert_eq!(rows.len(), COUNTRIES.len());
    let of = |position: usize| rows[COUNTRIES[position].name];
    let steps = [0, 1, 10, 50, 100, 150, 180, 194];
    assert!(steps.is_sorted_by(|&heavier, &lighter| of(heavier) > of(lighter)));
    // China has six times the weight of the smallest country, all in all.
    let ratio = f64::from(of(0)) / f64::from(of(194));
    assert!((5.0..7.5).contains(&ratio), "{ratio}");
}

#[test]
fn two_million_rows_fall_into_about_a_million_groups_of_country_and_hour() {
    let groups = |countries| {
        let (bytes, _) = generate(&Config {
            countries,
            threads: 2,
            ..Config::default()
        });
        let groups: HashSet<(&[u8], &[u8])> = lines(&bytes)
            .skip(1)
            .map(|line| {
                let mut fields = line.split(|&byte| byte == b',').skip(2);
                let country = fields.next().unwrap();
                let time = fields.nth(1).unwrap();
                (country, &time[..13])
            })
            .collect();
        groups.len()
    };
    let all = groups(195);
    assert!((1_000_000..1_100_000).contains(&all), "{all}");
    let twenty = groups(20);
    assert!((146_800..=20 * 306 * 24).contains(&twenty), "{twenty}");
}

#[test]
fn rows_are_in_no_order() {
    let (bytes, _) = generate(&small());
    let rows: Vec<_> = read(&bytes).into_iter().flatten().collect();
    let later = rows
        .windows(2)
        .filter(|pair| pair[0].tested < pair[1].tested)
        .count();
    let same_country = rows
        .windows(2)
        .filter(|pair| pair[0].country == pair[1].country)
        .count();
    assert!((24_000..26_000).contains(&later), "{later}");
    assert!(same_country < 4_000, "{same_country}");
}

#[test]
fn progress_adds_up_to_all_rows() {
    let steps = RefCell::new(Vec::new());
    let progress = |rows| steps.borrow_mut().push(rows);
    datagen::generate(&small(), &mut Vec::new(), &Shutdown::new(), &progress).unwrap();
    assert_eq!(steps.borrow().iter().sum::<u64>(), 50_000);
    assert_eq!(steps.borrow().len(), 7);
}

#[test]
fn a_shutdown_ends_it_before_the_next_block() {
    let config = Config {
        rows: 1 << 50,
        threads: 3,
        ..small()
    };
    let shutdown = Shutdown::new();
    let progress = |_| shutdown.request(Signal::Terminate);
    let mut bytes = Vec::new();
    let error = datagen::generate(&config, &mut bytes, &shutdown, &progress).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }));
    assert_eq!(error.exit(), Exit::Stopped(Signal::Terminate));
    assert_eq!(read(&bytes).len(), 8_192);
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let mut room = [0; 100_000];
    let error =
        datagen::generate(&small(), &mut &mut room[..], &Shutdown::new(), &|_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write rows; check the free space at --out"
    );
    assert_eq!(error.exit(), Exit::Failure);
}

#[test]
fn a_wrong_configuration_writes_nothing() {
    let mut bytes = Vec::new();
    let wrong = Config {
        countries: 0,
        ..small()
    };
    let error = datagen::generate(&wrong, &mut bytes, &Shutdown::new(), &|_| {}).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(bytes.is_empty());
}

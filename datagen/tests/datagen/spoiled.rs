//! Spoiled rows: their number is the configured share, each is invalid, and no other row changes.

use datagen::{Config, Defect};

use crate::reader::{lines, read};
use crate::{generate, small};

fn dirty(malformed: f64) -> Config {
    Config {
        malformed,
        countries: 195,
        ..small()
    }
}

#[test]
fn the_share_of_spoiled_rows_is_what_was_asked_for() {
    for share in [0.001, 0.01, 0.3] {
        let (_, generated) = generate(&dirty(share));
        let expected = 50_000.0 * share;
        let deviation = (generated.spoiled.total() as f64 - expected).abs();
        // Five standard deviations of a binomial distribution.
        assert!(deviation < 5.0 * (expected * (1.0 - share)).sqrt());
    }
}

#[test]
fn every_defect_appears_about_as_often_as_any_other() {
    let (_, generated) = generate(&dirty(0.2));
    let each = generated.spoiled.total() as f64 / Defect::ALL.len() as f64;
    for (defect, rows) in generated.spoiled.iter() {
        assert!((rows as f64 / each - 1.0).abs() < 0.15, "{defect}: {rows}");
        assert_eq!(generated.spoiled.rows(defect), rows);
    }
}

#[test]
fn all_spoiled_rows_are_rejected_and_all_others_are_what_they_were() {
    let (clean, _) = generate(&dirty(0.0));
    let clean_rows = read(&clean);
    assert!(clean_rows.iter().all(Option::is_some));
    for share in [0.01, 0.5, 1.0] {
        let (spoiled, generated) = generate(&dirty(share));
        let spoiled_rows = read(&spoiled);
        assert_eq!(spoiled_rows.len(), 50_000);
        let mut rejected = 0;
        let mut changed = 0;
        for (row, (before, after)) in
            (spoiled_rows.iter()).zip(lines(&clean).zip(lines(&spoiled)).skip(1))
        {
            assert_eq!(row.is_none(), before != after);
            rejected += u64::from(row.is_none());
            changed += u64::from(before != after);
        }
        assert_eq!(rejected, generated.spoiled.total());
        assert_eq!(changed, generated.spoiled.total());
    }
}

#[test]
fn a_higher_share_spoils_the_same_rows_in_the_same_way_and_more() {
    let (less, _) = generate(&dirty(0.01));
    let (more, _) = generate(&dirty(0.02));
    let lines = lines(&less).zip(lines(&more)).skip(1);
    for ((less, more), bad) in lines.zip(read(&less)) {
        assert!(bad.is_some() || less == more);
    }
}

//! What `rollcall report` reads back: a series as CSV, in whatever state. One in Parquet is decoded only
//! if it has the digest that the report names.

use std::cell::LazyCell;
use std::fs;

use aggregator::read_back;
use pipeline::Grain;
use tempfile::TempDir;

use super::choices;

thread_local! {
    static FOLDER: LazyCell<TempDir> =
        const { LazyCell::new(|| tempfile::tempdir().expect("a folder")) };
}

pub fn holds(input: &[u8]) {
    let ([choice], bytes) = choices(input);
    let grain = Grain::ALL[usize::from(choice & 3)];
    let labels = usize::from(choice >> 2 & 3);
    FOLDER.with(|folder| {
        let path = folder.path().join("series.csv");
        fs::write(path, bytes).expect("it can be written");
        match read_back::series(folder.path(), false, labels, grain) {
            Ok(series) => {
                let sets = series.label_sets.len();
                assert!(
                    series
                        .rows
                        .iter()
                        .all(|row| (row.label_set as usize) < sets)
                );
                assert!(
                    series
                        .label_sets
                        .iter()
                        .all(|set| set.values.len() == labels)
                );
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    });
}

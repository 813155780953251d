//! Whole data sets, made by the library and by the binary, read again by a reader that shares no
//! code with either.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used)]

mod binary;
mod data_set;
mod reader;
mod rhythms;
mod spoiled;

use datagen::{Config, Generated};
use service::Shutdown;

/// A small data set, to be changed by the test.
fn small() -> Config {
    Config {
        rows: 50_000,
        countries: 20,
        ..Config::default()
    }
}

fn generate(config: &Config) -> (Vec<u8>, Generated) {
    let mut bytes = Vec::new();
    let generated = datagen::generate(config, &mut bytes, &Shutdown::new(), &|_| {}).unwrap();
    assert_eq!(generated.bytes, bytes.len() as u64);
    assert_eq!(generated.rows, config.rows);
    (bytes, generated)
}

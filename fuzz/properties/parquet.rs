//! What a dispatcher reads from Parquet: every row once, or an error in one line.

use std::cell::LazyCell;
use std::fs;

use computations::Registry;
use dispatcher::source::Source;
use dispatcher::{Input, Selection, payload_columns};
use pipeline::Grain;
use service::{Progress, Shutdown, Signal};
use tempfile::TempDir;

use super::csv_to_jobs::{forgotten, grouping, no_spill};

thread_local! {
    static FOLDER: LazyCell<TempDir> =
        const { LazyCell::new(|| tempfile::tempdir().expect("a folder")) };
}

pub fn holds(input: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.path().join("a");
        fs::write(&path, [b"PAR1", input].concat()).expect("it can be written");
        let (grouping, input, progress) = (grouping(Grain::Day), Input::of(&path), Progress::new());
        // A run of a value is as long as it likes: whoever is asked to stop does so at 16,384 rows.
        let shutdown = Shutdown::new();
        shutdown.request(Signal::Terminate);
        let selection = Selection {
            grouping: &grouping,
            payload: &payload_columns(&grouping, &Registry::standard()).expect("it is known"),
        };
        let read = Source::open(&input, selection, &progress.read, &shutdown)
            .and_then(|source| source.read(forgotten(), no_spill(Grain::Day), &shutdown));
        match read {
            Ok(read) => assert_eq!(read.rows.len() as u64 + read.rejects.total, read.rows_read),
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
            }
        }
    });
}

//! Others' engines on the same data set: polars' and DuckDB's own Python wheels compute the series, and
//! it is the pipeline's. They share no line with rollcall, but for the polars that reads Parquet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::processes::{data_set, finish, folder, rollcall};
use crate::python::environment;

/// All packages with their versions.
const REQUIREMENTS: &str = include_str!("../oracles/requirements.txt");

/// Tests and positive ones, by labels and time.
type Groups = BTreeMap<(Vec<String>, String), (u64, u64)>;

#[track_caller]
fn python() -> &'static Path {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(|| environment("oracles", REQUIREMENTS)) {
        Ok(python) => python,
        Err(reason) => panic!("{reason}"),
    }
}

/// The groups of a series with so many label columns. Days are their midnight.
#[track_caller]
fn groups(path: &Path, labels: usize) -> Groups {
    let mut reader = csv::Reader::from_path(path).expect("a series");
    let mut groups = Groups::new();
    for record in reader.records() {
        let record = record.expect("a record");
        let key: Vec<String> = record.iter().take(labels).map(str::to_owned).collect();
        let mut time = record[labels].to_owned();
        if time.len() == 10 {
            time.push_str("T00:00:00");
        }
        let number = |column: usize| record[labels + column].parse::<u64>().expect("a number");
        let (tests, positive) = (number(1), number(2));
        if let Some(rate) = record.get(labels + 3) {
            let rate: f64 = rate.parse().expect("a rate");
            assert!(
                (rate - positive as f64 / tests as f64).abs() < 1e-12,
                "{record:?}"
            );
        }
        let before = groups.insert((key, time), (tests, positive));
        assert_eq!(before, None, "a group is there twice: {record:?}");
    }
    groups
}

#[test]
fn polars_and_duckdb_come_to_the_series_of_the_pipeline() {
    let options = ["--rows", "20000", "--countries", "12"];
    let csv = data_set(&options);
    let folder = folder();
    let parquet = folder.path().join("tests.parquet");
    let mut datagen = rollcall();
    datagen.args(["datagen", "--quiet", "--out"]).arg(&parquet);
    datagen.args(options);
    finish(datagen).expect_code(0);
    let cases: [(&str, &[&str]); 5] = [
        ("hour", &["country"]),
        ("day", &["country", "city"]),
        ("week", &["country"]),
        ("month", &["city"]),
        ("day", &[]),
    ];
    for (number, (grain, labels)) in cases.into_iter().enumerate() {
        for data_set in [&csv, &parquet] {
            let out = folder.path().join(format!("out-{number}"));
            let mut run = rollcall();
            run.args(["run", "--quiet", "--outputs", "csv", "--every", grain]);
            run.arg(data_set).arg("--out").arg(&out);
            for label in if labels.is_empty() { &[""] } else { labels } {
                run.args(["--by", label]);
            }
            finish(run).expect_code(0);
            let series = groups(&out.join("series.csv"), labels.len());
            assert_eq!(series.values().map(|(tests, _)| tests).sum::<u64>(), 20_000);
            for engine in ["polars", "duckdb"] {
                let of_engine = folder.path().join(engine);
                let mut command = Command::new(python());
                let script =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracles/series.py");
                command.arg(script).arg(engine).arg(data_set).arg(grain);
                finish({
                    command.arg(&of_engine).args(labels);
                    command
                })
                .expect_code(0);
                let expected = groups(&of_engine, labels.len());
                let what = format!("{engine}: {}, {grain}, {labels:?}", data_set.display());
                assert!(series == expected, "{what}");
            }
        }
    }
}

//! Property tests of payloads: the same rows make the same jobs with the same bytes, with any payload
//! columns, from CSV or Parquet, in memory or on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use computations::{Coding, Column};
use pipeline::{Grain, TimeBucket};
use polars::prelude::{
    DataFrame, Int64Chunked, IntoColumn, NewChunkedArray, ParquetWriter, StringChunked,
};
use proptest::prelude::*;
use service::{Progress, Shutdown};

use crate::columns::tests::{Selected, code, selected, text};
use crate::input::{self, CsvFormat, Input};
use crate::job_set::JobSet;
use crate::job_set::tests::{PlainJob, spelled_out};
use crate::rejects::Rejects;
use crate::source::Source;
use crate::spill::Spill;
use crate::timestamp::TimeFormat;

/// More rows than the smallest memory budget has room for.
const ROWS: usize = 1_200;

/// A row of the columns `country`, `test_date`, `note`, `city`, `result` and `number`.
#[derive(Clone, Debug)]
struct Row {
    country: String,
    seconds: i64,
    note: String,
    city: Option<String>,
    result: bool,
    number: i64,
}

impl Row {
    fn time(&self) -> String {
        let time = jiff::Timestamp::from_second(self.seconds);
        time.expect("in range").to_string()
    }

    fn result(&self) -> &'static str {
        match self.result {
            true => "yes",
            false => "no",
        }
    }

    fn value(&self, column: &str) -> String {
        match column {
            "country" => self.country.clone(),
            "test_date" => self.time(),
            "note" => self.note.clone(),
            "city" => self.city.clone().unwrap_or_default(),
            "result" => self.result().to_owned(),
            _ => self.number.to_string(),
        }
    }

    /// Its record, by a simple implementation: no text is so long that its length has three bytes of
    /// LEB128.
    fn record(&self, columns: &[Column]) -> Vec<u8> {
        let mut record = Vec::new();
        for column in columns {
            let value = self.value(&column.name);
            match &column.coding {
                Coding::Code { .. } => record.push(u8::from(value == "yes")),
                Coding::Text => {
                    if value.len() >= 128 {
                        record.push((value.len() % 128) as u8 + 128);
                        record.push((value.len() / 128) as u8);
                    } else {
                        record.push(value.len() as u8);
                    }
                    record.extend_from_slice(value.as_bytes());
                }
            }
        }
        record
    }
}

const NAMES: [&str; 6] = ["country", "test_date", "note", "city", "result", "number"];

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,4}",
        "[a,;\"\r\n\té\u{1f600}]{0,8}",
        "[a-c]{0,1}",
        "x{120,300}",
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let texts = (any_text(), prop::option::of(any_text()), "[a\"\né]{0,1}");
    (texts, 0..400_000i64, any::<bool>(), any::<i64>()).prop_map(
        |((note, city, country), seconds, result, number)| Row {
            country,
            seconds,
            note,
            city,
            result,
            number,
        },
    )
}

fn any_columns() -> impl Strategy<Value = Vec<Column>> {
    let columns = vec![
        text("country"),
        text("note"),
        text("city"),
        text("number"),
        code("result", &["no", "yes"]),
    ];
    let of_fixed_width = prop::collection::vec(Just(code("result", &["no", "yes"])), 0..3);
    prop_oneof![
        of_fixed_width,
        prop::sample::subsequence(columns, 0..=5).prop_shuffle()
    ]
}

fn csv(rows: &[Row]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(NAMES).expect("in memory");
    for row in rows {
        let fields = NAMES.map(|name| row.value(name));
        writer.write_record(fields).expect("in memory");
    }
    writer.into_inner().expect("in memory")
}

fn parquet(rows: &[Row]) -> Vec<u8> {
    let texts = |name: &str, value: fn(&Row) -> Option<String>| {
        StringChunked::from_iter_options(name.into(), rows.iter().map(value)).into_column()
    };
    let numbers: Vec<i64> = rows.iter().map(|row| row.number).collect();
    let columns = vec![
        texts("country", |row| Some(row.country.clone())),
        texts("test_date", |row| Some(row.time())),
        texts("note", |row| Some(row.note.clone())),
        texts("city", |row| row.city.clone()),
        texts("result", |row| Some(row.result().to_owned())),
        Int64Chunked::from_slice("number".into(), &numbers).into_column(),
    ];
    let mut frame = DataFrame::new(rows.len(), columns).expect("columns of one length");
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .finish(&mut frame)
        .expect("it can be written");
    bytes
}

/// The jobs of a data set of two files, and whether rows were spilled to disk.
fn jobs(files: [Vec<u8>; 2], selected: &Selected, budget_bytes: u64) -> (Vec<PlainJob>, bool) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in ["a", "b"].iter().zip(files) {
        fs::write(folder.path().join(name), bytes).expect("it can be written");
    }
    let input = Input {
        files: input::expand(&[folder.path().join("*")]).expect("two files"),
        csv: CsvFormat::default(),
        time: TimeFormat::default(),
    };
    let (progress, shutdown) = (Progress::new(), Shutdown::new());
    let spill = Spill::new(&std::env::temp_dir(), selected.grouping.grain, budget_bytes);
    let data_set = Source::open(&input, selected.as_selection(), &progress.read, &shutdown)
        .and_then(|source| source.read(Rejects::new(Path::new(""), None), spill, &shutdown))
        .expect("no row is rejected");
    let jobs = JobSet::new(data_set.rows, data_set.spill, &selected.grouping);
    let jobs = jobs.expect("they can be read");
    (spelled_out(&jobs), jobs.counts().spilled_runs > 0)
}

/// The expected jobs, by a simple implementation.
fn expected(rows: &[Row], selected: &Selected) -> Vec<PlainJob> {
    let mut groups: BTreeMap<(String, TimeBucket), Vec<Vec<u8>>> = BTreeMap::new();
    for row in rows {
        let time = selected.grouping.grain.truncate(row.seconds);
        let key = (row.country.clone(), time.expect("in range"));
        let record = row.record(selected.payload.columns());
        groups.entry(key).or_default().push(record);
    }
    let mut jobs = Vec::new();
    for ((label, time), records) in groups {
        let parts = records.chunks(selected.grouping.max_rows_per_job as usize);
        for (part, records) in (0..).zip(parts) {
            let (weight, payload) = (records.len() as u64, records.concat());
            jobs.push((label.clone(), time.hours(), part, weight, payload));
        }
    }
    jobs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_same_rows_make_the_same_payloads_from_any_source(
        rows in prop::collection::vec(any_row(), 1..60),
        columns in any_columns(),
        cap in 1u32..50,
        cut in 0..ROWS,
    ) {
        let rows: Vec<Row> = rows.iter().cycle().take(ROWS).cloned().collect();
        let mut selected = selected(&["country"], columns);
        selected.grouping.grain = Grain::Day;
        selected.grouping.max_rows_per_job = cap;
        let expected = expected(&rows, &selected);
        let (first, second) = rows.split_at(cut);
        let in_memory = jobs([csv(first), csv(second)], &selected, u64::MAX);
        prop_assert_eq!(&in_memory, &(expected.clone(), false));
        let spilled = jobs([csv(first), csv(second)], &selected, 0);
        prop_assert_eq!(&spilled, &(expected.clone(), true));
        let of_parquet = jobs([parquet(first), parquet(second)], &selected, u64::MAX);
        prop_assert_eq!(&of_parquet, &(expected, false));
    }
}

//! Tests of all kinds of files: plain or compressed, CSV or Parquet, a whole file has the same rows,
//! and a damaged one is an error that names the file.

use std::fs;
use std::io::Write;

use pipeline::LabelSet;
use polars::prelude::*;
use proptest::prelude::*;
use service::{Progress, Shutdown};

use super::tests::no_spill;
use super::{DataSet, Source};
use crate::columns::tests::{code, selected};
use crate::error::Error;
use crate::input::{self, CsvFormat, Delimiter, Input, Quote};
use crate::rejects::Rejects;
use crate::timestamp::TimeFormat;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("it can be packed");
    encoder.finish().expect("it can be packed")
}

/// A Parquet file of rows of country, seconds and result; `None` is a missing value.
fn parquet(rows: &[(Option<String>, Option<i64>, bool)], rows_in_group: usize) -> Vec<u8> {
    let countries = rows.iter().map(|row| row.0.as_deref());
    let times = rows.iter().map(|row| row.1.map(|time| time * 1_000));
    let results = rows.iter().map(|row| row.2);
    let mut frame = DataFrame::new(
        rows.len(),
        vec![
            BooleanChunked::from_iter_values("result".into(), results).into_column(),
            Int64Chunked::from_iter_options("test_date".into(), times)
                .into_datetime(TimeUnit::Milliseconds, None)
                .into_column(),
            StringChunked::from_iter_options("country".into(), countries).into_column(),
        ],
    )
    .expect("columns of one length");
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_row_group_size(Some(rows_in_group))
        .finish(&mut frame)
        .expect("it can be written");
    bytes
}

/// Reads files from a folder, in the order of their names; the result column has `true` and `false`.
fn read_files(files: &[(&str, &[u8])], csv: CsvFormat) -> Result<DataSet, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("it can be written");
    }
    let selected = selected(&["country"], vec![code("result", &["false", "true"])]);
    let input = Input {
        files: input::expand(&[folder.path().join("*")])?,
        csv,
        time: TimeFormat::default(),
    };
    let progress = Progress::new();
    let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
    Source::open(
        &input,
        selected.as_selection(),
        &progress.read,
        &Shutdown::new(),
    )?
    .read(rejects, no_spill(), &Shutdown::new())
}

#[test]
fn a_byte_order_mark_line_ends_delimiter_and_quotes_change_no_row() {
    let plain = b"country,test_date,result\nItaly,2020-07-14,true\n'n,2020-07-15,false\n";
    let expected = read_files(&[("a", plain)], CsvFormat::default()).expect("it is read");
    let marked =
        b"\xef\xbb\xbfcountry,test_date,result\r\nItaly,2020-07-14,true\r\n'n,2020-07-15,false\r\n";
    let same = read_files(&[("a", marked)], CsvFormat::default()).expect("it is read");
    assert_eq!(same.rows, expected.rows);
    let tabs = b"country\ttest_date\tresult\nItaly\t2020-07-14\ttrue\n'n\t2020-07-15\tfalse\n";
    let format = CsvFormat::new(Delimiter(b'\t'), Quote(None)).expect("they differ");
    let same = read_files(&[("a", tabs)], format).expect("it is read");
    assert_eq!(same.rows, expected.rows);
    let utf16 = read_files(&[("a", b"\xff\xfec\0")], CsvFormat::default());
    assert!(matches!(utf16, Err(Error::Utf16 { .. })));
}

#[test]
fn each_file_has_its_own_header_and_a_missing_column_is_reported_with_the_file() {
    let first = b"country,test_date,result\nItaly,2020-07-14,true\n";
    let second = b"result,age,country,test_date\nfalse,7,Italy,2020-07-14\n";
    let both = read_files(&[("a", first), ("b", second)], CsvFormat::default());
    let rows = both.expect("both have all columns").rows;
    assert_eq!(
        (rows.label_set.as_slice(), rows.records.bytes()),
        ([0, 0].as_slice(), [1, 0].as_slice())
    );
    let third = b"country,test_day,result\n";
    let error = read_files(&[("a", first), ("c", third)], CsvFormat::default());
    let text = error.expect_err("a column is missing").to_string();
    assert!(
        text.contains("/c has no such column, did you mean test_day?"),
        "{text}"
    );
}

#[test]
fn a_truncated_compressed_file_is_reported_with_the_number_of_records_read() {
    let mut text = b"country,test_date,result\n".to_vec();
    for second in 0..50_000 {
        let row = format!(
            "Land{},2020-07-14T00:00:{:02},true\n",
            second * 7_919,
            second % 60
        );
        text.extend_from_slice(row.as_bytes());
    }
    for packed in [gzip(&text), zstd::encode_all(&*text, 1).expect("packed")] {
        let half = &packed[..packed.len() / 2];
        match read_files(&[("a", half)], CsvFormat::default()) {
            Err(Error::CutShort { input, records }) => {
                assert!(input.ends_with("/a"), "{input}");
                assert!((1..50_000).contains(&records), "{records}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Reads a Parquet file that may be damaged, and returns whether it could be read. An error must name
/// the file, in one line.
fn read_damaged(bytes: &[u8], what: &str) -> bool {
    match read_files(&[("a", bytes)], CsvFormat::default()) {
        // Not every change can be detected: a changed letter of a label cannot.
        Ok(_) => true,
        Err(error) => {
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{what}: {text}");
            assert!(text.contains("/a"), "{what}: {text}");
            false
        }
    }
}

#[test]
fn a_parquet_file_truncated_anywhere_is_an_error_in_one_line() {
    let rows: Vec<_> = (0..20)
        .map(|row| (Some(format!("Land{row}")), Some(row), true))
        .collect();
    let whole = parquet(&rows, 10);
    for length in (4..whole.len()).step_by(7) {
        let cut = &whole[..length];
        let error = read_files(&[("a", cut)], CsvFormat::default()).expect_err("it is cut");
        assert!(matches!(error, Error::Parquet { .. }), "{length}: {error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}

#[test]
fn changed_bytes_in_the_footer_or_in_pages_never_panic() {
    let rows: Vec<_> = (0..60)
        .map(|row| (Some(format!("Land{row}")), Some(row), true))
        .collect();
    let whole = parquet(&rows, 30);
    let mut errors = 0;
    for at in 4..whole.len() {
        let change = [0x01, 0x80, 0xff][at % 3];
        let mut damaged = whole.clone();
        damaged[at] ^= change;
        let what = format!("byte {at} of {}, {change:#x}", whole.len());
        errors += usize::from(!read_damaged(&damaged, &what));
    }
    assert!(errors > whole.len() / 8, "{errors} errors");
}

#[test]
fn a_missing_value_in_parquet_is_read_as_an_empty_one() {
    let rows = [
        (None, Some(-1), true),
        (Some("Italy".to_owned()), None, false),
    ];
    let read = read_files(&[("a", &parquet(&rows, 10))], CsvFormat::default());
    let data_set = read.expect("one row can be counted");
    assert_eq!(data_set.rows.label_sets, [LabelSet::new([""])]);
    assert_eq!(data_set.rows.seconds, [-1]);
    assert_eq!(data_set.rejects.by_reason.get("missing_time"), Some(&1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_same_rows_are_read_from_every_kind_of_file(
        rows in prop::collection::vec(
            (prop::option::of("[a-c]{1,2}"), prop::option::of(-9_000_000..9_000_000i64), any::<bool>()),
            1..60,
        ),
        rows_in_group in 1usize..30,
    ) {
        prop_assume!(rows.iter().any(|row| row.1.is_some()));
        let mut csv = String::from("country,test_date,result\n");
        for (country, seconds, result) in &rows {
            let time = seconds.map(|seconds| {
                jiff::Timestamp::from_second(seconds).expect("in range").to_string()
            });
            let (country, time) = (country.as_deref().unwrap_or(""), time.unwrap_or_default());
            csv.push_str(&format!("{country},{time},{result}\n"));
        }
        let read = |bytes: &[u8]| {
            let read = read_files(&[("a", bytes)], CsvFormat::default()).expect("it is read");
            let mut rejects = read.rejects;
            rejects.file = None;
            (read.rows, read.rows_read, rejects)
        };
        let expected = read(csv.as_bytes());
        prop_assert_eq!(&read(&gzip(csv.as_bytes())), &expected);
        prop_assert_eq!(&read(&zstd::encode_all(csv.as_bytes(), 1).expect("packed")), &expected);
        prop_assert_eq!(&read(&parquet(&rows, rows_in_group)), &expected);
    }
}

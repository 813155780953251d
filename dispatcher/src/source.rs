//! Reads a data set, file by file: only the needed columns are looked at, labels become small
//! numbers, and rows that cannot be counted are rejected.
//!
//! [`decompress`] says what a file is, [`csv_file`] and [`parquet_file`] (with
//! [`parquet_columns`] and [`parquet_pages`])
//! read the two kinds that there are, [`rules`] judge their rows alike, and [`sink`] collects them.

pub mod csv_blocks;
pub mod csv_file;
pub mod csv_rows;
pub mod decompress;
pub mod labels;
pub mod parquet_columns;
pub mod parquet_file;
pub mod parquet_footer;
pub mod parquet_pages;
pub mod rules;
pub mod sink;

use std::io::{self, Read};

use pipeline::LabelSet;
use service::Shutdown;
use service::progress::Stage;

use crate::error::Error;
use crate::grouping::Grouping;
use crate::input::{Bytes, Input, InputFile};
use crate::rejects::{RejectSummary, Rejects};
use crate::spill::Spill;
use csv_file::CsvFile;
use decompress::{Kind, sniff, unpack};
use parquet_file::ParquetFile;
use rules::Rules;
use sink::Sink;

/// The accepted rows of a data set, in record order, as columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The label sets that occur, in the order of their first row.
    pub label_sets: Vec<LabelSet>,
    /// Each row's position in `label_sets`.
    pub label_set: Vec<u32>,
    /// Each row's time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: Vec<i64>,
    /// Each row's result, as [`computations::positivity`] codes it.
    pub results: Vec<u8>,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Drops all rows, and keeps the label sets and the buffers.
    pub fn clear(&mut self) {
        self.label_set.clear();
        self.seconds.clear();
        self.results.clear();
    }
}

/// A data set that was read.
#[derive(Debug)]
pub struct DataSet {
    /// The rows that can be counted, as far as memory has room.
    pub rows: Rows,
    /// Those before them.
    pub spill: Spill,
    /// Records that were read, the header not counted.
    pub rows_read: u64,
    /// The rows that cannot.
    pub rejects: RejectSummary,
}

/// A data set whose files were all opened and have all needed columns.
pub struct Source<'a> {
    input: &'a Input,
    grouping: &'a Grouping,
    progress: &'a Stage,
    /// For each file, what can be opened only once.
    streams: Vec<Option<Opened<'a>>>,
}

impl<'a> Source<'a> {
    /// Opens every file of a data set and finds the needed columns in each. Files are closed again
    /// until it is their turn, for there may be more of them than a process may have open.
    ///
    /// # Errors
    /// When a file cannot be opened or read, is empty, or lacks a column, or when it was stopped while
    /// it waited for one.
    pub fn open(
        input: &'a Input,
        grouping: &'a Grouping,
        progress: &'a Stage,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let mut total = 0;
        let mut streams = Vec::with_capacity(input.files.len());
        for file in &input.files {
            let bytes = file.open(shutdown)?;
            streams.push(match bytes.length {
                Some(length) => {
                    total += length;
                    Opened::open(file, bytes, input, grouping)?;
                    None
                }
                None => {
                    let opened = Opened::open(file, bytes.counted(progress), input, grouping);
                    Some(opened.map_err(|error| of_stream(error, shutdown))?)
                }
            });
        }
        progress.set_total(total);
        Ok(Self {
            input,
            grouping,
            progress,
            streams,
        })
    }

    /// Reads all rows of all files. Bytes that are read are added to the progress.
    ///
    /// # Errors
    /// When a file cannot be read to its end, when too many rows are rejected, when none is
    /// accepted, or when it was stopped.
    pub fn read(
        self,
        rejects: Rejects,
        spill: Spill,
        shutdown: &Shutdown,
    ) -> Result<DataSet, Error> {
        let rules = Rules::new(self.grouping, &self.input.time);
        let mut sink = Sink::new(rules, rejects, spill, shutdown);
        for (file, stream) in self.input.files.iter().zip(self.streams) {
            match stream {
                Some(opened) => {
                    let read = opened.read(&mut sink, self.progress);
                    read.map_err(|error| of_stream(error, shutdown))?;
                }
                None => {
                    let bytes = file.open(shutdown)?.counted(self.progress);
                    let opened = Opened::open(file, bytes, self.input, self.grouping)?;
                    opened.read(&mut sink, self.progress)?;
                }
            }
        }
        let data_set = sink.finish()?;
        if data_set.rows.is_empty() && data_set.spill.runs() == 0 {
            return Err(Error::NoAcceptedRow {
                input: self.input.to_string(),
                rejected: data_set.rejects.by_reason,
                file: data_set.rejects.file,
            });
        }
        Ok(data_set)
    }
}

/// What came of a stream, whose reading fails when it is to be stopped.
fn of_stream(error: Error, shutdown: &Shutdown) -> Error {
    shutdown.requested().map_or(error, Error::Stopped)
}

/// A file whose header or footer was read.
enum Opened<'a> {
    Csv(CsvFile<'a>),
    Parquet(ParquetFile),
}

impl<'a> Opened<'a> {
    fn open(
        file: &InputFile,
        bytes: Bytes<'a>,
        input: &Input,
        grouping: &Grouping,
    ) -> Result<Self, Error> {
        let name = file.to_string();
        let unreadable = |source| Error::Read {
            input: file.to_string(),
            records: 0,
            source,
        };
        let (kind, reader) = sniff(bytes.reader).map_err(unreadable)?;
        if kind == Kind::Parquet {
            return match (file, bytes.length) {
                (InputFile::Path(path), Some(_)) => {
                    ParquetFile::open(name, path, grouping, &input.time).map(Self::Parquet)
                }
                _ => Err(Error::StreamedParquet { input: name }),
            };
        }
        let (kind, reader) = match unpack(kind, reader).and_then(sniff) {
            Ok(unpacked) => unpacked,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::CutShort {
                    input: name,
                    records: 0,
                });
            }
            Err(error) => return Err(unreadable(error)),
        };
        match kind {
            Kind::Text => CsvFile::open(name, reader, input.csv, grouping).map(Self::Csv),
            Kind::Utf16 => Err(Error::Utf16 { input: name }),
            Kind::Parquet => Err(Error::StreamedParquet { input: name }),
            Kind::Gzip | Kind::Zstandard => Err(Error::PackedTwice { input: name }),
        }
    }

    fn read(self, sink: &mut Sink<'_>, progress: &Stage) -> Result<(), Error> {
        match self {
            Self::Csv(csv) => csv.read(sink),
            Self::Parquet(parquet) => parquet.read(sink, progress),
        }
    }
}

impl<'a> Bytes<'a> {
    /// Adds what is read to a stage.
    fn counted(self, progress: &'a Stage) -> Self {
        Self {
            reader: Box::new(CountingReader {
                reader: self.reader,
                progress,
            }),
            length: self.length,
        }
    }
}

/// A file that adds what is read of it to a stage.
struct CountingReader<'a> {
    reader: Box<dyn Read + Send + 'a>,
    progress: &'a Stage,
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use computations::positivity::{NEGATIVE, POSITIVE};
    use pipeline::Grain;
    use polars::prelude::*;
    use proptest::prelude::*;
    use service::Progress;

    use super::*;
    use crate::columns::tests::grouping;
    use crate::input::{self, CsvFormat, Delimiter, Quote};
    use crate::rejects::MaxRejects;
    use crate::timestamp::TimeFormat;

    fn no_spill() -> Spill {
        Spill::new(Path::new(""), Grain::Hour, u64::MAX)
    }

    struct Read {
        folder: tempfile::TempDir,
        data_set: Result<DataSet, Error>,
    }

    fn read(content: &[u8], labels: &[&str], limit: Option<MaxRejects>) -> Read {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tests.csv");
        fs::write(&path, content).expect("it can be written");
        let grouping = grouping(labels);
        let progress = Progress::new();
        let rejects = Rejects::new(&folder.path().join("rejects.csv"), limit);
        let input = Input::of(&path);
        let data_set = Source::open(&input, &grouping, &progress.read, &Shutdown::new())
            .and_then(|source| source.read(rejects, no_spill(), &Shutdown::new()));
        assert_eq!(progress.read.total().unwrap_or(0), content.len() as u64);
        Read { folder, data_set }
    }

    #[test]
    fn rows_become_columns_and_an_empty_label_is_a_label() {
        let content = b"country,test_date,result\n\
            Italy,2020-07-14T09:23:51,positive\n\
            ,2020-07-14,negative\n\
            Italy,2020-07-14T10:00:00,negative\n";
        let data_set = read(content, &["country"], None)
            .data_set
            .expect("it is read");
        let rows = data_set.rows;
        assert_eq!(
            rows.label_sets,
            [LabelSet::new(["Italy"]), LabelSet::new([""])]
        );
        assert_eq!(rows.label_set, [0, 1, 0]);
        assert_eq!(rows.results, [POSITIVE, NEGATIVE, NEGATIVE]);
        assert_eq!(rows.seconds[0] - rows.seconds[1], 9 * 3_600 + 23 * 60 + 51);
        assert_eq!((data_set.rows_read, data_set.rejects.total), (3, 0));
    }

    #[test]
    fn every_row_that_cannot_be_counted_is_rejected_by_name_and_kept() {
        let content = b"country,test_date,result\n\
            Italy,2020-07-14T09:23:51,positive\n\
            Italy,2020-07-14T09:23:51\n\
            Italy,,positive\n\
            Italy,yesterday,positive\n\
            Italy,2020-07-14,other\n\
            Italy,2020-07-14,\n\
            Cura\xe7ao,2020-07-14,negative\n";
        let read = read(content, &["country"], None);
        let data_set = read.data_set.expect("it is read");
        let by_reason: Vec<_> = data_set.rejects.by_reason.iter().collect();
        let once = [
            "invalid_time",
            "invalid_utf8",
            "missing_result",
            "missing_time",
            "unknown_result",
            "wrong_field_count",
        ];
        assert_eq!(
            by_reason,
            once.map(|name| (name.to_owned(), 1))
                .iter()
                .map(|(n, c)| (n, c))
                .collect::<Vec<_>>()
        );
        assert_eq!(
            data_set.rows_read,
            data_set.rows.len() as u64 + data_set.rejects.total
        );
        let kept = fs::read(read.folder.path().join("rejects.csv")).expect("it is there");
        let kept = String::from_utf8_lossy(&kept).into_owned();
        let folder = format!("{}/", read.folder.path().display());
        let expected = "file,record,reason,fields\n\
            tests.csv,2,wrong_field_count,Italy,2020-07-14T09:23:51\n\
            tests.csv,3,missing_time,Italy,,positive\n\
            tests.csv,4,invalid_time,Italy,yesterday,positive\n\
            tests.csv,5,unknown_result,Italy,2020-07-14,other\n\
            tests.csv,6,missing_result,Italy,2020-07-14,\n\
            tests.csv,7,invalid_utf8,Cura\u{fffd}ao,2020-07-14,negative\n";
        assert_eq!(kept.replace(&folder, ""), expected);
    }

    #[test]
    fn too_many_rejects_end_the_reading_with_the_first_of_them() {
        let content = b"test_date,result\nx,positive\ny,positive\nz,positive\n";
        let error = read(content, &[], Some(MaxRejects::Rows(1)))
            .data_set
            .expect_err("one is allowed");
        let text = error.to_string();
        assert!(
            text.starts_with("more than 1 row is rejected (2 of 2)"),
            "{text}"
        );
        assert!(
            text.contains("record 2: invalid_time: y,positive"),
            "{text}"
        );
    }

    #[test]
    fn a_data_set_without_an_accepted_row_is_an_error_that_says_where_the_rows_are() {
        let content = b"test_date,result\nx,positive\n";
        let error = read(content, &[], None)
            .data_set
            .expect_err("none is accepted");
        assert!(
            error.to_string().contains("1 of 1 rows are rejected"),
            "{error}"
        );
        let empty = read(b"", &[], None).data_set.expect_err("no header");
        assert!(matches!(empty, Error::Empty { .. }), "{empty}");
    }

    #[test]
    fn without_label_columns_all_rows_share_the_empty_set() {
        let content = b"test_date,result\n2020-07-14,positive\n2020-07-15,negative\n";
        let rows = read(content, &[], None).data_set.expect("it is read").rows;
        assert_eq!(rows.label_sets, [LabelSet::default()]);
        assert_eq!(rows.label_set, [0, 0]);
    }

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

    /// All files of a folder by name, with results as booleans have them.
    fn read_files(files: &[(&str, &[u8])], csv: CsvFormat) -> Result<DataSet, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("it can be written");
        }
        let mut grouping = grouping(&["country"]);
        grouping.positive = "true".to_owned();
        grouping.negative = "false".to_owned();
        let input = Input {
            files: input::expand(&[folder.path().join("*")])?,
            csv,
            time: TimeFormat::default(),
        };
        let progress = Progress::new();
        let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
        Source::open(&input, &grouping, &progress.read, &Shutdown::new())?.read(
            rejects,
            no_spill(),
            &Shutdown::new(),
        )
    }

    #[test]
    fn a_byte_order_mark_line_ends_delimiter_and_quotes_change_no_row() {
        let plain = b"country,test_date,result\nItaly,2020-07-14,true\n'n,2020-07-15,false\n";
        let expected = read_files(&[("a", plain)], CsvFormat::default()).expect("it is read");
        let marked = b"\xef\xbb\xbfcountry,test_date,result\r\nItaly,2020-07-14,true\r\n'n,2020-07-15,false\r\n";
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
    fn each_file_has_its_own_header_and_the_lack_of_a_column_is_told_by_file() {
        let first = b"country,test_date,result\nItaly,2020-07-14,true\n";
        let second = b"result,age,country,test_date\nfalse,7,Italy,2020-07-14\n";
        let both = read_files(&[("a", first), ("b", second)], CsvFormat::default());
        let rows = both.expect("both have all columns").rows;
        assert_eq!(
            (rows.label_set, rows.results),
            (vec![0, 0], vec![POSITIVE, NEGATIVE])
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
    fn a_packed_file_that_is_cut_short_is_told_with_the_records_that_were_read() {
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

    /// Reads a Parquet file that may be damaged: whatever comes, it is a result that names the file.
    fn read_damaged(bytes: &[u8], what: &str) -> bool {
        match read_files(&[("a", bytes)], CsvFormat::default()) {
            // Not every bit is checked by something: a letter of a label is not.
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
    fn a_parquet_file_that_is_cut_anywhere_is_an_error_in_one_line() {
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
    fn bytes_that_were_changed_in_the_footer_or_in_pages_never_panic() {
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
    fn a_missing_value_in_parquet_is_an_empty_one() {
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
        fn the_same_rows_make_the_same_jobs_whatever_the_file_is(
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
}

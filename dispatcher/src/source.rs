//! The reader of a data set, file by file: it reads only the needed columns, replaces labels by
//! numbers, and rejects rows that cannot be counted.
//!
//! [`decompress`] recognises the kind of a file; [`csv_file`] and [`parquet_file`] (with
//! [`parquet_columns`] and [`parquet_pages`]) read the two kinds; [`rules`] validate the rows of both
//! and encode them by [`coding`]; [`sink`] collects them.

#[cfg(test)]
mod any_columns;
#[cfg(test)]
mod any_file;
pub mod coding;
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

use crate::columns::Selection;
use crate::error::Error;
use crate::input::{Bytes, Input, InputFile};
use crate::records::{Records, Width};
use crate::rejects::{RejectSummary, Rejects};
use crate::spill::Spill;
use csv_file::CsvFile;
use decompress::{Kind, sniff, unpack};
use parquet_file::ParquetFile;
use rules::Rules;
use sink::Sink;

/// The accepted rows of a data set, in record order, as columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The label sets that occur, in the order of their first rows.
    pub label_sets: Vec<LabelSet>,
    /// Each row's position in `label_sets`.
    pub label_set: Vec<u32>,
    /// Each row's time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: Vec<i64>,
    /// Each row's record.
    pub records: Records,
}

impl Rows {
    /// An empty set of rows whose records will have this width.
    pub fn new(width: Width) -> Self {
        Self {
            label_sets: Vec::new(),
            label_set: Vec::new(),
            seconds: Vec::new(),
            records: Records::new(width),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.label_set.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.label_set.is_empty()
    }

    /// Removes all rows; keeps the label sets and the memory.
    pub fn clear(&mut self) {
        self.label_set.clear();
        self.seconds.clear();
        self.records.clear();
    }
}

/// The result of reading a data set.
#[derive(Debug)]
pub struct DataSet {
    /// The last accepted rows, as many as the memory budget has room for.
    pub rows: Rows,
    /// The accepted rows before them, on disk.
    pub spill: Spill,
    /// The number of records that were read, without headers.
    pub rows_read: u64,
    /// The rejected rows.
    pub rejects: RejectSummary,
}

/// A data set of which every file can be opened and has all needed columns.
pub struct Source<'a> {
    input: &'a Input,
    selection: Selection<'a>,
    progress: &'a Stage,
    /// By file: the opened file if it can be opened only once, as a pipe; else `None`.
    streams: Vec<Option<Opened<'a>>>,
}

impl<'a> Source<'a> {
    /// Opens every file of a data set and finds the needed columns in each. Each file is closed again
    /// until it is read, because there may be more files than a process may have open.
    ///
    /// # Errors
    /// When a file cannot be opened or read, is empty, or lacks a column, or when a shutdown was
    /// requested during the wait for a file.
    pub fn open(
        input: &'a Input,
        selection: Selection<'a>,
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
                    Opened::open(file, bytes, input, selection)?;
                    None
                }
                None => {
                    let opened = Opened::open(file, bytes.counted(progress), input, selection);
                    Some(opened.map_err(|error| stream_error(error, shutdown))?)
                }
            });
        }
        progress.set_total(total);
        Ok(Self {
            input,
            selection,
            progress,
            streams,
        })
    }

    /// Reads all rows of all files, and adds the bytes to the progress.
    ///
    /// # Errors
    /// When a file cannot be read to its end, when too many rows are rejected, when no row is accepted,
    /// or when a shutdown was requested.
    pub fn read(
        self,
        rejects: Rejects,
        spill: Spill,
        shutdown: &Shutdown,
    ) -> Result<DataSet, Error> {
        let rules = Rules::new(self.selection, &self.input.time);
        let mut sink = Sink::new(rules, rejects, spill, shutdown);
        for (file, stream) in self.input.files.iter().zip(self.streams) {
            match stream {
                Some(opened) => {
                    let read = opened.read(&mut sink, self.progress);
                    read.map_err(|error| stream_error(error, shutdown))?;
                }
                None => {
                    let bytes = file.open(shutdown)?.counted(self.progress);
                    let opened = Opened::open(file, bytes, self.input, self.selection)?;
                    opened.read(&mut sink, self.progress)?;
                }
            }
        }
        let data_set = sink.finish()?;
        if data_set.rows.is_empty() && data_set.spill.file_count() == 0 {
            return Err(Error::NoAcceptedRow {
                input: self.input.to_string(),
                rejected: data_set.rejects.by_reason,
                file: data_set.rejects.file,
            });
        }
        Ok(data_set)
    }
}

/// The error of reading a stream: a shutdown if one was requested, because that makes the reading fail.
fn stream_error(error: Error, shutdown: &Shutdown) -> Error {
    shutdown.requested().map_or(error, Error::Stopped)
}

/// An opened file whose header or footer is read.
enum Opened<'a> {
    Csv(CsvFile<'a>),
    Parquet(ParquetFile),
}

impl<'a> Opened<'a> {
    /// Recognises the kind of a file, and reads its header or footer.
    fn open(
        file: &InputFile,
        bytes: Bytes<'a>,
        input: &Input,
        selection: Selection<'_>,
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
                    ParquetFile::open(name, path, selection, &input.time).map(Self::Parquet)
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
            Kind::Text => CsvFile::open(name, reader, input.csv, selection).map(Self::Csv),
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
    /// The same bytes, which are added to the progress of a stage as they are read.
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

/// A reader that adds the number of bytes to the progress of a stage.
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
    use std::path::Path;

    use pipeline::Grain;
    use service::Progress;

    use super::*;
    use crate::columns::tests::{result, selected};
    use crate::rejects::MaxRejects;

    pub(super) fn no_spill() -> Spill {
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
        let selected = selected(labels, result());
        let progress = Progress::new();
        let rejects = Rejects::new(&folder.path().join("rejects.csv"), limit);
        let input = Input::of(&path);
        let data_set = Source::open(
            &input,
            selected.as_selection(),
            &progress.read,
            &Shutdown::new(),
        )
        .and_then(|source| source.read(rejects, no_spill(), &Shutdown::new()));
        assert_eq!(progress.read.total().unwrap_or(0), content.len() as u64);
        Read { folder, data_set }
    }

    #[test]
    fn rows_become_columns_and_an_empty_label_is_a_label() {
        let content = b"country,test_date,result\n\
            Italy,2020-07-14T09:23:51,yes\n\
            ,2020-07-14,no\n\
            Italy,2020-07-14T10:00:00,no\n";
        let data_set = read(content, &["country"], None)
            .data_set
            .expect("it is read");
        let rows = data_set.rows;
        assert_eq!(
            rows.label_sets,
            [LabelSet::new(["Italy"]), LabelSet::new([""])]
        );
        assert_eq!(rows.label_set, [0, 1, 0]);
        assert_eq!(rows.records.bytes(), [1, 0, 0]);
        assert_eq!(rows.seconds[0] - rows.seconds[1], 9 * 3_600 + 23 * 60 + 51);
        assert_eq!((data_set.rows_read, data_set.rejects.total), (3, 0));
    }

    #[test]
    fn every_row_that_cannot_be_counted_is_rejected_with_a_reason_and_written_to_the_rejects() {
        let content = b"country,test_date,result\n\
            Italy,2020-07-14T09:23:51,yes\n\
            Italy,2020-07-14T09:23:51\n\
            Italy,,yes\n\
            Italy,yesterday,yes\n\
            Italy,2020-07-14,other\n\
            Italy,2020-07-14,\n\
            Cura\xe7ao,2020-07-14,no\n";
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
            tests.csv,3,missing_time,Italy,,yes\n\
            tests.csv,4,invalid_time,Italy,yesterday,yes\n\
            tests.csv,5,unknown_result,Italy,2020-07-14,other\n\
            tests.csv,6,missing_result,Italy,2020-07-14,\n\
            tests.csv,7,invalid_utf8,Cura\u{fffd}ao,2020-07-14,no\n";
        assert_eq!(kept.replace(&folder, ""), expected);
    }

    #[test]
    fn too_many_rejects_end_the_reading_with_the_first_of_them() {
        let content = b"test_date,result\nx,yes\ny,yes\nz,yes\n";
        let error = read(content, &[], Some(MaxRejects::Rows(1)))
            .data_set
            .expect_err("one is allowed");
        let text = error.to_string();
        assert!(
            text.starts_with("more than 1 row is rejected (2 of 2)"),
            "{text}"
        );
        assert!(text.contains("record 2: invalid_time: y,yes"), "{text}");
    }

    #[test]
    fn a_data_set_without_an_accepted_row_is_an_error_that_names_the_rejects() {
        let content = b"test_date,result\nx,yes\n";
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
        let content = b"test_date,result\n2020-07-14,yes\n2020-07-15,no\n";
        let rows = read(content, &[], None).data_set.expect("it is read").rows;
        assert_eq!(rows.label_sets, [LabelSet::default()]);
        assert_eq!(rows.label_set, [0, 0]);
    }
}

//! Reads a data set: only the needed columns are looked at, labels become small numbers, and rows
//! that cannot be counted are rejected.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use csv::ByteRecord;
use pipeline::job::{NEGATIVE, POSITIVE};
use pipeline::{Grouping, LabelSet};
use service::Shutdown;
use service::progress::Stage;

use crate::columns::Columns;
use crate::error::Error;
use crate::rejects::{Reason, RejectSummary, Rejects};
use crate::spill::Spill;
use crate::timestamp;

/// One system call reads so many bytes.
const READ_BYTES: usize = 256 * 1024;

/// Between two looks whether to stop.
const ROWS_BETWEEN_LOOKS: u64 = 16 * 1024;

/// The accepted rows of a data set, in record order, as columns.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The label sets that occur, in the order of their first row.
    pub label_sets: Vec<LabelSet>,
    /// Each row's position in `label_sets`.
    pub label_set: Vec<u32>,
    /// Each row's time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: Vec<i64>,
    /// Each row's result, as [`pipeline::job`] codes it.
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

/// A data set whose header was read.
#[derive(Debug)]
pub struct Source<'a> {
    path: &'a Path,
    grouping: &'a Grouping,
    reader: csv::Reader<CountingReader<'a>>,
    columns: Columns,
}

impl<'a> Source<'a> {
    /// Opens a CSV file and finds the needed columns. Bytes that are read are added to `progress`.
    ///
    /// # Errors
    /// When the file cannot be opened or read, is empty, or lacks a column.
    pub fn open(
        path: &'a Path,
        grouping: &'a Grouping,
        progress: &'a Stage,
    ) -> Result<Self, Error> {
        let cannot_open = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(cannot_open)?;
        let metadata = file.metadata().map_err(cannot_open)?;
        if metadata.is_dir() {
            return Err(cannot_open(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        progress.set_total(metadata.len());
        let mut reader = csv::ReaderBuilder::new()
            // Records of a wrong length are rows to reject, not the end of the reading.
            .flexible(true)
            .buffer_capacity(READ_BYTES)
            .from_reader(CountingReader { file, progress });
        let header = reader
            .byte_headers()
            .map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })?
            .clone();
        if header.is_empty() {
            return Err(Error::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path,
            grouping,
            columns: Columns::find(&header, grouping)?,
            reader,
        })
    }

    /// Reads all rows.
    ///
    /// # Errors
    /// When the file cannot be read to its end, when too many rows are rejected, when none is
    /// accepted, or when it was stopped.
    pub fn read(
        mut self,
        mut rejects: Rejects,
        mut spill: Spill,
        shutdown: &Shutdown,
    ) -> Result<DataSet, Error> {
        let mut rows = Rows::default();
        let mut labels = Labels::default();
        let mut record = ByteRecord::new();
        let mut rows_read = 0;
        loop {
            let more = self
                .reader
                .read_byte_record(&mut record)
                .map_err(|source| Error::Read {
                    path: self.path.to_owned(),
                    source,
                })?;
            if !more {
                break;
            }
            rows_read += 1;
            match self.accept(&record, &mut labels) {
                Ok((label_set, seconds, result)) => {
                    rows.label_set.push(label_set);
                    rows.seconds.push(seconds);
                    rows.results.push(result);
                }
                Err(reason) => rejects.reject(rows_read, reason, &record)?,
            }
            if rows_read % ROWS_BETWEEN_LOOKS == 0 {
                spill.make_room(&mut rows, &labels.sets)?;
                if let Some(signal) = shutdown.requested() {
                    return Err(Error::Stopped(signal));
                }
            }
        }
        rows.label_sets = labels.sets;
        let rejects = rejects.finish()?;
        if rows.is_empty() && spill.runs() == 0 {
            return Err(Error::NoAcceptedRow {
                path: self.path.to_owned(),
                rejected: rejects.total,
                file: rejects.file,
            });
        }
        Ok(DataSet {
            rows,
            spill,
            rows_read,
            rejects,
        })
    }

    /// Label set, seconds and result of a row.
    fn accept(&self, record: &ByteRecord, labels: &mut Labels) -> Result<(u32, i64, u8), Reason> {
        let columns = &self.columns;
        if record.len() != columns.count {
            return Err(Reason::WrongFieldCount);
        }
        let time = &record[columns.time];
        let seconds = match timestamp::parse(time) {
            // What no bucket can hold is no time either.
            Some(seconds) if self.grouping.grain.truncate(seconds).is_some() => seconds,
            _ if time.is_empty() => return Err(Reason::MissingTime),
            _ => return Err(Reason::InvalidTime),
        };
        let result = &record[columns.result];
        let result = if result == self.grouping.positive.as_bytes() {
            POSITIVE
        } else if result == self.grouping.negative.as_bytes() {
            NEGATIVE
        } else if result.is_empty() {
            return Err(Reason::MissingResult);
        } else {
            return Err(Reason::UnknownResult);
        };
        let values = columns.labels.iter().map(|&column| &record[column]);
        let label_set = labels.number(values).ok_or(Reason::InvalidUtf8)?;
        Ok((label_set, seconds, result))
    }
}

/// Gives each label set a small number, in the order of first appearance.
#[derive(Debug, Default)]
struct Labels {
    sets: Vec<LabelSet>,
    /// Values as bytes, each after its length, so that no two sets look the same. `None`: no UTF-8.
    numbers: HashMap<Box<[u8]>, Option<u32>, foldhash::fast::RandomState>,
    scratch: Vec<u8>,
}

impl Labels {
    fn number<'v>(&mut self, values: impl Iterator<Item = &'v [u8]> + Clone) -> Option<u32> {
        self.scratch.clear();
        for value in values.clone() {
            self.scratch
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
            self.scratch.extend_from_slice(value);
        }
        if let Some(&number) = self.numbers.get(self.scratch.as_slice()) {
            return number;
        }
        let set: Option<Vec<String>> = values
            .map(|value| std::str::from_utf8(value).ok().map(str::to_owned))
            .collect();
        let number = set.map(|values| {
            self.sets.push(LabelSet { values });
            self.sets.len() as u32 - 1
        });
        self.numbers
            .insert(self.scratch.clone().into_boxed_slice(), number);
        number
    }
}

/// A file that adds what is read of it to a stage.
#[derive(Debug)]
struct CountingReader<'a> {
    file: File,
    progress: &'a Stage,
}

impl Read for CountingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pipeline::Grain;
    use service::Progress;

    use super::*;

    fn grouping(labels: &[&str]) -> Grouping {
        Grouping {
            label_columns: labels.iter().map(|&name| name.to_owned()).collect(),
            time_column: "test_date".to_owned(),
            grain: Grain::Hour,
            result_column: "result".to_owned(),
            positive: "positive".to_owned(),
            negative: "negative".to_owned(),
            max_rows_per_job: 10,
        }
    }

    struct Read {
        folder: tempfile::TempDir,
        data_set: Result<DataSet, Error>,
    }

    fn read(content: &[u8], labels: &[&str], limit: Option<u64>) -> Read {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tests.csv");
        fs::write(&path, content).expect("it can be written");
        let grouping = grouping(labels);
        let progress = Progress::new();
        let rejects = Rejects::new("tests.csv", &folder.path().join("rejects.csv"), limit);
        let data_set = Source::open(&path, &grouping, &progress.read).and_then(|source| {
            let spill = Spill::new(folder.path(), Grain::Hour, u64::MAX);
            source.read(rejects, spill, &Shutdown::new())
        });
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
        let expected = b"file,record,reason,fields\n\
            tests.csv,2,wrong_field_count,Italy,2020-07-14T09:23:51\n\
            tests.csv,3,missing_time,Italy,,positive\n\
            tests.csv,4,invalid_time,Italy,yesterday,positive\n\
            tests.csv,5,unknown_result,Italy,2020-07-14,other\n\
            tests.csv,6,missing_result,Italy,2020-07-14,\n\
            tests.csv,7,invalid_utf8,Cura\xe7ao,2020-07-14,negative\n";
        assert_eq!(kept, expected);
    }

    #[test]
    fn too_many_rejects_end_the_reading_with_the_first_of_them() {
        let content = b"test_date,result\nx,positive\ny,positive\nz,positive\n";
        let error = read(content, &[], Some(1))
            .data_set
            .expect_err("one is allowed");
        let text = error.to_string();
        assert!(text.starts_with("more than 1 rows are rejected"), "{text}");
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
}

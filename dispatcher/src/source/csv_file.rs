//! A CSV file, plain or unpacked: finds the needed columns in its header and reads its records. No
//! other field is looked at. A record is bounded, for a quote that is never closed would make one of
//! the whole rest of the file.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ByteRecord, ReaderBuilder};
use pipeline::Grouping;

use crate::columns::Columns;
use crate::error::Error;
use crate::input::CsvFormat;
use crate::rejects::Reason;
use crate::source::decompress::READ_BYTES;
use crate::source::rules::When;
use crate::source::sink::Sink;

/// A file is not read on once so much of it was read and belongs to no whole record. The file is
/// read in pieces, so a record may be longer than this by one of them, and no record is refused
/// that is shorter by one: the bound is for memory.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// A CSV file whose header was read.
pub struct CsvFile<'a> {
    name: String,
    reader: csv::Reader<Bounded<'a>>,
    /// What was read of the file since the last record was whole.
    unfinished_bytes: Rc<Cell<usize>>,
    columns: Columns,
}

/// A file that is not read on while a record of it is longer than a record may be.
struct Bounded<'a> {
    reader: Box<dyn Read + 'a>,
    /// Set back by whoever has got a whole record.
    unfinished_bytes: Rc<Cell<usize>>,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let unfinished = self.unfinished_bytes.get();
        if unfinished > MAX_RECORD_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.reader.read(buffer)?;
        self.unfinished_bytes.set(unfinished + read);
        Ok(read)
    }
}

impl<'a> CsvFile<'a> {
    /// Reads the header of a file; `name` is for people.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or lacks a column.
    pub fn open(
        name: String,
        reader: Box<dyn Read + 'a>,
        format: CsvFormat,
        grouping: &Grouping,
    ) -> Result<Self, Error> {
        let mut builder = ReaderBuilder::new();
        builder
            // Records of a wrong length are rows to reject, not the end of the reading.
            .flexible(true)
            .buffer_capacity(READ_BYTES)
            .delimiter(format.delimiter.0);
        match format.quote.0 {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        let unfinished_bytes = Rc::new(Cell::new(0));
        let mut reader = builder.from_reader(Bounded {
            reader,
            unfinished_bytes: Rc::clone(&unfinished_bytes),
        });
        let header = match reader.byte_headers() {
            Ok(header) => header.clone(),
            Err(error) => return Err(unreadable(name, 0, 1, error)),
        };
        if header.is_empty() {
            return Err(Error::Empty { input: name });
        }
        Ok(Self {
            columns: Columns::find(&name, &header, grouping)?,
            name,
            reader,
            unfinished_bytes,
        })
    }

    /// Reads all records.
    ///
    /// # Errors
    /// When the file cannot be read to its end, and those of [`Sink`].
    pub fn read(mut self, sink: &mut Sink<'_>) -> Result<(), Error> {
        let columns = &self.columns;
        let mut record = ByteRecord::new();
        let mut number = 0;
        loop {
            match self.reader.read_byte_record(&mut record) {
                Ok(true) => number += 1,
                Ok(false) => return Ok(()),
                Err(error) => {
                    let line = record.position().map_or(1, csv::Position::line);
                    return Err(unreadable(self.name, number, line, error));
                }
            }
            self.unfinished_bytes.set(0);
            let judged = if record.len() == columns.count {
                let labels = columns.labels.iter().map(|&column| &record[column]);
                let time = When::Text(&record[columns.time]);
                sink.rules.judge(labels, time, &record[columns.result])
            } else {
                Err(Reason::WrongFieldCount)
            };
            match judged {
                Ok(row) => sink.accept(row)?,
                Err(reason) => sink.reject(&self.name, number, reason, &record)?,
            }
        }
    }
}

/// `records` were read, and the next one begins in a line, from 1.
fn unreadable(input: String, records: u64, line: u64, error: csv::Error) -> Error {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    };
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutShort { input, records },
        io::ErrorKind::FileTooLarge => Error::RecordTooLong { input, line },
        _ => Error::Read {
            input,
            records,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use pipeline::Grain;
    use service::Shutdown;

    use super::*;
    use crate::rejects::Rejects;
    use crate::source::DataSet;
    use crate::source::rules::Rules;
    use crate::spill::Spill;
    use crate::timestamp::TimeFormat;

    const ROW: &str = "Italy,2020-07-14,positive\n";

    /// Reads a text, and says how many bytes of it were taken.
    fn read(text: &str) -> (Result<DataSet, Error>, usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let grouping = Grouping {
            label_columns: vec!["country".to_owned()],
            time_column: "test_date".to_owned(),
            grain: Grain::Hour,
            result_column: "result".to_owned(),
            positive: "positive".to_owned(),
            negative: "negative".to_owned(),
            max_rows_per_job: 10,
        };
        let (time, shutdown) = (TimeFormat::default(), Shutdown::new());
        let mut rest = text.as_bytes();
        let read = CsvFile::open(
            "a.csv".to_owned(),
            Box::new(&mut rest),
            CsvFormat::default(),
            &grouping,
        )
        .and_then(|csv| {
            let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
            let spill = Spill::new(folder.path(), Grain::Hour, u64::MAX);
            let mut sink = Sink::new(Rules::new(&grouping, &time), rejects, spill, &shutdown);
            csv.read(&mut sink)?;
            sink.finish()
        });
        (read, text.len() - rest.len())
    }

    #[test]
    fn a_quote_that_is_never_closed_ends_the_reading_and_is_told_by_its_line() {
        let rows = ROW.repeat(8 * MAX_RECORD_BYTES / ROW.len());
        let text = format!("country,test_date,result\n{ROW}\"{rows}");
        let (read, taken) = read(&text);
        let error = read.expect_err("the record never ends");
        assert!(
            matches!(&error, Error::RecordTooLong { input, line: 3 } if input == "a.csv"),
            "{error}"
        );
        assert!(error.to_string().contains("--quote none"), "{error}");
        assert!(taken <= MAX_RECORD_BYTES + 2 * READ_BYTES, "{taken}");
    }

    #[test]
    fn a_header_that_never_ends_is_an_error_too() {
        let header = "country,".repeat(MAX_RECORD_BYTES / 4);
        let (read, taken) = read(&header);
        let error = read.expect_err("the header never ends");
        assert!(
            matches!(error, Error::RecordTooLong { line: 1, .. }),
            "{error}"
        );
        assert!(taken <= MAX_RECORD_BYTES + 2 * READ_BYTES, "{taken}");
    }

    #[test]
    fn records_that_are_long_and_not_too_long_are_read_in_any_number() {
        let name = "x".repeat(MAX_RECORD_BYTES - 2 * READ_BYTES);
        let row = format!("Italy,2020-07-14,positive,\"{name}\"\n");
        let text = format!("country,test_date,result,name\n{}", row.repeat(4));
        let data_set = read(&text).0.expect("it is read");
        assert_eq!((data_set.rows.len(), data_set.rows_read), (4, 4));
    }
}

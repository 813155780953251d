//! A CSV file, plain or unpacked: finds the needed columns in its header and reads its records. No
//! other field is looked at.

use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};
use pipeline::Grouping;

use crate::columns::Columns;
use crate::error::Error;
use crate::input::CsvFormat;
use crate::rejects::Reason;
use crate::source::decompress::READ_BYTES;
use crate::source::rules::When;
use crate::source::sink::Sink;

/// A CSV file whose header was read.
pub struct CsvFile<'a> {
    name: String,
    reader: csv::Reader<Box<dyn Read + 'a>>,
    columns: Columns,
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
        let mut reader = builder.from_reader(reader);
        let header = match reader.byte_headers() {
            Ok(header) => header.clone(),
            Err(error) => return Err(unreadable(name, 0, error)),
        };
        if header.is_empty() {
            return Err(Error::Empty { input: name });
        }
        Ok(Self {
            columns: Columns::find(&name, &header, grouping)?,
            name,
            reader,
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
                Err(error) => return Err(unreadable(self.name, number, error)),
            }
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

fn unreadable(input: String, records: u64, error: csv::Error) -> Error {
    let source = match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    };
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutShort { input, records },
        _ => Error::Read {
            input,
            records,
            source,
        },
    }
}

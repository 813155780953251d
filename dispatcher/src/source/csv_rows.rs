//! The rows of a block of a CSV file: it reads whole records and validates them as rows. Blocks do not
//! depend on each other, so any number of them can be read in parallel.

use std::io::Read;

use csv::{ByteRecord, ReaderBuilder};
use memchr::{memchr, memchr_iter, memchr2_iter, memchr3_iter};

use crate::columns::{Columns, Selection};
use crate::input::CsvFormat;
use crate::records::Width;
use crate::rejects::Reason;
use crate::source::Rows;
use crate::source::csv_blocks::Block;
use crate::source::rules::{RowTime, Rules};
use crate::timestamp::TimeFormat;

/// The options for reading the records of a file.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Delimiter and quote.
    pub format: CsvFormat,
    /// The positions of the needed columns.
    pub columns: &'a Columns,
    /// The needed columns.
    pub selection: Selection<'a>,
    /// The format of times.
    pub time: &'a TimeFormat,
}

/// The rows of a block, accepted and rejected.
#[derive(Debug)]
pub struct BlockRows {
    /// The accepted rows, in record order; label sets in the order of their first rows in the block.
    pub rows: Rows,
    /// The rejected rows, in record order.
    pub rejected: Vec<Rejected>,
    /// The number of records.
    pub records: u64,
    /// The number of line feeds.
    pub lines: u64,
}

/// A record that was rejected.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its number in the block, from 1.
    pub record: u64,
    /// The reason.
    pub reason: Reason,
    /// All its fields.
    pub fields: Vec<Vec<u8>>,
}

impl BlockRows {
    /// An empty result; its row records will have this width.
    pub fn new(width: Width) -> Self {
        Self {
            rows: Rows::new(width),
            rejected: Vec::new(),
            records: 0,
            lines: 0,
        }
    }

    fn clear(&mut self) {
        self.rows.label_sets.clear();
        self.rows.clear();
        self.rejected.clear();
        self.records = 0;
        self.lines = 0;
    }

    /// Replaces the content by the rows of a block.
    ///
    /// # Errors
    /// When the `csv` crate cannot read the block.
    pub fn read(&mut self, block: &Block, reading: Reading<'_>) -> Result<(), csv::Error> {
        self.clear();
        let mut validator = RowValidator {
            rules: Rules::new(reading.selection, reading.time),
            columns: reading.columns,
            read: self,
        };
        if block.has_quotes() {
            validator.with_quotes(block.bytes(), reading.format)?;
        } else {
            validator.without_quotes(block.bytes(), reading.format);
        }
        self.rows.label_sets = validator.rules.into_label_sets();
        Ok(())
    }
}

/// The validation of the records of one block.
struct RowValidator<'a, 'b> {
    rules: Rules<'a>,
    columns: &'a Columns,
    read: &'b mut BlockRows,
}

impl RowValidator<'_, '_> {
    /// Reads a text in which every delimiter ends a field, and every line break a record.
    fn without_quotes(&mut self, text: &[u8], format: CsvFormat) {
        let delimiter = format.delimiter.0;
        match memchr(b'\r', text) {
            None => self.split(text, memchr2_iter(delimiter, b'\n', text), delimiter),
            Some(_) => self.split(text, memchr3_iter(delimiter, b'\n', b'\r', text), delimiter),
        }
    }

    /// Reads a text without quotes; `ends` are the positions of all delimiters and line breaks.
    #[inline]
    fn split(&mut self, text: &[u8], ends: impl Iterator<Item = usize>, delimiter: u8) {
        // The ends of the fields of a record, at most as many as the header has columns.
        let mut fields = vec![0; self.columns.count];
        let mut count = 0;
        let mut start = 0;
        for end in ends {
            if let Some(field) = fields.get_mut(count) {
                *field = end;
            }
            count += 1;
            let byte = text[end];
            if byte == delimiter {
                continue;
            }
            self.read.lines += u64::from(byte == b'\n');
            self.line(text, start..end, &fields, count, delimiter);
            count = 0;
            start = end + 1;
        }
        if let Some(field) = fields.get_mut(count) {
            *field = text.len();
        }
        self.line(text, start..text.len(), &fields, count + 1, delimiter);
    }

    /// Validates a line as a record of `count` fields, which end at `ends`.
    #[inline]
    fn line(
        &mut self,
        text: &[u8],
        line: std::ops::Range<usize>,
        ends: &[usize],
        count: usize,
        delimiter: u8,
    ) {
        if line.is_empty() {
            // As in the `csv` crate, an empty line is not a record.
            return;
        }
        let field = |column: usize| {
            let start = match column.checked_sub(1) {
                None => line.start,
                Some(before) => ends[before] + 1,
            };
            &text[start..ends[column]]
        };
        if let Err(reason) = self.validate(count, field) {
            let fields = text[line].split(|&byte| byte == delimiter);
            self.reject(reason, fields);
        }
    }

    /// Reads a text with the `csv` crate.
    fn with_quotes(&mut self, text: &[u8], format: CsvFormat) -> Result<(), csv::Error> {
        self.read.lines = memchr_iter(b'\n', text).count() as u64;
        // The crate would remove a byte order mark at the beginning of its input, but only the
        // beginning of a file has one. An empty line in front prevents that, and is not a record.
        let text = b"\n".chain(text);
        let mut reader = reader_builder(format).has_headers(false).from_reader(text);
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record)? {
            if let Err(reason) = self.validate(record.len(), |column| &record[column]) {
                self.reject(reason, &record);
            }
        }
        Ok(())
    }

    /// Validates a record of `count` fields, and adds it to the rows if it is accepted.
    #[inline]
    fn validate<'t>(
        &mut self,
        count: usize,
        field: impl Fn(usize) -> &'t [u8],
    ) -> Result<(), Reason> {
        self.read.records += 1;
        let columns = self.columns;
        if count != columns.count {
            return Err(Reason::WrongFieldCount);
        }
        let labels = columns.labels.iter().map(|&column| field(column));
        let time = RowTime::Text(field(columns.time));
        let values = columns.payload.iter().map(|&column| field(column));
        let rows = &mut self.read.rows;
        let row = self
            .rules
            .validate(labels, time, values, &mut rows.records)?;
        rows.label_set.push(row.label_set);
        rows.seconds.push(row.seconds);
        Ok(())
    }

    /// Adds a record to the rejected ones.
    #[cold]
    fn reject<'t>(&mut self, reason: Reason, fields: impl IntoIterator<Item = &'t [u8]>) {
        self.read.rejected.push(Rejected {
            record: self.read.records,
            reason,
            fields: fields.into_iter().map(<[u8]>::to_vec).collect(),
        });
    }
}

/// The configuration of the `csv` crate for a format. Records with a wrong number of fields are
/// returned, to be rejected, and are not an error.
pub(crate) fn reader_builder(format: CsvFormat) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.flexible(true).delimiter(format.delimiter.0);
    match format.quote.0 {
        Some(quote) => builder.quote(quote),
        None => builder.quoting(false),
    };
    builder
}

#[cfg(test)]
mod tests {
    use computations::Column;
    use proptest::prelude::*;

    use super::*;
    use crate::columns::tests::{Selected, code, selected, text};
    use crate::source::csv_blocks::Blocks;

    /// A selection of label columns and payload columns, and their positions in `country,time,result`.
    fn by(labels: &[&str], payload: Vec<Column>) -> (Selected, Columns) {
        let mut selected = selected(labels, payload);
        selected.grouping.time_column = "time".to_owned();
        let header = ByteRecord::from(vec!["country", "time", "result"]);
        let columns = Columns::find("a.csv", &header, selected.as_selection());
        (selected, columns.expect("all are there"))
    }

    /// Reads a text as one block.
    fn read(
        text: &[u8],
        payload: &[Column],
        read: impl FnOnce(&mut RowValidator<'_, '_>, &[u8]),
    ) -> BlockRows {
        let (selected, columns) = by(&["country", "time"], payload.to_vec());
        let mut rows = BlockRows::new(selected.payload.width());
        let mut validator = RowValidator {
            rules: Rules::new(selected.as_selection(), &TimeFormat::Iso),
            columns: &columns,
            read: &mut rows,
        };
        read(&mut validator, text);
        let label_sets = validator.rules.into_label_sets();
        rows.rows.label_sets = label_sets;
        rows
    }

    fn any_piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "a,2020-07-14,p\n",
            "b,2020-07-14,n\r\n",
            "a,2020-07-15,p\r",
            "a",
            ",",
            "\n",
            "\r\n",
            "2020-07-14",
            "p",
            "\u{feff}",
        ])
    }

    fn any_payload() -> impl Strategy<Value = Vec<Column>> {
        let result = || code("result", &["n", "p"]);
        prop::sample::select(vec![
            vec![],
            vec![result()],
            vec![result(), code("country", &["", "a", "b"])],
            vec![text("country"), result(), text("result")],
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn the_text_without_quotes_is_read_as_by_the_csv_crate(
            pieces in prop::collection::vec(any_piece(), 0..40),
            payload in any_payload(),
        ) {
            let text = pieces.concat();
            let format = CsvFormat::default();
            let split = read(text.as_bytes(), &payload, |validator, text| {
                validator.without_quotes(text, format);
            });
            let by_csv = read(text.as_bytes(), &payload, |validator, text| {
                validator.with_quotes(text, format).expect("it can be read");
            });
            prop_assert_eq!(split.rows, by_csv.rows);
            prop_assert_eq!(split.rejected, by_csv.rejected);
            prop_assert_eq!(split.records, by_csv.records);
            prop_assert_eq!(split.lines, by_csv.lines);
        }
    }

    #[test]
    fn the_rows_of_one_block_replace_those_of_the_last() {
        let (selected, columns) = by(&["country"], vec![code("result", &["n", "p"])]);
        let reading = Reading {
            format: CsvFormat::default(),
            columns: &columns,
            selection: selected.as_selection(),
            time: &TimeFormat::Iso,
        };
        let mut rows = BlockRows::new(selected.payload.width());
        for text in ["a,2020-07-14,p\nb,x,p\n", "\"a\",2020-07-14,p\nb,x,p\n"] {
            let mut block = Block::default();
            let mut blocks = Blocks::new(text.as_bytes(), reading.format);
            assert!(blocks.next(&mut block).expect("it is read"));
            rows.read(&block, reading).expect("it is read");
            assert_eq!((rows.records, rows.lines, rows.rows.len()), (2, 2, 1));
            assert_eq!(rows.rows.label_sets.len(), 1);
            assert_eq!(rows.rejected.len(), 1);
            assert_eq!(rows.rejected[0].record, 2);
            assert_eq!(rows.rejected[0].fields, [b"b".as_slice(), b"x", b"p"]);
        }
    }
}

//! Rows as Parquet, written by polars: the lines of the CSV output are parsed again, so that both
//! formats have the same rows by construction.

use std::io::{self, Write};

use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::*;
use service::Shutdown;

use crate::blocks::{Generated, generate};
use crate::config::Config;
use crate::error::Error;
use crate::rows::HEADER;

/// The number of rows in a row group, which readers hold in memory as a whole.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Generates a data set and writes it to `out` as Parquet. `config` spoils no row.
///
/// # Errors
/// The errors of [`generate`]; [`Error::Parquet`].
pub(crate) fn generate_parquet(
    config: &Config,
    out: &mut dyn Write,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Generated, Error> {
    let writer = ParquetWriter::new(out)
        .with_compression(ParquetCompression::Zstd(None))
        .batched(&schema())
        .map_err(unwritable)?;
    let mut lines = Lines {
        writer,
        columns: Columns::default(),
    };
    let generated = generate(config, &mut lines, shutdown, progress)?;
    lines.end_row_group().map_err(unwritable)?;
    let bytes = lines.writer.finish().map_err(unwritable)?;
    Ok(Generated { bytes, ..generated })
}

fn unwritable(error: PolarsError) -> Error {
    match error {
        PolarsError::IO { error, .. } => Error::Write {
            source: io::Error::new(error.kind(), error.to_string()),
        },
        other => Error::Parquet {
            reason: other.to_string(),
        },
    }
}

const TYPES: [DataType; 6] = [
    DataType::String,
    DataType::String,
    DataType::String,
    DataType::Date,
    DataType::Datetime(TimeUnit::Milliseconds, None),
    DataType::String,
];

fn schema() -> Schema {
    HEADER
        .split(',')
        .zip(TYPES)
        .map(|(name, kind)| Field::new(name.into(), kind))
        .collect()
}

/// A writer of CSV lines that turns them into row groups.
struct Lines<W: Write> {
    writer: BatchedWriter<W>,
    columns: Columns,
}

/// The columns of the current row group.
#[derive(Default)]
struct Columns {
    texts: [Vec<Box<str>>; 4],
    /// Days since 1970-01-01.
    birth_dates: Vec<i32>,
    /// Milliseconds since 1970-01-01T00:00:00.
    test_dates: Vec<i64>,
}

impl<W: Write> Write for Lines<W> {
    /// Adds a block of whole lines. The header is skipped.
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(block).map_err(io::Error::other)?;
        for line in text.lines().filter(|&line| line != HEADER) {
            self.columns
                .push(line)
                .ok_or_else(|| io::Error::other(format!("cannot parse the row {line}")))?;
            if self.columns.birth_dates.len() == ROW_GROUP_ROWS {
                self.end_row_group().map_err(io::Error::other)?;
            }
        }
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Lines<W> {
    fn end_row_group(&mut self) -> PolarsResult<()> {
        let columns = std::mem::take(&mut self.columns);
        let rows = columns.birth_dates.len();
        if rows == 0 {
            return Ok(());
        }
        let mut names = HEADER.split(',').map(PlSmallStr::from);
        let mut name = || names.next().unwrap_or_default();
        let [patients, cities, countries, results] = columns.texts;
        let text = |name: PlSmallStr, values: Vec<Box<str>>| {
            StringChunked::from_iter_values(name, values.iter().map(|value| &**value)).into_column()
        };
        let frame = DataFrame::new(
            rows,
            vec![
                text(name(), patients),
                text(name(), cities),
                text(name(), countries),
                Int32Chunked::from_vec(name(), columns.birth_dates)
                    .into_date()
                    .into_column(),
                Int64Chunked::from_vec(name(), columns.test_dates)
                    .into_datetime(TimeUnit::Milliseconds, None)
                    .into_column(),
                text(name(), results),
            ],
        )?;
        self.writer.write_batch(&frame)
    }
}

impl Columns {
    fn push(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split(',');
        for texts in &mut self.texts[..3] {
            texts.push(fields.next()?.into());
        }
        let born: Date = fields.next()?.parse().ok()?;
        let tested: DateTime = fields.next()?.parse().ok()?;
        self.texts[3].push(fields.next()?.into());
        let milliseconds = |time| Some(Offset::UTC.to_timestamp(time).ok()?.as_millisecond());
        let born = milliseconds(born.to_datetime(jiff::civil::Time::midnight()))?;
        self.birth_dates
            .push(i32::try_from(born / (24 * 3_600 * 1_000)).ok()?);
        self.test_dates.push(milliseconds(tested)?);
        Some(())
    }
}

//! A Parquet file, by polars: only the needed columns are decoded, one row group at a time, so that
//! memory is bounded by the largest of them.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use csv::ByteRecord;
use jiff::Timestamp;
use pipeline::Grouping;
use polars::prelude::*;
use service::progress::Stage;

use crate::columns::Columns;
use crate::error::Error;
use crate::source::rules::When;
use crate::source::sink::Sink;

const SECONDS_PER_DAY: i64 = 86_400;

/// A Parquet file whose footer was read.
pub struct ParquetFile {
    name: String,
    file: File,
    bytes: u64,
    footer: FileMetadataRef,
    /// The needed columns' positions, each once.
    projection: Vec<usize>,
    /// The needed columns' names: labels, time, result.
    labels: Vec<String>,
    time: String,
    result: String,
}

impl ParquetFile {
    /// Reads the footer of a file; `name` is for people.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or lacks a column.
    pub fn open(name: String, path: &Path, grouping: &Grouping) -> Result<Self, Error> {
        let cannot_open = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(cannot_open)?;
        let bytes = file.metadata().map_err(cannot_open)?.len();
        let again = file.try_clone().map_err(cannot_open)?;
        let read = guarded(|| {
            let mut reader = ParquetReader::new(again);
            let schema = reader.schema()?;
            Ok((schema, reader.get_metadata()?.clone()))
        });
        let (schema, footer) = read.map_err(|reason| damaged(&name, 0, reason))?;
        let header: ByteRecord = schema.iter_names().map(|name| name.as_bytes()).collect();
        let columns = Columns::find(&name, &header, grouping)?;
        let mut projection = columns.labels;
        projection.extend([columns.time, columns.result]);
        projection.sort_unstable();
        projection.dedup();
        Ok(Self {
            name,
            file,
            bytes,
            footer,
            projection,
            labels: grouping.label_columns.clone(),
            time: grouping.time_column.clone(),
            result: grouping.result_column.clone(),
        })
    }

    /// Reads all rows; the file's bytes are added to `progress` as its rows are.
    ///
    /// # Errors
    /// When the file cannot be read to its end, and those of [`Sink`].
    pub fn read(self, sink: &mut Sink<'_>, progress: &Stage) -> Result<(), Error> {
        let mut number = 0;
        let mut told = 0;
        // polars walks over all row groups of a footer each time that it reads one of them.
        let mut bare = FileMetadata::clone(&self.footer);
        bare.row_groups = Vec::new();
        for group in &self.footer.row_groups {
            let mut footer = bare.clone();
            footer.num_rows = group.num_rows();
            footer.max_row_group_height = group.num_rows();
            footer.row_groups = vec![group.clone()];
            let columns = guarded(|| self.decode(footer));
            let columns = columns.map_err(|reason| damaged(&self.name, number, reason))?;
            number = self.judge(&columns, number, sink)?;
            let part = number as f64 / self.footer.num_rows.max(1) as f64;
            let now = ((self.bytes as f64 * part) as u64).min(self.bytes);
            progress.add(now.saturating_sub(told));
            told = now.max(told);
        }
        progress.add(self.bytes - told);
        Ok(())
    }

    fn decode(&self, footer: FileMetadata) -> PolarsResult<NeededColumns> {
        let mut reader = ParquetReader::new(self.file.try_clone()?)
            .with_projection(Some(self.projection.clone()))
            .read_parallel(ParallelStrategy::Columns)
            .set_rechunk(true);
        reader.set_metadata(Arc::new(footer));
        let frame = reader.finish()?;
        let labels = self.labels.iter();
        Ok(NeededColumns {
            rows: frame.height(),
            labels: labels
                .map(|name| Texts::new(frame.column(name)?))
                .collect::<PolarsResult<_>>()?,
            time: Times::new(frame.column(&self.time)?)?,
            result: Texts::new(frame.column(&self.result)?)?,
        })
    }

    /// Judges the rows of a row group and returns the number of its last one.
    fn judge(
        &self,
        columns: &NeededColumns,
        before: u64,
        sink: &mut Sink<'_>,
    ) -> Result<u64, Error> {
        for row in 0..columns.rows {
            let labels = columns.labels.iter().map(|values| values.get(row));
            let result = columns.result.get(row);
            match sink
                .rules
                .judge(labels.clone(), columns.time.get(row), result)
            {
                Ok(row) => sink.accept(row)?,
                Err(reason) => {
                    let time = columns.time.text(row);
                    let fields = labels.chain([&*time, result]);
                    sink.reject(&self.name, before + row as u64 + 1, reason, fields)?;
                }
            }
        }
        Ok(before + columns.rows as u64)
    }
}

/// The columns of a row group that are needed.
struct NeededColumns {
    rows: usize,
    labels: Vec<Texts>,
    time: Times,
    result: Texts,
}

/// A column as text. A missing value is an empty one, as in CSV.
enum Texts {
    Utf8(StringChunked),
    /// Maybe text that is no UTF-8.
    Bytes(BinaryChunked),
}

impl Texts {
    /// Categories are their names, integers are decimal, booleans are `true` and `false`.
    fn new(column: &Column) -> PolarsResult<Self> {
        Ok(match column.dtype() {
            DataType::Binary => Self::Bytes(column.binary()?.clone()),
            _ => Self::Utf8(column.cast(&DataType::String)?.str()?.clone()),
        })
    }

    #[inline]
    fn get(&self, row: usize) -> &[u8] {
        match self {
            Self::Utf8(values) => values.get(row).map(str::as_bytes),
            Self::Bytes(values) => values.get(row),
        }
        .unwrap_or_default()
    }
}

/// A column of times.
enum Times {
    Texts(Texts),
    /// Dates, and points in time with a zone or without, counted from 1970-01-01T00:00:00Z.
    Ticks {
        ticks: Int64Chunked,
        unit: Unit,
    },
}

#[derive(Clone, Copy)]
enum Unit {
    Days,
    PerSecond(i64),
}

impl Times {
    fn new(column: &Column) -> PolarsResult<Self> {
        let unit = match column.dtype() {
            DataType::Date => Unit::Days,
            DataType::Datetime(TimeUnit::Milliseconds, _) => Unit::PerSecond(1_000),
            DataType::Datetime(TimeUnit::Microseconds, _) => Unit::PerSecond(1_000_000),
            DataType::Datetime(TimeUnit::Nanoseconds, _) => Unit::PerSecond(1_000_000_000),
            _ => return Texts::new(column).map(Self::Texts),
        };
        let ticks = column.to_physical_repr().cast(&DataType::Int64)?;
        Ok(Self::Ticks {
            ticks: ticks.i64()?.clone(),
            unit,
        })
    }

    #[inline]
    fn get(&self, row: usize) -> When<'_> {
        match self {
            Self::Texts(values) => When::Text(values.get(row)),
            Self::Ticks { ticks, unit } => match (ticks.get(row), unit) {
                (None, _) => When::Text(b""),
                (Some(days), Unit::Days) => When::Seconds(days * SECONDS_PER_DAY),
                (Some(ticks), Unit::PerSecond(ticks_per_second)) => {
                    When::Seconds(ticks.div_euclid(*ticks_per_second))
                }
            },
        }
    }

    /// The time as people read it.
    fn text(&self, row: usize) -> Cow<'_, [u8]> {
        match self.get(row) {
            When::Text(text) => Cow::Borrowed(text),
            When::Seconds(seconds) => {
                let text = Timestamp::from_second(seconds)
                    .map_or_else(|_| seconds.to_string(), |time| time.to_string());
                Cow::Owned(text.into_bytes())
            }
        }
    }
}

fn damaged(input: &str, records: u64, reason: String) -> Error {
    Error::Parquet {
        input: input.to_owned(),
        records,
        reason,
    }
}

/// Reads by polars, whose errors may have several lines.
fn guarded<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    read().map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })
}

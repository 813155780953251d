//! The reader of a Parquet file, by polars. It decodes only the needed columns, one row group at a time
//! and a bounded number of its rows, so memory is bounded whatever number of rows the bytes encode.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use csv::ByteRecord;
use polars::prelude::*;
use service::catch_panic::catch_panic;
use service::progress::Stage;
use service::text::truncated;

use crate::columns::{Columns, Selection};
use crate::error::Error;
use crate::source::parquet_columns::{
    Texts, Times, check_type, label_types, time_types, value_types,
};
use crate::source::sink::Sink;
use crate::source::{parquet_footer, parquet_pages};
use crate::timestamp::TimeFormat;

/// The most rows that are decoded at once. Few writers make larger row groups. A run of equal values
/// takes a few bytes for any length, so the bytes of a row group do not bound its rows.
pub const ROWS_AT_ONCE: usize = 2 * 1024 * 1024;

/// The most characters of a message of polars, which may quote the file.
const MESSAGE_CHARACTERS: usize = 300;

/// A Parquet file whose footer is read.
pub struct ParquetFile {
    name: String,
    file: File,
    bytes: u64,
    footer: FileMetadataRef,
    /// The positions of the needed columns, each once.
    projection: Vec<usize>,
    /// The names of the label columns.
    labels: Vec<String>,
    /// The name of the time column.
    time: String,
    /// The names of the payload columns.
    payload: Vec<String>,
}

impl ParquetFile {
    /// Reads the footer of a file; `name` is its name in messages.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, lacks a column, or has a column of a type that is
    /// not accepted for its purpose.
    pub fn open(
        name: String,
        path: &Path,
        selection: Selection<'_>,
        time: &TimeFormat,
    ) -> Result<Self, Error> {
        let cannot_open = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(cannot_open)?;
        let bytes = file.metadata().map_err(cannot_open)?.len();
        let read = one_line_error(|| {
            let footer = parquet_footer::rewritten(&file)?;
            let mut reader = ParquetReader::new(Cursor::new(footer));
            let schema = reader.schema()?;
            Ok((schema, reader.get_metadata()?.clone()))
        });
        let (schema, footer) = read.map_err(|reason| damaged(&name, 0, reason))?;
        let header: ByteRecord = schema.iter_names().map(|name| name.as_bytes()).collect();
        let columns = Columns::find(&name, &header, selection)?;
        let check = |option, column, is| check_type(&name, option, &schema, column, is);
        for &column in &columns.labels {
            check("--by", column, label_types())?;
        }
        check("--time", columns.time, time_types(time))?;
        let Selection { grouping, payload } = selection;
        for (wanted, &column) in payload.columns().iter().zip(&columns.payload) {
            check(payload.option(), column, value_types(&wanted.coding))?;
        }
        let mut projection = columns.labels;
        projection.push(columns.time);
        projection.extend(columns.payload);
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
            payload: payload
                .columns()
                .iter()
                .map(|column| column.name.clone())
                .collect(),
        })
    }

    /// Reads all rows, and adds the bytes of the file to `progress` in proportion to the rows.
    ///
    /// # Errors
    /// When the file cannot be read to its end, and the errors of [`Sink`].
    pub fn read(self, sink: &mut Sink<'_>, progress: &Stage) -> Result<(), Error> {
        let mut number = 0;
        let mut reported = 0;
        // polars iterates over all row groups of a footer whenever it reads one of them.
        let mut bare = FileMetadata::clone(&self.footer);
        bare.row_groups = Vec::new();
        for group in &self.footer.row_groups {
            let mut footer = bare.clone();
            footer.num_rows = group.num_rows();
            footer.max_row_group_height = group.num_rows();
            footer.row_groups = vec![group.clone()];
            let names = self.labels.iter().chain([&self.time]).chain(&self.payload);
            let checked = one_line_error(|| {
                let names = names.map(String::as_str);
                parquet_pages::check(&self.file, self.bytes, group, names)
            });
            checked.map_err(|reason| damaged(&self.name, number, reason))?;
            let footer = Arc::new(footer);
            for first in (0..group.num_rows()).step_by(ROWS_AT_ONCE) {
                let rows = ROWS_AT_ONCE.min(group.num_rows() - first);
                let columns = one_line_error(|| self.decode(&footer, first, rows));
                let columns = columns.map_err(|reason| damaged(&self.name, number, reason))?;
                number = self.validate(&columns, number, sink)?;
            }
            let part = number as f64 / self.footer.num_rows.max(1) as f64;
            let now = ((self.bytes as f64 * part) as u64).min(self.bytes);
            progress.add(now.saturating_sub(reported));
            reported = now.max(reported);
        }
        progress.add(self.bytes - reported);
        Ok(())
    }

    /// Decodes `rows` rows, from the row `first` on, of the row groups that `footer` has.
    fn decode(
        &self,
        footer: &FileMetadataRef,
        first: usize,
        rows: usize,
    ) -> PolarsResult<NeededColumns> {
        let mut reader = ParquetReader::new(self.file.try_clone()?)
            .with_projection(Some(self.projection.clone()))
            .with_slice(Some((first, rows)))
            .read_parallel(ParallelStrategy::Columns)
            .set_rechunk(true);
        reader.set_metadata(Arc::clone(footer));
        let frame = reader.finish()?;
        polars_ensure!(
            frame.height() == rows,
            ComputeError: "it has {} of {rows} rows",
            frame.height()
        );
        let texts = |names: &[String]| {
            let texts = names.iter().map(|name| Texts::new(frame.column(name)?));
            texts.collect::<PolarsResult<Vec<_>>>()
        };
        Ok(NeededColumns {
            rows: frame.height(),
            labels: texts(&self.labels)?,
            time: Times::new(frame.column(&self.time)?)?,
            payload: texts(&self.payload)?,
        })
    }

    /// Validates decoded rows; `before` is the number of rows before them. Returns the number of rows
    /// with them.
    fn validate(
        &self,
        columns: &NeededColumns,
        before: u64,
        sink: &mut Sink<'_>,
    ) -> Result<u64, Error> {
        for row in 0..columns.rows {
            let labels = columns.labels.iter().map(|values| values.get(row));
            let values = columns.payload.iter().map(|values| values.get(row));
            let time = columns.time.get(row);
            let validated = sink.validate(labels.clone(), time, values.clone())?;
            if let Err(reason) = validated {
                let time = columns.time.text(row);
                let fields = labels.chain([&*time]).chain(values);
                sink.reject(&self.name, before + row as u64 + 1, reason, fields)?;
            }
        }
        Ok(before + columns.rows as u64)
    }
}

/// The needed columns of some rows, decoded.
struct NeededColumns {
    rows: usize,
    labels: Vec<Texts>,
    time: Times,
    payload: Vec<Texts>,
}

/// The error of a file that is damaged after `records` records.
fn damaged(input: &str, records: u64, reason: String) -> Error {
    Error::Parquet {
        input: input.to_owned(),
        records,
        reason,
    }
}

/// Runs a call of polars, and returns its error or panic as a message of one bounded line.
fn one_line_error<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    let text = match catch_panic(read) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic,
    };
    let line = text.lines().next().unwrap_or_default();
    Err(truncated(line.as_bytes(), MESSAGE_CHARACTERS))
}

//! A Parquet file, by polars: only the needed columns are decoded, one row group at a time, so that
//! memory is bounded by the largest of them.

use std::any::Any;
use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;

use csv::ByteRecord;
use pipeline::Grouping;
use polars::prelude::*;
use service::progress::Stage;

use crate::columns::Columns;
use crate::error::Error;
use crate::source::parquet_columns::{
    Texts, Times, check_type, labels_are, results_are, times_are,
};
use crate::source::parquet_pages;
use crate::source::sink::Sink;
use crate::timestamp::TimeFormat;

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
    /// When the file cannot be opened, is damaged, or lacks a column, or when one is of a type that
    /// is not read for what it is.
    pub fn open(
        name: String,
        path: &Path,
        grouping: &Grouping,
        time: &TimeFormat,
    ) -> Result<Self, Error> {
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
        let check = |option, column, is| check_type(&name, option, &schema, column, is);
        for &column in &columns.labels {
            check("--by", column, labels_are())?;
        }
        check("--time", columns.time, times_are(time))?;
        check("--result", columns.result, results_are())?;
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
            let names = self.labels.iter().chain([&self.time, &self.result]);
            let columns = guarded(|| {
                let names = names.map(String::as_str);
                parquet_pages::check(&self.file, self.bytes, group, names)?;
                self.decode(footer)
            });
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

fn damaged(input: &str, records: u64, reason: String) -> Error {
    Error::Parquet {
        input: input.to_owned(),
        records,
        reason,
    }
}

thread_local! {
    /// Whether this thread is in [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Threads that are in [`guarded`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Reads by polars, whose errors may have several lines.
///
/// polars checks a file as it goes, and not all of it: a length in a footer or in a page that is
/// not true, and a type that it was built without, end in a panic, most of them on its own threads,
/// from where it comes back to this one. A file is somebody else's, so that is an error like any.
/// What was read until then is dropped here and not looked at.
fn guarded<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    silence_panics_of_guarded();
    GUARDS.fetch_add(1, Ordering::Relaxed);
    GUARDED.set(true);
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    GUARDS.fetch_sub(1, Ordering::Relaxed);
    let text = match read {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("polars gave up: {}", said(&*panic)),
    };
    Err(text.lines().next().unwrap_or_default().to_owned())
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it does not say why")
}

/// A panic that becomes an error is told once, as that error. All others are told as they were.
fn silence_panics_of_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let current = thread::current();
            let is_polars = current
                .name()
                .is_some_and(|name| name.starts_with("polars"));
            let is_guarded = is_polars && GUARDS.load(Ordering::Relaxed) > 0;
            if GUARDED.get() || is_guarded {
                tracing::debug!("{panic}");
            } else {
                tell(panic);
            }
        }));
    });
}

//! The reader of a series from the files that [`crate::export`] wrote, so that reports can be made again
//! after the run. polars reads a Parquet file, and allocates memory by the sizes in the file, even of a
//! damaged one: the caller checks the digest of the file first.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use computations::positivity::{Series, SeriesRow};
use jiff::civil::DateTime;
use jiff::tz::Offset;
use pipeline::{Grain, LabelSet, TimeBucket};
use polars::prelude::*;
use service::catch_panic::catch_panic;

/// The name of a series as Parquet, which is preferred because it is faster to read.
pub const PARQUET: &str = "series.parquet";
/// The name of a series as CSV.
const CSV: &str = "series.csv";

/// The error of a series that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackError {
    /// There is neither file.
    #[error(
        "neither {PARQUET} nor {CSV} of the run is in {}; add parquet or csv to --outputs of the run",
        folder.display()
    )]
    NoSeries {
        /// The output folder.
        folder: PathBuf,
    },

    /// A file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file is not a series, or one with other columns.
    #[error("{}, row {row}: {what}; it is not a series of this run", path.display())]
    NoSeriesFile {
        /// The file.
        path: PathBuf,
        /// The row, from 1, without the header; 0 for the file as a whole.
        row: usize,
        /// The defect.
        what: String,
    },
}

/// The series in an output folder, read from Parquet or from CSV. `labels`: the number of label columns.
/// `grain`: the grain of the times.
///
/// # Errors
/// When there is no such file, or it cannot be read or is not such a series.
pub fn series(
    folder: &Path,
    parquet: bool,
    labels: usize,
    grain: Grain,
) -> Result<Series, ReadBackError> {
    let read: fn(&Path, usize, Grain) -> _ = if parquet { from_parquet } else { from_csv };
    let path = folder.join(if parquet { PARQUET } else { CSV });
    if !path.exists() {
        let folder = folder.to_owned();
        return Err(ReadBackError::NoSeries { folder });
    }
    read(&path, labels, grain).map_err(|problem| match problem {
        Problem::Io(source) => ReadBackError::Unreadable { path, source },
        Problem::Row(row, what) => ReadBackError::NoSeriesFile { path, row, what },
    })
}

/// The error of a file: of the operating system, or a defect with its row.
enum Problem {
    Io(io::Error),
    Row(usize, String),
}

impl From<PolarsError> for Problem {
    fn from(error: PolarsError) -> Self {
        Self::Row(0, first_line(&error.to_string()))
    }
}

/// The first line of an error of polars, which may have several.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A series that is built row by row, in order.
#[derive(Default)]
struct Growing(Series);

impl Growing {
    fn push<'a>(
        &mut self,
        labels: impl Iterator<Item = &'a str> + Clone,
        time: TimeBucket,
        tests: Option<u64>,
        positive: Option<u64>,
    ) {
        let Series { label_sets, rows } = &mut self.0;
        let same = label_sets
            .last()
            .is_some_and(|last: &LabelSet| labels.clone().eq(last.values.iter()));
        if !same {
            label_sets.push(LabelSet::new(labels));
        }
        rows.push(SeriesRow {
            label_set: label_sets.len() as u32 - 1,
            hours: time.hours(),
            // As a series has it: a group that is not known has no tests.
            tests: tests.unwrap_or(0),
            positive: positive.unwrap_or(0),
        });
    }
}

fn from_csv(path: &Path, labels: usize, _grain: Grain) -> Result<Series, Problem> {
    let file = File::open(path).map_err(Problem::Io)?;
    let mut reader = csv::Reader::from_reader(file);
    let mut record = csv::StringRecord::new();
    let mut series = Growing::default();
    for row in 1.. {
        let wrong = |what: &str| Problem::Row(row, what.to_owned());
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(wrong(&first_line(&error.to_string()))),
        }
        let field = |column| record.get(labels + column).ok_or(wrong("too few fields"));
        let number = |column| match field(column)? {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| wrong("not a number")),
        };
        let time = bucket(field(0)?).ok_or(wrong("not a time"))?;
        series.push(record.iter().take(labels), time, number(1)?, number(2)?);
    }
    Ok(series.0)
}

/// The time bucket of a time in `series.csv`, with an hour or without; `None` for another text.
fn bucket(text: &str) -> Option<TimeBucket> {
    let time: DateTime = text.parse().ok()?;
    let timestamp = Offset::UTC.to_timestamp(time).ok()?;
    TimeBucket::from_hours(timestamp.as_second().div_euclid(3_600))
}

fn from_parquet(path: &Path, labels: usize, grain: Grain) -> Result<Series, Problem> {
    let file = File::open(path).map_err(Problem::Io)?;
    let read = catch_panic(|| ParquetReader::new(file).finish());
    let frame = read.map_err(|panic| Problem::Row(0, first_line(&panic)))??;
    // By position, because label columns may have been renamed to be unique.
    let column = |number: usize| {
        let column = frame.columns().get(number);
        column.ok_or_else(|| Problem::Row(0, format!("it has no column {}", number + 1)))
    };
    let label_columns = (0..labels)
        .map(|number| Ok(column(number)?.str()?))
        .collect::<Result<Vec<_>, Problem>>()?;
    let times = column(labels)?.cast(&DataType::Int64)?;
    let times = times.i64()?;
    let tests = column(labels + 1)?.u64()?;
    let positive = column(labels + 2)?.u64()?;
    let mut series = Growing::default();
    for row in 0..frame.height() {
        let hours = times.get(row).map(|time| match grain {
            Grain::Hour => time.div_euclid(3_600_000),
            Grain::Day | Grain::Week | Grain::Month => 24 * time,
        });
        let time = hours.and_then(TimeBucket::from_hours);
        let time = time.ok_or_else(|| Problem::Row(row + 1, "not a time".to_owned()))?;
        let values = label_columns.iter();
        let values = values.map(|column| column.get(row).unwrap_or_default());
        series.push(values, time, tests.get(row), positive.get(row));
    }
    Ok(series.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::export::test_series::{columns, row, series as series_of};
    use crate::export::{Exporter, SeriesCsv, SeriesParquet, Table};

    #[test]
    fn a_series_is_equal_after_writing_and_reading_in_both_formats() {
        let label_columns = columns(&["country"]);
        let by_hour = series_of(
            &["", "Korea, \"South\"\nor not", "Åland"],
            (0..3)
                .flat_map(|set| [row(set, -30, 3, 1), row(set, 7, 0, 0), row(set, 800, 2, 2)])
                .collect(),
        );
        let none = Series {
            label_sets: vec![LabelSet::default()],
            rows: vec![row(0, 0, 2, 1)],
        };
        for grain in Grain::ALL {
            for (written, label_columns) in [(&by_hour, &label_columns[..]), (&none, &[])] {
                let written = written.coarsened(grain);
                let table = Table {
                    series: &written,
                    label_columns,
                    grain,
                    added: false,
                };
                let exporters: [&mut dyn Exporter; 2] =
                    [&mut SeriesCsv::new(table), &mut SeriesParquet(table)];
                for (parquet, exporter) in [false, true].into_iter().zip(exporters) {
                    let folder = tempfile::tempdir().expect("a folder");
                    let path = folder.path().join(exporter.file_name());
                    let mut file = File::create(path).expect("a file");
                    exporter.export(&mut file).expect("written");
                    let read = series(folder.path(), parquet, label_columns.len(), grain);
                    assert_eq!(read.expect("a series"), written, "{grain}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_not_a_series_is_refused_with_its_name_and_row() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |parquet| {
            let read = series(folder.path(), parquet, 1, Grain::Day);
            read.expect_err("no series").to_string()
        };
        for parquet in [false, true] {
            assert!(read(parquet).contains("neither series.parquet nor series.csv"));
        }
        let text =
            "country,date_day,tests,positive,rate\nItaly,2020-01-01,1,0,0\nItaly,soon,1,0,0\n";
        fs::write(folder.path().join("series.csv"), text).expect("written");
        let error = read(false);
        assert!(error.contains("series.csv, row 2: not a time"), "{error}");
        fs::write(folder.path().join("series.parquet"), "PAR1").expect("written");
        let error = read(true);
        assert!(error.contains("series.parquet, row 0:"), "{error}");
    }
}

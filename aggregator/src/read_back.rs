//! Reads a series back from the files that [`crate::export`] made of it, so that what is made of a
//! series can be made again when the run is long over. A Parquet file is polars' to read, which makes
//! room for what a damaged one says of itself: whoever asks for it has looked at its digest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use computations::positivity::{Series, SeriesRow};
use jiff::civil::DateTime;
use jiff::tz::Offset;
use pipeline::{Grain, LabelSet, TimeBucket};
use polars::prelude::*;
use service::guard::guarded;

/// The form that holds a whole series and is read where it is there, for it is faster to read.
pub const PARQUET: &str = "series.parquet";
/// The other one.
const CSV: &str = "series.csv";

/// Why a series cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadBackError {
    /// Neither form is there.
    #[error(
        "neither {PARQUET} nor {CSV} of the run is in {}; let --outputs of the run name parquet or csv",
        folder.display()
    )]
    NoSeries {
        /// Where they were looked for.
        folder: PathBuf,
    },

    /// A file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file does not hold what it should.
    #[error("{}, row {row}: {what}; it is no series of this run", path.display())]
    NoSeriesFile {
        /// The file.
        path: PathBuf,
        /// The row, from 1, a header not counted; 0 for the file as a whole.
        row: usize,
        /// What is wrong.
        what: String,
    },
}

/// Reads the series in an output folder, from Parquet or from CSV, with so many label columns and
/// times of this grain.
///
/// # Errors
/// When it is not there, or cannot be read or understood.
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

/// What is wrong with a file.
enum Problem {
    Io(io::Error),
    Row(usize, String),
}

impl From<PolarsError> for Problem {
    fn from(error: PolarsError) -> Self {
        Self::Row(0, first_line(&error.to_string()))
    }
}

/// What polars says may have several lines.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A series that grows by rows in their order.
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
            text => text.parse().map(Some).map_err(|_| wrong("no number")),
        };
        let time = bucket(field(0)?).ok_or(wrong("no time"))?;
        series.push(record.iter().take(labels), time, number(1)?, number(2)?);
    }
    Ok(series.0)
}

/// A time as `series.csv` shows it, with an hour or without.
fn bucket(text: &str) -> Option<TimeBucket> {
    let time: DateTime = text.parse().ok()?;
    let timestamp = Offset::UTC.to_timestamp(time).ok()?;
    TimeBucket::from_hours(timestamp.as_second().div_euclid(3_600))
}

fn from_parquet(path: &Path, labels: usize, grain: Grain) -> Result<Series, Problem> {
    let file = File::open(path).map_err(Problem::Io)?;
    let read = guarded(|| ParquetReader::new(file).finish());
    let frame = read.map_err(|panic| Problem::Row(0, first_line(&panic)))??;
    // By place, for a label column may be called like another one.
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
        let time = time.ok_or_else(|| Problem::Row(row + 1, "no time".to_owned()))?;
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
    fn a_series_comes_back_from_either_form_as_it_was() {
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
    fn what_is_no_series_is_named_with_its_place() {
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
        assert!(error.contains("series.csv, row 2: no time"), "{error}");
        fs::write(folder.path().join("series.parquet"), "PAR1").expect("written");
        let error = read(true);
        assert!(error.contains("series.parquet, row 0:"), "{error}");
    }
}

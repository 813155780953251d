//! The output files of a run, one exporter for each format. An [`Exporter`] makes the bytes of one file
//! from the table or the report, and [`crate::outputs`] writes the file.

mod axes;
mod label_places;
mod lines;
mod page_series;
pub mod report_html;
pub mod report_md;
pub mod series_csv;
pub mod series_parquet;
pub mod series_svg;
pub mod table_csv;

use std::io::{self, Write};

use clap::ValueEnum;
use computations::positivity::Series;
use pipeline::Grain;

pub use report_html::ReportHtml;
pub use report_md::ReportMd;
pub use series_csv::SeriesCsv;
pub use series_parquet::SeriesParquet;
pub use series_svg::SeriesSvg;
pub use table_csv::{RunTable, TableCsv};

/// A format of output, chosen by `--outputs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Format {
    /// The series, or another computation's table, as CSV.
    Csv,
    /// The series as Parquet.
    Parquet,
    /// The series as a picture.
    Svg,
    /// The report as Markdown.
    Md,
    /// The series and the report as one page.
    Html,
}

/// An exporter of one file. The same input gives the same bytes, on every machine and at every time.
pub trait Exporter {
    /// The name of the file in the output folder.
    fn file_name(&self) -> String;

    /// Writes the whole file.
    ///
    /// # Errors
    /// When `out` cannot be written.
    fn export(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// A series with the names of its columns.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The groups of the series.
    pub series: &'a Series,
    /// The names of the label columns, in order.
    pub label_columns: &'a [String],
    /// The grain of its times.
    pub grain: Grain,
    /// Whether it was added by `--grain-out`, so that the name of its file has the grain.
    pub added: bool,
}

impl<'a> Table<'a> {
    /// The series at the grain of its run.
    pub fn of_run(series: &'a Series, label_columns: &'a [String], grain: Grain) -> Self {
        Self {
            series,
            label_columns,
            grain,
            added: false,
        }
    }

    fn file_name(&self, extension: &str) -> String {
        match self.added {
            false => format!("series.{extension}"),
            true => format!("series-{}.{extension}", self.grain),
        }
    }
}

#[cfg(test)]
pub(crate) mod test_series {
    //! Series for the tests of the exporters.

    use computations::positivity::{Series, SeriesRow};
    use pipeline::{LabelSet, TimeBucket};

    /// A row of a series, with its time in hours since 1970.
    pub(crate) fn row(label_set: u32, hours: i64, tests: u64, positive: u64) -> SeriesRow {
        SeriesRow {
            label_set,
            hours: TimeBucket::from_hours(hours).expect("in range").hours(),
            tests,
            positive,
        }
    }

    /// A series of one label column.
    pub(crate) fn series(labels: &[&str], rows: Vec<SeriesRow>) -> Series {
        Series {
            label_sets: labels.iter().map(|&label| LabelSet::new([label])).collect(),
            rows,
        }
    }

    /// Names as owned strings.
    pub(crate) fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }
}

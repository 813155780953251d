//! `rollcall report`: generates the page of an earlier run from its files, for example with a newer
//! version of rollcall.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aggregator::export::{Exporter, ReportHtml, SeriesCsv, Table};
use aggregator::outputs::{self, Outputs, REPORT_JSON};
use aggregator::read_back::{self, ReadBackError};
use aggregator::report::SCHEMA_VERSION;
use clap::Args;
use computations::positivity::Series;
use pipeline::Grain;
use serde::Deserialize;
use serde::de::IgnoredAny;
use service::{Ending, Exit, LogArgs, print};

/// The options of `rollcall report`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall report                     out/report.html from out/report.json and out/series.parquet
  rollcall report results/tuesday     another folder; series.csv is read if there is no Parquet")]
pub struct ReportArgs {
    /// Output folder of a run, with report.json and series.parquet or series.csv
    #[arg(value_name = "FOLDER", default_value = "out")]
    folder: PathBuf,

    /// Log level and format.
    #[command(flatten, next_help_heading = "Output")]
    pub log: LogArgs,
}

/// An error of `rollcall report`.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A report that cannot be read.
    #[error("cannot read {}; name the output folder of a run", path.display())]
    NoReport {
        /// The path of the report.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file that is no report.
    #[error("{} is no report of rollcall", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },

    /// A report with another version of the schema.
    #[error(
        "{} has the schema version {found}, this program reads {SCHEMA_VERSION}; use the version that wrote it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
    },

    /// A report of a run with a table.
    #[error("{} is of a run with a table, and the page is for runs with a series", path.display())]
    NoSeriesRun {
        /// The file.
        path: PathBuf,
    },

    /// A series that is missing or cannot be read.
    #[error(transparent)]
    Series(#[from] ReadBackError),

    /// A series of another run.
    #[error(
        "the series in {} has the digest {found}, in {REPORT_JSON} it is {expected}: they are not of \
         the same run, or a file was changed",
        folder.display()
    )]
    Digest {
        /// The folder.
        folder: PathBuf,
        /// The digest in the report.
        expected: String,
        /// The digest of the file.
        found: String,
    },

    /// The page could not be written.
    #[error(transparent)]
    Write(#[from] aggregator::Error),

    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
}

impl Ending for ReportError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoReport { .. }
            | Self::NotAReport { .. }
            | Self::Schema { .. }
            | Self::NoSeriesRun { .. }
            | Self::Series(_) => Exit::Usage,
            Self::Digest { .. } | Self::Print(_) => Exit::Failure,
            Self::Write(error) => error.exit(),
        }
    }
}

/// The part of a report that is needed to read its series.
#[derive(Deserialize)]
struct Known {
    schema_version: u32,
    run: KnownRun,
    series: KnownSeries,
    table: Option<IgnoredAny>,
    files: Vec<KnownFile>,
}

#[derive(Deserialize)]
struct KnownRun {
    grouping: KnownGrouping,
}

#[derive(Deserialize)]
struct KnownGrouping {
    label_columns: Vec<String>,
    /// The grain of time; `None` when groups have no time.
    grain: Option<Grain>,
}

#[derive(Deserialize)]
struct KnownSeries {
    /// The digest of the series; `None` when nothing was counted.
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct KnownFile {
    name: String,
    sha256: String,
}

/// Generates the page of the run in a folder, and prints its path.
///
/// # Errors
/// When report or series are missing or invalid, are of different runs, or the page cannot be
/// written.
pub fn run(args: &ReportArgs) -> Result<Exit, ReportError> {
    let folder = &args.folder;
    let path = folder.join(REPORT_JSON);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ReportError::NoReport { path, source }),
    };
    let not_a_report = |source| ReportError::NotAReport {
        path: path.clone(),
        source,
    };
    let known: Known = serde_json::from_str(&text).map_err(not_a_report)?;
    if known.schema_version != SCHEMA_VERSION {
        let found = known.schema_version;
        return Err(ReportError::Schema { path, found });
    }
    let KnownGrouping {
        label_columns,
        grain,
    } = known.run.grouping;
    let Some(grain) = grain.filter(|_| known.table.is_none()) else {
        return Err(ReportError::NoSeriesRun { path });
    };
    let series = match &known.series.sha256 {
        None => Series::default(),
        Some(_) => {
            let parquet = is_parquet(folder, &known.files)?;
            read_back::series(folder, parquet, label_columns.len(), grain)?
        }
    };
    let table = Table {
        series: &series,
        label_columns: &label_columns,
        grain,
        added: false,
    };
    if let Some(expected) = known.series.sha256 {
        check(table, folder, expected)?;
    }
    let mut page = ReportHtml::new(table, &text).map_err(not_a_report)?;
    let outputs = Outputs::of_ended_run(folder);
    let file = outputs.export(&mut page)?;
    outputs.place()?;
    if !args.log.quiet {
        let path = folder.join(file.name);
        print(&format!("{}\n", path.display())).map_err(ReportError::Print)?;
    }
    Ok(Exit::Complete)
}

/// Checks that the series has the digest in the report.
fn check(table: Table<'_>, folder: &Path, expected: String) -> Result<(), ReportError> {
    let mut csv = SeriesCsv::new(table);
    csv.export(&mut io::sink()).map_err(ReportError::Print)?;
    let found = csv.into_digest().unwrap_or_default();
    match found == expected {
        true => Ok(()),
        false => Err(ReportError::Digest {
            folder: folder.to_owned(),
            expected,
            found,
        }),
    }
}

/// Whether the run has written its series as Parquet, and the file exists. A Parquet file of an
/// earlier run is ignored, and a file with another digest is an error, so that none but the run's
/// own file is decoded.
fn is_parquet(folder: &Path, files: &[KnownFile]) -> Result<bool, ReportError> {
    let Some(own) = files.iter().find(|file| file.name == read_back::PARQUET) else {
        return Ok(false);
    };
    match outputs::digest(&folder.join(read_back::PARQUET)) {
        Ok((_, found)) if found == own.sha256 => Ok(true),
        Ok((_, found)) => Err(ReportError::Digest {
            folder: folder.to_owned(),
            expected: own.sha256.clone(),
            found,
        }),
        // A file that cannot be read counts as missing; the series is then read from CSV.
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parquet_file_that_is_not_the_runs_own_is_not_decoded() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = |sha256: &str| {
            let name = "series.parquet".to_owned();
            [KnownFile {
                name,
                sha256: sha256.to_owned(),
            }]
        };
        let check = |files: &[KnownFile]| is_parquet(folder.path(), files);
        assert!(!check(&files("ab12")).expect("there is none"));
        fs::write(folder.path().join("series.parquet"), "abc").expect("written");
        // The example of FIPS 180-4.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&files(abc)).expect("it is that"));
        assert!(!check(&[]).expect("it is an earlier run's"));
        let error = check(&files("ab12")).expect_err("it is another one");
        assert!(error.to_string().contains(abc), "{error}");
    }
}

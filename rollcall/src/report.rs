//! `rollcall report`: makes the page of a run again from the files that the run left behind, for
//! those who did not ask for it then or have a newer rollcall now.

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
use service::{Ending, Exit, LogArgs, say};

/// The options of `rollcall report`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall report                     makes out/report.html from out/report.json and out/series.parquet
  rollcall report results/tuesday     the same elsewhere, from series.csv if there is no Parquet")]
pub struct ReportArgs {
    /// Output folder of a run, with report.json and series.parquet or series.csv
    #[arg(value_name = "FOLDER", default_value = "out")]
    folder: PathBuf,

    /// How much is said.
    #[command(flatten, next_help_heading = "Output")]
    pub log: LogArgs,
}

/// Why the page cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no report.
    #[error("cannot read {}; name the output folder of a run", path.display())]
    NoReport {
        /// Where it was looked for.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// The report is not one.
    #[error("{} is no report of rollcall", path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The report has another schema.
    #[error(
        "{} has schema version {found}, this rollcall knows {SCHEMA_VERSION}; use the one that made it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },

    /// The run left a table.
    #[error("{} is of a run that leaves a table, and a page shows a series", path.display())]
    NoSeriesRun {
        /// The file.
        path: PathBuf,
    },

    /// The series is not there or cannot be read.
    #[error(transparent)]
    Series(#[from] ReadBackError),

    /// The series is that of another run.
    #[error(
        "the series in {} has digest {found}, its {REPORT_JSON} says {expected}: they are not of one \
         run, or a file was changed",
        folder.display()
    )]
    Digest {
        /// The folder.
        folder: PathBuf,
        /// As the report has it.
        expected: String,
        /// As the file has it.
        found: String,
    },

    /// The page cannot be written.
    #[error(transparent)]
    Write(#[from] aggregator::Error),

    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Say(#[source] io::Error),
}

impl Ending for ReportError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoReport { .. }
            | Self::NotAReport { .. }
            | Self::Schema { .. }
            | Self::NoSeriesRun { .. }
            | Self::Series(_) => Exit::Usage,
            Self::Digest { .. } | Self::Say(_) => Exit::Failure,
            Self::Write(error) => error.exit(),
        }
    }
}

/// What has to be known of a report to read its series.
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
    /// `None` when groups have no time.
    grain: Option<Grain>,
}

#[derive(Deserialize)]
struct KnownSeries {
    /// `None` when nothing was counted.
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct KnownFile {
    name: String,
    sha256: String,
}

/// Makes the page of the run in a folder, and says where it is.
///
/// # Errors
/// When report or series are not there, do not belong together, or the page cannot be written.
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
        say(&format!("{}\n", path.display())).map_err(ReportError::Say)?;
    }
    Ok(Exit::Complete)
}

/// Whether the series is the one that the report speaks of.
fn check(table: Table<'_>, folder: &Path, expected: String) -> Result<(), ReportError> {
    let mut csv = SeriesCsv::new(table);
    csv.export(&mut io::sink()).map_err(ReportError::Say)?;
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

/// Whether the run wrote its series as Parquet, and that is there. No other file is decoded; one that
/// an earlier run left is passed over.
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
        // What cannot be read is not there.
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parquet_file_that_the_run_did_not_write_is_not_decoded() {
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
        // FIPS 180-4's own example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check(&files(abc)).expect("it is that"));
        assert!(!check(&[]).expect("it is an earlier run's"));
        let error = check(&files("ab12")).expect_err("it is another one");
        assert!(error.to_string().contains(abc), "{error}");
    }
}

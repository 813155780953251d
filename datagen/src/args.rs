//! The command line of `datagen`, which is converted once into a validated [`Config`].

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use clap::{Parser, ValueEnum};
use jiff::civil::Date;
use service::LogArgs;
use service::exit::EXIT_CODES_HELP;

use crate::config::Config;
use crate::countries::COUNTRIES;
use crate::error::Error;

/// Write fake COVID test records as CSV or Parquet
///
/// The same options give the same bytes, on every machine and with any number of threads.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = after_help())]
pub struct Args {
    /// Rows to write, without the header
    #[arg(long, value_name = "ROWS", default_value_t = Config::default().rows)]
    pub rows: u64,

    /// File to write, or - for standard output
    #[arg(long, value_name = "FILE", default_value = "covid-tests.csv")]
    pub out: PathBuf,

    /// Format of the file [default: parquet if the name of the file ends in .parquet, else csv]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Seed of the random numbers
    #[arg(long, value_name = "SEED", default_value_t = Config::default().seed)]
    pub seed: u64,

    /// Number of countries, most populous first [default: all 195]
    #[arg(long, value_name = "COUNTRIES")]
    pub countries: Option<usize>,

    /// First day of tests, inclusive
    #[arg(long, value_name = "DATE", default_value_t = Config::default().from)]
    pub from: Date,

    /// Day after the last day of tests
    #[arg(long, value_name = "DATE", default_value_t = Config::default().to)]
    pub to: Date,

    /// Share of rows to spoil, from 0 to 1
    ///
    /// A spoiled row has a field too few or too many, an unparsable or empty test date, an unknown
    /// result, broken quotes, or a country that is not UTF-8. All other rows are the same as
    /// without this option.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub malformed: f64,

    /// Threads that generate rows [default: one per core]
    #[arg(long, value_name = "THREADS")]
    pub threads: Option<usize>,

    /// Log level and format.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// CSV with a header.
    Csv,
    /// Apache Parquet with typed columns, compressed with zstd.
    Parquet,
}

impl Args {
    /// The format of the option, or else of the file's extension.
    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| match self.out.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("parquet") => Format::Parquet,
            _ => Format::Csv,
        })
    }

    /// The configuration of these arguments.
    ///
    /// # Errors
    /// The errors of [`Config::check`]; [`Error::SpoiledParquet`].
    pub fn config(&self) -> Result<Config, Error> {
        let config = Config {
            rows: self.rows,
            seed: self.seed,
            countries: self.countries.unwrap_or(COUNTRIES.len()),
            from: self.from,
            to: self.to,
            malformed: self.malformed,
            threads: self
                .threads
                .unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get)),
        };
        config.check()?;
        if self.format() == Format::Parquet && config.malformed > 0.0 {
            return Err(Error::SpoiledParquet);
        }
        Ok(config)
    }

    /// Whether the output is standard output.
    pub(crate) fn to_stdout(&self) -> bool {
        self.out == Path::new("-")
    }
}

fn after_help() -> String {
    format!(
        "\
Examples:
  datagen
  datagen --rows 100000 --countries 20 --out small.csv
  datagen --out covid-tests.parquet
  datagen --malformed 0.01 --seed 7 --out dirty.csv
  datagen --rows 1000 --out - | head

{EXIT_CODES_HELP}"
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_options_give_the_default_configuration() {
        let args = Args::parse_from(["datagen", "--threads", "1"]);
        assert_eq!(args.config().expect("valid"), Config::default());
    }

    #[test]
    fn the_format_follows_the_file_name_unless_an_option_names_it() {
        let format = |arguments: &[&str]| {
            let args = Args::parse_from(["datagen"].iter().chain(arguments));
            args.format()
        };
        assert_eq!(format(&[]), Format::Csv);
        assert_eq!(format(&["--out", "a.PARQUET"]), Format::Parquet);
        assert_eq!(
            format(&["--out", "-", "--format", "parquet"]),
            Format::Parquet
        );
        assert_eq!(
            format(&["--out", "a.parquet", "--format", "csv"]),
            Format::Csv
        );
    }

    #[test]
    fn rows_of_a_parquet_file_cannot_be_spoiled() {
        let args = Args::parse_from(["datagen", "--out", "a.parquet", "--malformed", "0.1"]);
        let error = args.config().expect_err("its columns have types");
        assert!(matches!(error, Error::SpoiledParquet), "{error}");
    }

    #[test]
    fn the_help_names_the_number_of_countries() {
        let all = format!("all {}", COUNTRIES.len());
        let help = Args::command().render_long_help().to_string();
        assert!(help.contains(&all));
    }
}

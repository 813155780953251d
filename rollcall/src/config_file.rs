//! The configuration file: `rollcall.toml` in the current folder, or the file that `--config`
//! names. Its keys are names of options. A key at the top is for every command with that option, a
//! key in a section (`[run]`, `[worker]`, …) for that command.
//!
//! The values become the defaults of the options, and the command line is parsed again with them.
//! So the command line overrides the environment, the environment overrides the file, and no other
//! module depends on the file. A value that conflicts with an argument or a variable is left out.
//!
//! `settings` parses the file, `places` lists the commands and their options, `defaults` makes the
//! values defaults.

mod defaults;
mod error;
mod places;
mod settings;

use std::env;
use std::ffi::OsString;
use std::path::Path;

use clap::FromArgMatches;

use crate::args::Cli;
pub use error::Error;
use places::CONFIG_OPTION;
pub use service::process::CONFIG_VARIABLE;
use settings::File;

/// The file that is read when none is named, if it exists.
pub const DEFAULT_FILE: &str = "rollcall.toml";

/// The commands that read no file, so that they do not fail because of an invalid one.
const WITHOUT_FILE: [&str; 2] = ["completions", "man"];

/// Parses the command line of this process with the values of the file as defaults. Like clap, it
/// ends the process after printing help, or an error of the command line.
///
/// # Errors
/// When the file cannot be read or is invalid.
pub fn parse() -> Result<Cli, Error> {
    let arguments: Vec<OsString> = env::args_os().collect();
    let given = Cli::definition().get_matches_from(&arguments);
    let named = given.get_one::<OsString>(CONFIG_OPTION);
    let needs_none = given
        .subcommand_name()
        .is_some_and(|name| WITHOUT_FILE.contains(&name));
    let file = match needs_none {
        true => None,
        false => File::open(named.map(OsString::as_os_str))?,
    };
    let matches = match file {
        Some(file) => file
            .apply(Cli::definition(), &given)?
            .get_matches_from(&arguments),
        None => given,
    };
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

/// Checks the text of a file, as [`parse`] does for a command line without arguments.
///
/// # Errors
/// When the text is invalid.
pub fn check(text: &str) -> Result<(), Error> {
    let given = Cli::definition().get_matches_from(["rollcall"]);
    let file = File::parse(Path::new(DEFAULT_FILE), text)?;
    file.apply(Cli::definition(), &given).map(drop)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::args::{Command as Chosen, Engine};

    /// The command of a command line with a file.
    fn parse(file: &str, arguments: &[&str]) -> Result<Chosen, Error> {
        let arguments = [&["rollcall"], arguments].concat();
        let given = Cli::definition().try_get_matches_from(&arguments);
        let given = given.expect("valid arguments");
        let file = File::parse(Path::new("rollcall.toml"), file)?;
        let command = file.apply(Cli::definition(), &given)?;
        let matches = command.try_get_matches_from(&arguments);
        let cli = Cli::from_arg_matches(&matches.expect("still valid"));
        Ok(cli.expect("a command").command())
    }

    #[track_caller]
    fn run(file: &str, arguments: &[&str]) -> crate::args::RunArgs {
        match parse(file, arguments) {
            Ok(Chosen::Run(args)) => args,
            other => panic!("not a run: {other:?}"),
        }
    }

    #[track_caller]
    fn worker(file: &str, arguments: &[&str]) -> ::worker::Args {
        match parse(file, &[&["worker"], arguments].concat()) {
            Ok(Chosen::Worker(args)) => args,
            other => panic!("not a worker: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(file: &str) -> String {
        let error = parse(file, &[]).expect_err("it is wrong");
        error.to_string()
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let file = "[run]\nworkers = 3\nengine = \"local\"\n";
        let args = run(file, &["run", "--workers", "5"]);
        assert_eq!(args.workers, NonZeroUsize::new(5));
        assert_eq!(args.engine, Engine::Local);
    }

    #[test]
    fn without_a_command_the_section_of_run_applies() {
        assert_eq!(run("[run]\nrows = 7\n", &[]).rows, 7);
    }

    #[test]
    fn a_key_at_the_top_is_for_every_command_with_the_option() {
        let file =
            "bootstrap-servers = \"kafka:9092\"\ngroup = \"all\"\n[worker]\ngroup = \"own\"\n";
        let args = worker(file, &[]);
        assert_eq!(args.broker.bootstrap_servers.as_deref(), Some("kafka:9092"));
        assert_eq!(args.group.as_deref(), Some("own"));
        let Ok(Chosen::Dispatcher(args)) = parse(file, &["dispatcher", "a.csv"]) else {
            panic!("not a dispatcher");
        };
        assert_eq!(args.group.as_deref(), Some("all"));
    }

    #[test]
    fn arguments_replace_a_list_of_the_file_and_do_not_extend_it() {
        let file = "by = [\"country\", \"city\"]\nX = [\"linger.ms=1\", \"acks=all\"]\n";
        let args = run(file, &[]);
        assert_eq!(args.grouping.by, ["country", "city"]);
        assert_eq!(args.broker.properties.len(), 2);
        assert_eq!(run(file, &["--by", "city"]).grouping.by, ["city"]);
    }

    #[test]
    fn switches_and_counts_can_be_set() {
        let args = run("keep-topics = true\nverbose = 2\n", &[]);
        assert!(args.keep_topics);
        assert_eq!(args.log.verbose, 2);
        assert!(!run("keep-topics = false\n", &[]).keep_topics);
    }

    #[test]
    fn a_value_that_conflicts_with_the_command_line_is_left_out() {
        let args = run("quiet = true\nrows = 5\n", &["a.csv", "-v"]);
        assert!(!args.log.quiet);
        assert_eq!(args.log.verbose, 1);
        assert!(run("verbose = 2\n", &["--quiet"]).log.quiet);
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_option() {
        let error = refused("rows = 5\n\n[worker]\ngruop = \"x\"\n");
        let expected = "rollcall.toml:4: unknown key gruop in [worker]; did you mean group?";
        assert_eq!(error, expected);
        let error = refused("zzz = 1\n");
        assert_eq!(
            error,
            "rollcall.toml:1: unknown key zzz; rollcall --help lists the options"
        );
    }

    #[test]
    fn an_unknown_section_is_an_error_with_the_nearest_command_even_when_it_is_empty() {
        let error = refused("[agregator]\n");
        let expected = "rollcall.toml:1: unknown section [agregator]; did you mean [aggregator]?";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_with_the_expected_one() {
        for (line, message) in [
            ("workers = true", "workers: expected a value"),
            ("quiet = 1", "quiet: expected true or false"),
            ("rows = [1, 2]", "rows: expected one value, not a list"),
            ("by = [[1]]", "by: an option cannot be a list with"),
            ("verbose = \"much\"", "verbose: expected a number"),
            ("rows = 0", "rows: invalid value '0' for '--rows <ROWS>'"),
            (
                "[run]\nengine = \"spark\"",
                "[possible values: kafka, local, loop]",
            ),
        ] {
            let error = refused(line);
            assert!(error.contains(message), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn invalid_toml_is_an_error_with_its_line() {
        let error = refused("rows = 5\nworkers 3\n");
        assert!(error.starts_with("rollcall.toml:2: "), "{error}");
    }

    #[test]
    fn the_file_cannot_name_another_one() {
        assert!(refused("config = \"other.toml\"\n").contains("unknown key config"));
    }

    #[test]
    fn a_file_can_have_a_section_for_every_command() {
        let file = "\
            bootstrap-servers = \"kafka:9092\"\n\
            topic-prefix = \"tests\"\n\
            [run]\nevery = \"day\"\n\
            [dispatcher]\nretention = \"30d\"\n\
            [worker]\nthreads = 2\n\
            [aggregator]\ntimeout = \"5m\"\n\
            [doctor]\nworkers = 8\n\
            [runs]\njson = true\n\
            [datagen]\nfrom = 2020-03-01\n";
        assert_eq!(worker(file, &[]).threads.get(), 2);
        assert!(parse(file, &["runs", "rm", "a-run"]).is_ok());
    }
}

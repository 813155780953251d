//! Options from a file: `rollcall.toml` in the current folder, or the one that `--config` names. Its
//! keys are the options' names, at the top for every command that has such an option, in a section
//! (`[run]`, `[worker]`, …) for one.
//!
//! What the file says becomes the options' defaults, and the command line is parsed again with
//! these: so the command line beats the environment, the environment the file, and nothing below
//! knows of the file. Arguments that contradict what was given by hand are left out.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{env, fs, io, mem};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Id};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::Cli;

/// The variable that names the file; set and empty: there is none.
pub const CONFIG_VARIABLE: &str = "ROLLCALL_CONFIG";

/// The file that is read where none is named, if it is there.
pub const DEFAULT_FILE: &str = "rollcall.toml";

/// The command whose options `rollcall` has without a command, too.
const DEFAULT_COMMAND: &str = "run";

/// The option that names the file, which cannot stand in it.
const CONFIG_OPTION: &str = "config";

/// Commands that need no file, and so do not fail for a wrong one.
const WITHOUT_FILE: [&str; 2] = ["completions", "man"];

/// How like a name must be to be meant.
const LIKENESS: f64 = 0.7;

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; give another --config, or '' for none", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// It is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },

    /// A key that is no option.
    #[error(
        "{}:{line}: unknown key {key}{}; {}",
        path.display(),
        section.as_ref().map_or(String::new(), |section| format!(" in [{section}]")),
        match nearest {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!(
                "rollcall {}--help lists the options",
                section.as_ref().map_or(String::new(), |section| format!("{section} "))
            ),
        }
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The section it stands in.
        section: Option<String>,
        /// The option that is most like it.
        nearest: Option<String>,
    },

    /// A section that is no command.
    #[error(
        "{}:{line}: unknown section [{section}]; {}",
        path.display(),
        match nearest {
            Some(nearest) => format!("did you mean [{nearest}]?"),
            None => "rollcall --help lists the commands".to_owned(),
        }
    )]
    UnknownSection {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The section.
        section: String,
        /// The command that is most like it.
        nearest: Option<String>,
    },

    /// A value that the option does not take.
    #[error("{}:{line}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What it takes.
        message: String,
    },
}

/// Parses this process's command line, with the file's options as defaults. As clap does, prints
/// help and ends the process where it is asked for or an argument is wrong.
///
/// # Errors
/// When the file is wrong.
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

/// A file, read.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    settings: Vec<Setting>,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    section: Option<String>,
    key: String,
    value: Value,
    line: usize,
}

/// A value, as an option can take it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// For an option that is there or not.
    Switch(bool),
    One(String),
    /// For an option that may be given more than once.
    Several(Vec<String>),
    /// What no option takes, and what TOML calls it.
    Other(&'static str),
}

impl File {
    /// Reads the named file; where none is named, the default one if it is there.
    fn open(named: Option<&OsStr>) -> Result<Option<Self>, Error> {
        let path = match named {
            Some(name) if name.is_empty() => return Ok(None),
            Some(name) => Path::new(name),
            None => Path::new(DEFAULT_FILE),
        };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads the text of a file.
    fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let line_of = |offset: usize| {
            let before = text.as_bytes().iter().take(offset);
            before.filter(|&&byte| byte == b'\n').count() + 1
        };
        let table = DeTable::parse(text).map_err(|error| Error::Syntax {
            path: path.to_owned(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', ", "),
        })?;
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            match value.get_ref() {
                DeValue::Table(section) => {
                    let name = key.get_ref().as_ref();
                    // An empty one is looked at, too.
                    if section.is_empty() {
                        let line = line_of(key.span().start);
                        settings.push(Setting::new(Some(name), "", &DeValue::Boolean(true), line));
                    }
                    settings.extend(section.iter().map(|(key, value)| {
                        let line = line_of(key.span().start);
                        Setting::new(Some(name), key.get_ref(), value.get_ref(), line)
                    }));
                }
                value => {
                    let line = line_of(key.span().start);
                    settings.push(Setting::new(None, key.get_ref(), value, line));
                }
            }
        }
        // In the file's order; and what stands in a section comes after what holds for all.
        settings.sort_by_key(|setting| (setting.section.is_some(), setting.line));
        Ok(Self {
            path: path.to_owned(),
            settings,
        })
    }

    /// Makes what the file says the defaults of a command line that has parsed to `given`.
    fn apply(&self, command: Command, given: &ArgMatches) -> Result<Command, Error> {
        let contradicted = contradicted(command.clone(), given);
        let mut with_defaults = command.clone();
        for setting in &self.settings {
            let mut known = false;
            for place in places(&command) {
                if setting
                    .section
                    .as_ref()
                    .is_some_and(|own| *own != place.section)
                {
                    continue;
                }
                let Some(option) = find(place.of(&command), &setting.key) else {
                    continue;
                };
                known = true;
                self.check(setting, &command, &place, option)?;
                if place.is_chosen(given) && contradicted.contains(option.get_id()) {
                    continue;
                }
                let values = setting.value.as_defaults();
                let target = place.of_mut(&mut with_defaults);
                let id = option.get_id().clone();
                *target = mem::take(target).mut_arg(id, |option| option.default_values(values));
            }
            if !known {
                return Err(self.unknown(setting, &command));
            }
        }
        Ok(with_defaults)
    }

    /// Refuses a value of a kind, or a text, that the option does not take.
    fn check(
        &self,
        setting: &Setting,
        command: &Command,
        place: &Place,
        option: &Arg,
    ) -> Result<(), Error> {
        let name = flag(option);
        let wrong = |message: String| Error::Value {
            path: self.path.clone(),
            line: setting.line,
            key: setting.key.clone(),
            message,
        };
        let takes_value = option.get_action().takes_values();
        let several = matches!(option.get_action(), ArgAction::Append);
        let values = match &setting.value {
            Value::Other(what) => return Err(wrong(format!("an option cannot be a {what}"))),
            Value::Switch(_) if takes_value => {
                return Err(wrong("it takes a value, not true or false".to_owned()));
            }
            Value::Switch(_) => return Ok(()),
            Value::One(count) if matches!(option.get_action(), ArgAction::Count) => {
                let is_count = count.parse::<u8>().is_ok();
                let message = || wrong(format!("it takes a number, not {count:?}"));
                return is_count.then_some(()).ok_or_else(message);
            }
            _ if !takes_value => return Err(wrong("it takes true or false".to_owned())),
            Value::Several(_) if !several => {
                return Err(wrong("it takes one value, not a list".to_owned()));
            }
            Value::One(value) => std::slice::from_ref(value),
            Value::Several(values) => values,
        };
        // The option's own parser judges, in the command that it belongs to.
        let mut arguments: Vec<String> = vec![command.get_name().to_owned()];
        arguments.extend(place.path.iter().cloned());
        let joint = if name.starts_with("--") { "=" } else { "" };
        arguments.extend(values.iter().map(|value| format!("{name}{joint}{value}")));
        match command.clone().try_get_matches_from(arguments) {
            Err(error) if is_about(&error, &name) => Err(wrong(in_one_line(&error))),
            _ => Ok(()),
        }
    }

    fn unknown(&self, setting: &Setting, command: &Command) -> Error {
        let places = places(command);
        if let Some(section) = &setting.section
            && !places.iter().any(|place| place.section == *section)
        {
            let sections = places.iter().map(|place| place.section.clone());
            return Error::UnknownSection {
                path: self.path.clone(),
                line: setting.line,
                section: section.clone(),
                nearest: nearest(section, sections),
            };
        }
        let own = places.iter().filter(|place| {
            let section = setting.section.as_ref();
            section.is_none_or(|section| place.section == *section)
        });
        let names = own
            .flat_map(|place| options(place.of(command)))
            .filter_map(name_of);
        Error::UnknownKey {
            path: self.path.clone(),
            line: setting.line,
            key: setting.key.clone(),
            section: setting.section.clone(),
            nearest: nearest(&setting.key, names),
        }
    }
}

impl Setting {
    fn new(section: Option<&str>, key: &str, value: &DeValue<'_>, line: usize) -> Self {
        Self {
            section: section.map(str::to_owned),
            key: key.to_owned(),
            value: Value::new(value),
            line,
        }
    }
}

impl Value {
    fn new(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::Boolean(value) => Self::Switch(*value),
            DeValue::Array(values) => {
                let values: Option<Vec<String>> = values
                    .iter()
                    .map(Spanned::get_ref)
                    .map(|value| match Self::new(value) {
                        Self::One(value) => Some(value),
                        _ => None,
                    })
                    .collect();
                values.map_or(
                    Self::Other("list of anything but texts and numbers"),
                    Self::Several,
                )
            }
            DeValue::String(value) => Self::One(value.to_string()),
            DeValue::Integer(value) => Self::One(value.as_str().to_owned()),
            DeValue::Float(value) => Self::One(value.as_str().to_owned()),
            // An unquoted date is one that an option may take.
            DeValue::Datetime(value) => Self::One(value.to_string()),
            DeValue::Table(_) => Self::Other("table"),
        }
    }

    fn as_defaults(&self) -> Vec<String> {
        match self {
            Self::Switch(value) => vec![value.to_string()],
            Self::One(value) => vec![value.clone()],
            Self::Several(values) => values.clone(),
            Self::Other(_) => Vec::new(),
        }
    }
}

/// A command whose options a file can set: the section for it, and how to get there.
struct Place {
    section: String,
    path: Vec<String>,
}

impl Place {
    fn of<'a>(&self, root: &'a Command) -> &'a Command {
        self.path.iter().fold(root, |command, name| {
            command
                .find_subcommand(name)
                .expect("places are made of the commands that there are")
        })
    }

    fn of_mut<'a>(&self, root: &'a mut Command) -> &'a mut Command {
        self.path.iter().fold(root, |command, name| {
            command
                .find_subcommand_mut(name)
                .expect("places are made of the commands that there are")
        })
    }

    /// Whether it is the command that is to be done.
    fn is_chosen(&self, given: &ArgMatches) -> bool {
        chosen(given).0 == self.path
    }
}

/// All commands; the first is `rollcall` itself, which has the options of `run`.
fn places(root: &Command) -> Vec<Place> {
    let mut places = vec![Place {
        section: DEFAULT_COMMAND.to_owned(),
        path: Vec::new(),
    }];
    for command in root.get_subcommands() {
        let section = command.get_name().to_owned();
        places.push(Place {
            path: vec![section.clone()],
            section: section.clone(),
        });
        for inner in command.get_subcommands() {
            places.push(Place {
                path: vec![section.clone(), inner.get_name().to_owned()],
                section: section.clone(),
            });
        }
    }
    places
}

/// The command that is to be done, and what was given to it.
fn chosen(given: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let (mut path, mut own) = (Vec::new(), given);
    while let Some((name, inner)) = own.subcommand() {
        path.push(name.to_owned());
        own = inner;
    }
    (path, own)
}

/// The options of the chosen command that contradict one that was given by hand.
fn contradicted(mut root: Command, given: &ArgMatches) -> Vec<Id> {
    root.build();
    let (path, own) = chosen(given);
    let place = Place {
        section: String::new(),
        path,
    };
    let command = place.of(&root);
    let by_hand = |option: &&Arg| {
        let source = own.value_source(option.get_id().as_str());
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    let mut ids = Vec::new();
    let local = || command.get_arguments().filter(|arg| !arg.is_global_set());
    for given in local().filter(by_hand) {
        // Either of two may be the one that names the other.
        let conflicts = command.get_arg_conflicts_with(given).into_iter();
        ids.extend(conflicts.map(|other| other.get_id().clone()));
        ids.extend(
            local()
                .filter(|other| {
                    let conflicts = command.get_arg_conflicts_with(other);
                    conflicts.iter().any(|arg| arg.get_id() == given.get_id())
                })
                .map(|other| other.get_id().clone()),
        );
    }
    ids
}

/// The options of a command that a file can set.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|option| !option.is_positional() && option.get_id() != CONFIG_OPTION)
}

/// The key for an option: its long name, or its letter if it has no other.
fn name_of(option: &Arg) -> Option<String> {
    let letter = || option.get_short().map(String::from);
    option.get_long().map(str::to_owned).or_else(letter)
}

/// An option as it stands on a command line.
fn flag(option: &Arg) -> String {
    match (option.get_long(), option.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, letter) => format!("-{}", letter.unwrap_or_default()),
    }
}

fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    options(command).find(|option| name_of(option).as_deref() == Some(key))
}

fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    names
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// Whether an error is about the value of this option. Others are about what a file cannot give,
/// such as a data set.
fn is_about(error: &clap::Error, name: &str) -> bool {
    let about_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return false;
    };
    about_value && option.split([' ', '=']).next() == Some(name)
}

/// The first paragraph of clap's message.
fn in_one_line(error: &clap::Error) -> String {
    let message = error.to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let paragraph = message.lines().take_while(|line| !line.trim().is_empty());
    paragraph.map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::args::{Command as Chosen, Engine};

    /// What a command line comes to with a file.
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
    fn the_command_line_beats_the_file() {
        let file = "[run]\nworkers = 3\nengine = \"local\"\n";
        let args = run(file, &["run", "--workers", "5"]);
        assert_eq!(args.workers, NonZeroUsize::new(5));
        assert_eq!(args.engine, Engine::Local);
    }

    #[test]
    fn without_a_command_the_section_of_run_counts() {
        assert_eq!(run("[run]\nrows = 7\n", &[]).rows, 7);
    }

    #[test]
    fn a_key_at_the_top_is_for_every_command_that_has_the_option() {
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
    fn a_list_is_replaced_by_what_is_given_and_not_continued() {
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
    fn what_contradicts_the_command_line_is_left_out() {
        let args = run("quiet = true\nrows = 5\n", &["a.csv", "-v"]);
        assert!(!args.log.quiet);
        assert_eq!(args.log.verbose, 1);
        assert!(run("verbose = 2\n", &["--quiet"]).log.quiet);
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_option() {
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
    fn an_unknown_section_names_the_nearest_command_even_when_it_is_empty() {
        let error = refused("[agregator]\n");
        let expected = "rollcall.toml:1: unknown section [agregator]; did you mean [aggregator]?";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_value_of_the_wrong_kind_says_what_the_option_takes() {
        for (line, says) in [
            ("workers = true", "workers: it takes a value"),
            ("quiet = 1", "quiet: it takes true or false"),
            ("rows = [1, 2]", "rows: it takes one value, not a list"),
            ("by = [[1]]", "by: an option cannot be a list of"),
            ("verbose = \"much\"", "verbose: it takes a number"),
            ("rows = 0", "rows: invalid value '0' for '--rows <ROWS>'"),
            (
                "X = \"acks\"",
                "X: invalid value 'acks' for '-X <KEY=VALUE>'",
            ),
            (
                "[run]\nengine = \"spark\"",
                "[possible values: kafka, local]",
            ),
        ] {
            let error = refused(line);
            assert!(error.contains(says), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let error = refused("rows = 5\nworkers 3\n");
        assert!(error.starts_with("rollcall.toml:2: "), "{error}");
    }

    #[test]
    fn the_file_cannot_name_another_one() {
        assert!(refused("config = \"other.toml\"\n").contains("unknown key config"));
    }

    #[test]
    fn every_section_of_an_example_for_all_services_is_taken() {
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

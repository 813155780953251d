//! The places of options that a file can set: the commands and their options.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Id};

/// The command that `rollcall` runs without a command.
const DEFAULT_COMMAND: &str = "run";

/// The option that names the file, which the file cannot set.
pub(super) const CONFIG_OPTION: &str = "config";

/// A command whose options a file can set: its section in the file, and its path of subcommands.
pub(super) struct Place {
    pub(super) section: String,
    pub(super) path: Vec<String>,
}

impl Place {
    /// The command in the root command that the place was made from.
    pub(super) fn of<'a>(&self, root: &'a Command) -> &'a Command {
        self.path.iter().fold(root, |command, name| {
            command
                .find_subcommand(name)
                .expect("a place is made of commands of the root")
        })
    }

    /// The command, mutable.
    pub(super) fn of_mut<'a>(&self, root: &'a mut Command) -> &'a mut Command {
        self.path.iter().fold(root, |command, name| {
            command
                .find_subcommand_mut(name)
                .expect("a place is made of commands of the root")
        })
    }

    /// Whether the command line chooses this command.
    pub(super) fn is_chosen(&self, given: &ArgMatches) -> bool {
        chosen(given).0 == self.path
    }
}

/// The places of all commands. The first is `rollcall` itself, which has the options of `run`.
pub(super) fn places(root: &Command) -> Vec<Place> {
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

/// The path of the chosen command, and its arguments.
fn chosen(given: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let (mut path, mut own) = (Vec::new(), given);
    while let Some((name, inner)) = own.subcommand() {
        path.push(name.to_owned());
        own = inner;
    }
    (path, own)
}

/// The options of the chosen command that conflict with an argument or a variable.
pub(super) fn conflicting(mut root: Command, given: &ArgMatches) -> Vec<Id> {
    root.build();
    let (path, own) = chosen(given);
    let place = Place {
        section: String::new(),
        path,
    };
    let command = place.of(&root);
    let is_given = |option: &&Arg| {
        let source = own.value_source(option.get_id().as_str());
        matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    let mut ids = Vec::new();
    let local = || command.get_arguments().filter(|arg| !arg.is_global_set());
    for given in local().filter(is_given) {
        // Either of two conflicting options may declare the conflict.
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
pub(super) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|option| !option.is_positional() && option.get_id() != CONFIG_OPTION)
}

/// The key of an option: its long name, or its letter if it has none.
pub(super) fn name_of(option: &Arg) -> Option<String> {
    let letter = || option.get_short().map(String::from);
    option.get_long().map(str::to_owned).or_else(letter)
}

/// An option as it is written on a command line.
pub(super) fn flag(option: &Arg) -> String {
    match (option.get_long(), option.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, letter) => format!("-{}", letter.unwrap_or_default()),
    }
}

/// The option with this key.
pub(super) fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    options(command).find(|option| name_of(option).as_deref() == Some(key))
}

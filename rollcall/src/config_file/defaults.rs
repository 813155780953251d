//! The values of a file as defaults of a command line. An unknown key and a value that its option
//! does not take are errors with the line; the error of a key suggests the nearest option.

use std::mem;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use service::text::nearest;

use crate::config_file::error::Error;
use crate::config_file::places::{Place, conflicting, find, flag, name_of, options, places};
use crate::config_file::settings::{File, Setting, Value};

impl File {
    /// Makes the values of the file the defaults of a command line that was parsed to `given`.
    pub(super) fn apply(&self, command: Command, given: &ArgMatches) -> Result<Command, Error> {
        let conflicting = conflicting(command.clone(), given);
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
                if place.is_chosen(given) && conflicting.contains(option.get_id()) {
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

    /// Checks that the option takes the value: its type, and by the option's own parser its text.
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
                return Err(wrong("expected a value, not true or false".to_owned()));
            }
            Value::Switch(_) => return Ok(()),
            Value::One(count) if matches!(option.get_action(), ArgAction::Count) => {
                let is_count = count.parse::<u8>().is_ok();
                let message = || wrong(format!("expected a number, not {count:?}"));
                return is_count.then_some(()).ok_or_else(message);
            }
            _ if !takes_value => return Err(wrong("expected true or false".to_owned())),
            Value::Several(_) if !several => {
                return Err(wrong("expected one value, not a list".to_owned()));
            }
            Value::One(value) => std::slice::from_ref(value),
            Value::Several(values) => values,
        };
        // The option's own parser checks the text, in a command line of its command.
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
        // Text after a separator was probably meant as a value. It may be a secret, so it is not shown.
        let mut parts = setting.key.split(['=', ':', ' ']);
        let key = parts.next().unwrap_or_default();
        Error::UnknownKey {
            path: self.path.clone(),
            line: setting.line,
            key: key.to_owned(),
            section: setting.section.clone(),
            nearest: nearest(key, names),
        }
    }
}

/// Whether an error is about the value of this option. Others are about arguments that are missing
/// in the command line of the check, such as a data set.
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

/// The first paragraph of clap's message, in one line.
fn in_one_line(error: &clap::Error) -> String {
    let message = error.to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let paragraph = message.lines().take_while(|line| !line.trim().is_empty());
    paragraph.map(str::trim).collect::<Vec<_>>().join(" ")
}

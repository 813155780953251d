//! The parsed configuration file: keys with values and lines, not yet matched with options.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config_file::DEFAULT_FILE;
use crate::config_file::error::Error;

/// A parsed configuration file.
#[derive(Debug)]
pub struct File {
    pub(super) path: PathBuf,
    pub(super) settings: Vec<Setting>,
}

/// A key with its value and its line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) section: Option<String>,
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// A value of the file, by the kind of option that takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// For an option without a value.
    Switch(bool),
    One(String),
    /// For an option that can be repeated.
    Several(Vec<String>),
    /// A type that no option takes, by its name in TOML.
    Other(&'static str),
}

impl File {
    /// Reads the named file; without a name, the default file if it exists. An empty name is no
    /// file.
    pub(super) fn open(named: Option<&OsStr>) -> Result<Option<Self>, Error> {
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

    /// Parses the text of a file.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Error> {
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
                    // An empty section is a setting, too, so that its name is checked.
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
        // In the order of the file, but sections last, so that their values override those at the
        // top.
        settings.sort_by_key(|setting| (setting.section.is_some(), setting.line));
        Ok(Self {
            path: path.to_owned(),
            settings,
        })
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
                    Self::Other("list with values other than strings and numbers"),
                    Self::Several,
                )
            }
            DeValue::String(value) => Self::One(value.to_string()),
            DeValue::Integer(value) => Self::One(value.as_str().to_owned()),
            DeValue::Float(value) => Self::One(value.as_str().to_owned()),
            // An option may take a date, which TOML has without quotes.
            DeValue::Datetime(value) => Self::One(value.to_string()),
            DeValue::Table(_) => Self::Other("table"),
        }
    }

    /// The values of the option as on a command line.
    pub(super) fn as_defaults(&self) -> Vec<String> {
        match self {
            Self::Switch(value) => vec![value.to_string()],
            Self::One(value) => vec![value.clone()],
            Self::Several(values) => values.clone(),
            Self::Other(_) => Vec::new(),
        }
    }
}

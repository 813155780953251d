//! What a configuration file says, as keys with values and lines; which of them are options is not
//! known here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config_file::DEFAULT_FILE;
use crate::config_file::error::Error;

/// A file, read.
#[derive(Debug)]
pub struct File {
    pub(super) path: PathBuf,
    pub(super) settings: Vec<Setting>,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) section: Option<String>,
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// A value, as an option can take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
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

    /// Reads the text of a file.
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

    /// The texts that the option would have on a command line.
    pub(super) fn as_defaults(&self) -> Vec<String> {
        match self {
            Self::Switch(value) => vec![value.to_string()],
            Self::One(value) => vec![value.clone()],
            Self::Several(values) => values.clone(),
            Self::Other(_) => Vec::new(),
        }
    }
}

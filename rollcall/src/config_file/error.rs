//! The errors of a configuration file, with the line and the probable correction.

use std::io;
use std::path::PathBuf;

/// An error of a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}; give another --config, or '' for none", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// Text that is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The message of the parser.
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
        /// The section of the key; `None` at the top.
        section: Option<String>,
        /// The most similar option, if one is similar enough.
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
        /// The most similar command, if one is similar enough.
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
        /// The expected value, or the message of the option's parser.
        message: String,
    },
}

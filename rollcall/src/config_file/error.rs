//! Why a configuration file is refused: where it is wrong, and what was probably meant.

use std::io;
use std::path::PathBuf;

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

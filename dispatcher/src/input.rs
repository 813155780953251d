//! What a data set is read from: files, patterns of file names, or standard input, as one list in
//! the order in which its records count.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;
use service::Shutdown;

use crate::error::Error;
use crate::timestamp::TimeFormat;
use stream::Stream;

mod stream;

/// Stands for standard input on a command line.
const DASH: &str = "-";

/// The path of standard input on systems that have one.
const STANDARD: &str = "/dev/stdin";

/// A data set: where it is, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its files, in the order in which their records count; at least one, none twice.
    pub files: Vec<InputFile>,
    /// How those that are CSV are written.
    pub csv: CsvFormat,
    /// How times are written where they are text.
    pub time: TimeFormat,
}

impl Input {
    /// A data set of one CSV or Parquet file that is written in the usual way.
    pub fn of(path: &Path) -> Self {
        Self {
            files: vec![InputFile::Path(path.to_owned())],
            csv: CsvFormat::default(),
            time: TimeFormat::default(),
        }
    }

    /// Whether a path is that of one of its files, by whatever name: links are the files that they
    /// point to, and standard input may be a file as well.
    pub fn contains(&self, path: &Path) -> bool {
        let Some(file_at_path) = identity(path) else {
            return false;
        };
        self.files.iter().any(|file| match file {
            InputFile::Path(own) => identity(own) == Some(file_at_path),
            InputFile::Standard => identity(Path::new(STANDARD)) == Some(file_at_path),
        })
    }

    /// Whether it can be read a second time, as a run that is resumed has to.
    pub fn is_rereadable(&self) -> bool {
        !self.files.contains(&InputFile::Standard)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.files.as_slice() {
            [only] => write!(f, "{only}"),
            several => write!(f, "{} files", several.len()),
        }
    }
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFile {
    /// A file by its path.
    Path(PathBuf),
    /// Standard input.
    Standard,
}

impl fmt::Display for InputFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Standard => f.write_str("standard input"),
        }
    }
}

/// The bytes of a file of a data set, from its beginning.
pub struct Bytes<'a> {
    /// What reads them.
    pub reader: Box<dyn Read + Send + 'a>,
    /// How many there are; `None` for a pipe, which can be read only once, too.
    pub length: Option<u64>,
}

impl InputFile {
    /// Opens it. What is no file on a disk is waited for, until the process is to end: then reading
    /// fails.
    ///
    /// # Errors
    /// When it is not there, is a folder, or must not be read.
    pub fn open(&self, shutdown: &Shutdown) -> Result<Bytes<'static>, Error> {
        let Self::Path(path) = self else {
            // Not by way of its buffer, in which nobody could look for bytes.
            let own = io::stdin().as_fd().try_clone_to_owned();
            let own = own.map_err(|source| Error::Open {
                path: STANDARD.into(),
                source,
            })?;
            return Ok(Bytes {
                reader: Box::new(Stream::new(own.into(), shutdown)),
                length: None,
            });
        };
        let cannot_open = |source| Error::Open {
            path: path.clone(),
            source,
        };
        // A named pipe would else be opened when somebody opens its other end, and not before.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(cannot_open)?;
        let metadata = file.metadata().map_err(cannot_open)?;
        if metadata.is_dir() {
            return Err(cannot_open(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(if metadata.is_file() {
            Bytes {
                reader: Box::new(file),
                length: Some(metadata.len()),
            }
        } else {
            Bytes {
                reader: Box::new(Stream::new(file, shutdown)),
                length: None,
            }
        })
    }
}

/// The files that the arguments of a command line name, in this order; those of a pattern by name.
///
/// # Errors
/// When a pattern is none or matches no file, a folder cannot be listed, or a file is named twice,
/// by whatever names. That a file is not there is found when it is opened.
pub fn expand(arguments: &[PathBuf]) -> Result<Vec<InputFile>, Error> {
    let mut files = Vec::new();
    for argument in arguments {
        match argument.to_str() {
            Some(DASH) => files.push(InputFile::Standard),
            // A file whose name only looks like a pattern is meant itself.
            Some(pattern) if is_pattern(pattern) && !argument.exists() => {
                files.extend(matching(pattern)?.into_iter().map(InputFile::Path));
            }
            _ => files.push(InputFile::Path(argument.clone())),
        }
    }
    refuse_twice(&files)?;
    Ok(files)
}

fn is_pattern(argument: &str) -> bool {
    argument.contains(['*', '?', '['])
}

fn matching(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let paths = glob::glob(pattern).map_err(|source| Error::Pattern {
        pattern: pattern.to_owned(),
        source,
    })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| Error::Open {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::NoMatch(pattern.to_owned()));
    }
    files.sort();
    Ok(files)
}

/// Which file is at a path, or behind the links there; `None` when there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    // A pipe or a device keeps nothing that could be written over.
    found.is_file().then(|| (found.dev(), found.ino()))
}

/// Each record counts once, so each file does; links are the files that they point to.
fn refuse_twice(files: &[InputFile]) -> Result<(), Error> {
    let mut seen: HashMap<(u64, u64), &InputFile> = HashMap::new();
    let mut standard = None;
    for file in files {
        let before = match file {
            InputFile::Standard => standard.replace(file),
            InputFile::Path(path) => match fs::metadata(path) {
                Ok(found) => seen.insert((found.dev(), found.ino()), file),
                Err(_) => None,
            },
        };
        if let Some(before) = before {
            return Err(Error::SameFileTwice {
                first: before.to_string(),
                again: file.to_string(),
            });
        }
    }
    Ok(())
}

/// How a CSV file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvFormat {
    /// Stands between fields.
    pub delimiter: Delimiter,
    /// Stands around fields that have delimiters in them.
    pub quote: Quote,
}

impl CsvFormat {
    /// Puts both together.
    ///
    /// # Errors
    /// When they are the same byte.
    pub fn new(delimiter: Delimiter, quote: Quote) -> Result<Self, Error> {
        if quote.0 == Some(delimiter.0) {
            return Err(Error::SameBytes(delimiter.0.into()));
        }
        Ok(Self { delimiter, quote })
    }
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            delimiter: Delimiter(b','),
            quote: Quote(Some(b'"')),
        }
    }
}

/// The byte between the fields of a CSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiter(pub u8);

impl FromStr for Delimiter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tab" | "\\t" => Ok(Self(b'\t')),
            other => single_byte(other).map(Self).ok_or(
                "one ASCII character that ends no line is needed, or tab; \
                 a semicolon wants quotes in a shell: ';'",
            ),
        }
    }
}

/// The byte around fields of a CSV file; `None` when there is none, and quotes are text like any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote(pub Option<u8>);

impl FromStr for Quote {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            other => single_byte(other)
                .map(|byte| Self(Some(byte)))
                .ok_or("one ASCII character that ends no line is needed, or none"),
        }
    }
}

fn single_byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | 0) => Some(*byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            fs::write(folder.path().join(name), name).expect("it can be written");
        }
        folder
    }

    fn names(files: &[InputFile], folder: &Path) -> Vec<String> {
        let name = |file: &InputFile| match file {
            InputFile::Path(path) => path
                .strip_prefix(folder)
                .unwrap_or(path)
                .display()
                .to_string(),
            InputFile::Standard => DASH.to_owned(),
        };
        files.iter().map(name).collect()
    }

    #[test]
    fn files_keep_their_order_and_those_of_a_pattern_are_sorted() {
        let folder = folder_with(&["z.csv", "b.csv", "a.csv", "c.parquet"]);
        fs::create_dir(folder.path().join("d.csv")).expect("a folder");
        let at = |name| folder.path().join(name);
        let files = expand(&[at("c.parquet"), PathBuf::from("-"), at("*.csv")]).expect("all match");
        assert_eq!(
            names(&files, folder.path()),
            ["c.parquet", "-", "a.csv", "b.csv", "z.csv"]
        );
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error_that_names_it() {
        let folder = folder_with(&[]);
        let error = expand(&[folder.path().join("*.csv")]).expect_err("no file");
        assert!(
            error
                .to_string()
                .ends_with("/*.csv: no file has such a name"),
            "{error}"
        );
        let error = expand(&[PathBuf::from("a[.csv")]).expect_err("no pattern");
        assert!(matches!(error, Error::Pattern { .. }), "{error}");
    }

    #[test]
    fn a_name_that_looks_like_a_pattern_and_is_there_is_a_file() {
        let folder = folder_with(&["a[1].csv", "a1.csv"]);
        let files = expand(&[folder.path().join("a[1].csv")]).expect("it is there");
        assert_eq!(names(&files, folder.path()), ["a[1].csv"]);
    }

    #[test]
    fn the_same_file_twice_is_an_error_by_whatever_names() {
        let folder = folder_with(&["a.csv"]);
        let at = |name| folder.path().join(name);
        std::os::unix::fs::symlink(at("a.csv"), at("link.csv")).expect("a link");
        for again in [at("a.csv"), at("./a.csv"), at("link.csv"), at("[a].csv")] {
            let error = expand(&[at("a.csv"), again]).expect_err("the same file");
            assert!(matches!(error, Error::SameFileTwice { .. }), "{error}");
        }
        let dashes = expand(&[PathBuf::from("-"), PathBuf::from("-")]);
        let text = dashes.expect_err("it is read once").to_string();
        assert_eq!(
            text,
            "standard input is named twice: each record counts once"
        );
    }

    #[test]
    fn a_data_set_contains_its_files_by_whatever_names_and_no_other() {
        let folder = folder_with(&["a.csv", "b.csv"]);
        let at = |name| folder.path().join(name);
        std::os::unix::fs::symlink(at("a.csv"), at("soft.csv")).expect("a link");
        fs::hard_link(at("a.csv"), at("hard.csv")).expect("a link");
        let input = Input::of(&at("a.csv"));
        for own in ["a.csv", "./a.csv", "soft.csv", "hard.csv"] {
            assert!(input.contains(&at(own)), "{own}");
        }
        for other in ["b.csv", "none.csv"] {
            assert!(!input.contains(&at(other)), "{other}");
        }
        let device = Input::of(Path::new("/dev/null"));
        assert!(!device.contains(Path::new("/dev/null")));
    }

    #[test]
    fn delimiters_and_quotes_are_one_ascii_character_or_a_word() {
        assert_eq!("tab".parse(), Ok(Delimiter(b'\t')));
        assert_eq!("\\t".parse(), Ok(Delimiter(b'\t')));
        assert_eq!(";".parse(), Ok(Delimiter(b';')));
        assert_eq!("none".parse(), Ok(Quote(None)));
        assert_eq!("'".parse(), Ok(Quote(Some(b'\''))));
        for wrong in ["", ";;", "§", "\n", "\r"] {
            assert!(wrong.parse::<Delimiter>().is_err(), "{wrong:?}");
            assert!(wrong.parse::<Quote>().is_err(), "{wrong:?}");
        }
        let same = CsvFormat::new(Delimiter(b'|'), Quote(Some(b'|')));
        assert!(matches!(same, Err(Error::SameBytes('|'))));
    }
}

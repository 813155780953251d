//! The files of a data set: paths, patterns of file names and standard input, as one list in the order
//! in which records are read.

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

/// The argument for standard input on a command line.
const DASH: &str = "-";

/// The path of standard input, on systems that have one.
const STANDARD_INPUT: &str = "/dev/stdin";

/// The files of a data set, and their format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The files, in the order in which they are read; at least one, and none twice.
    pub files: Vec<InputFile>,
    /// The format of CSV files.
    pub csv: CsvFormat,
    /// The format of times that are text.
    pub time: TimeFormat,
}

impl Input {
    /// A data set of one file, in the default format.
    pub fn of(path: &Path) -> Self {
        Self {
            files: vec![InputFile::Path(path.to_owned())],
            csv: CsvFormat::default(),
            time: TimeFormat::default(),
        }
    }

    /// Whether a path refers to one of the files. A link refers to its target, and standard input may
    /// be a file as well.
    pub fn contains(&self, path: &Path) -> bool {
        let Some(file_at_path) = identity(path) else {
            return false;
        };
        self.files.iter().any(|file| match file {
            InputFile::Path(own) => identity(own) == Some(file_at_path),
            InputFile::Standard => identity(Path::new(STANDARD_INPUT)) == Some(file_at_path),
        })
    }

    /// Whether the data set can be read a second time, which the resumption of a run needs.
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

/// An opened file of a data set, at its beginning.
pub struct Bytes<'a> {
    /// The reader of its bytes.
    pub reader: Box<dyn Read + Send + 'a>,
    /// The number of bytes; `None` for a pipe or a device, which can be read only once.
    pub length: Option<u64>,
}

impl InputFile {
    /// Opens the file. Reading a pipe or a device waits for bytes, and fails when a shutdown is
    /// requested.
    ///
    /// # Errors
    /// When the file does not exist, is a folder, or may not be read.
    pub fn open(&self, shutdown: &Shutdown) -> Result<Bytes<'static>, Error> {
        let Self::Path(path) = self else {
            // Not through the buffer of `io::stdin`, which `poll` does not see.
            let own = io::stdin().as_fd().try_clone_to_owned();
            let own = own.map_err(|source| Error::Open {
                path: STANDARD_INPUT.into(),
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
        // Otherwise opening a named pipe would wait until its other end is opened.
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

/// The files of the arguments of a command line, in their order; the files of a pattern are sorted by
/// name.
///
/// # Errors
/// When a pattern is not valid or matches no file, a folder cannot be listed, or a file is named twice,
/// also by different names. A missing file is an error when it is opened.
pub fn expand(arguments: &[PathBuf]) -> Result<Vec<InputFile>, Error> {
    let mut files = Vec::new();
    for argument in arguments {
        match argument.to_str() {
            Some(DASH) => files.push(InputFile::Standard),
            // A file that exists is not a pattern, even if its name looks like one.
            Some(pattern) if is_pattern(pattern) && !argument.exists() => {
                files.extend(matching(pattern)?.into_iter().map(InputFile::Path));
            }
            _ => files.push(InputFile::Path(argument.clone())),
        }
    }
    refuse_twice(&files)?;
    Ok(files)
}

/// Whether an argument has the characters of a pattern.
fn is_pattern(argument: &str) -> bool {
    argument.contains(['*', '?', '['])
}

/// The files that match a pattern, sorted by name.
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

/// The device and inode of the file at a path, after following links; `None` when there is no regular
/// file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    // A pipe or a device has no content that could be overwritten.
    found.is_file().then(|| (found.dev(), found.ino()))
}

/// Checks that no file is in a list twice, because each record counts once. A link counts as its
/// target.
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

/// The format of CSV files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvFormat {
    /// The byte between fields.
    pub delimiter: Delimiter,
    /// The byte around fields that contain delimiters.
    pub quote: Quote,
}

impl CsvFormat {
    /// A format of a delimiter and a quote.
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

    /// Reads one ASCII character, or `tab`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tab" | "\\t" => Ok(Self(b'\t')),
            other => single_byte(other).map(Self).ok_or(
                "one ASCII character that ends no line is needed, or tab; \
                 a semicolon needs quotes in a shell: ';'",
            ),
        }
    }
}

/// The byte around fields of a CSV file; `None` when quotes have no special meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote(pub Option<u8>);

impl FromStr for Quote {
    type Err = &'static str;

    /// Reads one ASCII character, or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            other => single_byte(other)
                .map(|byte| Self(Some(byte)))
                .ok_or("one ASCII character that ends no line is needed, or none"),
        }
    }
}

/// The byte of a text that is one ASCII character other than a line break or nul.
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
    fn an_existing_file_whose_name_looks_like_a_pattern_is_that_file() {
        let folder = folder_with(&["a[1].csv", "a1.csv"]);
        let files = expand(&[folder.path().join("a[1].csv")]).expect("it is there");
        assert_eq!(names(&files, folder.path()), ["a[1].csv"]);
    }

    #[test]
    fn the_same_file_twice_is_an_error_also_by_different_names() {
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
    fn a_data_set_contains_its_files_by_any_name_and_no_other_file() {
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

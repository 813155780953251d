//! Rows that cannot be counted: by reason in numbers, with all their fields in a file, the first
//! few in words. None is dropped silently.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;
use crate::shown::shown;

/// How many rejected rows are shown when a run is given up.
const SHOWN: usize = 5;

/// So many characters are shown of a row, at most: a stray quote makes one row of many.
const SHOWN_CHARACTERS: usize = 200;

/// Why a row was rejected. If several apply, the first that is found is given: of the number of its
/// fields, its time, its record from the first column to the last, and its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has not as many fields as the header.
    WrongFieldCount,
    /// Its time is empty.
    MissingTime,
    /// Its time is none.
    InvalidTime,
    /// One of its values has no code, for the reason of this name that the computation gives.
    NoCode(&'static str),
    /// One of its labels, or of the texts of its record, is no UTF-8.
    InvalidUtf8,
    /// Its record has more than [`crate::records::MAX_PAYLOAD_BYTES`].
    RecordTooLong,
    /// Its labels together have more than [`pipeline::group_key::MAX_LABEL_BYTES`] bytes.
    LabelTooLong,
}

impl Reason {
    /// Its name in files, reports and the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongFieldCount => "wrong_field_count",
            Self::MissingTime => "missing_time",
            Self::InvalidTime => "invalid_time",
            Self::NoCode(reason) => reason,
            Self::InvalidUtf8 => "invalid_utf8",
            Self::RecordTooLong => "record_too_long",
            Self::LabelTooLong => "label_too_long",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many rows may be rejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxRejects {
    /// So many; one more ends the reading at once.
    Rows(u64),
    /// So many in a hundred of all rows, which is judged when all are read.
    Percent(f64),
}

impl FromStr for MaxRejects {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let limit = match text.strip_suffix('%') {
            None => text.parse().ok().map(Self::Rows),
            Some(percent) => {
                let percent = percent.trim_end().parse().ok();
                // A comparison with NaN is false, so NaN is no percentage either.
                let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
                percent.map(Self::Percent)
            }
        };
        limit.ok_or("a number of rows is needed, or a percentage from 0% to 100%")
    }
}

impl fmt::Display for MaxRejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Percent(percent) => write!(f, "{percent}% of the"),
        }
    }
}

/// The rejected rows of a data set.
#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    /// Made with the first rejected row.
    writer: Option<csv::Writer<BufWriter<File>>>,
    counts: BTreeMap<Reason, u64>,
    total: u64,
    limit: Option<MaxRejects>,
    shown: Vec<ShownReject>,
}

/// A rejected row as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownReject {
    /// Its file.
    pub file: String,
    /// Its record number there.
    pub number: u64,
    /// Why it was rejected.
    pub reason: Reason,
    /// Its fields, which may name a person: they are shown to whoever has the data set, and nobody
    /// else.
    pub fields: String,
}

impl fmt::Display for ShownReject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} record {}: {}: {}",
            self.file, self.number, self.reason, self.fields
        )
    }
}

impl Rejects {
    /// No row was rejected yet. They are written to `path`, which is made with the first; more than
    /// `limit` are an error.
    pub fn new(path: &Path, limit: Option<MaxRejects>) -> Self {
        Self {
            path: path.to_owned(),
            writer: None,
            counts: BTreeMap::new(),
            total: 0,
            limit,
            shown: Vec::new(),
        }
    }

    /// Rejects a row by its record number in its file, from 1, a header not counted. `rows_read` is
    /// how many rows of all files were read, with this one.
    ///
    /// # Errors
    /// When the file of rejects cannot be written, or the limit is passed.
    pub fn reject(
        &mut self,
        file: &str,
        number: u64,
        reason: Reason,
        fields: &[&[u8]],
        rows_read: u64,
    ) -> Result<(), Error> {
        *self.counts.entry(reason).or_default() += 1;
        self.total += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(ShownReject {
                file: file.to_owned(),
                number,
                reason,
                fields: shown(&fields.join(&b','), SHOWN_CHARACTERS),
            });
        }
        self.write(file, number, reason, fields)
            .map_err(|source| Error::WriteRejects {
                path: self.path.clone(),
                source,
            })?;
        match self.limit {
            Some(limit @ MaxRejects::Rows(rows)) if self.total > rows => {
                Err(self.too_many(limit, rows_read))
            }
            _ => Ok(()),
        }
    }

    fn too_many(&self, limit: MaxRejects, rows_read: u64) -> Error {
        Error::TooManyRejects {
            limit,
            rejected: self.total,
            rows_read,
            shown: self.shown.clone(),
        }
    }

    fn write(
        &mut self,
        file: &str,
        number: u64,
        reason: Reason,
        fields: &[&[u8]],
    ) -> csv::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let mut writer = csv::WriterBuilder::new()
                    .flexible(true)
                    .from_writer(BufWriter::new(File::create(&self.path)?));
                writer.write_record(["file", "record", "reason", "fields"])?;
                none.insert(writer)
            }
        };
        let number = number.to_string();
        let fixed = [file, number.as_str(), reason.name()].map(str::as_bytes);
        writer.write_record(fixed.iter().chain(fields))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written, or too many of the rows that were read are in it.
    pub fn finish(mut self, rows_read: u64) -> Result<RejectSummary, Error> {
        let written = self.writer.take();
        if let Some(mut writer) = written {
            writer.flush().map_err(|source| Error::WriteRejects {
                path: self.path.clone(),
                source: source.into(),
            })?;
        }
        if let Some(limit @ MaxRejects::Percent(percent)) = self.limit
            && self.total as f64 * 100.0 > percent * rows_read as f64
        {
            return Err(self.too_many(limit, rows_read));
        }
        Ok(RejectSummary {
            file: (self.total > 0).then_some(self.path),
            by_reason: self
                .counts
                .into_iter()
                .map(|(reason, rows)| (reason.name().to_owned(), rows))
                .collect(),
            total: self.total,
        })
    }
}

/// What was rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectSummary {
    /// Where the rows are; `None` when there are none.
    pub file: Option<PathBuf>,
    /// Rows by reason.
    pub by_reason: BTreeMap<String, u64>,
    /// Rows in all.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_percentage() {
        assert_eq!("0".parse(), Ok(MaxRejects::Rows(0)));
        assert_eq!("2.5%".parse(), Ok(MaxRejects::Percent(2.5)));
        for wrong in ["", "%", "-1", "1.5", "101%", "NaN%", "many"] {
            assert!(wrong.parse::<MaxRejects>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_percentage_is_judged_at_the_end_and_is_passed_by_more_than_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let rejects = || {
            let path = folder.path().join("rejects.csv");
            let mut rejects = Rejects::new(&path, Some(MaxRejects::Percent(20.0)));
            for number in 1..=2 {
                let rejected = rejects.reject("a.csv", number, Reason::MissingTime, &[], number);
                rejected.expect("all rows until now are rejected, and that may be");
            }
            rejects
        };
        assert_eq!(rejects().finish(10).expect("2 of 10").total, 2);
        let error = rejects().finish(9).expect_err("2 of 9").to_string();
        let start =
            "more than 20% of the rows are rejected (2 of 9), the first of them a.csv record 1";
        assert!(error.starts_with(start), "{error}");
    }
}

//! Rejected rows: their numbers by reason, a file with all their fields, and the first of them for
//! error messages. No row is dropped silently.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use service::text::truncated;

use crate::error::Error;

/// The most rejected rows in an error message.
const SHOWN: usize = 5;

/// The most characters of a row in an error message; a stray quote makes one row of many.
const MAX_CHARACTERS: usize = 200;

/// The reason for which a row is rejected. If several apply, the first one is given, in this order: the
/// number of its fields, its time, the values of its record from the first column to the last, its
/// labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The number of fields differs from that of the header.
    WrongFieldCount,
    /// The time is empty.
    MissingTime,
    /// The time cannot be read, or is out of range.
    InvalidTime,
    /// A value has no code; the computation defines the name of this reason.
    NoCode(&'static str),
    /// A label, or a text of the record, is not UTF-8.
    InvalidUtf8,
    /// The record has more bytes than [`crate::records::MAX_PAYLOAD_BYTES`].
    RecordTooLong,
    /// The labels together have more bytes than [`pipeline::group_key::MAX_LABEL_BYTES`].
    LabelTooLong,
}

impl Reason {
    /// The name of the reason in files, reports and the manifest.
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

/// The most rows that may be rejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxRejects {
    /// A number of rows; one more ends the reading at once.
    Rows(u64),
    /// A percentage of all rows, checked when all of them are read.
    Percent(f64),
}

impl FromStr for MaxRejects {
    type Err = &'static str;

    /// Reads a number of rows, such as `100`, or a percentage, such as `2.5%`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let limit = match text.strip_suffix('%') {
            None => text.parse().ok().map(Self::Rows),
            Some(percent) => {
                let percent = percent.trim_end().parse().ok();
                // NaN is refused as well, because comparisons with NaN are false.
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
    /// Created with the first rejected row.
    writer: Option<csv::Writer<BufWriter<File>>>,
    counts: BTreeMap<Reason, u64>,
    total: u64,
    limit: Option<MaxRejects>,
    /// The first rejected rows, at most [`SHOWN`].
    shown: Vec<ShownReject>,
}

/// A rejected row in an error message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownReject {
    /// The file.
    pub file: String,
    /// The record number in the file, from 1.
    pub number: u64,
    /// The reason.
    pub reason: Reason,
    /// The fields, truncated. They may contain personal data, so they are printed only on the machine
    /// that has the data set, and are never published.
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
    /// No rejected rows yet. The file `path` is created with the first rejected row; more rejected rows
    /// than `limit` are an error.
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

    /// Rejects a row. `number` is its record number in `file`, from 1, without the header; `rows_read`
    /// is the number of rows of all files that were read, with this one.
    ///
    /// # Errors
    /// When the file of rejects cannot be written, or the limit is exceeded.
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
                fields: truncated(&fields.join(&b','), MAX_CHARACTERS),
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

    /// The error of an exceeded limit.
    fn too_many(&self, limit: MaxRejects, rows_read: u64) -> Error {
        Error::TooManyRejects {
            limit,
            rejected: self.total,
            rows_read,
            shown: self.shown.clone(),
        }
    }

    /// Writes a row to the file of rejects.
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

    /// Ends the file, after `rows_read` rows were read.
    ///
    /// # Errors
    /// When the file cannot be written, or the percentage of rejected rows exceeds the limit.
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

/// The number of rejected rows, and their file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectSummary {
    /// The file with the rows; `None` when no row was rejected.
    pub file: Option<PathBuf>,
    /// The number of rows by reason.
    pub by_reason: BTreeMap<String, u64>,
    /// The number of all rejected rows.
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
    fn a_percentage_is_checked_at_the_end_and_may_be_reached_but_not_exceeded() {
        let folder = tempfile::tempdir().expect("a folder");
        let rejects = || {
            let path = folder.path().join("rejects.csv");
            let mut rejects = Rejects::new(&path, Some(MaxRejects::Percent(20.0)));
            for number in 1..=2 {
                let rejected = rejects.reject("a.csv", number, Reason::MissingTime, &[], number);
                rejected.expect("a percentage is checked at the end only");
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

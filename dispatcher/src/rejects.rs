//! Rows that cannot be counted: by reason in numbers, with all their fields in a file, the first
//! few in words. None is dropped silently.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use csv::ByteRecord;

use crate::error::Error;

/// How many rejected rows are shown when a run is given up.
const SHOWN: usize = 5;

/// Why a row was rejected. If several apply, the first of them is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has not as many fields as the header.
    WrongFieldCount,
    /// Its time is empty.
    MissingTime,
    /// Its time is none.
    InvalidTime,
    /// Its result is empty.
    MissingResult,
    /// Its result is neither positive nor negative.
    UnknownResult,
    /// One of its labels is no UTF-8.
    InvalidUtf8,
}

impl Reason {
    /// Its name in files, reports and the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongFieldCount => "wrong_field_count",
            Self::MissingTime => "missing_time",
            Self::InvalidTime => "invalid_time",
            Self::MissingResult => "missing_result",
            Self::UnknownResult => "unknown_result",
            Self::InvalidUtf8 => "invalid_utf8",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rejected rows of a data set.
#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    /// The data set, as the rejects file names it.
    data_set: String,
    /// Made with the first rejected row.
    writer: Option<csv::Writer<BufWriter<File>>>,
    counts: BTreeMap<Reason, u64>,
    total: u64,
    limit: Option<u64>,
    shown: Vec<ShownReject>,
}

/// A rejected row as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownReject {
    /// Its record number.
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
            "record {}: {}: {}",
            self.number, self.reason, self.fields
        )
    }
}

impl Rejects {
    /// No row was rejected yet. They are written to `path`, which is made with the first; more than
    /// `limit` are an error.
    pub fn new(data_set: &str, path: &Path, limit: Option<u64>) -> Self {
        Self {
            path: path.to_owned(),
            data_set: data_set.to_owned(),
            writer: None,
            counts: BTreeMap::new(),
            total: 0,
            limit,
            shown: Vec::new(),
        }
    }

    /// Rejects a row by its record number, from 1, the header not counted.
    ///
    /// # Errors
    /// When the file cannot be written, or the limit is passed.
    pub fn reject(&mut self, number: u64, reason: Reason, row: &ByteRecord) -> Result<(), Error> {
        *self.counts.entry(reason).or_default() += 1;
        self.total += 1;
        if self.shown.len() < SHOWN {
            let fields: Vec<_> = row.iter().map(String::from_utf8_lossy).collect();
            self.shown.push(ShownReject {
                number,
                reason,
                fields: fields.join(","),
            });
        }
        self.write(number, reason, row)
            .map_err(|source| Error::WriteRejects {
                path: self.path.clone(),
                source,
            })?;
        match self.limit {
            Some(limit) if self.total > limit => Err(Error::TooManyRejects {
                limit,
                shown: self.shown.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn write(&mut self, number: u64, reason: Reason, row: &ByteRecord) -> csv::Result<()> {
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
        let fixed = [&self.data_set, number.as_str(), reason.name()].map(str::as_bytes);
        writer.write_record(fixed.into_iter().chain(row))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<RejectSummary, Error> {
        let written = self.writer.take();
        if let Some(mut writer) = written {
            writer.flush().map_err(|source| Error::WriteRejects {
                path: self.path.clone(),
                source: source.into(),
            })?;
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

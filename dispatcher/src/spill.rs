//! Rows beyond the memory budget, on disk: whenever the budget is full, the rows in memory are
//! grouped and written out as a run, and at the end the runs are merged. The order of two label
//! sets never changes when a third one appears, so every run is in the final order already, and
//! the merge gives the very groups that memory would have given, rows in record order.
//!
//! A run is a file without a name: it is gone when the process is, however that ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use pipeline::{Grain, LabelSet, TimeBucket};
use tracing::info;

use crate::error::Error;
use crate::group::{Groups, ranks};
use crate::records::{MAX_PAYLOAD_BYTES, RecordSlice, Records, Width};
use crate::source::Rows;
use crate::source::coding::{push_leb128, read_leb128};

/// What a row takes while it is read (13 bytes in columns) and grouped (keys, a table of at most
/// four cells a row, sorted records), at most, if its record has a byte or none.
const ROW_BYTES: u64 = 56;

/// A budget below this is one of this: a run should have some rows.
const LEAST_BYTES: u64 = 1_000 * ROW_BYTES;

/// A merge has this many bytes of records at once, or one record.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes with which a group begins in a run: label set, hours, rows.
const HEADER_BYTES: usize = 16;

/// A merge reads so many bytes of a run at a time, at most and at least.
const READ_BYTES: (u64, u64) = (16 * 1024, 1024 * 1024);

/// Where rows go that the memory budget has no room for.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    grain: Grain,
    budget_bytes: u64,
    runs: Vec<File>,
    rows: u64,
}

impl Spill {
    /// Nothing was spilled yet; runs go to `folder` when the rows in memory need more than
    /// `budget_bytes`.
    pub fn new(folder: &Path, grain: Grain, budget_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            grain,
            budget_bytes,
            runs: Vec::new(),
            rows: 0,
        }
    }

    /// Writes the rows out if they use up the budget. `label_sets` are those of all rows so far.
    ///
    /// # Errors
    /// When the folder has no room for a run.
    pub fn make_room(&mut self, rows: &mut Rows, label_sets: &[LabelSet]) -> Result<(), Error> {
        let bytes = rows.len() as u64 * ROW_BYTES + rows.records.extra_bytes();
        if bytes < self.budget_bytes.max(LEAST_BYTES) {
            return Ok(());
        }
        self.write(rows, label_sets)
    }

    /// How many runs were written.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn write(&mut self, rows: &mut Rows, label_sets: &[LabelSet]) -> Result<(), Error> {
        let cannot_spill = |source| Error::Spill {
            folder: self.folder.clone(),
            source,
        };
        let run = write_run(&self.folder, rows, label_sets, self.grain).map_err(cannot_spill)?;
        info!(
            run = self.runs.len() + 1,
            rows = rows.len(),
            folder = %self.folder.display(),
            "memory budget used up, rows written to disk"
        );
        self.runs.push(run);
        self.rows += rows.len() as u64;
        rows.clear();
        Ok(())
    }

    /// The runs, with the rows that are still in memory as the last one; `None` when nothing was
    /// spilled, so that memory has it all.
    ///
    /// # Errors
    /// When the folder has no room for the last run.
    pub fn finish(mut self, rows: &mut Rows) -> Result<Option<Runs>, Error> {
        if self.runs.is_empty() {
            return Ok(None);
        }
        let label_sets = std::mem::take(&mut rows.label_sets);
        if !rows.is_empty() {
            self.write(rows, &label_sets)?;
        }
        let width = rows.records.width();
        *rows = Rows::new(width);
        let (least, most) = READ_BYTES;
        let share = self.budget_bytes / 4 / self.runs.len() as u64;
        Ok(Some(Runs {
            rank: ranks(&label_sets),
            label_sets,
            width,
            folder: self.folder,
            files: self.runs,
            read_bytes: share.clamp(least, most) as usize,
        }))
    }
}

fn write_run(
    folder: &Path,
    rows: &Rows,
    label_sets: &[LabelSet],
    grain: Grain,
) -> io::Result<File> {
    let rank = ranks(label_sets);
    let mut number_at = vec![0u32; rank.len()];
    for (number, &place) in rank.iter().enumerate() {
        number_at[place as usize] = number as u32;
    }
    let groups = Groups::new(rows, &rank, grain);
    let mut out = BufWriter::with_capacity(READ_BYTES.1 as usize, tempfile::tempfile_in(folder)?);
    let mut length = Vec::new();
    for (group, records) in groups.iter() {
        // By the number of first appearance, which stays what it is.
        out.write_all(&number_at[group.label_set as usize].to_le_bytes())?;
        out.write_all(&group.time.hours().to_le_bytes())?;
        out.write_all(&group.rows.to_le_bytes())?;
        if rows.records.width() != Width::Variable {
            out.write_all(records.bytes())?;
            continue;
        }
        for record in records.iter() {
            length.clear();
            push_leb128(record.len(), &mut length);
            out.write_all(&length)?;
            out.write_all(record)?;
        }
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Runs on disk, in the order of their rows.
#[derive(Debug)]
pub struct Runs {
    label_sets: Vec<LabelSet>,
    /// The place of each label set in the order of bytes.
    rank: Vec<u32>,
    /// That of their records.
    width: Width,
    folder: PathBuf,
    files: Vec<File>,
    read_bytes: usize,
}

/// The key of a group of a merge: part of it may be in each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedKey {
    /// Place of the labels in the order of bytes.
    pub label_set: u32,
    /// The truncated time.
    pub time: TimeBucket,
}

impl Runs {
    /// The label sets in the order of bytes.
    pub fn label_sets(&self) -> Vec<LabelSet> {
        let mut sorted = vec![LabelSet::default(); self.label_sets.len()];
        for (set, &place) in self.label_sets.iter().zip(&self.rank) {
            sorted[place as usize] = set.clone();
        }
        sorted
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none; never true of what [`Spill::finish`] gives.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The width of their records.
    pub fn width(&self) -> Width {
        self.width
    }

    /// Walks through the groups in order. A group that is in several runs comes once for each of
    /// them, in the order of their rows, and its records are handed over in pieces.
    ///
    /// # Errors
    /// When a run cannot be read, or what `visit` returns.
    pub fn merge(
        &self,
        mut visit: impl FnMut(MergedKey, RecordSlice<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let unreadable = |source| Error::Spill {
            folder: self.folder.clone(),
            source,
        };
        let mut readers = Vec::with_capacity(self.files.len());
        let mut next = BinaryHeap::with_capacity(self.files.len());
        let mut piece = Records::new(self.width);
        for (run, mut file) in self.files.iter().enumerate() {
            file.rewind().map_err(unreadable)?;
            let mut reader = RunReader {
                reader: BufReader::with_capacity(self.read_bytes, file),
                record: Vec::new(),
            };
            if let Some((key, rows)) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((key.label_set, key.time, run, rows)));
            }
            readers.push(reader);
        }
        while let Some(Reverse((label_set, time, run, rows))) = next.pop() {
            let reader = &mut readers[run];
            let mut left = rows;
            while left > 0 {
                piece.clear();
                reader.read(left, &mut piece).map_err(unreadable)?;
                visit(MergedKey { label_set, time }, piece.as_slice())?;
                left -= piece.len() as u64;
            }
            if let Some((key, rows)) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((key.label_set, key.time, run, rows)));
            }
        }
        Ok(())
    }
}

/// Reads one run from its beginning.
struct RunReader<'a> {
    reader: BufReader<&'a File>,
    /// The record that was read last.
    record: Vec<u8>,
}

impl RunReader<'_> {
    /// The next group's key and its number of rows; `None` at the end.
    fn next(&mut self, rank: &[u32]) -> io::Result<Option<(MergedKey, u64)>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        self.reader.read_exact(&mut header)?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let number = u32::from_le_bytes(word(0)) as usize;
        let hours = i32::from_le_bytes(word(4));
        let rows =
            u64::from(u32::from_le_bytes(word(8))) | u64::from(u32::from_le_bytes(word(12))) << 32;
        let key = MergedKey {
            label_set: *rank.get(number).ok_or_else(changed)?,
            time: TimeBucket::from_hours(i64::from(hours)).ok_or_else(changed)?,
        };
        Ok(Some((key, rows)))
    }

    /// Reads some records of the group, at least one and at most `left`.
    fn read(&mut self, left: u64, piece: &mut Records) -> io::Result<()> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        match piece.width() {
            Width::Fixed(width) => {
                let count = left.min((PIECE_BYTES / width.max(1)).max(1));
                let wanted = (count * width) as u64;
                piece.extend_with(count, |bytes| {
                    match (&mut self.reader).take(wanted).read_to_end(bytes)? as u64 {
                        read if read == wanted => Ok(()),
                        _ => Err(io::ErrorKind::UnexpectedEof.into()),
                    }
                })
            }
            Width::Variable => {
                while piece.len() < left && piece.bytes().len() < PIECE_BYTES {
                    let length = read_leb128(&mut self.reader)?;
                    if length > MAX_PAYLOAD_BYTES {
                        return Err(changed());
                    }
                    self.record.resize(length, 0);
                    self.reader.read_exact(&mut self.record)?;
                    piece.push(&self.record);
                }
                Ok(())
            }
        }
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a run has changed on disk")
}

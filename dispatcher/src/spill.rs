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
use crate::source::Rows;

/// What a row takes while it is read (13 bytes in columns) and grouped (keys, a table of at most
/// four cells a row, sorted results), at most.
const ROW_BYTES: u64 = 56;

/// A budget below this is one of this: a run should have some rows.
const LEAST_ROWS: u64 = 1_000;

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

    /// How many rows the budget has room for.
    pub fn rows_in_memory(&self) -> u64 {
        (self.budget_bytes / ROW_BYTES).max(LEAST_ROWS)
    }

    /// Writes the rows out if they use up the budget. `label_sets` are those of all rows so far.
    ///
    /// # Errors
    /// When the folder has no room for a run.
    pub fn make_room(&mut self, rows: &mut Rows, label_sets: &[LabelSet]) -> Result<(), Error> {
        if (rows.len() as u64) < self.rows_in_memory() {
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
        *rows = Rows::default();
        let (least, most) = READ_BYTES;
        let share = self.budget_bytes / 4 / self.runs.len() as u64;
        Ok(Some(Runs {
            rank: ranks(&label_sets),
            label_sets,
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
    for (group, results) in groups.iter() {
        // By the number of first appearance, which stays what it is.
        out.write_all(&number_at[group.label_set as usize].to_le_bytes())?;
        out.write_all(&group.time.hours().to_le_bytes())?;
        out.write_all(&group.rows.to_le_bytes())?;
        out.write_all(results)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Runs on disk, in the order of their rows.
#[derive(Debug)]
pub struct Runs {
    label_sets: Vec<LabelSet>,
    /// The place of each label set in the order of bytes.
    rank: Vec<u32>,
    folder: PathBuf,
    files: Vec<File>,
    read_bytes: usize,
}

/// A group of a merge: part of it may be in each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedGroup {
    /// Place of the labels in the order of bytes.
    pub label_set: u32,
    /// The truncated time.
    pub time: TimeBucket,
    /// Rows in this run.
    pub rows: u64,
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

    /// Walks through the groups in order. A group that is in several runs comes once for each of
    /// them, in the order of their rows. Its results are handed over in pieces if `with_results`,
    /// and passed over if not.
    ///
    /// # Errors
    /// When a run cannot be read, or what `visit` returns.
    pub fn merge(
        &self,
        with_results: bool,
        mut visit: impl FnMut(MergedGroup, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let unreadable = |source| Error::Spill {
            folder: self.folder.clone(),
            source,
        };
        let mut readers = Vec::with_capacity(self.files.len());
        let mut next = BinaryHeap::with_capacity(self.files.len());
        for (run, mut file) in self.files.iter().enumerate() {
            file.rewind().map_err(unreadable)?;
            let mut reader = RunReader {
                reader: BufReader::with_capacity(self.read_bytes, file),
            };
            if let Some(group) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((group.label_set, group.time, run, group.rows)));
            }
            readers.push(reader);
        }
        while let Some(Reverse((label_set, time, run, rows))) = next.pop() {
            let reader = &mut readers[run];
            let group = MergedGroup {
                label_set,
                time,
                rows,
            };
            if with_results {
                let mut left = rows;
                while left > 0 {
                    let piece = reader.piece(left).map_err(unreadable)?;
                    let length = piece.len();
                    visit(group, piece)?;
                    reader.reader.consume(length);
                    left -= length as u64;
                }
            } else {
                reader.skip(rows).map_err(unreadable)?;
                visit(group, &[])?;
            }
            if let Some(group) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((group.label_set, group.time, run, group.rows)));
            }
        }
        Ok(())
    }
}

/// Reads one run from its beginning.
struct RunReader<'a> {
    reader: BufReader<&'a File>,
}

impl RunReader<'_> {
    /// The next group's header; `None` at the end.
    fn next(&mut self, rank: &[u32]) -> io::Result<Option<MergedGroup>> {
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
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "a run has changed on disk");
        Ok(Some(MergedGroup {
            label_set: *rank.get(number).ok_or_else(broken)?,
            time: TimeBucket::from_hours(i64::from(hours)).ok_or_else(broken)?,
            rows,
        }))
    }

    /// Some results of the group, `left` at most; to be consumed by the caller.
    fn piece(&mut self, left: u64) -> io::Result<&[u8]> {
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(&buffer[..length])
    }

    fn skip(&mut self, rows: u64) -> io::Result<()> {
        let rows = i64::try_from(rows).map_err(|_| io::ErrorKind::InvalidData)?;
        self.reader.seek_relative(rows)
    }
}

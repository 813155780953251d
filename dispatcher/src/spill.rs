//! Rows beyond the memory budget, on disk, as an external sort: whenever the budget is used up, the
//! rows in memory are grouped and written to a spill file, and at the end the files are merged. A
//! further label set never changes the order of two others, so every file is in the final order
//! already, and the merge gives the same groups as memory would, with rows in record order.
//!
//! A spill file has no name: the operating system deletes it when the process ends for any reason.

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

/// The most bytes of memory for a row with a record of one byte or none, while it is read (13 bytes in
/// columns) and grouped (keys, a table of at most four cells a row, sorted records).
const ROW_BYTES: u64 = 56;

/// The least memory budget, so that a spill file has some rows; a smaller one is raised to it.
const LEAST_BYTES: u64 = 1_000 * ROW_BYTES;

/// The bytes of records that a merge passes on at once; a longer record is passed on alone.
const PIECE_BYTES: usize = 64 * 1024;

/// The bytes of the header of a group in a spill file: label set, hours, number of rows.
const HEADER_BYTES: usize = 16;

/// The least and the most bytes that a merge reads from a spill file at once.
const READ_BYTES: (u64, u64) = (16 * 1024, 1024 * 1024);

/// The rows for which the memory budget has no room.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    grain: Grain,
    budget_bytes: u64,
    files: Vec<File>,
    /// The number of rows in the files.
    rows: u64,
}

impl Spill {
    /// An empty spill, whose files are created in `folder` when the rows in memory need more than
    /// `budget_bytes`.
    pub fn new(folder: &Path, grain: Grain, budget_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            grain,
            budget_bytes,
            files: Vec::new(),
            rows: 0,
        }
    }

    /// Writes the rows to a file and removes them from memory, if they use up the budget. `label_sets`
    /// are the label sets of all rows so far.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn make_room(&mut self, rows: &mut Rows, label_sets: &[LabelSet]) -> Result<(), Error> {
        let bytes = rows.len() as u64 * ROW_BYTES + rows.records.extra_bytes();
        if bytes < self.budget_bytes.max(LEAST_BYTES) {
            return Ok(());
        }
        self.write(rows, label_sets)
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Writes the rows to a file and removes them from memory.
    pub(crate) fn write(&mut self, rows: &mut Rows, label_sets: &[LabelSet]) -> Result<(), Error> {
        let cannot_spill = |source| Error::Spill {
            folder: self.folder.clone(),
            source,
        };
        let file = write_file(&self.folder, rows, label_sets, self.grain).map_err(cannot_spill)?;
        info!(
            file = self.files.len() + 1,
            rows = rows.len(),
            folder = %self.folder.display(),
            "memory budget used up, rows written to disk"
        );
        self.files.push(file);
        self.rows += rows.len() as u64;
        rows.clear();
        Ok(())
    }

    /// All files, the last of which has the rows that were still in memory. `None` when nothing was
    /// spilled, so that all rows are in memory.
    ///
    /// # Errors
    /// When the last file cannot be written.
    pub fn finish(mut self, rows: &mut Rows) -> Result<Option<SpillFiles>, Error> {
        if self.files.is_empty() {
            return Ok(None);
        }
        let label_sets = std::mem::take(&mut rows.label_sets);
        if !rows.is_empty() {
            self.write(rows, &label_sets)?;
        }
        let width = rows.records.width();
        *rows = Rows::new(width);
        let (least, most) = READ_BYTES;
        let share = self.budget_bytes / 4 / self.files.len() as u64;
        Ok(Some(SpillFiles {
            rank: ranks(&label_sets),
            label_sets,
            width,
            folder: self.folder,
            files: self.files,
            read_bytes: share.clamp(least, most) as usize,
        }))
    }
}

/// Groups rows, and writes them to a file without a name.
fn write_file(
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
        // The number of the label set by first occurrence, because ranks change with further sets.
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

/// The spill files of a data set, in the order of their rows.
#[derive(Debug)]
pub struct SpillFiles {
    label_sets: Vec<LabelSet>,
    /// The rank of each label set in the order of bytes.
    rank: Vec<u32>,
    /// The width of records.
    width: Width,
    folder: PathBuf,
    files: Vec<File>,
    /// The size of the buffer for reading each file.
    read_bytes: usize,
}

/// The key of a group in a merge. Each file may have a part of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedKey {
    /// The rank of the label set in the order of bytes, from 0.
    pub label_set: u32,
    /// The time bucket.
    pub time: TimeBucket,
}

impl SpillFiles {
    /// The label sets in the order of bytes.
    pub fn label_sets(&self) -> Vec<LabelSet> {
        let mut sorted = vec![LabelSet::default(); self.label_sets.len()];
        for (set, &place) in self.label_sets.iter().zip(&self.rank) {
            sorted[place as usize] = set.clone();
        }
        sorted
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file; never true for the result of [`Spill::finish`].
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The width of records.
    pub fn width(&self) -> Width {
        self.width
    }

    /// Passes the records of each group to `visit`, in the order of groups, and of rows within a group.
    /// `visit` is called several times for a group that is in several files or has many records.
    ///
    /// # Errors
    /// When a file cannot be read, or the error that `visit` returns.
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
        for (number, mut file) in self.files.iter().enumerate() {
            file.rewind().map_err(unreadable)?;
            let mut reader = SpillReader {
                reader: BufReader::with_capacity(self.read_bytes, file),
                record: Vec::new(),
            };
            if let Some((key, rows)) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((key.label_set, key.time, number, rows)));
            }
            readers.push(reader);
        }
        while let Some(Reverse((label_set, time, number, rows))) = next.pop() {
            let reader = &mut readers[number];
            let mut left = rows;
            while left > 0 {
                piece.clear();
                reader.read(left, &mut piece).map_err(unreadable)?;
                visit(MergedKey { label_set, time }, piece.as_slice())?;
                left -= piece.len() as u64;
            }
            if let Some((key, rows)) = reader.next(&self.rank).map_err(unreadable)? {
                next.push(Reverse((key.label_set, key.time, number, rows)));
            }
        }
        Ok(())
    }
}

/// A reader of one spill file, from its beginning.
struct SpillReader<'a> {
    reader: BufReader<&'a File>,
    /// The record that was read last; its memory is reused.
    record: Vec<u8>,
}

impl SpillReader<'_> {
    /// The key and the number of rows of the next group; `None` at the end of the file.
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

    /// Reads some records of the current group, at least one and at most `left`.
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

/// The error of a file whose content is not what was written.
fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a spill file has changed on disk",
    )
}

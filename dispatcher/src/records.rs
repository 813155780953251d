//! Row records: the encoded values of each row's payload columns, stored one after the other. The
//! payload of a job is a sequence of consecutive records.

use std::{io, iter};

use computations::{Coding, Column};

use crate::rejects::Reason;

/// The most bytes of a job's payload. A part of a group ends where the next record would exceed it, so
/// the numbers of jobs depend on it; a row whose own record exceeds it is rejected.
pub use pipeline::job::MAX_PAYLOAD_BYTES;

/// The bytes of memory for the length and the start of a record while records are sorted.
const INDEX_BYTES: u64 = 24;

/// The number of bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The same for all records.
    Fixed(usize),
    /// As many as the values of the row need.
    Variable,
}

impl Width {
    /// The width of records of these columns.
    pub fn of(columns: &[Column]) -> Self {
        let is_code = |column: &Column| matches!(column.coding, Coding::Code { .. });
        match columns.iter().all(is_code) {
            true => Self::Fixed(columns.len()),
            false => Self::Variable,
        }
    }
}

/// A sequence of row records, each of at most [`MAX_PAYLOAD_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    width: Width,
    count: usize,
    bytes: Vec<u8>,
    /// The number of bytes of each record; empty for a fixed width.
    lengths: Vec<u32>,
}

impl Records {
    /// An empty sequence of records of this width.
    pub fn new(width: Width) -> Self {
        Self {
            width,
            count: 0,
            bytes: Vec::new(),
            lengths: Vec::new(),
        }
    }

    /// The width of the records.
    pub fn width(&self) -> Width {
        self.width
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all records, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The most bytes of memory that the records need while they are read and sorted, in addition to
    /// the memory of records of one byte or none.
    pub fn extra_bytes(&self) -> u64 {
        match self.width {
            Width::Fixed(0 | 1) => 0,
            _ => self.count as u64 * INDEX_BYTES + 2 * self.bytes.len() as u64,
        }
    }

    /// Adds the record that `write` appends; adds nothing when `write` fails.
    ///
    /// # Errors
    /// The reason that `write` returns, or [`Reason::RecordTooLong`].
    #[inline]
    pub fn push_with<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let start = self.bytes.len();
        let written = match write(&mut self.bytes) {
            Ok(written) if self.bytes.len() - start <= MAX_PAYLOAD_BYTES => written,
            other => return Err(self.discard(start, other.err())),
        };
        let length = self.bytes.len() - start;
        match self.width {
            Width::Fixed(width) => debug_assert_eq!(length, width, "a record of another width"),
            Width::Variable => self.lengths.push(length as u32),
        }
        self.count += 1;
        Ok(written)
    }

    /// Removes the incomplete or too long record that begins at `start`. Returns the reason.
    #[cold]
    fn discard(&mut self, start: usize, reason: Option<Reason>) -> Reason {
        self.bytes.truncate(start);
        reason.unwrap_or(Reason::RecordTooLong)
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When the record has more bytes than [`MAX_PAYLOAD_BYTES`].
    pub fn push(&mut self, record: &[u8]) {
        self.push_with(|bytes| {
            bytes.extend_from_slice(record);
            Ok(())
        })
        .expect("the record fits a payload");
    }

    /// Adds records of the same width.
    pub fn extend(&mut self, records: RecordSlice<'_>) {
        debug_assert_eq!(self.width, records.width, "records of another width");
        self.count += records.count;
        self.bytes.extend_from_slice(records.bytes);
        self.lengths.extend_from_slice(records.lengths);
    }

    /// Adds `count` records of a fixed width, whose bytes `write` appends.
    ///
    /// # Errors
    /// The error that `write` returns.
    pub(crate) fn extend_with(
        &mut self,
        count: usize,
        write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        write(&mut self.bytes)?;
        self.count += count;
        debug_assert_eq!(
            self.width,
            Width::Fixed(self.bytes.len() / self.count.max(1))
        );
        Ok(())
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        self.lengths.clear();
    }

    /// A slice of all records.
    pub fn as_slice(&self) -> RecordSlice<'_> {
        RecordSlice {
            width: self.width,
            count: self.count,
            bytes: &self.bytes,
            lengths: &self.lengths,
        }
    }

    /// A copy of records of a fixed width, with their bytes in another order.
    pub(crate) fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(bytes.len(), self.bytes.len(), "bytes in another number");
        Self {
            width: self.width,
            count: self.count,
            bytes,
            lengths: Vec::new(),
        }
    }

    /// The records at these positions, in this order.
    pub(crate) fn gather(&self, order: impl Iterator<Item = usize> + Clone) -> Self {
        let mut sorted = Self::new(self.width);
        sorted.bytes.reserve_exact(self.bytes.len());
        sorted.count = self.count;
        match self.width {
            // A record of one byte, as most computations have, is moved as a byte.
            Width::Fixed(1) => sorted.bytes.extend(order.map(|row| self.bytes[row])),
            Width::Fixed(width) => {
                for row in order {
                    let record = &self.bytes[row * width..(row + 1) * width];
                    sorted.bytes.extend_from_slice(record);
                }
            }
            Width::Variable => {
                let starts: Vec<usize> = self.starts().collect();
                sorted
                    .lengths
                    .extend(order.clone().map(|row| self.lengths[row]));
                for row in order {
                    let end = starts[row] + self.lengths[row] as usize;
                    sorted
                        .bytes
                        .extend_from_slice(&self.bytes[starts[row]..end]);
                }
            }
        }
        sorted
    }

    /// The start of each record of a variable width.
    fn starts(&self) -> impl Iterator<Item = usize> {
        let mut next = 0;
        self.lengths.iter().map(move |&length| {
            let start = next;
            next += length as usize;
            start
        })
    }
}

/// A slice of consecutive records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSlice<'a> {
    width: Width,
    count: usize,
    bytes: &'a [u8],
    lengths: &'a [u32],
}

impl<'a> RecordSlice<'a> {
    /// The number of records.
    pub fn len(self) -> usize {
        self.count
    }

    /// Whether there is no record.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The bytes of all records, one after the other.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The records, in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self;
        iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (first, others) = rest.split_at(1);
            rest = others;
            Some(first.bytes)
        })
    }

    /// The first `count` records, and the rest.
    ///
    /// # Panics
    /// When there are fewer records.
    #[inline]
    pub fn split_at(self, count: usize) -> (Self, Self) {
        let end = match self.width {
            Width::Fixed(width) => count * width,
            Width::Variable => total(&self.lengths[..count]),
        };
        self.split(count, end)
    }

    /// As many of the first records as a limit allows, and those behind them.
    #[inline]
    pub fn split_at_limit(self, limit: Limit) -> (Self, Self) {
        match self.width {
            Width::Fixed(_) => self.split_at(self.count.min(limit.rows)),
            Width::Variable => {
                let (mut count, mut end) = (0, 0);
                for &length in self.lengths.iter().take(limit.rows) {
                    let bytes = limit.used + end + length as usize;
                    if bytes > limit.bytes && count >= limit.least {
                        break;
                    }
                    count += 1;
                    end += length as usize;
                }
                self.split(count, end)
            }
        }
    }

    #[inline]
    fn split(self, count: usize, end: usize) -> (Self, Self) {
        let (bytes, other_bytes) = self.bytes.split_at(end);
        let (lengths, other_lengths) = match self.width {
            Width::Fixed(_) => (self.lengths, self.lengths),
            Width::Variable => self.lengths.split_at(count),
        };
        let first = Self {
            count,
            bytes,
            lengths,
            ..self
        };
        let others = Self {
            count: self.count - count,
            bytes: other_bytes,
            lengths: other_lengths,
            ..self
        };
        (first, others)
    }
}

/// The sum of lengths.
fn total(lengths: &[u32]) -> usize {
    lengths.iter().map(|&length| length as usize).sum()
}

/// The limit of the rows and the payload bytes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The most rows.
    rows: usize,
    /// The number of rows that are allowed whatever their length.
    least: usize,
    /// The most bytes. Checked for a variable width only; for a fixed width `rows` bounds them.
    bytes: usize,
    /// The number of bytes that are used already.
    used: usize,
}

impl Limit {
    /// A limit of `rows` rows and of `bytes` bytes of records of this width; one row is always allowed.
    pub fn new(rows: usize, bytes: usize, width: Width) -> Self {
        let rows = match width {
            Width::Fixed(0) | Width::Variable => rows,
            Width::Fixed(width) => rows.min(bytes / width),
        };
        Self {
            rows: rows.max(1),
            least: 1,
            bytes,
            used: 0,
        }
    }

    /// The most rows of a job.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The limit of the rows to be added to a job that has these records.
    pub fn remaining_after(self, records: &Records) -> Self {
        Self {
            rows: self.rows - records.len(),
            least: usize::from(records.is_empty()),
            bytes: self.bytes,
            used: records.bytes.len(),
        }
    }
}

//! The seam between a ledger and a disk: a ledger decides what is written and read, and where; a
//! [`SpillStore`] moves the bytes.

use std::fmt;
use std::io;

/// Bytes outside of memory, written and read by position.
pub trait SpillStore: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at a position. A ledger writes position after position, from 0, each
    /// once.
    ///
    /// # Errors
    /// When there is no room for them.
    fn write_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Fills `bytes` from a position. All of it was written before.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()>;
}

/// Results beyond the memory budget that cannot be written or read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot spill results")]
pub struct SpillError(#[from] io::Error);

impl SpillError {
    /// The error of the store.
    pub fn into_cause(self) -> io::Error {
        self.0
    }
}

impl From<SpillError> for io::Error {
    fn from(error: SpillError) -> Self {
        Self::other(error)
    }
}

/// The memory budget of a ledger, and the store for results beyond it.
#[derive(Debug)]
pub struct Memory {
    /// Bytes that may be held.
    pub budget_bytes: u64,
    /// The store for results beyond the budget.
    pub store: Box<dyn SpillStore>,
}

/// The memory and disk that a ledger uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// All memory.
    pub held: u64,
    /// In memory, and of the kinds that stay there: lines, labels, places of results, dead letters,
    /// conflicts.
    pub fixed: u64,
    /// The bytes on disk.
    pub spilled: u64,
}

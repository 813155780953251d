//! The collection of the rows of all files of a data set: the accepted rows as columns, the rejected
//! rows in a file.

use service::Shutdown;

use crate::error::Error;
use crate::rejects::{Reason, Rejects};
use crate::source::csv_rows::BlockRows;
use crate::source::rules::{RowTime, Rules};
use crate::source::{DataSet, Rows};
use crate::spill::Spill;

/// The most rows between two checks of shutdown and memory.
const ROWS_BETWEEN_CHECKS: u64 = 16 * 1024;

/// The most bytes of records between two checks.
const BYTES_BETWEEN_CHECKS: usize = 8 * 1024 * 1024;

/// The rows that were read so far.
#[derive(Debug)]
pub struct Sink<'a> {
    /// The rules for rows.
    pub rules: Rules<'a>,
    rows: Rows,
    spill: Spill,
    rejects: Rejects,
    rows_read: u64,
    /// The number of bytes of records at which the next check is due.
    check_at_bytes: usize,
    shutdown: &'a Shutdown,
}

impl<'a> Sink<'a> {
    /// An empty collection.
    pub fn new(rules: Rules<'a>, rejects: Rejects, spill: Spill, shutdown: &'a Shutdown) -> Self {
        Self {
            rows: Rows::new(rules.selection().payload.width()),
            rules,
            spill,
            rejects,
            rows_read: 0,
            check_at_bytes: BYTES_BETWEEN_CHECKS,
            shutdown,
        }
    }

    /// Validates a row by [`Rules::validate`], and adds it if it is accepted. Else returns the reason;
    /// the caller then calls [`reject`](Self::reject).
    ///
    /// # Errors
    /// When a shutdown was requested, or rows cannot be spilled.
    #[inline]
    pub fn validate<'v>(
        &mut self,
        labels: impl Iterator<Item = &'v [u8]> + Clone,
        time: RowTime<'_>,
        values: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Result<(), Reason>, Error> {
        let records = &mut self.rows.records;
        match self.rules.validate(labels, time, values, records) {
            Ok(row) => {
                self.rows.label_set.push(row.label_set);
                self.rows.seconds.push(row.seconds);
                self.count().map(Ok)
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Rejects a row; `number` is its record number in `file`, from 1.
    ///
    /// # Errors
    /// When the rejects cannot be written or are too many, a shutdown was requested, or rows cannot be
    /// spilled.
    #[cold]
    pub fn reject<'f>(
        &mut self,
        file: &str,
        number: u64,
        reason: Reason,
        fields: impl IntoIterator<Item = &'f [u8]>,
    ) -> Result<(), Error> {
        let fields: Vec<&[u8]> = fields.into_iter().collect();
        self.rejects
            .reject(file, number, reason, &fields, self.rows_read + 1)?;
        self.count()
    }

    /// Adds the rows of a block; `before` is the number of records of `file` before it.
    ///
    /// # Errors
    /// As [`reject`](Self::reject).
    pub fn append(&mut self, file: &str, before: u64, block: &BlockRows) -> Result<(), Error> {
        for rejected in &block.rejected {
            let fields: Vec<&[u8]> = rejected.fields.iter().map(Vec::as_slice).collect();
            self.rejects.reject(
                file,
                before + rejected.record,
                rejected.reason,
                &fields,
                self.rows_read + rejected.record,
            )?;
        }
        let rows = &block.rows;
        let numbers = self.rules.label_set_numbers(&rows.label_sets);
        let label_set = rows.label_set.iter().map(|&own| numbers[own as usize]);
        self.rows.label_set.extend(label_set);
        self.rows.seconds.extend_from_slice(&rows.seconds);
        self.rows.records.extend(rows.records.as_slice());
        self.rows_read += block.records;
        self.check()
    }

    /// Counts a row, and checks when a check is due.
    #[inline]
    fn count(&mut self) -> Result<(), Error> {
        self.rows_read += 1;
        if self.rows_read.is_multiple_of(ROWS_BETWEEN_CHECKS)
            || self.rows.records.bytes().len() >= self.check_at_bytes
        {
            return self.check();
        }
        Ok(())
    }

    /// Spills rows when the memory budget is used up, and checks for a shutdown.
    #[cold]
    fn check(&mut self) -> Result<(), Error> {
        self.spill
            .make_room(&mut self.rows, self.rules.label_sets())?;
        self.check_at_bytes = self.rows.records.bytes().len() + BYTES_BETWEEN_CHECKS;
        match self.shutdown.requested() {
            Some(signal) => Err(Error::Stopped(signal)),
            None => Ok(()),
        }
    }

    /// Ends the collection, after all files are read.
    ///
    /// # Errors
    /// When too large a share of all rows is rejected, or the rejects cannot be written.
    pub fn finish(self) -> Result<DataSet, Error> {
        let mut rows = self.rows;
        rows.label_sets = self.rules.into_label_sets();
        Ok(DataSet {
            rows,
            spill: self.spill,
            rows_read: self.rows_read,
            rejects: self.rejects.finish(self.rows_read)?,
        })
    }
}

//! Where the rows of all files of a data set come together: the accepted ones as columns, the
//! rejected ones in their file.

use service::Shutdown;

use crate::error::Error;
use crate::rejects::{Reason, Rejects};
use crate::source::csv_rows::BlockRows;
use crate::source::rules::{Rules, When};
use crate::source::{DataSet, Rows};
use crate::spill::Spill;

/// Between two looks whether to stop, at most: this many rows, and records of this many bytes.
const ROWS_BETWEEN_LOOKS: u64 = 16 * 1024;
const BYTES_BETWEEN_LOOKS: usize = 8 * 1024 * 1024;

/// The rows that were read so far.
#[derive(Debug)]
pub struct Sink<'a> {
    /// How they are judged.
    pub rules: Rules<'a>,
    rows: Rows,
    spill: Spill,
    rejects: Rejects,
    rows_read: u64,
    /// How many bytes records may have before the next look.
    look_at_bytes: usize,
    shutdown: &'a Shutdown,
}

impl<'a> Sink<'a> {
    /// No row was read yet.
    pub fn new(rules: Rules<'a>, rejects: Rejects, spill: Spill, shutdown: &'a Shutdown) -> Self {
        Self {
            rows: Rows::new(rules.selection().payload.width()),
            rules,
            spill,
            rejects,
            rows_read: 0,
            look_at_bytes: BYTES_BETWEEN_LOOKS,
            shutdown,
        }
    }

    /// Judges a row by [`Rules::judge`], and takes it if it can be counted. Else the reason is returned,
    /// and the row is still to be rejected.
    ///
    /// # Errors
    /// When it was asked to stop.
    #[inline]
    pub fn judge<'v>(
        &mut self,
        labels: impl Iterator<Item = &'v [u8]> + Clone,
        time: When<'_>,
        values: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Result<(), Reason>, Error> {
        let records = &mut self.rows.records;
        match self.rules.judge(labels, time, values, records) {
            Ok(row) => {
                self.rows.label_set.push(row.label_set);
                self.rows.seconds.push(row.seconds);
                self.count().map(Ok)
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Takes a row that cannot; `number` is its record number in `file`, from 1.
    ///
    /// # Errors
    /// When the rejects cannot be written, are too many, or it was asked to stop.
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

    /// Takes the rows of a block; `before` is how many records of `file` came before it.
    ///
    /// # Errors
    /// When the rejects cannot be written, are too many, or it was asked to stop.
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
        let numbers = self.rules.take_label_sets(&rows.label_sets);
        let label_set = rows.label_set.iter().map(|&own| numbers[own as usize]);
        self.rows.label_set.extend(label_set);
        self.rows.seconds.extend_from_slice(&rows.seconds);
        self.rows.records.extend(rows.records.as_slice());
        self.rows_read += block.records;
        self.look()
    }

    #[inline]
    fn count(&mut self) -> Result<(), Error> {
        self.rows_read += 1;
        if self.rows_read.is_multiple_of(ROWS_BETWEEN_LOOKS)
            || self.rows.records.bytes().len() >= self.look_at_bytes
        {
            return self.look();
        }
        Ok(())
    }

    /// Makes room in memory, and looks whether to stop.
    #[cold]
    fn look(&mut self) -> Result<(), Error> {
        self.spill
            .make_room(&mut self.rows, self.rules.label_sets())?;
        self.look_at_bytes = self.rows.records.bytes().len() + BYTES_BETWEEN_LOOKS;
        match self.shutdown.requested() {
            Some(signal) => Err(Error::Stopped(signal)),
            None => Ok(()),
        }
    }

    /// All files are read.
    ///
    /// # Errors
    /// When too many of all rows are rejected, or the rejects cannot be written.
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

//! The reader of a CSV file, after decompression: it finds the needed columns in the header and reads
//! the records with one thread for each core. [`csv_blocks`](crate::source::csv_blocks) divides the
//! file into blocks, [`csv_rows`](crate::source::csv_rows) reads each block, and this module puts the
//! blocks in order again.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use csv::ByteRecord;

use crate::columns::{Columns, Selection};
use crate::error::Error;
use crate::input::CsvFormat;
use crate::source::csv_blocks::{Block, BlockError, Blocks};
use crate::source::csv_rows::{BlockRows, Reading, reader_builder};
use crate::source::sink::Sink;

pub use crate::source::csv_blocks::MAX_RECORD_BYTES;

/// The most threads. More of them read blocks faster than one thread puts them in order.
const MAX_THREADS: usize = 8;

type Text<'a> = Box<dyn Read + Send + 'a>;

/// A CSV file whose header is read.
pub struct CsvFile<'a> {
    name: String,
    blocks: Blocks<Text<'a>>,
    /// The first block, without the header.
    first: Block,
    /// The number of line feeds in the header.
    header_lines: u64,
    format: CsvFormat,
    columns: Columns,
}

impl<'a> CsvFile<'a> {
    /// Reads the header of a file; `name` is its name in messages.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or lacks a column.
    pub fn open(
        name: String,
        reader: Text<'a>,
        format: CsvFormat,
        selection: Selection<'_>,
    ) -> Result<Self, Error> {
        let mut blocks = Blocks::new(reader, format);
        let mut first = Block::default();
        match blocks.next(&mut first) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Empty { input: name }),
            Err(error) => return Err(block_error(name, error, 0, 0)),
        }
        let mut header = ByteRecord::new();
        let mut reader = reader_builder(format)
            .has_headers(false)
            .from_reader(first.bytes());
        match reader.read_byte_record(&mut header) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Empty { input: name }),
            Err(error) => return Err(unreadable(name, 0, io::Error::other(error))),
        }
        let header_bytes = reader.position().byte() as usize;
        let header_lines =
            memchr::memchr_iter(b'\n', &first.bytes()[..header_bytes]).count() as u64;
        first.skip(header_bytes);
        Ok(Self {
            columns: Columns::find(&name, &header, selection)?,
            name,
            blocks,
            first,
            header_lines,
            format,
        })
    }

    /// Reads all records.
    ///
    /// # Errors
    /// When the file cannot be read to its end, and the errors of [`Sink`].
    pub fn read(self, sink: &mut Sink<'_>) -> Result<(), Error> {
        let reading = Reading {
            format: self.format,
            columns: &self.columns,
            selection: sink.rules.selection(),
            time: sink.rules.time(),
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(MAX_THREADS);
        let (free, free_slots) = mpsc::channel();
        // For each thread one block to read, and one that waits to be put in order.
        for _ in 0..2 * threads {
            let _ = free.send(Slot {
                block: Block::default(),
                rows: BlockRows::new(reading.selection.payload.width()),
            });
        }
        let cutter = Mutex::new(Cutter {
            first: Some(self.first),
            blocks: self.blocks,
            free: free_slots,
            cut: 0,
            ended: false,
        });
        let mut file = InOrder {
            name: self.name,
            records: 0,
            lines: self.header_lines,
            sink,
        };
        thread::scope(|scope| {
            let (done, read) = mpsc::channel();
            for _ in 0..threads {
                let done = done.clone();
                let cutter = &cutter;
                thread::Builder::new()
                    .name("csv".to_owned())
                    .spawn_scoped(scope, move || read_blocks(cutter, reading, &done))
                    .map_err(|error| Error::Thread(error.to_string()))?;
            }
            drop(done);
            file.take_all(&read, free)
        })
    }
}

/// A block with its rows. A fixed number of slots is reused, which bounds memory.
struct Slot {
    block: Block,
    rows: BlockRows,
}

/// The source of blocks that all threads share.
struct Cutter<'a> {
    first: Option<Block>,
    blocks: Blocks<Text<'a>>,
    free: Receiver<Slot>,
    /// The number of blocks so far.
    cut: u64,
    /// Whether the file has ended, or reading it failed.
    ended: bool,
}

impl Cutter<'_> {
    /// The next block with its number; `None` after the last one, or when the reading was given up.
    fn next(&mut self) -> Option<(u64, Slot, Result<(), BlockError>)> {
        if self.ended {
            return None;
        }
        let mut slot = self.free.recv().ok()?;
        let result = match self.first.take() {
            Some(first) => {
                slot.block = first;
                Ok(())
            }
            None => match self.blocks.next(&mut slot.block) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    self.ended = true;
                    return None;
                }
                Err(error) => {
                    self.ended = true;
                    Err(error)
                }
            },
        };
        let number = self.cut;
        self.cut += 1;
        Some((number, slot, result))
    }
}

/// The result of a thread for a block.
enum Done {
    Read(Box<Slot>),
    BlockError(BlockError),
    Unreadable(csv::Error),
    /// The thread has panicked.
    Panicked,
}

/// The promise to send the result of a block. If the thread panics, its drop sends [`Done::Panicked`].
struct Promise<'a> {
    number: u64,
    done: &'a Sender<(u64, Done)>,
    is_fulfilled: bool,
}

impl Promise<'_> {
    /// Sends the result. Returns false when the receiver is gone.
    fn fulfil(mut self, done: Done) -> bool {
        self.is_fulfilled = true;
        self.done.send((self.number, done)).is_ok()
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if !self.is_fulfilled {
            let _ = self.done.send((self.number, Done::Panicked));
        }
    }
}

/// Reads blocks, one after the other, until the file has ended.
fn read_blocks(cutter: &Mutex<Cutter<'_>>, reading: Reading<'_>, done: &Sender<(u64, Done)>) {
    loop {
        let next = cutter.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, mut slot, cut)) = next else {
            return;
        };
        let promise = Promise {
            number,
            done,
            is_fulfilled: false,
        };
        let result = match cut {
            Err(error) => Done::BlockError(error),
            Ok(()) => match slot.rows.read(&slot.block, reading) {
                Ok(()) => Done::Read(Box::new(slot)),
                Err(error) => Done::Unreadable(error),
            },
        };
        if !promise.fulfil(result) {
            return;
        }
    }
}

/// The consumer of blocks, which passes their rows to the sink in the order of the file.
struct InOrder<'s, 'a> {
    name: String,
    /// The number of records and of lines in the blocks so far.
    records: u64,
    lines: u64,
    sink: &'s mut Sink<'a>,
}

impl InOrder<'_, '_> {
    /// Consumes all blocks, and returns their slots to be reused.
    fn take_all(&mut self, read: &Receiver<(u64, Done)>, free: Sender<Slot>) -> Result<(), Error> {
        let mut early = BTreeMap::new();
        let mut next = 0;
        for (number, done) in read {
            early.insert(number, done);
            while let Some(done) = early.remove(&next) {
                next += 1;
                let slot = self.take(done)?;
                // At the end of the file the receiver is gone.
                let _ = free.send(slot);
            }
        }
        Ok(())
    }

    fn take(&mut self, done: Done) -> Result<Slot, Error> {
        let name = || self.name.clone();
        match done {
            Done::Read(slot) => {
                self.sink.append(&self.name, self.records, &slot.rows)?;
                self.records += slot.rows.records;
                self.lines += slot.rows.lines;
                Ok(*slot)
            }
            Done::BlockError(error) => Err(block_error(name(), error, self.records, self.lines)),
            Done::Unreadable(error) => {
                Err(unreadable(name(), self.records, io::Error::other(error)))
            }
            Done::Panicked => Err(Error::Thread("a thread that reads CSV panicked".to_owned())),
        }
    }
}

/// The error of a file for that of a block; `records` and `lines` are the numbers of those before it.
fn block_error(input: String, error: BlockError, records: u64, lines: u64) -> Error {
    match error {
        BlockError::Unreadable(source) => unreadable(input, records, source),
        BlockError::RecordTooLong => Error::RecordTooLong {
            input,
            line: lines + 1,
        },
        BlockError::QuoteNotClosed => Error::QuoteNotClosed {
            input,
            line: lines + 1,
        },
    }
}

/// The error of a file that cannot be read after `records` records.
fn unreadable(input: String, records: u64, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutShort { input, records },
        _ => Error::Read {
            input,
            records,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use pipeline::Grain;
    use service::Shutdown;

    use super::*;
    use crate::columns::tests::{result, selected};
    use crate::rejects::Rejects;
    use crate::source::DataSet;
    use crate::source::decompress::READ_BYTES;
    use crate::source::rules::Rules;
    use crate::spill::Spill;
    use crate::timestamp::TimeFormat;

    const ROW: &str = "Italy,2020-07-14,yes\n";

    /// Reads a text. Returns the number of bytes that were read, too.
    fn read(text: &str) -> (Result<DataSet, Error>, usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let selected = selected(&["country"], result());
        let selection = selected.as_selection();
        let (time, shutdown) = (TimeFormat::default(), Shutdown::new());
        let mut rest = text.as_bytes();
        let read = CsvFile::open(
            "a.csv".to_owned(),
            Box::new(&mut rest),
            CsvFormat::default(),
            selection,
        )
        .and_then(|csv| {
            let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
            let spill = Spill::new(folder.path(), Grain::Hour, u64::MAX);
            let mut sink = Sink::new(Rules::new(selection, &time), rejects, spill, &shutdown);
            csv.read(&mut sink)?;
            sink.finish()
        });
        (read, text.len() - rest.len())
    }

    #[test]
    fn a_quote_that_is_never_closed_ends_the_reading_with_an_error_that_has_its_line() {
        let rows = ROW.repeat(8 * MAX_RECORD_BYTES / ROW.len());
        let text = format!("country,test_date,result\n{ROW}\"{rows}");
        let (read, taken) = read(&text);
        let error = read.expect_err("the record never ends");
        assert!(
            matches!(&error, Error::RecordTooLong { input, line: 3 } if input == "a.csv"),
            "{error}"
        );
        assert!(error.to_string().contains("--quote none"), "{error}");
        assert!(taken <= MAX_RECORD_BYTES + 2 * READ_BYTES, "{taken}");
    }

    #[test]
    fn a_quote_that_is_open_at_the_end_of_the_file_is_an_error_and_not_one_record() {
        let header = "country,test_date,result,note\n";
        let row = "Italy,2020-07-14,yes,x\n";
        // With a note up to the end of the file, the first record would have all its fields.
        for last in [
            "Italy,2020-07-14,yes,\"x\n",
            "\"Italy",
            "\"",
            "\"x\"\"",
            "Italy,\"",
        ] {
            let (read, _) = read(&format!("{header}{row}{last}{}", row.repeat(3)));
            let error = read.expect_err(last);
            assert!(
                matches!(error, Error::QuoteNotClosed { line: 3, .. }),
                "{last}: {error}"
            );
        }
        let (read, _) = read("country,test_date,\"result\nItaly,2020-07-14,yes\n");
        let error = read.expect_err("no header");
        assert!(
            matches!(error, Error::QuoteNotClosed { line: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn the_last_record_is_read_with_a_line_end_or_without() {
        let header = "country,test_date,result,note\n";
        for note in [
            "x",
            "",
            "\"x\"",
            "\"x\n\"",
            "\"x\"\"\"",
            "\"\"",
            "a\"b",
            "\"x\"y",
        ] {
            for end in ["", "\n", "\r\n", "\r", "\n\n\n"] {
                let (read, _) = read(&format!("{header}Italy,2020-07-14,yes,{note}{end}"));
                let data_set = read.expect(note);
                assert_eq!((data_set.rows.len(), data_set.rows_read), (1, 1), "{note}");
            }
        }
    }

    #[test]
    fn a_header_without_an_end_is_an_error() {
        let header = "country,".repeat(MAX_RECORD_BYTES / 4);
        let (read, taken) = read(&header);
        let error = read.expect_err("the header never ends");
        assert!(
            matches!(error, Error::RecordTooLong { line: 1, .. }),
            "{error}"
        );
        assert!(taken <= MAX_RECORD_BYTES + 2 * READ_BYTES, "{taken}");
    }

    #[test]
    fn several_records_just_below_the_limit_are_read() {
        let name = "x".repeat(MAX_RECORD_BYTES - 2 * READ_BYTES);
        let row = format!("Italy,2020-07-14,yes,\"{name}\"\n");
        let text = format!("country,test_date,result,name\n{}", row.repeat(4));
        let data_set = read(&text).0.expect("it is read");
        assert_eq!((data_set.rows.len(), data_set.rows_read), (4, 4));
    }
}

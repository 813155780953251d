//! A CSV file, plain or unpacked: finds the needed columns in its header and reads its records, with
//! as many threads as there are cores. [`csv_blocks`](crate::source::csv_blocks) cuts it,
//! [`csv_rows`](crate::source::csv_rows) reads the pieces, and here they are put in order again.

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
use crate::source::csv_blocks::{Block, Blocks, NoBlock};
use crate::source::csv_rows::{BlockRows, Reading, reader_builder};
use crate::source::sink::Sink;

pub use crate::source::csv_blocks::MAX_RECORD_BYTES;

/// More threads than this cut blocks faster than one of them can be put in order.
const MAX_THREADS: usize = 8;

type Text<'a> = Box<dyn Read + Send + 'a>;

/// A CSV file whose header was read.
pub struct CsvFile<'a> {
    name: String,
    blocks: Blocks<Text<'a>>,
    /// The first one, without the header.
    first: Block,
    /// Line feeds before it.
    header_lines: u64,
    format: CsvFormat,
    columns: Columns,
}

impl<'a> CsvFile<'a> {
    /// Reads the header of a file; `name` is for people.
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
            Err(none) => return Err(no_block(name, none, 0, 0)),
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
    /// When the file cannot be read to its end, and those of [`Sink`].
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
        // One for each thread to read, and one to be put in order meanwhile.
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

/// A block with its rows. There are so many and no more, which bounds what is in memory.
struct Slot {
    block: Block,
    rows: BlockRows,
}

/// Whoever has it cuts the next block.
struct Cutter<'a> {
    first: Option<Block>,
    blocks: Blocks<Text<'a>>,
    free: Receiver<Slot>,
    cut: u64,
    /// Nothing comes after an end or an error.
    ended: bool,
}

impl Cutter<'_> {
    /// Cuts the next block. `None` after the last one, or when nobody wants it any more.
    fn next(&mut self) -> Option<(u64, Slot, Result<(), NoBlock>)> {
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
                Err(none) => {
                    self.ended = true;
                    Err(none)
                }
            },
        };
        let number = self.cut;
        self.cut += 1;
        Some((number, slot, result))
    }
}

/// What a thread has made of a block.
enum Done {
    Read(Box<Slot>),
    NoBlock(NoBlock),
    Unreadable(csv::Error),
    /// The thread is unwinding.
    Panicked,
}

/// The number of a block that somebody waits for: says so even when its thread panics.
struct Promise<'a> {
    number: u64,
    done: &'a Sender<(u64, Done)>,
    kept: bool,
}

impl Promise<'_> {
    /// Whether anybody listens.
    fn keep(mut self, done: Done) -> bool {
        self.kept = true;
        self.done.send((self.number, done)).is_ok()
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.done.send((self.number, Done::Panicked));
        }
    }
}

/// Cuts and reads blocks, one after the other, until there are none.
fn read_blocks(cutter: &Mutex<Cutter<'_>>, reading: Reading<'_>, done: &Sender<(u64, Done)>) {
    loop {
        let next = cutter.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, mut slot, cut)) = next else {
            return;
        };
        let promise = Promise {
            number,
            done,
            kept: false,
        };
        let result = match cut {
            Err(none) => Done::NoBlock(none),
            Ok(()) => match slot.rows.read(&slot.block, reading) {
                Ok(()) => Done::Read(Box::new(slot)),
                Err(error) => Done::Unreadable(error),
            },
        };
        if !promise.keep(result) {
            return;
        }
    }
}

/// Takes blocks in the order of the file, whichever is read first.
struct InOrder<'s, 'a> {
    name: String,
    records: u64,
    lines: u64,
    sink: &'s mut Sink<'a>,
}

impl InOrder<'_, '_> {
    fn take_all(&mut self, read: &Receiver<(u64, Done)>, free: Sender<Slot>) -> Result<(), Error> {
        let mut early = BTreeMap::new();
        let mut next = 0;
        for (number, done) in read {
            early.insert(number, done);
            while let Some(done) = early.remove(&next) {
                next += 1;
                let slot = self.take(done)?;
                // Nobody wants it when the file is at its end.
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
            Done::NoBlock(none) => Err(no_block(name(), none, self.records, self.lines)),
            Done::Unreadable(error) => {
                Err(unreadable(name(), self.records, io::Error::other(error)))
            }
            Done::Panicked => Err(Error::Thread("a reader panicked".to_owned())),
        }
    }
}

/// `records` and `lines` are those before.
fn no_block(input: String, none: NoBlock, records: u64, lines: u64) -> Error {
    match none {
        NoBlock::Unreadable(source) => unreadable(input, records, source),
        NoBlock::RecordTooLong => Error::RecordTooLong {
            input,
            line: lines + 1,
        },
        NoBlock::QuoteNotClosed => Error::QuoteNotClosed {
            input,
            line: lines + 1,
        },
    }
}

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

    /// Reads a text, and says how many bytes of it were taken.
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
    fn a_quote_that_is_never_closed_ends_the_reading_and_is_told_by_its_line() {
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
    fn a_quote_that_is_open_at_the_end_of_the_file_swallows_no_row() {
        let header = "country,test_date,result,note\n";
        let row = "Italy,2020-07-14,yes,x\n";
        // With a note that goes on to the end, the first record would have all its fields.
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
    fn a_last_record_is_whole_with_a_line_end_or_without() {
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
    fn a_header_that_never_ends_is_an_error_too() {
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
    fn records_that_are_long_and_not_too_long_are_read_in_any_number() {
        let name = "x".repeat(MAX_RECORD_BYTES - 2 * READ_BYTES);
        let row = format!("Italy,2020-07-14,yes,\"{name}\"\n");
        let text = format!("country,test_date,result,name\n{}", row.repeat(4));
        let data_set = read(&text).0.expect("it is read");
        assert_eq!((data_set.rows.len(), data_set.rows_read), (4, 4));
    }
}

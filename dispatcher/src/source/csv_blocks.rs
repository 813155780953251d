//! The division of a CSV file into blocks of whole records, which several threads read in parallel. A
//! line break inside quotes does not end a record, so the scan finds every quote, and nothing else.
//!
//! Quotes have the same meaning as in the `csv` crate: a quote opens only at the beginning of a field,
//! and a quote directly after a closing quote opens again.

use std::io::{self, Read};
use std::ops::Range;

use memchr::{memchr_iter, memrchr2};

use crate::input::CsvFormat;

/// The size of a block, unless a record is longer. Larger blocks are not faster, smaller ones are more
/// blocks.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// The length at which a record without an end is an error, because a quote that is never closed would
/// make one record of the rest of the file. The limit bounds memory; a record that is longer by
/// `GROWTH_BYTES` at most may still be accepted.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// The number of bytes by which a block without a whole record grows.
const GROWTH_BYTES: usize = 64 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A part of a file that consists of whole records. Its buffer is reused.
#[derive(Debug, Default)]
pub struct Block {
    /// Initialised to its whole length, as `Read` requires.
    buffer: Vec<u8>,
    /// The place of the records in the buffer.
    records: Range<usize>,
    has_quotes: bool,
}

impl Block {
    /// The text of the records. The first block of a file includes its byte order mark.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.records.clone()]
    }

    /// Whether the text contains a quote, so that a delimiter may be part of a field.
    pub fn has_quotes(&self) -> bool {
        self.has_quotes
    }

    /// Removes the first bytes, which must be whole records.
    pub fn skip(&mut self, bytes: usize) {
        self.records.start += bytes;
    }
}

/// An error that ends the reading of blocks.
#[derive(Debug)]
pub enum BlockError {
    /// Reading the file failed.
    Unreadable(io::Error),
    /// The next record is longer than [`MAX_RECORD_BYTES`].
    RecordTooLong,
    /// The file ends inside the quotes of the next record. The text after the open quote may be many
    /// records, so it is not accepted as one.
    QuoteNotClosed,
}

/// A reader of a file in blocks.
pub struct Blocks<R> {
    reader: R,
    format: CsvFormat,
    block_bytes: usize,
    /// The bytes that are read and belong to the next block.
    rest: Vec<u8>,
    /// Whether anything was read.
    begun: bool,
    /// Whether the file has ended; with the error that ended it, which is returned after all whole
    /// records.
    ended: Option<Option<io::Error>>,
}

impl<R: Read> Blocks<R> {
    /// The blocks of a file; `reader` is at its beginning.
    pub fn new(reader: R, format: CsvFormat) -> Self {
        Self::of_size(reader, format, BLOCK_BYTES)
    }

    fn of_size(reader: R, format: CsvFormat, block_bytes: usize) -> Self {
        Self {
            reader,
            format,
            block_bytes,
            rest: Vec::new(),
            begun: false,
            ended: None,
        }
    }

    /// Fills `block` with the next block; returns false at the end of the file.
    ///
    /// # Errors
    /// When reading fails, a record is too long, or a quote is open at the end of the file. All whole
    /// records before the error are returned first.
    pub fn next(&mut self, block: &mut Block) -> Result<bool, BlockError> {
        let mut filled = self.rest.len();
        let mut wanted = self.block_bytes.max(filled);
        block.make_room(wanted);
        block.buffer[..filled].copy_from_slice(&self.rest);
        self.rest.clear();
        let mut scan = Scan::new(self.format);
        // A quote after the byte order mark begins a field.
        let mut mark = 0;
        let end = loop {
            filled = self.fill(&mut block.buffer[..wanted], filled);
            if !self.begun {
                self.begun = true;
                if block.buffer[..filled].starts_with(BYTE_ORDER_MARK) {
                    mark = BYTE_ORDER_MARK.len();
                }
            }
            let end = scan.end_of_records(&block.buffer[mark..filled]);
            match (&mut self.ended, end) {
                (Some(None), None) if scan.is_quoted => return Err(BlockError::QuoteNotClosed),
                // The whole records before the open quote are returned first.
                (Some(None), Some(end)) if scan.is_quoted => break mark + end,
                (Some(None), _) => break filled,
                (_, Some(end)) => break mark + end,
                (Some(error), None) => {
                    return match error.take() {
                        Some(error) => Err(BlockError::Unreadable(error)),
                        None => Ok(false),
                    };
                }
                (None, None) if filled > MAX_RECORD_BYTES => {
                    return Err(BlockError::RecordTooLong);
                }
                (None, None) => {
                    wanted = filled + self.block_bytes.min(GROWTH_BYTES);
                    block.make_room(wanted);
                }
            }
        };
        self.rest.extend_from_slice(&block.buffer[end..filled]);
        block.records = 0..end;
        block.has_quotes = scan.first_quote.is_some_and(|quote| mark + quote < end);
        Ok(end > 0)
    }

    /// Reads until the buffer is full or the file ends. Returns the number of bytes in the buffer.
    fn fill(&mut self, buffer: &mut [u8], mut filled: usize) -> usize {
        while self.ended.is_none() && filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => self.ended = Some(None),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.ended = Some(Some(error)),
            }
        }
        filled
    }
}

impl Block {
    /// Extends the buffer to this length.
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
    }
}

/// The search for the end of the last whole record in a text that begins with a record.
struct Scan {
    format: CsvFormat,
    /// The number of bytes that are scanned.
    scanned: usize,
    first_quote: Option<usize>,
    /// Whether the next byte is inside quotes.
    is_quoted: bool,
    /// The beginning of the last text outside quotes.
    outside: usize,
    last_close: Option<usize>,
    /// The position after the last line break outside quotes.
    end: Option<usize>,
}

impl Scan {
    fn new(format: CsvFormat) -> Self {
        Self {
            format,
            scanned: 0,
            first_quote: None,
            is_quoted: false,
            outside: 0,
            last_close: None,
            end: None,
        }
    }

    /// The end of the last whole record of a text; `None` when there is no whole record. The text must
    /// begin with the text of the last call.
    fn end_of_records(&mut self, text: &[u8]) -> Option<usize> {
        if let Some(quote) = self.format.quote.0 {
            let from = self.scanned;
            for position in memchr_iter(quote, &text[from..]) {
                self.quote(text, from + position);
            }
        }
        self.scanned = text.len();
        if !self.is_quoted {
            self.find_end(text, text.len());
        }
        self.end
    }

    /// Handles the quote at a position.
    fn quote(&mut self, text: &[u8], at: usize) {
        self.first_quote.get_or_insert(at);
        if self.is_quoted {
            self.is_quoted = false;
            self.last_close = Some(at);
            self.outside = at + 1;
            return;
        }
        let before = at.checked_sub(1);
        let begins_field = before.is_none_or(|before| {
            let byte = text[before];
            byte == self.format.delimiter.0 || byte == b'\n' || byte == b'\r'
        });
        let opens_again = before.is_some() && before == self.last_close;
        if begins_field || opens_again {
            self.find_end(text, at);
            self.is_quoted = true;
        }
    }

    /// Finds the last line break in the text outside quotes that ends at a position.
    fn find_end(&mut self, text: &[u8], until: usize) {
        if let Some(found) = memrchr2(b'\n', b'\r', &text[self.outside..until]) {
            self.end = Some(self.outside + found + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use csv::{ByteRecord, ReaderBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::input::{Delimiter, Quote};

    fn records(text: &[u8], format: CsvFormat) -> Vec<ByteRecord> {
        let mut builder = ReaderBuilder::new();
        builder.flexible(true).has_headers(false);
        builder.delimiter(format.delimiter.0);
        match format.quote.0 {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        let reader = builder.from_reader(text);
        let records: Result<_, _> = reader.into_byte_records().collect();
        records.expect("bytes can be read")
    }

    fn blocks(text: &[u8], format: CsvFormat, block_bytes: usize) -> Vec<Vec<u8>> {
        let mut blocks = Blocks::of_size(text, format, block_bytes);
        let mut block = Block::default();
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            match blocks.next(&mut block) {
                Ok(true) => {}
                Ok(false) => break,
                Err(BlockError::QuoteNotClosed) => {
                    // The rest is the record whose quote is open.
                    let taken = all.iter().map(Vec::len).sum::<usize>();
                    all.push(text[taken..].to_vec());
                    break;
                }
                Err(error) => panic!("no record is long: {error:?}"),
            }
            let quote = format.quote.0;
            let has_quotes = block.bytes().iter().any(|&byte| Some(byte) == quote);
            assert_eq!(block.has_quotes(), has_quotes);
            all.push(block.bytes().to_vec());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// With any text and any block size, the records of the blocks are the records of the text.
        #[test]
        fn no_record_is_split(
            text in prop::collection::vec(prop::sample::select(b"aab,,\"\"\"\n\n\r ".to_vec()), 0..120),
            block_bytes in 1usize..40,
            quoting in any::<bool>(),
        ) {
            let quote = Quote(quoting.then_some(b'"'));
            let format = CsvFormat::new(Delimiter(b','), quote).expect("they differ");
            let expected = records(&text, format);
            let blocks = blocks(&text, format, block_bytes);
            prop_assert_eq!(blocks.concat(), text);
            let cut: Vec<ByteRecord> = blocks
                .iter()
                .flat_map(|block| records(block, format))
                .collect();
            prop_assert_eq!(cut, expected);
        }
    }

    #[test]
    fn a_quote_after_a_byte_order_mark_opens() {
        let text = b"\xef\xbb\xbf\"a\nb\",c\nd,e\n";
        let cut = blocks(text, CsvFormat::default(), 6);
        assert_eq!(cut.concat(), text);
        assert_eq!(cut[0], b"\xef\xbb\xbf\"a\nb\",c\n");
    }

    #[test]
    fn an_error_is_returned_after_the_records_before_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let text = io::Cursor::new(b"a,b\nc,").chain(Broken);
        let mut blocks = Blocks::new(text, CsvFormat::default());
        let mut block = Block::default();
        assert!(blocks.next(&mut block).expect("one record is whole"));
        assert_eq!(block.bytes(), b"a,b\n");
        let error = blocks.next(&mut block);
        assert!(matches!(error, Err(BlockError::Unreadable(_))), "{error:?}");
        // It is returned once, and then the file has ended.
        assert!(!blocks.next(&mut block).expect("the end"));
    }
}

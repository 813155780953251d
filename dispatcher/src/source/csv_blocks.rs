//! Cuts the text of a CSV file into blocks of whole records, so that several threads can read it at
//! once. A line break inside quotes ends no record, so every quote is looked at, and nothing else.
//!
//! What a quote means is what the `csv` crate takes it for: it opens only where a field begins, and
//! one that follows a closing quote opens again.

use std::io::{self, Read};
use std::ops::Range;

use memchr::{memchr_iter, memrchr2};

use crate::input::CsvFormat;

/// What a block has of a file, if its records allow. More gains nothing, less costs more blocks.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// A file is not read on once so much of it was read and belongs to no whole record: a quote that
/// is never closed would make one record of the whole rest. A record that is a little longer, by
/// `GROWTH_BYTES` at most, may still be taken: the bound is for memory.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// So much more is read at once where a block has no whole record yet.
const GROWTH_BYTES: usize = 64 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whole records, in a buffer that is used again.
#[derive(Debug, Default)]
pub struct Block {
    /// All of it has been written once, so that a file can be read into it.
    buffer: Vec<u8>,
    records: Range<usize>,
    has_quotes: bool,
}

impl Block {
    /// The text of the records, with a byte order mark where the file begins with one.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.records.clone()]
    }

    /// Whether there is a quote in it, so that a delimiter may be part of a field.
    pub fn has_quotes(&self) -> bool {
        self.has_quotes
    }

    /// Drops the first bytes, which are whole records.
    pub fn skip(&mut self, bytes: usize) {
        self.records.start += bytes;
    }
}

/// Why there is no further block.
#[derive(Debug)]
pub enum NoBlock {
    /// The file cannot be read on.
    Unreadable(io::Error),
    /// The record that begins here has no end within [`MAX_RECORD_BYTES`].
    RecordTooLong,
    /// The file ends inside the quotes of the record that begins here. What stands behind them may be
    /// many records, so it is not taken for one.
    QuoteNotClosed,
}

/// The text of a file, to be cut.
pub struct Blocks<R> {
    reader: R,
    format: CsvFormat,
    block_bytes: usize,
    /// What was read and belongs to the next block.
    rest: Vec<u8>,
    begun: bool,
    /// What the file ended with: its end, or an error that is to be told after what is whole.
    ended: Option<Option<io::Error>>,
}

impl<R: Read> Blocks<R> {
    /// The text that a reader has, from its beginning.
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

    /// Makes `block` the next one; false at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read on, after all whole records before, a record is too long, or a quote
    /// is open at the end of the file.
    pub fn next(&mut self, block: &mut Block) -> Result<bool, NoBlock> {
        let mut filled = self.rest.len();
        let mut wanted = self.block_bytes.max(filled);
        block.make_room(wanted);
        block.buffer[..filled].copy_from_slice(&self.rest);
        self.rest.clear();
        let mut scan = Scan::new(self.format);
        // A quote that comes after a byte order mark begins a field.
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
                (Some(None), None) if scan.is_quoted => return Err(NoBlock::QuoteNotClosed),
                // Those before come first.
                (Some(None), Some(end)) if scan.is_quoted => break mark + end,
                (Some(None), _) => break filled,
                (_, Some(end)) => break mark + end,
                (Some(error), None) => {
                    return match error.take() {
                        Some(error) => Err(NoBlock::Unreadable(error)),
                        None => Ok(false),
                    };
                }
                (None, None) if filled > MAX_RECORD_BYTES => {
                    return Err(NoBlock::RecordTooLong);
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

    /// Reads until the buffer is full or the file is at its end. Returns how much of it is filled.
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
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
    }
}

/// Where records end in a text that begins with one.
struct Scan {
    format: CsvFormat,
    /// So much was looked at.
    scanned: usize,
    first_quote: Option<usize>,
    /// Whether what comes next is inside quotes.
    is_quoted: bool,
    /// Where the text outside quotes begins that was looked at last.
    outside: usize,
    last_close: Option<usize>,
    /// After the last line break outside quotes, as far as there was one before a quote.
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

    /// Where the last whole record of a text ends; `None` while there is none. The text is that of
    /// the last call, or begins with it.
    fn end_of_records(&mut self, text: &[u8]) -> Option<usize> {
        if let Some(quote) = self.format.quote.0 {
            let from = self.scanned;
            for position in memchr_iter(quote, &text[from..]) {
                self.quote(text, from + position);
            }
        }
        self.scanned = text.len();
        if !self.is_quoted {
            self.look_for_end(text, text.len());
        }
        self.end
    }

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
            self.look_for_end(text, at);
            self.is_quoted = true;
        }
    }

    /// Looks at the text outside quotes that ends here.
    fn look_for_end(&mut self, text: &[u8], until: usize) {
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
                Err(NoBlock::QuoteNotClosed) => {
                    // What is left is the one record that has no end.
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

        /// Whatever the text and the size of the blocks: the records of the blocks are the records
        /// of the text.
        #[test]
        fn no_record_is_cut(
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
    fn an_error_comes_after_the_records_before_it() {
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
        assert!(matches!(error, Err(NoBlock::Unreadable(_))), "{error:?}");
        // It is told once; nothing comes after it.
        assert!(!blocks.next(&mut block).expect("the end"));
    }
}

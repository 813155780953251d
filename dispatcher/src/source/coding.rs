//! The encoding of a row's values as its record: codes are one byte each, texts are their length in
//! LEB128 and their bytes.

use std::io::{self, Read};
use std::str;

use computations::{Coding, Column};

use crate::records::MAX_PAYLOAD_BYTES;
use crate::rejects::Reason;

/// The number of bits of a number in each byte of LEB128.
const BITS: u32 = 7;
/// The bit that is set in every byte of LEB128 but the last.
const MORE: u8 = 0x80;

/// Appends the record of a row to `out`; `values` are the values of the columns, in order.
///
/// # Errors
/// The reason to reject the row: a value without a code, a text that is not UTF-8, or a record that is
/// too long. `out` may then have a part of the record.
#[inline]
pub fn encode<'v>(
    columns: &[Column],
    values: impl Iterator<Item = &'v [u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let start = out.len();
    for (column, value) in columns.iter().zip(values) {
        match &column.coding {
            Coding::Code {
                values,
                missing,
                unlisted,
            } => match values.iter().find(|(known, _)| known.as_bytes() == value) {
                Some(&(_, code)) => out.push(code),
                None => return Err(no_code(value, missing, unlisted)),
            },
            Coding::Text => push_text(value, start, out)?,
        }
    }
    Ok(())
}

/// The reason to reject a row with a value that has no code.
#[cold]
fn no_code(value: &[u8], missing: &'static str, unlisted: &'static str) -> Reason {
    Reason::NoCode(match value {
        [] => missing,
        _ => unlisted,
    })
}

/// Appends a text to a record that begins at `start`.
fn push_text(value: &[u8], start: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
    if str::from_utf8(value).is_err() {
        return Err(Reason::InvalidUtf8);
    }
    push_leb128(value.len(), out);
    // Checked before the copy, because a few bytes of a Parquet file may stand for many long texts.
    if out.len() - start + value.len() > MAX_PAYLOAD_BYTES {
        return Err(Reason::RecordTooLong);
    }
    out.extend_from_slice(value);
    Ok(())
}

/// Appends a number as unsigned LEB128.
pub fn push_leb128(mut number: usize, out: &mut Vec<u8>) {
    while number >= usize::from(MORE) {
        out.push(number as u8 | MORE);
        number >>= BITS;
    }
    out.push(number as u8);
}

/// Reads a number that [`push_leb128`] has written.
///
/// # Errors
/// When reading fails, or the number is too long for a `usize`.
pub fn read_leb128(reader: &mut impl Read) -> io::Result<usize> {
    let mut number = 0;
    for shift in (0..usize::BITS - BITS).step_by(BITS as usize) {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        number |= usize::from(byte[0] & !MORE) << shift;
        if byte[0] & MORE == 0 {
            return Ok(number);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::columns::tests::{code, text};

    fn encoded(columns: &[Column], values: &[&[u8]]) -> Result<Vec<u8>, Reason> {
        let mut out = Vec::new();
        encode(columns, values.iter().copied(), &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_value_is_encoded_as_its_listed_code() {
        let columns = [code("a", &["x", "y"]), code("b", &["", "y"])];
        assert_eq!(encoded(&columns, &[b"y", b""]), Ok(vec![1, 0]));
        assert_eq!(encoded(&columns, &[b"x", b"y"]), Ok(vec![0, 1]));
        // An empty value is missing unless it is listed.
        let missing = Err(Reason::NoCode("missing_result"));
        assert_eq!(encoded(&columns, &[b"", b""]), missing);
        let unlisted = Err(Reason::NoCode("unknown_result"));
        assert_eq!(encoded(&columns, &[b"Y", b""]), unlisted);
        assert_eq!(encoded(&columns, &[b"y", b"z"]), unlisted);
        assert_eq!(encoded(&[], &[]), Ok(Vec::new()));
    }

    #[test]
    fn a_text_is_encoded_as_its_length_and_its_bytes() {
        let columns = [text("a"), code("b", &["x"]), text("c")];
        let long = "é".repeat(100);
        let expected = [&[0, 0, 0xc8, 1], long.as_bytes()].concat();
        assert_eq!(
            encoded(&columns, &[b"", b"x", long.as_bytes()]),
            Ok(expected)
        );
        let latin = encoded(&columns, &[b"\xe7", b"x", b""]);
        assert_eq!(latin, Err(Reason::InvalidUtf8));
    }

    #[test]
    fn a_record_of_one_byte_more_than_the_limit_is_too_long() {
        let columns = [text("a"), text("b")];
        // A length of three bytes, and one of one byte.
        let most = vec![b'x'; MAX_PAYLOAD_BYTES - 4];
        let whole = encoded(&columns, &[&most, b""]).expect("it fits");
        assert_eq!(whole.len(), MAX_PAYLOAD_BYTES);
        let too_long = encoded(&columns, &[&most, b"y"]);
        assert_eq!(too_long, Err(Reason::RecordTooLong));
    }

    proptest! {
        #[test]
        fn a_number_is_read_as_it_was_written(number in any::<u32>()) {
            let mut out = Vec::new();
            push_leb128(number as usize, &mut out);
            let mut rest = out.as_slice();
            prop_assert_eq!(read_leb128(&mut rest).expect("a number"), number as usize);
            prop_assert!(rest.is_empty());
            prop_assert!(read_leb128(&mut &out[..out.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_number_without_an_end_is_refused() {
        assert!(read_leb128(&mut [0xff; 64].as_slice()).is_err());
    }
}

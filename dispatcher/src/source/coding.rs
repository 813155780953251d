//! From the values of a row's columns to its record.

use std::io::{self, Read};
use std::str;

use computations::{Coding, Column};

use crate::records::MAX_PAYLOAD_BYTES;
use crate::rejects::Reason;

/// The bits of a number that a byte of LEB128 has.
const BITS: u32 = 7;
/// Set in every byte of LEB128 but the last.
const MORE: u8 = 0x80;

/// Appends the record of a row to `out`, which may have others before; `values` are those of the
/// columns, in order.
///
/// # Errors
/// The reason to reject the row, when a value has no code or is no text, or the record is too long. Part
/// of it may have been appended then.
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
                None if value.is_empty() => return Err(Reason::NoCode(missing)),
                None => return Err(Reason::NoCode(unlisted)),
            },
            Coding::Text => push_text(value, start, out)?,
        }
    }
    Ok(())
}

/// Appends a text to a record that begins at `start`.
fn push_text(value: &[u8], start: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
    if str::from_utf8(value).is_err() {
        return Err(Reason::InvalidUtf8);
    }
    push_leb128(value.len(), out);
    // Looked at before it is copied: a Parquet file may repeat a long one for a few bytes.
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

/// Reads a number as [`push_leb128`] has written it.
///
/// # Errors
/// When the reader cannot be read, or has no such number.
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
    fn a_value_has_the_code_that_is_listed_with_it() {
        let columns = [code("a", &["x", "y"]), code("b", &["", "y"])];
        assert_eq!(encoded(&columns, &[b"y", b""]), Ok(vec![1, 0]));
        assert_eq!(encoded(&columns, &[b"x", b"y"]), Ok(vec![0, 1]));
        // An empty value is missing only where it is not listed.
        let missing = Err(Reason::NoCode("missing_result"));
        assert_eq!(encoded(&columns, &[b"", b""]), missing);
        let unlisted = Err(Reason::NoCode("unknown_result"));
        assert_eq!(encoded(&columns, &[b"Y", b""]), unlisted);
        assert_eq!(encoded(&columns, &[b"y", b"z"]), unlisted);
        assert_eq!(encoded(&[], &[]), Ok(Vec::new()));
    }

    #[test]
    fn a_text_is_its_length_and_its_bytes() {
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
    fn a_record_is_too_long_by_one_byte_more_than_a_payload_has() {
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
        fn a_length_is_read_as_it_was_written(number in any::<u32>()) {
            let mut out = Vec::new();
            push_leb128(number as usize, &mut out);
            let mut rest = out.as_slice();
            prop_assert_eq!(read_leb128(&mut rest).expect("a number"), number as usize);
            prop_assert!(rest.is_empty());
            prop_assert!(read_leb128(&mut &out[..out.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_number_that_never_ends_is_refused() {
        assert!(read_leb128(&mut [0xff; 64].as_slice()).is_err());
    }
}

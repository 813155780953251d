//! Unsigned LEB128, an encoding of 64-bit numbers in which small ones take one byte, and texts with
//! their length before them.

/// Appends a number.
#[inline]
pub fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Removes a number from the front of `bytes`; `None` where it is incomplete or has more than 64 bits.
#[inline]
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Appends a text in the coding [`Coding::Text`](crate::Coding::Text).
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    write(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Removes a text from the front of `bytes`; `None` where it is incomplete or not UTF-8.
pub fn read_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(read(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_equal_after_writing_and_reading(
            value in any::<u64>(),
            shift in 0u32..64,
            rest in any::<u8>(),
        ) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            bytes.push(rest);
            let mut left = bytes.as_slice();
            prop_assert_eq!(read(&mut left), Some(value));
            prop_assert_eq!(left, [rest]);
        }
    }

    proptest! {
        #[test]
        fn a_text_is_equal_after_writing_and_reading(text: String, rest: Vec<u8>) {
            let mut bytes = Vec::new();
            write_text(&text, &mut bytes);
            prop_assert_eq!(read_text(&mut &bytes[..bytes.len() - 1]), None);
            bytes.extend_from_slice(&rest);
            let mut left = bytes.as_slice();
            prop_assert_eq!(read_text(&mut left), Some(text.as_str()));
            prop_assert_eq!(left, rest.as_slice());
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_not_a_text() {
        assert_eq!(read_text(&mut &[1, 0xff][..]), None);
        assert_eq!(read_text(&mut &[0xff; 10][..]), None);
    }

    #[test]
    fn an_incomplete_number_and_one_over_64_bits_are_refused() {
        assert_eq!(read(&mut &[][..]), None);
        assert_eq!(read(&mut &[0x80, 0xff][..]), None);
        let mut largest = vec![0xff; 9];
        largest.push(1);
        assert_eq!(read(&mut largest.as_slice()), Some(u64::MAX));
        largest[9] = 2;
        assert_eq!(read(&mut largest.as_slice()), None);
        assert_eq!(read(&mut &[0x80; 20][..]), None);
    }
}

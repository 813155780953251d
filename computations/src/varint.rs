//! Unsigned LEB128: small numbers in one byte.

/// Appends a number.
#[inline]
pub fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number from the front of `bytes`; `None` when there is none, or none of 64 bits.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value in any::<u64>(), shift in 0u32..64, rest in any::<u8>()) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            bytes.push(rest);
            let mut left = bytes.as_slice();
            prop_assert_eq!(read(&mut left), Some(value));
            prop_assert_eq!(left, [rest]);
        }
    }

    #[test]
    fn what_is_cut_short_or_too_large_is_no_number() {
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

//! Fields of protobuf messages, read in place and written column by column.
//!
//! Every encoder writes one form of a message: fields in ascending order, numbers packed, nothing twice.
//! A [`Reader`] reads that form and nothing else, without copying or asking for memory. What it returns
//! `None` for may be a message all the same, and is decoded by prost.

use prost::Message;

use crate::error::DecodeError;

/// The wire type of a varint.
const VARINT: u32 = 0;

/// The wire type of bytes behind their length.
const LENGTH_DELIMITED: u32 = 2;

/// Reads the fields of a message, which are asked for in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of a whole message.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The end of the message; `None` when there are further fields.
    pub(crate) fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    /// The next field's value, if it is this field.
    #[inline(always)]
    pub(crate) fn next_bytes(&mut self, field: u32) -> Option<Option<&'a [u8]>> {
        if !self.skip_tag(field, LENGTH_DELIMITED) {
            return Some(None);
        }
        let length = usize::try_from(read_varint(&mut self.rest)?).ok()?;
        let (own, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Some(own))
    }

    /// A field of bytes, which are empty where it is absent.
    #[inline(always)]
    pub(crate) fn bytes(&mut self, field: u32) -> Option<&'a [u8]> {
        self.next_bytes(field).map(Option::unwrap_or_default)
    }

    /// A field of a number, which is 0 where it is absent.
    #[inline(always)]
    pub(crate) fn number(&mut self, field: u32) -> Option<u64> {
        match self.skip_tag(field, VARINT) {
            true => read_varint(&mut self.rest),
            false => Some(0),
        }
    }

    /// The same, of 32 bits.
    #[inline(always)]
    pub(crate) fn small_number(&mut self, field: u32) -> Option<u32> {
        self.number(field)?.try_into().ok()
    }

    /// A packed field of numbers, in place of those that are in the column.
    #[inline(always)]
    pub(crate) fn numbers<T: TryFrom<u64> + From<u8>>(
        &mut self,
        field: u32,
        column: &mut Vec<T>,
    ) -> Option<()> {
        column.clear();
        let mut packed = self.bytes(field)?;
        if packed.is_ascii() {
            // Numbers below 128, which most are.
            column.extend(packed.iter().map(|&number| T::from(number)));
            return Some(());
        }
        while !packed.is_empty() {
            column.push(read_varint(&mut packed)?.try_into().ok()?);
        }
        Some(())
    }

    #[inline(always)]
    fn skip_tag(&mut self, field: u32, wire_type: u32) -> bool {
        let rest = match tag(field, wire_type) {
            (tag, None) => self.rest.strip_prefix(&[tag]),
            (tag, Some(second)) => self.rest.strip_prefix(&[tag, second]),
        };
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// The message of these bytes, decoded by prost. `message` is the name of its type.
pub(crate) fn decode<M: Message + Default>(
    message: &'static str,
    bytes: &[u8],
) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|source| DecodeError::Protobuf { message, source })
}

/// What `read` makes of the bytes of a message, or else of the form in which prost writes that message,
/// which `rewritten` then holds. `message` is the name of its type.
#[inline]
pub(crate) fn read_or_rewrite<'a, M: Message + Default, T>(
    message: &'static str,
    bytes: &'a [u8],
    rewritten: &'a mut Vec<u8>,
    mut read: impl FnMut(&'a [u8]) -> Option<T>,
) -> Result<T, DecodeError> {
    if let Some(value) = read(bytes) {
        return Ok(value);
    }
    *rewritten = decode::<M>(message, bytes)?.encode_to_vec();
    Ok(read(rewritten).expect("prost writes the one form that is read"))
}

/// The tag of a field whose number is below 2,048: a byte, or two.
#[inline(always)]
fn tag(field: u32, wire_type: u32) -> (u8, Option<u8>) {
    let tag = field << 3 | wire_type;
    match tag {
        0..0x80 => (tag as u8, None),
        _ => (tag as u8 | 0x80, Some((tag >> 7) as u8)),
    }
}

#[inline(always)]
fn put_tag(field: u32, wire_type: u32, buffer: &mut Vec<u8>) {
    match tag(field, wire_type) {
        (tag, None) => buffer.push(tag),
        (tag, Some(second)) => buffer.extend_from_slice(&[tag, second]),
    }
}

#[inline(always)]
fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(first.into());
    }
    read_long_varint(bytes)
}

#[inline(never)]
fn read_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    // The tenth byte has the last bit.
    let (&byte, rest) = bytes.split_first()?;
    *bytes = rest;
    (byte <= 1).then_some(value | u64::from(byte) << 63)
}

/// Appends a varint.
#[inline(always)]
pub(crate) fn put_varint(mut value: u64, buffer: &mut Vec<u8>) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// Appends the beginning of a field of bytes; this many of them are to follow.
#[inline(always)]
pub(crate) fn put_length(field: u32, bytes: usize, buffer: &mut Vec<u8>) {
    put_tag(field, LENGTH_DELIMITED, buffer);
    put_varint(bytes as u64, buffer);
}

/// Appends a field of bytes.
#[inline(always)]
pub(crate) fn put_bytes(field: u32, bytes: &[u8], buffer: &mut Vec<u8>) {
    put_length(field, bytes.len(), buffer);
    buffer.extend_from_slice(bytes);
}

/// Appends a field of bytes, which is absent where there are none.
#[inline(always)]
pub(crate) fn put_column(field: u32, column: &[u8], buffer: &mut Vec<u8>) {
    if !column.is_empty() {
        put_bytes(field, column, buffer);
    }
}

/// Appends a column of numbers.
#[inline]
pub(crate) fn put_numbers<T: Copy + Into<u64>>(field: u32, column: &[T], buffer: &mut Vec<u8>) {
    if column.is_empty() {
        return;
    }
    let lengths = column.iter().map(|&number| varint_bytes(number.into()));
    put_length(field, lengths.sum(), buffer);
    for &number in column {
        put_varint(number.into(), buffer);
    }
}

/// Appends a field of a number, which is absent where it is 0.
#[inline]
pub(crate) fn put_number(field: u32, number: u64, buffer: &mut Vec<u8>) {
    if number != 0 {
        put_tag(field, VARINT, buffer);
        put_varint(number, buffer);
    }
}

/// How many bytes a varint takes.
#[inline]
pub(crate) fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The number that a varint of a signed field stands for, and the other way round in [`zigzag`].
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// The number by which a signed field stands in a message.
pub(crate) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same message as another encoder may write it: some fields after later ones, and one
    /// that is unknown. Fields that come several times stay in order.
    pub(crate) fn any_other_form(mut message: &[u8], seed: u64) -> Vec<u8> {
        let mut fields: Vec<(u32, Vec<u8>)> = Vec::new();
        while let Some(tag) = read_varint(&mut message) {
            let field = (tag >> 3) as u32;
            let mut own = Vec::new();
            if tag & 7 == u64::from(VARINT) {
                let number = read_varint(&mut message).expect("a number");
                put_tag(field, VARINT, &mut own);
                put_varint(number, &mut own);
            } else {
                let length = read_varint(&mut message).expect("a length") as usize;
                let (bytes, rest) = message.split_at(length);
                message = rest;
                put_bytes(field, bytes, &mut own);
            }
            match fields.last_mut() {
                Some((last, bytes)) if *last == field => bytes.extend(own),
                _ => fields.push((field, own)),
            }
        }
        put_number(1_000, seed, &mut fields[0].1);
        let place = |field: u32| seed.rotate_left(field * 7) % 5;
        fields.sort_by_key(|(field, _)| place(*field));
        fields.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    /// Two fields with tags of one and of two bytes.
    const FIELDS: [u32; 2] = [3, 300];

    proptest! {
        #[test]
        fn what_is_put_is_read(
            small in prop::collection::vec(0u32..200, 0..20),
            large in prop::collection::vec((any::<u64>(), 0u32..64), 0..20),
            bytes: Vec<u8>,
            signed: i64,
        ) {
            let large: Vec<u64> = large.iter().map(|(number, shift)| number >> shift).collect();
            let number = large.first().copied().unwrap_or_default();
            for field in FIELDS {
                let mut message = Vec::new();
                put_numbers(field, &small, &mut message);
                put_numbers(field + 1, &large, &mut message);
                put_column(field + 2, &bytes, &mut message);
                put_number(field + 3, number, &mut message);
                put_number(field + 4, zigzag(signed), &mut message);
                let mut reader = Reader::new(&message);
                // What was there before is gone.
                let (mut of_small, mut of_large) = (vec![7u32], vec![7u64]);
                prop_assert_eq!(reader.numbers(field, &mut of_small), Some(()));
                prop_assert_eq!(reader.numbers(field + 1, &mut of_large), Some(()));
                prop_assert_eq!((&of_small, &of_large), (&small, &large));
                prop_assert_eq!(reader.bytes(field + 2), Some(bytes.as_slice()));
                prop_assert_eq!(reader.number(field + 3), Some(number));
                prop_assert_eq!(reader.number(field + 4).map(unzigzag), Some(signed));
                prop_assert_eq!(reader.end(), Some(()));
                // All but the message that ends between two fields is cut.
                if !bytes.is_empty() && signed == 0 && number == 0 {
                    let mut reader = Reader::new(&message[..message.len() - 1]);
                    prop_assert!(reader.numbers(field, &mut of_small).is_some());
                    prop_assert!(reader.numbers(field + 1, &mut of_large).is_some());
                    prop_assert_eq!(reader.bytes(field + 2), None);
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_cut_or_too_large_is_not_read() {
        let mut largest = vec![
            3 << 3,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            1,
        ];
        assert_eq!(Reader::new(&largest).number(3), Some(u64::MAX));
        assert_eq!(Reader::new(&largest).small_number(3), None);
        assert_eq!(Reader::new(&largest[..10]).number(3), None);
        largest[10] = 2;
        assert_eq!(Reader::new(&largest).number(3), None);
    }
}

//! The bytes of results. Up to eight stand in the line of their job; larger ones are in an arena,
//! and the line says where.

/// A result of at most this many bytes stands in its line.
const INLINE_BYTES: usize = 8;

/// A segment of the arena takes no more results once it has this many bytes.
const SEGMENT_BYTES: usize = 1 << 20;

/// Stands for the length of a result that is in the arena.
const IN_ARENA: u8 = u8::MAX;

/// Where the bytes of one result are. It is meaningless beside other results than those that it was
/// stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The result itself, or number of its segment and position in that, each little-endian.
    bytes: [u8; INLINE_BYTES],
    /// How many of `bytes` are the result, or [`IN_ARENA`].
    length: u8,
}

/// The results that are too large for a line, each behind its length. What is stored stays where it
/// is; results have no order.
#[derive(Clone, Debug, Default)]
pub struct Results {
    segments: Vec<Vec<u8>>,
}

impl Results {
    /// Stores a result.
    pub fn store(&mut self, result: &[u8]) -> Stored {
        let mut bytes = [0; INLINE_BYTES];
        if let Some(inline) = bytes.get_mut(..result.len()) {
            inline.copy_from_slice(result);
            return Stored {
                bytes,
                length: result.len() as u8,
            };
        }
        if self
            .segments
            .last()
            .is_none_or(|last| last.len() >= SEGMENT_BYTES)
        {
            self.segments.push(Vec::new());
        }
        let number = self.segments.len() as u32 - 1;
        let segment = &mut self.segments[number as usize];
        // A segment grows over SEGMENT_BYTES by one result at most, which came in a message.
        let position = segment.len() as u32;
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[4..].copy_from_slice(&position.to_le_bytes());
        segment.extend_from_slice(&(result.len() as u32).to_le_bytes());
        segment.extend_from_slice(result);
        Stored {
            bytes,
            length: IN_ARENA,
        }
    }

    /// The bytes of a result that was stored here.
    pub fn get<'a>(&'a self, stored: &'a Stored) -> &'a [u8] {
        if stored.length != IN_ARENA {
            return &stored.bytes[..stored.length as usize];
        }
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let segment = &self.segments[word(&stored.bytes[..4]) as usize];
        let behind = &segment[word(&stored.bytes[4..]) as usize..];
        &behind[4..][..word(behind) as usize]
    }

    /// Whether a result that was stored here has these bytes.
    pub fn is_equal(&self, stored: &Stored, result: &[u8]) -> bool {
        self.get(stored) == result
    }

    /// How much memory the arena takes.
    pub fn allocated_bytes(&self) -> u64 {
        let segments = self.segments.iter();
        segments.map(|segment| segment.capacity() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Lengths with a heavy tail: most results are small, a few have up to 256 KiB.
        #[test]
        fn what_is_stored_is_found_again(
            lengths in prop::collection::vec(
                prop_oneof![8 => 0usize..20, 2 => 20usize..3_000, 1 => 0usize..=262_144],
                0..60,
            ),
        ) {
            let result = |(number, &length): (usize, &usize)| vec![number as u8; length];
            let mut results = Results::default();
            let all: Vec<Vec<u8>> = lengths.iter().enumerate().map(result).collect();
            let stored: Vec<Stored> = all.iter().map(|result| results.store(result)).collect();
            for (stored, result) in stored.iter().zip(&all) {
                prop_assert_eq!(results.get(stored), result);
                prop_assert!(results.is_equal(stored, result));
                let longer = [result.as_slice(), b"x"].concat();
                prop_assert!(!results.is_equal(stored, &longer));
            }
            let large = all.iter().map(Vec::len).filter(|&length| length > INLINE_BYTES);
            let least: usize = large.map(|length| length + 4).sum();
            prop_assert!(results.allocated_bytes() >= least as u64);
            prop_assert!(results.allocated_bytes() <= 2 * (least + 8) as u64);
        }
    }

    #[test]
    fn a_small_result_takes_no_memory_of_its_own() {
        let mut results = Results::default();
        for length in 0..=INLINE_BYTES {
            results.store(&vec![1; length]);
        }
        assert_eq!(results.allocated_bytes(), 0);
        assert_eq!(size_of::<Stored>(), 9);
    }
}

//! The bytes of results. Up to eight stand in the line of their job. Larger ones are in an arena, one
//! behind the other; its oldest segments go to a [`SpillStore`] when the memory budget is used up.

use std::collections::VecDeque;
use std::io;

use super::spill::{SpillError, SpillStore};

/// A result of at most this many bytes stands in its line.
const INLINE_BYTES: usize = 8;

/// A segment of the arena takes no more results once it has this many bytes.
pub const SEGMENT_BYTES: usize = 1 << 20;

/// Stands for the length of a result that is in the arena.
const IN_ARENA: u8 = u8::MAX;

/// A reader reads this many bytes at once, or as many as one result has.
const WINDOW_BYTES: u64 = 64 * 1024;

/// A reader remembers this many of the pieces that it read. Jobs that follow one another come back in
/// messages of several workers and partitions, so they stand in about as many places of the arena.
const WINDOWS: usize = 32;

/// Where the bytes of one result are. It is meaningless beside other results than those that it was
/// stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The result itself, or its number among the large ones and its length, each little-endian.
    bytes: [u8; INLINE_BYTES],
    /// The number of `bytes` that are the result, or [`IN_ARENA`].
    length: u8,
}

/// A result in the arena.
#[derive(Clone, Copy, Debug)]
struct Large {
    /// XXH3-64 of its bytes.
    digest: u64,
    /// Its position in the arena.
    position: u64,
}

/// A piece of the arena in memory.
#[derive(Debug, Default)]
struct Segment {
    position: u64,
    bytes: Vec<u8>,
}

impl Segment {
    /// The bytes from a position; `None` unless all of them are here.
    fn get(&self, position: u64, length: u64) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.position)?).ok()?;
        let to = from.checked_add(length as usize)?;
        self.bytes.get(from..to)
    }
}

/// The results that are too large for a line. What is stored stays where it is; results have no order.
#[derive(Debug, Default)]
pub struct Results {
    large: Vec<Large>,
    /// The end of the arena, the part that was not spilled; the last segment grows.
    segments: VecDeque<Segment>,
    held_bytes: u64,
    /// The length of the arena.
    end: u64,
    /// The part of the arena that was spilled.
    spilled_bytes: u64,
}

impl Stored {
    /// The result, if it stands here.
    #[inline]
    pub fn inline(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length.into())
    }

    /// Number and length of a result in the arena; `None` of one that stands here.
    #[inline]
    fn large(&self) -> Option<(usize, u64)> {
        let [a, b, c, d, rest @ ..] = self.bytes;
        let number = u32::from_le_bytes([a, b, c, d]);
        let length = u32::from_le_bytes(rest);
        (self.length == IN_ARENA).then_some((number as usize, length.into()))
    }
}

impl Results {
    /// Stores a result.
    #[inline]
    pub fn store(&mut self, result: &[u8]) -> Stored {
        if result.len() > INLINE_BYTES {
            return self.store_large(result);
        }
        // For a few bytes, a call to copy them takes longer than to shift them in.
        let little_endian = |bytes: u64, &byte: &u8| bytes << u8::BITS | u64::from(byte);
        Stored {
            bytes: result.iter().rev().fold(0, little_endian).to_le_bytes(),
            length: result.len() as u8,
        }
    }

    fn store_large(&mut self, result: &[u8]) -> Stored {
        let last = self.segments.back();
        if last.is_none_or(|last| last.bytes.len() >= SEGMENT_BYTES) {
            self.segments.push_back(Segment {
                position: self.end,
                bytes: Vec::new(),
            });
        }
        // Each came in a message and takes a line, so 4 billion of them never arrive.
        let number = self.large.len() as u32;
        self.large.push(Large {
            digest: digest(result),
            position: self.end,
        });
        if let Some(last) = self.segments.back_mut() {
            last.bytes.extend_from_slice(result);
        }
        self.held_bytes += result.len() as u64;
        self.end += result.len() as u64;
        let mut bytes = [0; INLINE_BYTES];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        // A result came in a message.
        bytes[4..].copy_from_slice(&(result.len() as u32).to_le_bytes());
        Stored {
            bytes,
            length: IN_ARENA,
        }
    }

    /// The bytes of a result that was stored here; `None` when they were spilled.
    #[inline]
    pub fn get<'a>(&'a self, stored: &'a Stored) -> Option<&'a [u8]> {
        match stored.large() {
            None => stored.inline(),
            Some((number, length)) => self.get_large(self.large[number].position, length),
        }
    }

    fn get_large(&self, position: u64, length: u64) -> Option<&[u8]> {
        let after = self
            .segments
            .partition_point(|segment| segment.position <= position);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        segment.get(position, length)
    }

    /// Whether a result that was stored here is this one. A large one is compared by length and
    /// digest, wherever it is, so that the answer is the same under any budget.
    #[inline]
    pub fn is_equal(&self, stored: &Stored, result: &[u8]) -> bool {
        match stored.large() {
            None => stored.inline() == Some(result),
            Some((number, length)) => {
                length == result.len() as u64 && self.large[number].digest == digest(result)
            }
        }
    }

    /// A reader of results, spilled or not.
    pub fn reader<'a>(&'a self, store: Option<&'a dyn SpillStore>) -> Reader<'a> {
        Reader {
            results: self,
            store,
            windows: Vec::new(),
            reads: 0,
        }
    }

    /// Spills the oldest segments until this many bytes of memory are free again, as far as segments
    /// are full.
    ///
    /// # Errors
    /// When the store has no room for one; it stays in memory then.
    pub fn spill(&mut self, bytes: u64, store: &mut dyn SpillStore) -> Result<(), SpillError> {
        let mut freed = 0;
        while freed < bytes
            && let Some(oldest) = self.segments.front()
            && oldest.bytes.len() >= SEGMENT_BYTES
        {
            store.write_at(&oldest.bytes, oldest.position)?;
            freed += oldest.bytes.len() as u64;
            self.held_bytes -= oldest.bytes.len() as u64;
            self.spilled_bytes += oldest.bytes.len() as u64;
            let spilled = self.segments.pop_front();
            // The memory serves the next one.
            if self.segments.is_empty()
                && let Some(mut segment) = spilled
            {
                segment.bytes.clear();
                segment.position = self.end;
                self.segments.push_back(segment);
            }
        }
        Ok(())
    }

    /// The number of bytes of results in the arena that are in memory.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// The memory that the places of large results take, in bytes.
    pub fn place_bytes(&self) -> u64 {
        size_of_val(&self.large[..]) as u64
    }

    /// The number of bytes that were spilled.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }
}

fn digest(result: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(result)
}

/// Reads results, those that were spilled by pieces of many: the order in which results came is
/// about that of their jobs.
#[derive(Debug)]
pub struct Reader<'a> {
    results: &'a Results,
    store: Option<&'a dyn SpillStore>,
    windows: Vec<Window>,
    reads: u64,
}

/// A piece that was read.
#[derive(Debug, Default)]
struct Window {
    read: Segment,
    /// The number of the look-up that used it last.
    used: u64,
}

impl Reader<'_> {
    /// The bytes of a result.
    ///
    /// # Errors
    /// When they cannot be read back.
    #[inline]
    pub fn read<'r>(&'r mut self, stored: &'r Stored) -> Result<&'r [u8], SpillError> {
        match stored.large() {
            None => Ok(stored.inline().unwrap_or_default()),
            Some((number, length)) => self.read_large(number, length),
        }
    }

    fn read_large(&mut self, number: usize, length: u64) -> Result<&[u8], SpillError> {
        let position = self.results.large[number].position;
        if position >= self.results.spilled_bytes {
            let result = self.results.get_large(position, length);
            return Ok(result.expect("what was not spilled is in memory"));
        }
        self.reads += 1;
        let mut windows = self.windows.iter();
        let known = windows.position(|window| window.read.get(position, length).is_some());
        let place = match known {
            Some(place) => place,
            None => self.read_window(position, length)?,
        };
        let window = &mut self.windows[place];
        window.used = self.reads;
        let result = window.read.get(position, length);
        Ok(result.expect("a window has at least the result that it was read for"))
    }

    /// Reads a piece of the arena from a position. Returns its place among the windows.
    fn read_window(&mut self, position: u64, length: u64) -> Result<usize, SpillError> {
        let store = self.store.ok_or_else(|| io::Error::other("no store"))?;
        let place = if self.windows.len() < WINDOWS {
            self.windows.push(Window::default());
            self.windows.len() - 1
        } else {
            let windows = self.windows.iter().enumerate();
            let oldest = windows.min_by_key(|(_, window)| window.used);
            oldest.map_or(0, |(place, _)| place)
        };
        let left = self.results.spilled_bytes - position;
        let bytes = WINDOW_BYTES.max(length).min(left);
        let read = &mut self.windows[place].read;
        read.position = position;
        read.bytes.resize(bytes as usize, 0);
        if let Err(error) = store.read_at(&mut read.bytes, position) {
            read.bytes.clear();
            return Err(error.into());
        }
        // A large result leaves no large window behind.
        read.bytes.shrink_to(2 * WINDOW_BYTES as usize);
        Ok(place)
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// A store in memory that counts its reads.
    #[derive(Debug, Default)]
    pub struct InMemory {
        bytes: Vec<u8>,
        pub reads: Arc<AtomicU64>,
    }

    impl SpillStore for InMemory {
        fn write_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()> {
            assert_eq!(position, self.bytes.len() as u64);
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }

        fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let from = position as usize;
            bytes.copy_from_slice(&self.bytes[from..from + bytes.len()]);
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Lengths with a heavy tail: most results are small, a few have up to 256 KiB. Segments are
        /// spilled after any of them.
        #[test]
        fn what_is_stored_is_found_again_wherever_it_is(
            lengths in prop::collection::vec(
                (
                    prop_oneof![8 => 0usize..20, 2 => 20usize..3_000, 3 => 0usize..=262_144],
                    prop::option::of(0u64..3_000_000),
                ),
                0..60,
            ),
        ) {
            let result = |(number, &(length, _)): (usize, &(usize, _))| vec![number as u8; length];
            let (mut results, mut store) = (Results::default(), InMemory::default());
            let all: Vec<Vec<u8>> = lengths.iter().enumerate().map(result).collect();
            let mut stored = Vec::new();
            for (result, (_, spilled)) in all.iter().zip(&lengths) {
                stored.push(results.store(result));
                if let Some(bytes) = spilled {
                    results.spill(*bytes, &mut store).expect("a vector has room");
                }
            }
            let large = all.iter().map(Vec::len).filter(|&length| length > INLINE_BYTES);
            let bytes: usize = large.sum();
            prop_assert_eq!(results.held_bytes() + results.spilled_bytes(), bytes as u64);
            prop_assert_eq!(results.spilled_bytes(), store.bytes.len() as u64);
            let mut reader = results.reader(Some(&store));
            // Forwards, and backwards as well.
            for (stored, result) in stored.iter().zip(&all).chain(stored.iter().zip(&all).rev()) {
                prop_assert_eq!(reader.read(stored).expect("it was stored"), result);
                if let Some(in_memory) = results.get(stored) {
                    prop_assert_eq!(in_memory, result);
                }
                prop_assert!(results.is_equal(stored, result));
                let longer = [result.as_slice(), b"x"].concat();
                prop_assert!(!results.is_equal(stored, &longer));
                if let [first, rest @ ..] = &result[..] {
                    let other = [&[first ^ 1][..], rest].concat();
                    prop_assert!(!results.is_equal(stored, &other));
                }
            }
        }
    }

    #[test]
    fn results_that_came_in_about_the_order_of_their_jobs_are_read_by_the_piece() {
        let (mut results, mut store) = (Results::default(), InMemory::default());
        // Jobs in turn on 24 partitions, of which each lags behind the one before it.
        let mut arrivals: Vec<usize> = (0..10_000).collect();
        arrivals.sort_by_key(|index| (index / 24 + 2 * (index % 24), *index));
        let mut stored = vec![Stored::default(); arrivals.len()];
        for &index in &arrivals {
            stored[index] = results.store(&vec![index as u8; 1_024]);
        }
        let room = results.spill(u64::MAX, &mut store);
        room.expect("a vector has room");
        assert!(results.held_bytes() < SEGMENT_BYTES as u64);
        let mut reader = results.reader(Some(&store));
        for (index, stored) in stored.iter().enumerate() {
            assert_eq!(reader.read(stored).expect("read")[0], index as u8);
        }
        let reads = store.reads.load(Ordering::Relaxed);
        assert!(reads <= 10_000 / 20, "{reads} reads");
    }

    #[test]
    fn a_small_result_takes_no_memory_of_its_own() {
        let mut results = Results::default();
        for length in 0..=INLINE_BYTES {
            results.store(&vec![1; length]);
        }
        assert_eq!(results.held_bytes() + results.place_bytes(), 0);
        assert_eq!(size_of::<Stored>(), 9);
    }

    #[test]
    fn a_store_without_room_leaves_results_in_memory() {
        #[derive(Debug)]
        struct Full;
        impl SpillStore for Full {
            fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let mut results = Results::default();
        let stored = results.store(&vec![7; SEGMENT_BYTES]);
        assert!(results.spill(1, &mut Full).is_err());
        assert_eq!(results.get(&stored), Some(&vec![7; SEGMENT_BYTES][..]));
        assert_eq!(results.spilled_bytes(), 0);
    }
}

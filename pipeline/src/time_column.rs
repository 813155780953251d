//! The times of the jobs of a batch on the wire: seconds after the earliest of them in 32 bits, and in a
//! column beside it the upper 32 bits, where a batch reaches over more than 136 years.

use crate::grain::TimeBucket;
use crate::protobuf::put_length;

/// What an entry of a column takes.
const ENTRY_BYTES: usize = 4;

/// What a time takes at most.
pub(crate) const MAX_BYTES: usize = 2 * ENTRY_BYTES;

/// The times of a batch that is being filled.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimeColumn(Vec<TimeBucket>);

impl TimeColumn {
    /// Adds the time of a job, if it has one.
    #[inline(always)]
    pub(crate) fn push(&mut self, time: Option<TimeBucket>) {
        if let Some(time) = time {
            self.0.push(time);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The times as offsets from the earliest.
    pub(crate) fn offsets(&self) -> Offsets<'_> {
        let seconds = || self.0.iter().map(|time| time.seconds());
        let base = seconds().fold(i64::MAX, i64::min);
        let last = seconds().fold(i64::MIN, i64::max);
        let is_empty = self.0.is_empty();
        Offsets {
            times: &self.0,
            base: if is_empty { 0 } else { base },
            // Both are in the years 0 to 9999.
            is_far: !is_empty && last - base > u32::MAX.into(),
        }
    }
}

/// Times as offsets from the earliest of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets<'a> {
    times: &'a [TimeBucket],
    /// The earliest, in seconds.
    pub(crate) base: i64,
    /// Whether one of them is more than 32 bits away.
    is_far: bool,
}

impl Offsets<'_> {
    /// Appends the lower 32 bits of each.
    #[inline]
    pub(crate) fn put_low(self, field: u32, buffer: &mut Vec<u8>) {
        self.put(field, 0, buffer);
    }

    /// Appends the upper 32 bits of each, unless all are 0.
    #[inline]
    pub(crate) fn put_high(self, field: u32, buffer: &mut Vec<u8>) {
        if self.is_far {
            self.put(field, 32, buffer);
        }
    }

    #[inline(always)]
    fn put(self, field: u32, from_bit: u32, buffer: &mut Vec<u8>) {
        if self.times.is_empty() {
            return;
        }
        let bytes = self.times.len() * ENTRY_BYTES;
        put_length(field, bytes, buffer);
        let start = buffer.len();
        buffer.resize(start + bytes, 0);
        let entries = buffer[start..].chunks_exact_mut(ENTRY_BYTES);
        for (entry, time) in entries.zip(self.times) {
            let bits = (time.seconds() - self.base) >> from_bit;
            entry.copy_from_slice(&(bits as u32).to_le_bytes());
        }
    }
}

/// The columns of a message that hold its times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedTimes<'a> {
    /// The earliest, in seconds.
    pub(crate) base: i64,
    /// The lower 32 bits of each offset from it.
    pub(crate) low: &'a [u8],
    /// The upper 32 bits, or nothing.
    pub(crate) high: &'a [u8],
}

impl EncodedTimes<'_> {
    /// Whether the columns consist of whole entries.
    pub(crate) fn are_whole(self) -> bool {
        self.low.len().is_multiple_of(ENTRY_BYTES) && self.high.len().is_multiple_of(ENTRY_BYTES)
    }

    /// Whether they fit this number of jobs, which have all a time or none.
    pub(crate) fn fit(self, jobs: usize) -> bool {
        let is_column = |bytes: &[u8]| bytes.is_empty() || bytes.len() == jobs * ENTRY_BYTES;
        is_column(self.low) && is_column(self.high) && self.high.len() <= self.low.len()
    }

    /// Reads the times, in place of those that are there. `None` where one is out of range.
    #[inline]
    pub(crate) fn read(self, times: &mut Vec<TimeBucket>) -> Option<()> {
        times.clear();
        if self.low.is_empty() {
            return Some(());
        }
        let low = entries(self.low);
        if self.high.is_empty() {
            TimeBucket::extend_after(times, self.base, low)
        } else {
            let offsets = low.zip(entries(self.high));
            TimeBucket::extend_after(
                times,
                self.base,
                offsets.map(|(low, high)| high << 32 | low),
            )
        }
    }
}

#[inline(always)]
fn entries(column: &[u8]) -> impl Iterator<Item = u64> + Clone {
    let (entries, _) = column.as_chunks::<ENTRY_BYTES>();
    entries
        .iter()
        .map(|&entry| u32::from_le_bytes(entry).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::Reader;

    /// The years 0 to 9999, in seconds.
    const RANGE: std::ops::Range<i64> = -62_167_219_200..253_402_128_000;

    fn put(times: &[TimeBucket]) -> (i64, Vec<u8>) {
        let mut column = TimeColumn::default();
        for &time in times {
            column.push(Some(time));
        }
        let mut message = Vec::new();
        let offsets = column.offsets();
        offsets.put_low(1, &mut message);
        offsets.put_high(2, &mut message);
        (offsets.base, message)
    }

    fn encoded(base: i64, message: &[u8]) -> EncodedTimes<'_> {
        let mut reader = Reader::new(message);
        EncodedTimes {
            base,
            low: reader.bytes(1).expect("a field"),
            high: reader.bytes(2).expect("a field"),
        }
    }

    proptest! {
        #[test]
        fn times_are_read_as_they_were_put(
            near in RANGE,
            seconds in prop::collection::vec((RANGE, 0i64..1_000_000_000), 0..9),
            is_far: bool,
        ) {
            let seconds = seconds.iter().map(|(any, after)| match is_far {
                true => *any,
                false => (near + after).min(RANGE.end),
            });
            let times: Vec<_> = seconds.filter_map(TimeBucket::from_seconds).collect();
            let (base, message) = put(&times);
            let encoded = encoded(base, &message);
            prop_assert!(encoded.are_whole() && encoded.fit(times.len()));
            prop_assert!(is_far || encoded.high.is_empty());
            let mut read = vec![TimeBucket::from_hours(3).expect("in range")];
            prop_assert_eq!(encoded.read(&mut read), Some(()));
            prop_assert_eq!(read, times);
        }
    }

    #[test]
    fn times_out_of_range_and_columns_that_do_not_fit_are_refused() {
        let mut read = Vec::new();
        let entry = [1, 0, 0, 0];
        let times = |base, high| EncodedTimes {
            base,
            low: &entry,
            high,
        };
        assert_eq!(times(0, &[]).read(&mut read), Some(()));
        for (base, high) in [
            (RANGE.end, &[][..]),
            (RANGE.start - 2, &[]),
            (0, &[0xff; 4]),
            (i64::MAX, &[]),
            (i64::MIN, &[0xff; 4]),
        ] {
            assert_eq!(times(base, high).read(&mut read), None, "{base} {high:?}");
        }
        assert!(times(0, &entry).fit(1) && times(0, &[]).fit(1));
        assert!(!times(0, &entry).fit(2) && !times(0, &[0; 8]).fit(1));
        let high_alone = EncodedTimes {
            low: &[],
            ..times(0, &entry)
        };
        assert!(!high_alone.fit(1) && !times(0, &entry[1..]).are_whole());
    }
}

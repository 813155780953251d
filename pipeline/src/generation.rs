//! Generations of a run: each time jobs are published again on purpose (`dlq replay`,
//! `dispatcher --resume`), the run gets its next generation, opened by an event that comes before
//! the jobs.

use std::ops::Range;

use crate::error::DecodeError;
use crate::run_id::RunId;
use crate::wire;
use crate::writer_id::WriterId;

/// The highest generation that a run can have.
pub const MAX_GENERATION: u32 = u16::MAX as u32;

/// A set of job indexes, as ascending ranges with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexRanges(Vec<Range<u64>>);

impl IndexRanges {
    /// The set of these indexes, which ascend.
    pub fn of_ascending(indexes: impl IntoIterator<Item = u64>) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for index in indexes {
            match ranges.last_mut() {
                Some(last) if index < last.end => {}
                Some(last) if index == last.end => last.end += 1,
                _ => ranges.push(index..index + 1),
            }
        }
        Self(ranges)
    }

    /// Whether an index is in the set.
    pub fn contains(&self, index: u64) -> bool {
        let after = self.0.partition_point(|range| range.start <= index);
        after > 0 && index < self.0[after - 1].end
    }

    /// The number of indexes in the set.
    pub fn len(&self) -> u64 {
        let lengths = self.0.iter().map(|range| range.end - range.start);
        lengths.fold(0, u64::saturating_add)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in ascending order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    fn from_wire(ranges: &[wire::IndexRange]) -> Option<Self> {
        let are_ranges = ranges.iter().all(|range| range.start < range.end);
        let mut pairs = ranges.iter().zip(ranges.iter().skip(1));
        let are_apart = pairs.all(|(one, next)| one.end < next.start);
        let ranges = ranges.iter().map(|range| range.start..range.end);
        (are_ranges && are_apart).then(|| Self(ranges.collect()))
    }
}

/// The key of a verdict of a run: its generation and its writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerdictKey {
    /// The generation that the verdict is on.
    pub generation: u32,
    /// The aggregator that published it.
    pub writer: WriterId,
}

/// The run's next generation: these jobs are published again, after this event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationOpened {
    /// The run.
    pub run_id: RunId,
    /// The generation, from 1.
    pub generation: u32,
    /// The process that opens it.
    pub writer: WriterId,
    /// The jobs that are open again: their dead letters of earlier generations no longer count.
    pub reopened: IndexRanges,
    /// The verdict that counted when it was opened.
    pub builds_on: Option<VerdictKey>,
    /// The writer of the cancellation that it ends; `None` where the generation before was not
    /// cancelled.
    pub ends_cancellation: Option<WriterId>,
    /// The name of the process that opened it, for people.
    pub opened_by: String,
}

/// Checks the generation of an event, which is `at_least` so much.
pub(crate) fn checked_generation(
    message: &'static str,
    generation: u32,
    at_least: u32,
) -> Result<u32, DecodeError> {
    match (at_least..=MAX_GENERATION).contains(&generation) {
        true => Ok(generation),
        false => Err(DecodeError::invalid(
            message,
            "its generation is out of range",
        )),
    }
}

/// Checks the writer of an event.
pub(crate) fn checked_writer(message: &'static str, writer: &str) -> Result<WriterId, DecodeError> {
    let writer = writer.parse();
    writer.map_err(|_| DecodeError::invalid(message, "its writer is not the id of a writer"))
}

impl GenerationOpened {
    pub(crate) fn to_wire(&self) -> wire::GenerationOpened {
        let reopened = self.reopened.ranges().iter();
        wire::GenerationOpened {
            run_id: self.run_id.to_string(),
            generation: self.generation,
            writer: self.writer.to_string(),
            reopened: reopened
                .map(|range| wire::IndexRange {
                    start: range.start,
                    end: range.end,
                })
                .collect(),
            builds_on: self.builds_on.as_ref().map(|verdict| wire::VerdictKey {
                generation: verdict.generation,
                writer: verdict.writer.to_string(),
            }),
            opened_by: self.opened_by.clone(),
            ends_cancellation: match &self.ends_cancellation {
                Some(writer) => writer.to_string(),
                None => String::new(),
            },
        }
    }

    pub(crate) fn from_wire(wire: wire::GenerationOpened) -> Result<Self, DecodeError> {
        const MESSAGE: &str = "GenerationOpened";
        let invalid = |what| DecodeError::invalid(MESSAGE, what);
        let generation = checked_generation(MESSAGE, wire.generation, 1)?;
        let builds_on = match wire.builds_on {
            None => None,
            Some(verdict) if verdict.generation >= generation => {
                return Err(invalid("it builds on a verdict of no earlier generation"));
            }
            Some(verdict) => Some(VerdictKey {
                generation: verdict.generation,
                writer: checked_writer(MESSAGE, &verdict.writer)?,
            }),
        };
        Ok(Self {
            run_id: crate::run::valid_run_id(MESSAGE, &wire.run_id)?,
            generation,
            writer: checked_writer(MESSAGE, &wire.writer)?,
            reopened: IndexRanges::from_wire(&wire.reopened)
                .ok_or(invalid("its ranges of jobs do not ascend"))?,
            builds_on,
            ends_cancellation: match wire.ends_cancellation.as_str() {
                "" => None,
                writer => Some(checked_writer(MESSAGE, writer)?),
            },
            opened_by: wire.opened_by,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_the_indexes_that_they_are_made_of(
            indexes in prop::collection::btree_set(0u64..60, 0..40),
        ) {
            let ranges = IndexRanges::of_ascending(indexes.iter().copied());
            let held: BTreeSet<u64> = (0..61).filter(|&index| ranges.contains(index)).collect();
            prop_assert_eq!(ranges.len(), indexes.len() as u64);
            prop_assert_eq!(ranges.is_empty(), indexes.is_empty());
            prop_assert_eq!(held, indexes);
            let wire: Vec<_> = ranges
                .ranges()
                .iter()
                .map(|range| wire::IndexRange { start: range.start, end: range.end })
                .collect();
            prop_assert_eq!(IndexRanges::from_wire(&wire), Some(ranges));
        }
    }

    #[test]
    fn ranges_that_are_empty_touch_or_descend_are_refused() {
        let range = |start, end| wire::IndexRange { start, end };
        for ranges in [
            vec![range(3, 3)],
            vec![range(4, 3)],
            vec![range(0, 3), range(3, 5)],
            vec![range(5, 6), range(0, 3)],
        ] {
            assert_eq!(IndexRanges::from_wire(&ranges), None, "{ranges:?}");
        }
    }
}

//! The offsets up to which each partition of the outcomes topic was read, and has to be read.

use pipeline::OffsetRange;

/// Offsets of the outcomes topic, by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomesRead {
    start: Vec<i64>,
    next: Vec<i64>,
    end: Vec<i64>,
}

impl OutcomesRead {
    /// A run whose outcomes begin at `opened`, of a topic that keeps what begins at `kept` and ends at
    /// `end`.
    ///
    /// Partitions that were added since the run was opened have nothing older than it. What retention
    /// has taken is missing, which reconciliation shows and `--resume` mends; an offset out of range
    /// would be an error for good.
    pub fn new(opened: &[i64], kept: &[i64], end: Vec<i64>) -> Self {
        let mut start = opened.to_vec();
        start.resize(end.len(), 0);
        for (start, &kept) in start.iter_mut().zip(kept) {
            *start = kept.max(*start);
        }
        Self {
            next: start.clone(),
            start,
            end,
        }
    }

    /// These ranges, read to their ends.
    pub fn of(ranges: &[OffsetRange]) -> Self {
        let end: Vec<i64> = ranges.iter().map(|range| range.end).collect();
        Self {
            start: ranges.iter().map(|range| range.start).collect(),
            next: end.clone(),
            end,
        }
    }

    /// The offsets that were read of each partition.
    pub fn ranges(&self) -> Vec<OffsetRange> {
        let both = self.start.iter().zip(&self.next);
        both.map(|(&start, &end)| OffsetRange { start, end })
            .collect()
    }

    /// Everything before these offsets was read.
    pub fn advance(&mut self, next: &[i64]) {
        for (own, &next) in self.next.iter_mut().zip(next) {
            *own = next.max(*own);
        }
    }

    /// Whether every partition was read to where it ended when the aggregator began to read.
    pub fn has_reached_end(&self) -> bool {
        self.next
            .iter()
            .zip(&self.end)
            .all(|(next, end)| next >= end)
    }

    /// The offset that each partition was read from.
    pub fn start(&self) -> &[i64] {
        &self.start
    }

    /// The offset that each partition is to be read from next: everything from its start to before
    /// this was read.
    pub fn next(&self) -> &[i64] {
        &self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_read_from_where_the_run_began_as_far_as_it_is_kept() {
        let read = OutcomesRead::new(&[5, 7], &[6, 2, 3], vec![9, 9, 9]);
        assert_eq!(read.start(), [6, 7, 3]);
        assert_eq!(read.next(), [6, 7, 3]);
    }

    #[test]
    fn the_end_is_reached_when_every_partition_is_there() {
        let mut read = OutcomesRead::new(&[0, 0], &[0, 0], vec![2, 1]);
        assert!(!read.has_reached_end());
        read.advance(&[2, 0]);
        assert!(!read.has_reached_end());
        // A reader never goes back.
        read.advance(&[1, 1]);
        assert!(read.has_reached_end());
        assert_eq!(read.next(), [2, 1]);
    }
}

//! The committed offsets of the workers' group, for a run that is resumed.

use kafka::{GroupOffsets, beginning_offsets, end_offsets, topics};
use tracing::warn;

use crate::args::Config;
use crate::error::Error;

/// The committed offset of each partition of the jobs topic. An offset behind the end of its partition
/// is reset to the beginning: the topic was deleted and created again, and the workers would skip as
/// many messages as the old topic had, of this run and of others.
///
/// # Errors
/// When the offsets cannot be read or reset.
pub fn committed(config: &Config, group: &str) -> Result<Vec<i64>, Error> {
    let (cluster, topic) = (&config.cluster, &config.topics.jobs);
    let partitions = topics::partition_count(cluster, topic)?.unwrap_or(0);
    let offsets = GroupOffsets::new(cluster, group, topic, partitions)?;
    let mut committed = offsets.committed()?;
    // Read after the group's offsets, so no worker can have committed an offset behind these ends.
    let ends = end_offsets(cluster, topic, partitions)?;
    let out_of_range = out_of_range(&committed, &ends);
    if !out_of_range.is_empty() {
        let beginnings = beginning_offsets(cluster, topic, partitions)?;
        for &partition in &out_of_range {
            committed[partition] = beginnings.get(partition).copied().unwrap_or(0);
        }
        warn!(
            topic,
            group,
            partitions = out_of_range.len(),
            "committed offsets are out of range, because the topic was deleted and created again: they are \
             reset to the beginning"
        );
        let reset: Vec<(i32, i64)> = out_of_range
            .iter()
            .map(|&partition| (partition as i32, committed[partition]))
            .collect();
        offsets.move_to(&reset)?;
    }
    Ok(committed)
}

/// The partitions whose committed offset is behind their end.
fn out_of_range(committed: &[i64], ends: &[i64]) -> Vec<usize> {
    let partitions = committed.iter().zip(ends).enumerate();
    let out_of_range = partitions.filter(|(_, (committed, end))| committed > end);
    out_of_range.map(|(partition, _)| partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_offset_behind_the_end_is_out_of_range() {
        assert_eq!(out_of_range(&[0, 7, 7, 8], &[0, 7, 3, 0]), [2, 3]);
        assert!(out_of_range(&[0, 7], &[5, 7]).is_empty());
    }
}

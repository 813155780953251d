//! The committed offsets of the workers' group, for a run that is resumed.

use kafka::{GroupOffsets, beginning_offsets, end_offsets, topics};
use tracing::warn;

use crate::args::Config;
use crate::error::Error;

/// What the group has committed. Where it stands beyond a partition's end, the topic was deleted and
/// made again, and its workers would pass over as many messages as the former topic had, of this run
/// and of others: there it is moved to the beginning.
///
/// # Errors
/// When the group or the topic cannot be asked.
pub fn committed(config: &Config, group: &str) -> Result<Vec<i64>, Error> {
    let (cluster, topic) = (&config.cluster, &config.topics.jobs);
    let partitions = topics::partition_count(cluster, topic)?.unwrap_or(0);
    let offsets = GroupOffsets::new(cluster, group, topic, partitions)?;
    let mut committed = offsets.committed()?;
    // Asked for after the group's offsets, so that no worker can have got on beyond it meanwhile.
    let ends = end_offsets(cluster, topic, partitions)?;
    let beyond = beyond_the_end(&committed, &ends);
    if !beyond.is_empty() {
        let beginnings = beginning_offsets(cluster, topic, partitions)?;
        for &partition in &beyond {
            committed[partition] = beginnings.get(partition).copied().unwrap_or(0);
        }
        warn!(
            topic,
            group,
            partitions = beyond.len(),
            "the group stands beyond the topic's end, for the topic was made again: it is moved to the \
             beginning"
        );
        let moved: Vec<(i32, i64)> = beyond
            .iter()
            .map(|&partition| (partition as i32, committed[partition]))
            .collect();
        offsets.move_to(&moved)?;
    }
    Ok(committed)
}

/// Partitions beyond whose end a group stands.
fn beyond_the_end(committed: &[i64], ends: &[i64]) -> Vec<usize> {
    let partitions = committed.iter().zip(ends).enumerate();
    let beyond = partitions.filter(|(_, (committed, end))| committed > end);
    beyond.map(|(partition, _)| partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_beyond_the_end_where_it_has_committed_more_than_there_is() {
        assert_eq!(beyond_the_end(&[0, 7, 7, 8], &[0, 7, 3, 0]), [2, 3]);
        assert!(beyond_the_end(&[0, 7], &[5, 7]).is_empty());
    }
}

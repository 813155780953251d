//! How far outcomes were read, made known to workers of a broker that keeps little: committed as the
//! offsets of a group that has no members.

use std::time::{Duration, Instant};

use kafka::GroupOffsets;

use crate::args::Config;

/// Bytes that may be read before that is made known: less than what workers wait for.
const BYTES: usize = 512 * 1024;

/// How long what was read may be not made known.
const INTERVAL: Duration = Duration::from_millis(50);

/// Makes known how far outcomes were read.
pub struct ReadPositions {
    group: GroupOffsets,
    committed: Vec<i64>,
    bytes: usize,
    committed_at: Instant,
}

impl ReadPositions {
    /// `None` where nobody wants to know.
    ///
    /// # Errors
    /// When a property is wrong.
    pub fn new(config: &Config, partitions: usize) -> Result<Option<Self>, kafka::Error> {
        let Some(group) = &config.read_positions else {
            return Ok(None);
        };
        let topic = &config.topics.outcomes;
        Ok(Some(Self {
            group: GroupOffsets::new(&config.cluster, group, topic, partitions)?,
            committed: vec![0; partitions],
            bytes: 0,
            committed_at: Instant::now(),
        }))
    }

    /// Outcomes of this many bytes were read, up to these offsets.
    ///
    /// # Errors
    /// When the group's coordinator cannot be asked.
    pub fn read(&mut self, bytes: usize, next: &[i64]) -> Result<(), kafka::Error> {
        self.bytes += bytes;
        if self.bytes < BYTES && self.committed_at.elapsed() < INTERVAL {
            return Ok(());
        }
        let all = (0..).zip(next.iter().zip(&self.committed));
        let changed = all.filter(|(_, (next, committed))| next > committed);
        let changed: Vec<(i32, i64)> = changed.map(|(own, (&next, _))| (own, next)).collect();
        if !changed.is_empty() {
            self.group.move_to(&changed)?;
            self.committed = next.to_vec();
        }
        self.bytes = 0;
        self.committed_at = Instant::now();
        Ok(())
    }
}

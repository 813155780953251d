//! Which of the outcomes of a job counts, where it has several. Pure rules that do not depend on the
//! order in which outcomes are read:
//!
//! - A dead letter counts if it is of the generation that last opened the job again, or of a later one.
//! - A result that an earlier verdict covers is frozen: one beyond that verdict's end offsets never
//!   replaces it. So of two results, the one with the lower [`Tier`] counts, and of two in one tier
//!   the one with the lower bytes.
//! - Results that differ are a conflict or are counted, by the [`ResultsPolicy`] of the run.

use crate::generation::IndexRanges;
use crate::offsets::of_partition;
use crate::run::ResultsPolicy;
use crate::timeline::Timeline;

/// How many of the run's earlier verdicts do not cover an outcome: 0 for one that the first verdict
/// was reached by. Each verdict reaches as far as the one before it, so those are the first ones.
pub type Tier = u16;

/// The rules by which outcomes count in one generation of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountingRules {
    generation: u32,
    policy: ResultsPolicy,
    /// Jobs that were opened again, and by which generation; ascending.
    reopened: Vec<(u32, IndexRanges)>,
    /// The end offsets of the verdicts on earlier generations, by partition; ascending.
    ends: Vec<Vec<i64>>,
}

impl CountingRules {
    /// The rules of a run that has its first generation only.
    pub fn new(policy: ResultsPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// The rules of the newest generation of a run.
    pub fn of(policy: ResultsPolicy, timeline: &Timeline<'_>) -> Self {
        let opened = timeline.generations().iter();
        let opened = opened.filter_map(|generation| generation.opened);
        Self {
            generation: timeline.number(),
            policy,
            reopened: opened
                .map(|opened| (opened.generation, opened.reopened.clone()))
                .collect(),
            ends: timeline
                .earlier_verdicts()
                .map(|verdict| verdict.ends())
                .collect(),
        }
    }

    /// The generation that they are for.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The policy for results that differ.
    pub fn policy(&self) -> ResultsPolicy {
        self.policy
    }

    /// The generation that last opened a job again; 0 for one that was never opened again.
    pub fn reopened_in(&self, index: u64) -> u32 {
        let mut latest_first = self.reopened.iter().rev();
        let latest = latest_first.find(|(_, jobs)| jobs.contains(index));
        latest.map_or(0, |&(generation, _)| generation)
    }

    /// The tier of an outcome at this place of the outcomes topic.
    pub fn tier(&self, partition: i32, offset: i64) -> Tier {
        let is_beyond = |ends: &Vec<i64>| {
            let end = of_partition(ends, partition);
            end.is_none_or(|end| offset >= end)
        };
        self.ends.partition_point(is_beyond) as Tier
    }

    /// The tier of an outcome that no earlier verdict covers.
    pub fn last_tier(&self) -> Tier {
        // Each is of a generation of its own, of which there are at most u16::MAX.
        self.ends.len() as Tier
    }
}

#[cfg(test)]
pub(crate) mod tests;

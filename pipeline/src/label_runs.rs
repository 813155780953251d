//! Labels of consecutive jobs as runs: jobs are numbered by label, so that a batch of a thousand
//! jobs has a handful of label sets, each said once with the number of jobs that share it.

use crate::group_key::LabelSet;

/// Appends one job's labels to the columns `label_sets` and `label_set_jobs`. Returns how many bytes
/// that adds to a message, at most.
pub(crate) fn push(
    label_sets: &mut Vec<LabelSet>,
    label_set_jobs: &mut Vec<u32>,
    labels: &LabelSet,
) -> usize {
    /// A tag and a length before each value, and before the set; the number of its jobs.
    const FRAME_BYTES: usize = 6;
    match (label_sets.last(), label_set_jobs.last_mut()) {
        (Some(last), Some(jobs)) if last == labels => {
            *jobs += 1;
            0
        }
        _ => {
            label_sets.push(labels.clone());
            label_set_jobs.push(1);
            let values = labels.values.iter();
            let values: usize = values.map(|value| value.len() + FRAME_BYTES).sum();
            values + FRAME_BYTES + 5
        }
    }
}

/// Whether the runs are well-formed and cover exactly `jobs` jobs.
pub(crate) fn cover(label_sets: &[LabelSet], label_set_jobs: &[u32], jobs: usize) -> bool {
    label_sets.len() == label_set_jobs.len()
        && label_set_jobs.iter().all(|&run| run > 0)
        && label_set_jobs
            .iter()
            .map(|&run| u64::from(run))
            .sum::<u64>()
            == jobs as u64
}

/// Walks through the jobs' label sets by position.
#[derive(Clone, Debug)]
pub(crate) struct Positions<'a> {
    runs: &'a [u32],
    position: usize,
    left: u32,
}

impl<'a> Positions<'a> {
    /// A walk over runs that [`cover`] the jobs.
    #[inline]
    pub(crate) fn new(runs: &'a [u32]) -> Self {
        Self {
            runs,
            position: 0,
            left: runs.first().copied().unwrap_or(0),
        }
    }

    /// A walk that goes on from a [`place`](Self::place) of another one over the same runs.
    #[inline]
    pub(crate) fn at(runs: &'a [u32], (position, left): (usize, u32)) -> Self {
        Self {
            runs,
            position,
            left,
        }
    }

    /// How far the walk has come.
    #[inline]
    pub(crate) fn place(&self) -> (usize, u32) {
        (self.position, self.left)
    }

    /// The position of the next job's label set in the batch's dictionary.
    #[inline]
    pub(crate) fn advance(&mut self) -> usize {
        if self.left == 0 {
            self.position += 1;
            self.left = self.runs[self.position];
        }
        self.left -= 1;
        self.position
    }
}

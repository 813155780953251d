//! Which runs are cancelled, for a worker: it serves runs that it knows nothing of in advance, and
//! looks up each message before the computation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pipeline::{Cancellations, RunEvent, RunId};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::offsets::end_offsets;
use crate::runs::{RunsReader, run_histories};
use crate::topics::{TopicNames, partition_count};

/// What is known to be cancelled, shared by the threads of a worker. As long as nothing is, looking
/// up costs one load.
#[derive(Clone, Debug, Default)]
pub struct SharedCancellations(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_any: AtomicBool,
    known: RwLock<Cancellations>,
}

impl SharedCancellations {
    /// Whether the jobs of a message are passed over; see [`Cancellations::covers`].
    pub fn covers(&self, run_id: &RunId, generation: u32, place: (i32, i64)) -> bool {
        self.0.is_any.load(Ordering::Acquire) && {
            let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
            known.covers(run_id, generation, place)
        }
    }

    /// Changes what is known.
    pub fn update(&self, change: impl FnOnce(&mut Cancellations)) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        self.0.is_any.store(!known.is_empty(), Ordering::Release);
    }
}

/// Reads the runs topic for cancellations as it grows.
pub struct CancellationReader {
    runs: RunsReader,
    topics: TopicNames,
}

impl CancellationReader {
    /// Begins at the topic's beginning.
    ///
    /// # Errors
    /// When the topic cannot be asked for its end.
    pub fn start(cluster: &Cluster, topics: &TopicNames) -> Result<Self, Error> {
        Ok(Self {
            runs: RunsReader::start(cluster, &topics.runs)?,
            topics: topics.clone(),
        })
    }

    /// Reads what has come, waiting at most `timeout` for it, and notes what it cancels. Whether a
    /// cancellation holds follows from all events of its run, which are read again for it: that is
    /// seldom, and a worker keeps no histories of runs.
    ///
    /// # Errors
    /// When the topic cannot be read, or `stopped` says so.
    pub fn read(
        &mut self,
        cluster: &Cluster,
        timeout: Duration,
        shared: &SharedCancellations,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let events = self.runs.read(timeout)?;
        let cancelled = events.into_iter().filter_map(|event| match event {
            RunEvent::Cancelled(cancelled) => Some(cancelled.run_id),
            _ => None,
        });
        let cancelled: BTreeSet<RunId> = cancelled.collect();
        if cancelled.is_empty() {
            return Ok(());
        }
        // Asked for before the runs are looked up: what is below them is of the runs that are cancelled.
        let jobs = &self.topics.jobs;
        let partitions = partition_count(cluster, jobs)?.unwrap_or(0);
        let ends = end_offsets(cluster, jobs, partitions)?;
        for history in run_histories(cluster, &self.topics.runs, &cancelled, stopped)? {
            match history {
                Ok(history) => shared.update(|known| known.update(&history, ends.clone())),
                // Such a run is cancelled for nobody.
                Err(Error::RunEvent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pipeline::{RunCancelled, RunHistory, WriterId};

    use super::*;

    #[test]
    fn what_is_cancelled_is_seen_by_all_who_share_it() {
        let run_id: RunId = "a-run".parse().expect("a run id");
        let shared = SharedCancellations::default();
        let other = shared.clone();
        assert!(!other.covers(&run_id, 0, (0, 3)));
        let mut history = RunHistory::new(run_id.clone());
        history.apply(RunEvent::Cancelled(RunCancelled {
            run_id: run_id.clone(),
            generation: 0,
            writer: WriterId::fresh(),
            reason: String::new(),
            cancelled_by: String::new(),
        }));
        shared.update(|known| known.update(&history, vec![4]));
        assert!(other.covers(&run_id, 0, (0, 3)) && !other.covers(&run_id, 1, (0, 3)));
        // The run was removed.
        shared.update(|known| known.update(&RunHistory::new(run_id.clone()), vec![4]));
        assert!(!other.covers(&run_id, 0, (0, 3)));
    }
}

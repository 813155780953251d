//! The state of the workers of a run, fetched from the cluster.

use std::time::Duration;

use kafka::{GroupOffsets, beginning_offsets, decided_end_offsets, end_offsets, topics};
use service::Progress;

use crate::args::Config;
use crate::completion::WorkersSeen;

/// The timeout of the first request, so that a broker that is away is waited for only once.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Fetches the state of the workers.
///
/// # Errors
/// When the cluster cannot be asked, or `stopped` returns true.
pub(crate) fn workers_seen(
    config: &Config,
    progress: &Progress,
    stopped: &dyn Fn() -> bool,
) -> Result<WorkersSeen, kafka::Error> {
    let (cluster, topics) = (&config.cluster, &config.topics);
    cluster.ask(TIMEOUT)?;
    let jobs = &topics.jobs;
    let partitions = topics::partition_count(cluster, jobs)?.unwrap_or(0);
    let group = GroupOffsets::new(cluster, &config.group, jobs, partitions)?;
    let jobs_committed = group.committed()?;
    let outcome_partitions = topics::partition_count(cluster, &topics.outcomes)?.unwrap_or(0);
    Ok(WorkersSeen {
        jobs_committed,
        jobs_kept: beginning_offsets(cluster, jobs, partitions)?,
        jobs_end: end_offsets(cluster, jobs, partitions)?,
        members: match config.read_positions {
            None => topics::group_members(cluster, &config.group)?,
            // The in-process broker describes no groups; its workers are this process's.
            Some(_) => progress.workers.alive(),
        },
        outcomes_end: decided_end_offsets(cluster, &topics.outcomes, outcome_partitions, stopped)?,
    })
}

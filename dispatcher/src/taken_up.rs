//! Takes a run up that a dispatcher has begun: tells a [`Resume`] what the run's topics hold, and
//! holds the data set against it. What is missing, and what differs, is decided there.

use kafka::{GroupOffsets, beginning_offsets, end_offsets, read_to_end, topics};
use pipeline::resume::{Refusal, Rule};
use pipeline::{JobBatch, JobSetDigest, JobSetHasher, OutcomeBatch, Resume, RunId, RunOpened};
use service::Shutdown;
use tracing::warn;

use crate::args::Config;
use crate::error::Error;
use crate::job_set::JobSet;

/// Reads what a run has on its topics, from where it was opened to where they end now. What
/// retention has eaten is as if it had never been published.
///
/// # Errors
/// When the topics cannot be read, memory has no room for nine bytes a job, or it was stopped.
pub fn take_up(
    config: &Config,
    shutdown: &Shutdown,
    opened: &RunOpened,
    jobs: u64,
) -> Result<Resume, Error> {
    let (cluster, names) = (&config.cluster, &config.topics);
    let stopped = || shutdown.is_requested();
    let of_cluster = |error| Error::of_cluster(error, shutdown);
    let rule = match &config.resume {
        None => Rule::NeverPublished,
        // Asked for before the topics are read: see the rule.
        Some(group) => Rule::WithoutOutcome {
            committed: committed(config, group)?,
        },
    };
    let looks_at_outcomes = config.resume.is_some();
    let mut run = Resume::new(&config.run_id, jobs, rule).ok_or(Error::TooManyJobs { jobs })?;
    let mut undecodable = 0u64;
    let from = &opened.jobs_start_offsets;
    read_to_end(
        cluster,
        &names.jobs,
        from,
        &stopped,
        &mut |record| match JobBatch::decode(record.payload) {
            Ok(batch) => run.hear_published(record.partition, record.offset, &batch),
            Err(_) => undecodable += 1,
        },
    )
    .map_err(of_cluster)?;
    if looks_at_outcomes {
        let from = &opened.outcomes_start_offsets;
        read_to_end(cluster, &names.outcomes, from, &stopped, &mut |record| {
            match OutcomeBatch::decode(record.payload) {
                Ok(batch) => run.hear_outcomes(&batch),
                Err(_) => undecodable += 1,
            }
        })
        .map_err(of_cluster)?;
    }
    if undecodable > 0 {
        warn!(
            undecodable,
            "messages on the topics cannot be read and are passed over"
        );
    }
    Ok(run)
}

/// What the group has committed. Where it stands beyond a partition's end, the topic was deleted and
/// made again, and its workers would pass over as many messages as the former topic had, of this run
/// and of others: there it is moved to the beginning.
fn committed(config: &Config, group: &str) -> Result<Vec<i64>, Error> {
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

/// Holds every job of the data set against what was published, and computes the digest of all.
///
/// # Errors
/// With the first difference, or when rows on disk cannot be read.
pub fn compare(run_id: &RunId, jobs: &JobSet, run: &Resume) -> Result<JobSetDigest, Error> {
    let mut hasher = JobSetHasher::new();
    jobs.for_each(|job| {
        hasher.update(job);
        run.check(job)
            .map_err(|difference| Refusal::differs(run_id, difference).into())
    })?;
    Ok(hasher.finish())
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

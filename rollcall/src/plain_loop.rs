//! The plain loop: one process that groups the same rows into the same jobs as the dispatcher, and
//! computes one job after the other with the workers' own function. It is the measure of whether
//! the dispatcher pays.

use std::time::Instant;

use aggregator::Report;
use computations::positivity::{Series, SeriesRow};
use computations::{JobError, positivity};
use dispatcher::job_set::JobSet;
use dispatcher::rejects::Rejects;
use dispatcher::{Grouping, Input};
use pipeline::{LabelSet, TimeBucket};
use service::{Progress, Shutdown};
use worker::SimulatedWork;

use crate::error::Error;
use crate::in_memory::{self, InMemory, no_spill};

/// Computes the series and the report of a data set, without writing files.
///
/// # Errors
/// When the data set cannot be read, or a job cannot be computed.
pub fn compute(
    input: &Input,
    grouping: &Grouping,
    rejects: Rejects,
    simulate_work: SimulatedWork,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<(Series, Report), Error> {
    let InMemory {
        rows,
        mut manifest,
        read_seconds,
    } = InMemory::read(input, grouping, rejects, shutdown, progress)?;

    let started = Instant::now();
    let jobs = JobSet::new(rows, no_spill(grouping.grain), grouping)?;
    let group_seconds = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let series = add_up(&jobs, simulate_work, shutdown)?;
    let compute_seconds = started.elapsed().as_secs_f64();

    manifest.jobs = Some(jobs.counts().jobs);
    let mut report = in_memory::report("loop", grouping, manifest, &series);
    report.add_stage("read", read_seconds);
    report.add_stage("group", group_seconds);
    report.add_stage("compute", compute_seconds);
    Ok((series, report))
}

/// Computes all jobs and adds up their tallies by group. The parts of a group follow each other,
/// and groups are in the order of the series.
fn add_up(
    jobs: &JobSet,
    simulate_work: SimulatedWork,
    shutdown: &Shutdown,
) -> Result<Series, Error> {
    let mut series = Series::default();
    let mut last: Option<(u32, TimeBucket)> = None;
    let mut failed: Option<(u64, JobError)> = None;
    jobs.for_each(|job| {
        if let Some(signal) = shutdown.requested() {
            return Err(dispatcher::Error::Stopped(signal));
        }
        simulate_work.take();
        let tally = match positivity::tally(job) {
            Ok(tally) => tally,
            Err(error) => {
                failed.get_or_insert((job.index, error));
                return Ok(());
            }
        };
        // Every job has a time, because the grouping has one.
        let Some(time) = job.key.time else {
            return Ok(());
        };
        let labels: &LabelSet = job.key.labels;
        if series.label_sets.last() != Some(labels) {
            series.label_sets.push(labels.clone());
        }
        let label_set = series.label_sets.len() as u32 - 1;
        let key = (label_set, time);
        if last.replace(key) != Some(key) {
            series.rows.push(SeriesRow {
                label_set,
                hours: time.hours(),
                tests: 0,
                positive: 0,
            });
        }
        if let Some(row) = series.rows.last_mut() {
            row.tests += u64::from(tally.tests);
            row.positive += u64::from(tally.positive);
        }
        Ok(())
    })?;
    match failed {
        None => Ok(series),
        Some((index, source)) => Err(Error::Job { index, source }),
    }
}

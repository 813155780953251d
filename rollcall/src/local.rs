//! The reference: the same source and the same rejects as the pipeline, grouped by one polars query
//! in one process, without Kafka. Its series must be the pipeline's, byte for byte.
//!
//! Truncating the time, grouping and ordering are polars', so that they check the dispatcher's.

use std::time::Instant;

use aggregator::Report;
use computations::positivity::{POSITIVE, Series, SeriesRow};
use dispatcher::rejects::Rejects;
use dispatcher::source::Rows;
use dispatcher::{Grouping, Input};
use pipeline::{Grain, LabelSet, TimeBucket};
use polars::prelude::*;
use service::{Progress, Shutdown};

use crate::error::Error;
use crate::in_memory::{self, InMemory};

const TIME: &str = "time";
const TESTS: &str = "tests";
const POSITIVE_TESTS: &str = "positive";
const IS_POSITIVE: &str = "is_positive";

const MILLISECONDS_PER_HOUR: i64 = 3_600_000;

/// Computes the series of a data set; the report's files are not written yet.
///
/// # Errors
/// When the data set cannot be read, or the query fails.
pub fn compute(
    input: &Input,
    grouping: &Grouping,
    rejects: Rejects,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<(Series, Report), Error> {
    let InMemory {
        rows,
        manifest,
        read_seconds,
    } = InMemory::read(input, grouping, rejects, shutdown, progress)?;

    let started = Instant::now();
    let series = query(rows, grouping)?;
    let query_seconds = started.elapsed().as_secs_f64();

    let mut report = in_memory::report("local", grouping, manifest, &series);
    report.add_stage("read", read_seconds);
    report.add_stage("query", query_seconds);
    Ok((series, report))
}

/// The one query: truncate, group, count, sum, sort.
fn query(rows: Rows, grouping: &Grouping) -> Result<Series, Error> {
    let every = match grouping.grain {
        Grain::Hour => "1h",
        Grain::Day => "1d",
        Grain::Week => "1w",
        Grain::Month => "1mo",
    };
    let labels: Vec<String> = (0..grouping.label_columns.len())
        .map(|column| format!("label_{column}"))
        .collect();
    let keys = || labels.iter().map(String::as_str).chain([TIME]);
    let grouped = frame(rows, &labels)?
        .lazy()
        .with_column(col(TIME).dt().truncate(lit(every)))
        .group_by(keys().map(col).collect::<Vec<_>>())
        .agg([
            len().cast(DataType::UInt64).alias(TESTS),
            col(IS_POSITIVE)
                .sum()
                .cast(DataType::UInt64)
                .alias(POSITIVE_TESTS),
        ])
        .sort(keys().collect::<Vec<_>>(), SortMultipleOptions::default())
        .collect()?;
    series(&grouped, &labels)
}

fn frame(rows: Rows, labels: &[String]) -> PolarsResult<DataFrame> {
    let height = rows.len();
    let milliseconds = rows.seconds.iter().map(|seconds| seconds * 1_000);
    let time = Int64Chunked::from_iter_values(TIME.into(), milliseconds)
        .into_datetime(TimeUnit::Milliseconds, None);
    let results = rows.records.bytes().iter();
    let positive = results.map(|&result| result == POSITIVE);
    let mut columns = vec![
        time.into_column(),
        BooleanChunked::from_iter_values(IS_POSITIVE.into(), positive).into_column(),
    ];
    for (position, name) in labels.iter().enumerate() {
        let values = rows.label_set.iter().map(|&number| {
            let set = &rows.label_sets[number as usize];
            set.values[position].as_str()
        });
        let column = StringChunked::from_iter_values(name.as_str().into(), values);
        columns.push(column.into_column());
    }
    DataFrame::new(height, columns)
}

/// The sorted groups as a series.
fn series(grouped: &DataFrame, labels: &[String]) -> Result<Series, Error> {
    let labels = labels
        .iter()
        .map(|name| grouped.column(name)?.str())
        .collect::<PolarsResult<Vec<_>>>()?;
    let time = grouped.column(TIME)?.datetime()?;
    let tests = grouped.column(TESTS)?.u64()?;
    let positive = grouped.column(POSITIVE_TESTS)?.u64()?;
    let mut series = Series::default();
    for row in 0..grouped.height() {
        let values = || {
            labels
                .iter()
                .map(|column| column.get(row).unwrap_or_default())
        };
        let same = series
            .label_sets
            .last()
            .is_some_and(|last: &LabelSet| values().eq(last.values.iter().map(String::as_str)));
        if !same {
            series.label_sets.push(LabelSet::new(values()));
        }
        let missing = || polars_err!(ComputeError: "group {row} has no time");
        let milliseconds = time.phys.get(row).ok_or_else(missing)?;
        series.rows.push(SeriesRow {
            label_set: series.label_sets.len() as u32 - 1,
            hours: TimeBucket::from_hours(milliseconds.div_euclid(MILLISECONDS_PER_HOUR))
                .ok_or_else(missing)?
                .hours(),
            tests: tests.get(row).unwrap_or(0),
            positive: positive.get(row).unwrap_or(0),
        });
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use computations::{Compute, Positivity, positivity};
    use dispatcher::job_set::JobSet;
    use dispatcher::records::Width;
    use pipeline::ledger::Ledger;
    use pipeline::outcome::{Outcome, OutcomeBatch, OutcomeBatchBuilder, Worker};
    use pipeline::payload_digest;

    use super::*;
    use crate::in_memory::no_spill;

    fn grouping(grain: Grain, columns: &[&str]) -> Grouping {
        Grouping {
            label_columns: columns.iter().map(|&column| column.to_owned()).collect(),
            time_column: "test_date".to_owned(),
            grain,
            computation: positivity::computation("result", "positive", "negative"),
            max_rows_per_job: 3,
        }
    }

    fn rows(columns: usize) -> Rows {
        let names = ["Italy", "", "Ålesund", "italy", "a,b", "Zaire"];
        let mut rows = Rows::new(Width::Fixed(1));
        for (first, name) in names.iter().enumerate() {
            let values = [*name, names[(first + 2) % names.len()]];
            rows.label_sets
                .push(LabelSet::new(values[..columns].iter().copied()));
        }
        if columns == 0 {
            rows.label_sets.truncate(1);
        }
        for row in 0..2_000u64 {
            let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            rows.label_set
                .push((mixed >> 40) as u32 % rows.label_sets.len() as u32);
            // Before and after 1970, over some months.
            rows.seconds
                .push((mixed >> 20) as i64 % 10_000_000 - 5_000_000);
            rows.records.push(&[(mixed >> 60) as u8 & 1]);
        }
        rows
    }

    /// The pipeline without Kafka: jobs, results, ledger, series.
    fn by_jobs(rows: Rows, grouping: &Grouping) -> Series {
        let jobs = JobSet::new(rows, no_spill(grouping.grain), grouping).expect("memory has room");
        let run_id = "a-run".parse().expect("a run id");
        let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
        let computed = jobs.for_each(|job| {
            let mut result = Vec::new();
            Positivity.compute(job, &mut result).expect("known results");
            let digest = payload_digest(job.payload);
            builder.push(job, digest, Outcome::Completed(&result));
            Ok(())
        });
        computed.expect("memory can be read");
        let mut ledger = Ledger::new(jobs.counts().jobs);
        let batch = OutcomeBatch::decode(&builder.encode()).expect("a valid batch");
        let recorded = ledger.record(&batch, &mut Vec::new());
        recorded.expect("all is in memory");
        Series::of(&ledger).expect("all is in memory")
    }

    #[test]
    fn polars_and_the_jobs_make_the_same_series_at_every_grain() {
        for columns in 0..=2 {
            for grain in Grain::ALL {
                let grouping = grouping(grain, &["country", "city"][..columns]);
                let reference = query(rows(columns), &grouping).expect("the query runs");
                assert!(reference.rows.len() >= 4);
                assert_eq!(reference, by_jobs(rows(columns), &grouping), "{grain}");
            }
        }
    }

    #[test]
    fn a_coarser_series_of_a_run_is_the_one_that_polars_makes_at_its_grain() {
        for fine in Grain::ALL {
            let series = by_jobs(rows(1), &grouping(fine, &["country"]));
            for &coarse in fine.makes() {
                let grouping = grouping(coarse, &["country"]);
                let reference = query(rows(1), &grouping).expect("the query runs");
                assert_eq!(series.coarsened(coarse), reference, "{fine} to {coarse}");
            }
        }
    }
}

//! The data set of a history: a few rows, the jobs that are made of them, and which of these fail,
//! hang or kill.

use computations::positivity;
use dispatcher::Grouping;
use dispatcher::job_set::JobSet;
use dispatcher::records::Width;
use dispatcher::source::Rows;
use pipeline::{Grain, LabelSet, payload_digest};

use crate::invariants::{ExpectedJob, Fate};
use crate::rng::Rng;

/// A few rows, and how they are grouped.
pub fn data_set(rng: &mut Rng) -> (Rows, Grouping) {
    let labels = 1 + rng.below(3);
    let hours = 1 + rng.below(5);
    let count = 3 + rng.below(40);
    let is_broken = rng.chance(1, 3);
    let mut rows = Rows::new(Width::Fixed(1));
    rows.label_sets = (0..labels)
        .map(|label| LabelSet::new([format!("country-{}", labels - label)]))
        .collect();
    for _ in 0..count {
        rows.label_set.push(rng.below(labels) as u32);
        rows.seconds
            .push((rng.below(hours) * 3_600 + rng.below(3_600)) as i64);
        let result = match is_broken && rng.chance(1, 20) {
            true => 7,
            false => rng.below(2) as u8,
        };
        rows.records.push(&[result]);
    }
    let grouping = Grouping {
        label_columns: vec!["country".to_owned()],
        time_column: "test_date".to_owned(),
        grain: Grain::Hour,
        computation: positivity::computation("result", "positive", "negative"),
        max_rows_per_job: 1 + rng.below(4) as u32,
    };
    (rows, grouping)
}

/// The rows as (label, hour, result), by plainer means than the pipeline has.
pub fn plain_rows(rows: &Rows, grouping: &Grouping) -> Vec<(String, i32, u8)> {
    let bucket = |seconds| grouping.grain.truncate(seconds).expect("in range").hours();
    let rows = (0..rows.len()).map(|row| {
        let labels = &rows.label_sets[rows.label_set[row] as usize];
        let (seconds, result) = (rows.seconds[row], rows.records.bytes()[row]);
        (labels.values[0].clone(), bucket(seconds), result)
    });
    rows.collect()
}

/// The jobs of a data set, and what becomes of each.
pub fn expected_jobs(jobs: &JobSet, rng: &mut Rng) -> Vec<ExpectedJob> {
    let poison = rng.chance(2, 3);
    let mut expected = Vec::new();
    let all = jobs.for_each(|job| {
        let tally = positivity::tally(job);
        let fate = match &tally {
            Err(_) => Fate::Broken,
            Ok(_) if poison && rng.chance(1, 10) => match rng.below(7) {
                0 => Fate::Fails,
                1 => Fate::FailsTimes(1 + rng.below(2) as u32),
                2 => Fate::Hangs,
                3 => Fate::KillsTimes(1 + rng.below(2) as u32),
                _ => Fate::Kills,
            },
            Ok(_) => Fate::Healthy,
        };
        expected.push(ExpectedJob {
            key: (
                job.key.labels.values[0].clone(),
                job.key.time.expect("it is grouped by time").hours(),
            ),
            tally: tally.unwrap_or_default(),
            payload_digest: payload_digest(job.payload),
            fate,
        });
        Ok(())
    });
    all.expect("jobs in memory can be read");
    expected
}

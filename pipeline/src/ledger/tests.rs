//! The ledger by values and by properties.

use proptest::prelude::*;

use super::*;
use crate::outcome::{OutcomeBatchBuilder, Worker};
use crate::{Job, RunId};

/// Groups in key order, each with its rows, cut into jobs of at most `cap` rows.
#[derive(Clone, Debug)]
struct Run {
    groups: Vec<(LabelSet, TimeBucket, Vec<u8>)>,
    cap: usize,
}

impl Run {
    fn jobs(&self) -> Vec<Job<'_>> {
        let mut jobs = Vec::new();
        for (labels, time, results) in &self.groups {
            for (part, results) in results.chunks(self.cap).enumerate() {
                jobs.push(Job {
                    index: jobs.len() as u64,
                    key: GroupKey {
                        labels,
                        time: *time,
                    },
                    part: part as u32,
                    results,
                });
            }
        }
        jobs
    }

    /// What the series must be, computed without jobs.
    fn oracle(&self) -> Vec<(LabelSet, TimeBucket, u64, u64)> {
        let groups = self.groups.iter();
        groups
            .map(|(labels, time, results)| {
                let positive = results.iter().filter(|&&result| result == 1).count();
                (labels.clone(), *time, results.len() as u64, positive as u64)
            })
            .collect()
    }
}

fn any_run() -> impl Strategy<Value = Run> {
    let key = ("[a-c]{0,2}", 0i64..6);
    let results = prop::collection::vec(0u8..=1, 1..12);
    (prop::collection::btree_map(key, results, 0..20), 1usize..6).prop_map(|(groups, cap)| {
        let groups = groups.into_iter().map(|((label, hours), results)| {
            let time = TimeBucket::from_hours(hours).expect("in range");
            (LabelSet::new([label]), time, results)
        });
        Run {
            groups: groups.collect(),
            cap,
        }
    })
}

fn tally(job: &Job<'_>) -> Outcome<'static> {
    Outcome::Counted(Tally {
        tests: job.rows(),
        positive: job.results.iter().map(|&result| u32::from(result)).sum(),
    })
}

const DEAD: Outcome<'static> = Outcome::DeadLettered {
    reason: "it is broken",
    attempts: 3,
};

fn batch(outcomes: &[(Job<'_>, Outcome<'_>)]) -> OutcomeBatch {
    let run_id: RunId = "a-run".parse().expect("a run id");
    let mut builder = OutcomeBatchBuilder::new(&run_id, &Worker::default());
    for (job, outcome) in outcomes {
        builder.push(job, *outcome);
    }
    OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
}

fn spelled_out(series: &Series) -> Vec<(LabelSet, TimeBucket, u64, u64)> {
    let rows = series.rows.iter();
    rows.map(|row| {
        let labels = series.label_sets[row.label_set as usize].clone();
        (labels, row.time, row.tests, row.positive)
    })
    .collect()
}

proptest! {
    /// Any order, duplication, split and packing of the outcomes gives the same series.
    #[test]
    fn however_outcomes_arrive_the_series_is_the_same(
        run in any_run(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        order in any::<u64>(),
        packing in 1usize..9,
        dead_first in any::<bool>(),
    ) {
        let jobs = run.jobs();
        let mut said: Vec<(Job<'_>, Outcome<'_>)> =
            jobs.iter().map(|job| (*job, tally(job))).collect();
        if !jobs.is_empty() {
            for pick in &picks {
                let job = jobs[pick.index(jobs.len())];
                said.push((job, if dead_first { DEAD } else { tally(&job) }));
            }
        }
        shuffle(&mut said, order);
        let mut ledger = Ledger::new(jobs.len() as u64);
        let mut conflicts = Vec::new();
        let mut seen = Recorded::default();
        for outcomes in said.chunks(packing) {
            let recorded = ledger.record(&batch(outcomes), &mut conflicts);
            seen.new += recorded.new;
            seen.replaced += recorded.replaced;
            seen.duplicates += recorded.duplicates;
        }
        prop_assert_eq!(&conflicts, &[]);
        prop_assert_eq!(seen.new, jobs.len() as u64);
        prop_assert_eq!(seen.new + seen.replaced + seen.duplicates, said.len() as u64);
        prop_assert_eq!(ledger.missing(), 0);
        prop_assert!(ledger.dead().is_empty());
        prop_assert_eq!(spelled_out(&ledger.series()), run.oracle());
        prop_assert_eq!(ledger.totals().tests, ledger.totals().rows_counted);

        let mut hasher = JobSetHasher::new();
        for job in &jobs {
            hasher.update(job.index, job.key, job.part, job.rows());
        }
        prop_assert_eq!(ledger.job_set_digest(), Some(hasher.finish()));
    }

    #[test]
    fn a_dead_letter_that_is_never_counted_stays_dead(
        run in any_run(),
        dead in any::<prop::sample::Index>(),
    ) {
        let jobs = run.jobs();
        prop_assume!(!jobs.is_empty());
        let dead = dead.index(jobs.len());
        let mut ledger = Ledger::new(jobs.len() as u64);
        for job in &jobs {
            let outcome = if job.index == dead as u64 { DEAD } else { tally(job) };
            ledger.record(&batch(&[(*job, outcome)]), &mut Vec::new());
        }
        prop_assert_eq!(ledger.missing(), 0);
        prop_assert_eq!(ledger.totals().dead_lettered, 1);
        prop_assert_eq!(ledger.dead().keys().copied().collect::<Vec<_>>(), [dead as u64]);
        let rows = u64::from(jobs[dead].rows());
        prop_assert_eq!(ledger.totals().rows_dead_lettered, rows);
    }
}

/// Fisher-Yates with a splitmix64 of its own, so that proptest can shrink the order.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for last in (1..items.len()).rev() {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(last, (mixed ^ (mixed >> 31)) as usize % (last + 1));
    }
}

fn one_job<'a>(labels: &'a LabelSet, results: &'a [u8]) -> Job<'a> {
    Job {
        index: 0,
        key: GroupKey {
            labels,
            time: TimeBucket::from_hours(1).expect("in range"),
        },
        part: 0,
        results,
    }
}

#[test]
fn two_tallies_of_one_job_that_differ_are_a_conflict() {
    let labels = LabelSet::new(["Italy"]);
    let job = one_job(&labels, &[1, 0]);
    let wrong = Outcome::Counted(Tally {
        tests: 2,
        positive: 2,
    });
    let mut ledger = Ledger::new(1);
    let mut conflicts = Vec::new();
    ledger.record(&batch(&[(job, tally(&job))]), &mut conflicts);
    ledger.record(&batch(&[(job, wrong)]), &mut conflicts);
    assert_eq!(conflicts.len(), 1);
    assert!(
        conflicts[0].kept.contains("1 positive of 2"),
        "{}",
        conflicts[0]
    );
    assert!(
        conflicts[0].other.contains("2 positive of 2"),
        "{}",
        conflicts[0]
    );
    assert_eq!(ledger.totals().positive, 1);
}

#[test]
fn two_keys_for_one_job_are_a_conflict_even_if_one_is_a_dead_letter() {
    let (italy, spain) = (LabelSet::new(["Italy"]), LabelSet::new(["Spain"]));
    let mut ledger = Ledger::new(1);
    let mut conflicts = Vec::new();
    ledger.record(&batch(&[(one_job(&italy, &[1]), DEAD)]), &mut conflicts);
    let other = one_job(&spain, &[1]);
    ledger.record(&batch(&[(other, tally(&other))]), &mut conflicts);
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].to_string().contains("Spain"));
    assert_eq!(ledger.totals().dead_lettered, 1);
}

#[test]
fn contradictions_without_number_about_labels_without_end_are_counted_and_shown_in_little_room() {
    let long = LabelSet::new(["x".repeat(100_000), "y".to_owned()]);
    let reason = "z".repeat(100_000);
    let dead = Outcome::DeadLettered {
        reason: &reason,
        attempts: 1,
    };
    let mut ledger = Ledger::new(1);
    let mut conflicts = Vec::new();
    ledger.record(&batch(&[(one_job(&long, &[1]), dead)]), &mut conflicts);
    let other = LabelSet::new(["y"]);
    let contradiction = one_job(&other, &[1]);
    let many = vec![(contradiction, tally(&contradiction)); 2 * MAX_CONFLICTS];
    let recorded = ledger.record(&batch(&many), &mut conflicts);
    assert_eq!(recorded.conflicts, 2 * MAX_CONFLICTS as u64);
    assert_eq!(conflicts.len(), MAX_CONFLICTS);
    let text = conflicts[0].to_string();
    assert!(text.len() < 1_000 && text.contains("xxx…, hour"), "{text}");
    assert!(text.contains("zzz…)"), "{text}");
}

#[test]
fn an_index_beyond_the_run_is_dropped_and_noticed() {
    let labels = LabelSet::new(["Italy"]);
    let mut job = one_job(&labels, &[1]);
    job.index = u64::MAX - 1;
    let mut ledger = Ledger::new(3);
    let recorded = ledger.record(&batch(&[(job, tally(&job))]), &mut Vec::new());
    assert_eq!(recorded.beyond, 1);
    assert_eq!(ledger.missing(), 3);
    assert_eq!(ledger.first_missing(2), [0, 1]);
    assert_eq!(ledger.first_missing(9), [0, 1, 2]);
    assert_eq!(ledger.job_set_digest(), None);
}

#[test]
fn the_gaps_between_outcomes_are_missing() {
    let labels = LabelSet::new(["Italy"]);
    let mut ledger = Ledger::new(u64::MAX);
    for index in [1, 2, 5, 200] {
        let job = Job {
            index,
            ..one_job(&labels, &[1])
        };
        ledger.record(&batch(&[(job, tally(&job))]), &mut Vec::new());
    }
    assert_eq!(ledger.first_missing(0), [0; 0]);
    assert_eq!(ledger.first_missing(5), [0, 3, 4, 6, 7]);
    assert_eq!(ledger.first_missing(200).last(), Some(&203));
    assert_eq!(ledger.missing(), u64::MAX - 4);
    assert!(ledger.describe(5).is_some() && ledger.describe(6).is_none());
}

//! The rules against an oracle that knows all outcomes at once, whatever the order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ledger::Ledger;
use crate::outcome::{Outcome, OutcomeBatch, OutcomeBatchBuilder, Tally, Worker};
use crate::{GroupKey, Job, LabelSet, TimeBucket};

const JOBS: u64 = 3;

/// Jobs that generation 2 opened again, the newest of generation 1 among them.
fn rules(policy: ResultsPolicy) -> CountingRules {
    CountingRules {
        generation: 2,
        policy,
        reopened: vec![
            (1, IndexRanges::of_ascending([1])),
            (2, IndexRanges::of_ascending([1, 2])),
        ],
        ends: vec![vec![4], vec![8, 2]],
    }
}

/// An outcome at a place of the outcomes topic.
#[derive(Clone, Copy, Debug)]
struct Told {
    index: u64,
    partition: i32,
    offset: i64,
    generation: u32,
    /// `None` for a dead letter.
    positive: Option<u32>,
}

impl Told {
    fn batch(&self) -> OutcomeBatch {
        self.batch_of("Italy")
    }

    fn batch_of(&self, label: &str) -> OutcomeBatch {
        let labels = LabelSet::new([label]);
        let job = Job {
            index: self.index,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(self.index as i64).expect("in range"),
            },
            part: 0,
            results: &[1, 1, 1],
        };
        let outcome = match self.positive {
            Some(positive) => Outcome::Counted(Tally { tests: 3, positive }),
            None => Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            },
        };
        let run_id = "a-run".parse().expect("a run id");
        let builder = OutcomeBatchBuilder::new(&run_id, &Worker::default());
        let mut builder = builder.in_generation(self.generation);
        builder.push(&job, outcome);
        OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
    }
}

fn any_told() -> impl Strategy<Value = Told> {
    let positive = prop_oneof![1 => Just(None), 2 => (0u32..3).prop_map(Some)];
    (0..JOBS, 0i32..2, 0i64..12, 0u32..4, positive).prop_map(
        |(index, partition, offset, generation, positive)| Told {
            index,
            partition,
            offset,
            generation,
            positive,
        },
    )
}

fn ledger(policy: ResultsPolicy, told: &[Told]) -> (Ledger, u64) {
    let mut ledger = Ledger::under(JOBS, rules(policy));
    let mut conflicts = 0;
    for told in told {
        let tier = ledger.rules().tier(told.partition, told.offset);
        let recorded = ledger.record_in(tier, &told.batch(), &mut Vec::new());
        conflicts += recorded.conflicts;
    }
    (ledger, conflicts)
}

/// What is left of each job that has an outcome: its positive tests, `None` for a dead letter.
fn left(ledger: &Ledger) -> Vec<(u64, Option<u32>)> {
    let known = (0..JOBS).filter(|&index| ledger.describe(index).is_some());
    known
        .map(|index| {
            let series = ledger.series();
            let hours = index as i32;
            let mut rows = series.rows.iter();
            let row = rows
                .find(|row| row.time.hours() == hours)
                .expect("it is known");
            let is_dead = ledger.dead().contains_key(&index);
            (index, (!is_dead).then_some(row.positive as u32))
        })
        .collect()
}

#[test]
fn a_tier_is_the_number_of_earlier_verdicts_that_do_not_cover_an_outcome() {
    let rules = rules(ResultsPolicy::Any);
    let tiers = [(0, 3), (0, 4), (0, 7), (0, 8), (1, 0), (1, 2), (2, 0)];
    let tiers = tiers.map(|(partition, offset)| rules.tier(partition, offset));
    assert_eq!(tiers, [0, 1, 1, 2, 1, 2, 2]);
    assert_eq!(rules.last_tier(), 2);
}

#[test]
fn a_job_is_open_again_from_the_latest_generation_that_names_it() {
    let rules = rules(ResultsPolicy::Any);
    assert_eq!(
        [0, 1, 2, 3].map(|index| rules.reopened_in(index)),
        [0, 2, 2, 0]
    );
}

#[test]
fn a_frozen_result_is_not_replaced_by_a_lower_one_beyond_the_verdict() {
    let frozen = Told {
        index: 0,
        partition: 0,
        offset: 3,
        generation: 0,
        positive: Some(2),
    };
    let lower = Told {
        offset: 4,
        positive: Some(1),
        ..frozen
    };
    for told in [[frozen, lower], [lower, frozen]] {
        let (ledger, conflicts) = ledger(ResultsPolicy::Any, &told);
        assert_eq!(left(&ledger), [(0, Some(2))]);
        assert_eq!((ledger.totals().differing, conflicts), (1, 0));
        assert_eq!(ledger.first_differing(9), [0]);
        let (_, conflicts) = self::ledger(ResultsPolicy::Reproducible, &told);
        assert_eq!(conflicts, 1);
    }
}

#[test]
fn a_job_that_was_opened_again_takes_the_late_result_of_an_older_generation() {
    let dead = Told {
        index: 1,
        partition: 0,
        offset: 9,
        generation: 1,
        positive: None,
    };
    let (open, _) = ledger(ResultsPolicy::Reproducible, &[dead]);
    assert_eq!((open.missing(), open.totals().dead_lettered), (JOBS, 0));
    assert_eq!(open.first_missing(9), [0, 1, 2]);
    let late = Told {
        generation: 0,
        positive: Some(1),
        ..dead
    };
    let (ledger, _) = ledger(ResultsPolicy::Reproducible, &[dead, late]);
    assert_eq!(left(&ledger), [(1, Some(1))]);
}

#[test]
fn another_key_is_a_conflict_under_both_policies_even_of_an_outcome_that_does_not_count() {
    let dead = Told {
        index: 1,
        partition: 0,
        offset: 9,
        generation: 0,
        positive: None,
    };
    let counted = Told {
        positive: Some(1),
        ..dead
    };
    for policy in ResultsPolicy::ALL {
        for told in [[dead, counted], [counted, dead]] {
            let mut ledger = Ledger::under(JOBS, rules(policy));
            let mut conflicts = Vec::new();
            ledger.record(&told[0].batch_of("Spain"), &mut conflicts);
            ledger.record(&told[1].batch(), &mut conflicts);
            assert_eq!(conflicts.len(), 1, "{policy}");
        }
    }
}

proptest! {
    #[test]
    fn what_counts_does_not_depend_on_the_order(
        told in prop::collection::vec(any_told(), 0..24),
        turned in any::<prop::sample::Index>(),
    ) {
        let mut other = told.clone();
        other.rotate_left(if told.is_empty() { 0 } else { turned.index(told.len()) });
        other.reverse();
        for policy in ResultsPolicy::ALL {
            let rules = rules(policy);
            let mut expected = Vec::new();
            let mut contradicted = BTreeSet::new();
            for index in 0..JOBS {
                let of_job = || told.iter().filter(|told| told.index == index);
                let results: BTreeSet<(Tier, u32)> = of_job()
                    .filter_map(|told| {
                        Some((rules.tier(told.partition, told.offset), told.positive?))
                    })
                    .collect();
                let distinct: BTreeSet<u32> = results.iter().map(|(_, positive)| *positive).collect();
                if distinct.len() > 1 {
                    contradicted.insert(index);
                }
                let reopened_in = rules.reopened_in(index);
                let mut dead = of_job().filter(|told| told.positive.is_none());
                if let Some((_, positive)) = results.first() {
                    expected.push((index, Some(*positive)));
                } else if dead.any(|dead| dead.generation >= reopened_in) {
                    expected.push((index, None));
                }
            }
            for told in [&told, &other] {
                let (ledger, conflicts) = ledger(policy, told);
                match policy {
                    ResultsPolicy::Reproducible if !contradicted.is_empty() => {
                        prop_assert!(conflicts > 0);
                        continue;
                    }
                    ResultsPolicy::Reproducible => prop_assert_eq!(conflicts, 0),
                    ResultsPolicy::Any => {
                        prop_assert_eq!(conflicts, 0);
                        let differing = ledger.first_differing(9);
                        prop_assert_eq!(ledger.totals().differing, differing.len() as u64);
                        prop_assert_eq!(differing.into_iter().collect::<BTreeSet<_>>(),
                            contradicted.clone());
                    }
                }
                prop_assert_eq!(left(&ledger), expected.clone());
                let totals = ledger.totals();
                let completed = expected.iter().filter_map(|(_, positive)| *positive);
                prop_assert_eq!(totals.counted, completed.clone().count() as u64);
                prop_assert_eq!(totals.positive, completed.map(u64::from).sum::<u64>());
                prop_assert_eq!(totals.tests, 3 * totals.counted);
                prop_assert_eq!(totals.rows_counted, 3 * totals.counted);
                prop_assert_eq!(ledger.missing(), JOBS - expected.len() as u64);
            }
        }
    }
}

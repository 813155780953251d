//! The rules against an oracle that knows all outcomes at once, whatever the order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::LabelSet;
use crate::job::tests::{OwnedJob, job};
use crate::ledger::Ledger;
use crate::outcome::OutcomeBatch;
use crate::outcome::tests::batch_of_one;

const JOBS: u64 = 3;

/// Jobs that generation 2 opened again, the newest of generation 1 among them.
pub fn rules(policy: ResultsPolicy) -> CountingRules {
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

/// A record of the outcomes topic with one outcome.
#[derive(Clone, Copy, Debug)]
struct Record {
    index: u64,
    partition: i32,
    offset: i64,
    generation: u32,
    /// `None` for a dead letter.
    result: Option<u8>,
}

impl Record {
    fn batch(&self) -> OutcomeBatch {
        self.batch_of("Italy")
    }

    fn batch_of(&self, label: &str) -> OutcomeBatch {
        let job = OwnedJob {
            labels: LabelSet::new([label]),
            ..job(self.index as i64, &[1, 1, 1])
        };
        let result = self.result.map(result_bytes);
        let job = job.at(self.index);
        batch_of_one("a-run", self.generation, &job, result.as_deref())
    }
}

/// Results of several lengths, some of which stand in a line. Higher numbers are higher bytes.
fn result_bytes(number: u8) -> Vec<u8> {
    vec![number; 6 * usize::from(number)]
}

fn any_record() -> impl Strategy<Value = Record> {
    let result = prop_oneof![1 => Just(None), 2 => (0u8..4).prop_map(Some)];
    (0..JOBS, 0i32..2, 0i64..12, 0u32..4, result).prop_map(
        |(index, partition, offset, generation, result)| Record {
            index,
            partition,
            offset,
            generation,
            result,
        },
    )
}

fn ledger(policy: ResultsPolicy, records: &[Record]) -> (Ledger, u64) {
    let mut ledger = Ledger::under(JOBS, rules(policy));
    let mut conflicts = 0;
    for record in records {
        let tier = ledger.rules().tier(record.partition, record.offset);
        let recorded = ledger.record_in(tier, &record.batch(), &mut Vec::new(), |_, _| {});
        let recorded = recorded.expect("all is in memory");
        conflicts += recorded.conflicts;
    }
    (ledger, conflicts)
}

/// What is left of each job that has an outcome: its result, `None` for a dead letter.
fn left(ledger: &Ledger) -> Vec<(u64, Option<Vec<u8>>)> {
    let known = (0..JOBS).filter(|&index| ledger.describe(index).is_some());
    known
        .map(|index| (index, ledger.result(index).expect("all is in memory")))
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
    let frozen = Record {
        index: 0,
        partition: 0,
        offset: 3,
        generation: 0,
        result: Some(2),
    };
    let lower = Record {
        offset: 4,
        result: Some(1),
        ..frozen
    };
    for records in [[frozen, lower], [lower, frozen]] {
        let (ledger, conflicts) = ledger(ResultsPolicy::Any, &records);
        assert_eq!(left(&ledger), [(0, Some(result_bytes(2)))]);
        assert_eq!((ledger.totals().differing, conflicts), (1, 0));
        assert_eq!(ledger.first_differing(9), [0]);
        let (_, conflicts) = self::ledger(ResultsPolicy::Reproducible, &records);
        assert_eq!(conflicts, 1);
    }
}

#[test]
fn a_job_that_was_opened_again_takes_the_late_result_of_an_older_generation() {
    let dead = Record {
        index: 1,
        partition: 0,
        offset: 9,
        generation: 1,
        result: None,
    };
    let (open, _) = ledger(ResultsPolicy::Reproducible, &[dead]);
    assert_eq!((open.missing(), open.totals().dead_lettered), (JOBS, 0));
    assert_eq!(open.first_missing(9), [0, 1, 2]);
    let late = Record {
        generation: 0,
        result: Some(1),
        ..dead
    };
    let (ledger, _) = ledger(ResultsPolicy::Reproducible, &[dead, late]);
    assert_eq!(left(&ledger), [(1, Some(result_bytes(1)))]);
}

#[test]
fn another_key_is_a_conflict_under_both_policies_even_of_an_outcome_that_does_not_count() {
    let dead = Record {
        index: 1,
        partition: 0,
        offset: 9,
        generation: 0,
        result: None,
    };
    let counted = Record {
        result: Some(1),
        ..dead
    };
    for policy in ResultsPolicy::ALL {
        for records in [[dead, counted], [counted, dead]] {
            let mut ledger = Ledger::under(JOBS, rules(policy));
            let mut conflicts = Vec::new();
            for batch in [records[0].batch_of("Spain"), records[1].batch()] {
                let recorded = ledger.record(&batch, &mut conflicts);
                recorded.expect("all is in memory");
            }
            assert_eq!(conflicts.len(), 1, "{policy}");
        }
    }
}

proptest! {
    #[test]
    fn what_counts_does_not_depend_on_the_order(
        records in prop::collection::vec(any_record(), 0..24),
        turned in any::<prop::sample::Index>(),
    ) {
        let mut other = records.clone();
        other.rotate_left(if records.is_empty() { 0 } else { turned.index(records.len()) });
        other.reverse();
        for policy in ResultsPolicy::ALL {
            let rules = rules(policy);
            let mut expected = Vec::new();
            let mut contradicted = BTreeSet::new();
            for index in 0..JOBS {
                let of_job = || records.iter().filter(|record| record.index == index);
                let results: BTreeSet<(Tier, u8)> = of_job()
                    .filter_map(|record| {
                        Some((rules.tier(record.partition, record.offset), record.result?))
                    })
                    .collect();
                let distinct: BTreeSet<u8> = results.iter().map(|(_, result)| *result).collect();
                if distinct.len() > 1 {
                    contradicted.insert(index);
                }
                let reopened_in = rules.reopened_in(index);
                let mut dead = of_job().filter(|record| record.result.is_none());
                if let Some(&(_, result)) = results.first() {
                    expected.push((index, Some(result_bytes(result))));
                } else if dead.any(|dead| dead.generation >= reopened_in) {
                    expected.push((index, None));
                }
            }
            for records in [&records, &other] {
                let (ledger, conflicts) = ledger(policy, records);
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
                let completed = expected.iter().filter(|(_, result)| result.is_some());
                prop_assert_eq!(totals.completed, completed.count() as u64);
                prop_assert_eq!(totals.weight_completed, 3 * totals.completed);
                prop_assert_eq!(ledger.missing(), JOBS - expected.len() as u64);
            }
        }
    }
}

//! Tests of the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::results::tests::InMemory;
use super::*;
use crate::group_key::{GroupKey, LabelSet};
use crate::outcome::{OutcomeBatchBuilder, Worker};
use crate::{Job, RunId, payload_digest};

/// Groups in key order, each with its rows, cut into jobs of at most `cap` rows.
#[derive(Clone, Debug)]
struct Run {
    groups: Vec<(LabelSet, Option<TimeBucket>, Vec<u8>)>,
    cap: usize,
}

/// A job, and the result that it has when it is completed.
type WithResult<'a> = (Job<'a>, Vec<u8>);

impl Run {
    fn jobs(&self) -> Vec<WithResult<'_>> {
        let mut jobs = Vec::new();
        for (labels, time, rows) in &self.groups {
            for (part, payload) in rows.chunks(self.cap).enumerate() {
                let job = Job {
                    index: jobs.len() as u64,
                    key: GroupKey {
                        labels,
                        time: *time,
                    },
                    part: part as u32,
                    weight: payload.len() as u32,
                    payload,
                };
                jobs.push((job, result(&job)));
            }
        }
        jobs
    }

    /// What the groups must be, computed without a ledger.
    fn oracle(&self) -> Vec<SpelledOut> {
        let mut groups: Vec<SpelledOut> = Vec::new();
        for (job, result) in self.jobs() {
            let (labels, time) = (job.key.labels.clone(), job.key.time);
            match groups.last_mut() {
                Some(last) if (&last.0, last.1) == (&labels, time) => last.2.push(result),
                _ => groups.push((labels, time, vec![result])),
            }
        }
        groups
    }
}

/// A group: labels, time, and the results of its parts.
type SpelledOut = (LabelSet, Option<TimeBucket>, Vec<Vec<u8>>);

/// Some results have a line's room, some more.
fn result(job: &Job<'_>) -> Vec<u8> {
    let times = 1 + job.index as usize % 9;
    job.payload.repeat(times)
}

fn any_run() -> impl Strategy<Value = Run> {
    let key = ("[a-c]{0,2}", 0i64..6);
    let rows = prop::collection::vec(0u8..=9, 1..12);
    let groups = prop::collection::btree_map(key, rows, 0..20);
    (groups, 1usize..6, any::<bool>()).prop_map(|(groups, cap, has_time)| {
        let mut groups: Vec<_> = groups
            .into_iter()
            .map(|((label, hours), rows)| {
                let time = TimeBucket::from_hours(hours).filter(|_| has_time);
                (LabelSet::new([label]), time, rows)
            })
            .collect();
        groups.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
        Run { groups, cap }
    })
}

const DEAD: Outcome<'static> = Outcome::DeadLettered {
    reason: "it is broken",
    attempts: 3,
};

fn batch(outcomes: &[(Job<'_>, Outcome<'_>)]) -> OutcomeBatch {
    let run_id: RunId = "a-run".parse().expect("a run id");
    let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
    for (job, outcome) in outcomes {
        builder.push(job, payload_digest(job.payload), *outcome);
    }
    OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
}

/// Records a batch in a ledger from which nothing that is read back was spilled.
fn record(ledger: &mut Ledger, batch: &OutcomeBatch, conflicts: &mut Vec<Conflict>) -> Recorded {
    let recorded = ledger.record(batch, conflicts);
    recorded.expect("all is in memory")
}

fn spelled_out(ledger: &Ledger) -> Vec<SpelledOut> {
    let groups = ledger.groups();
    let label_sets: Vec<Labels<'_>> = groups.label_sets().collect();
    let mut all = Vec::new();
    let walked = groups.for_each(|group| -> Result<(), SpillError> {
        let labels = label_sets[group.label_set as usize].to_label_set();
        assert_eq!(groups.labels(&group).to_label_set(), labels);
        let parts = group.parts.iter().map(|part| part.to_vec()).collect();
        all.push((labels, group.time, parts));
        Ok(())
    });
    walked.expect("what was spilled can be read back");
    all
}

fn result_of(ledger: &Ledger, index: u64) -> Option<Vec<u8>> {
    let result = ledger.result(index);
    result.expect("what was spilled can be read back")
}

fn completed_count(ledger: &Ledger) -> usize {
    let mut count = 0;
    let read = ledger.for_each_completed(|_, _| count += 1);
    read.expect("what was spilled can be read back");
    count
}

proptest! {
    /// Any order, duplication, split and packing of the outcomes gives the same groups.
    #[test]
    fn however_outcomes_arrive_the_groups_are_the_same(
        run in any_run(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        order in any::<u64>(),
        packing in 1usize..9,
        dead_first in any::<bool>(),
    ) {
        let jobs = run.jobs();
        let mut reported: Vec<(Job<'_>, Option<Vec<u8>>)> = jobs
            .iter()
            .map(|(job, result)| (*job, Some(result.clone())))
            .collect();
        if !jobs.is_empty() {
            for pick in &picks {
                let (job, result) = &jobs[pick.index(jobs.len())];
                reported.push((*job, (!dead_first).then(|| result.clone())));
            }
        }
        shuffle(&mut reported, order);
        let outcomes: Vec<(Job<'_>, Outcome<'_>)> = reported
            .iter()
            .map(|(job, result)| {
                let outcome = result.as_ref().map_or(DEAD, |result| Outcome::Completed(result));
                (*job, outcome)
            })
            .collect();
        let mut ledger = Ledger::new(jobs.len() as u64);
        let mut conflicts = Vec::new();
        let mut seen = Recorded::default();
        for outcomes in outcomes.chunks(packing) {
            let recorded = record(&mut ledger, &batch(outcomes), &mut conflicts);
            seen.new += recorded.new;
            seen.replaced += recorded.replaced;
            seen.duplicates += recorded.duplicates;
        }
        prop_assert_eq!(&conflicts, &[]);
        prop_assert_eq!(seen.new, jobs.len() as u64);
        prop_assert_eq!(seen.new + seen.replaced + seen.duplicates, outcomes.len() as u64);
        prop_assert_eq!(ledger.missing(), 0);
        prop_assert!(ledger.dead().is_empty());
        prop_assert_eq!(spelled_out(&ledger), run.oracle());
        let rows: u64 = jobs.iter().map(|(job, _)| u64::from(job.weight)).sum();
        prop_assert_eq!(ledger.totals().weight_completed, rows);
        for (job, result) in &jobs {
            prop_assert_eq!(result_of(&ledger, job.index), Some(result.clone()));
        }

        let mut hasher = JobSetHasher::new();
        for (job, _) in &jobs {
            hasher.update(job);
        }
        prop_assert_eq!(ledger.job_set_digest(), Some(hasher.finish()));
    }

    #[test]
    fn a_dead_letter_that_is_never_completed_stays_dead(
        run in any_run(),
        dead in any::<prop::sample::Index>(),
    ) {
        let jobs = run.jobs();
        prop_assume!(!jobs.is_empty());
        let dead = dead.index(jobs.len());
        let mut ledger = Ledger::new(jobs.len() as u64);
        for (job, result) in &jobs {
            let is_dead = job.index == dead as u64;
            let outcome = if is_dead { DEAD } else { Outcome::Completed(result) };
            record(&mut ledger, &batch(&[(*job, outcome)]), &mut Vec::new());
        }
        prop_assert_eq!(ledger.missing(), 0);
        prop_assert_eq!(ledger.totals().dead_lettered, 1);
        prop_assert_eq!(ledger.dead().keys().copied().collect::<Vec<_>>(), [dead as u64]);
        prop_assert_eq!(result_of(&ledger, dead as u64), None);
        let rows = u64::from(jobs[dead].0.weight);
        prop_assert_eq!(ledger.totals().weight_dead_lettered, rows);
        // Its group is there, with the parts that were completed.
        let parts: usize = spelled_out(&ledger).iter().map(|group| group.2.len()).sum();
        prop_assert_eq!(parts, jobs.len() - 1);
        prop_assert_eq!(spelled_out(&ledger).len(), run.groups.len());
    }

    /// A ledger whose keys do not ascend comes out in key order.
    #[test]
    fn groups_are_in_key_order_whatever_the_indexes_say(run in any_run(), order in any::<u64>()) {
        let mut jobs = run.jobs();
        jobs.retain(|(job, _)| job.part == 0);
        let mut indexes: Vec<u64> = (0..jobs.len() as u64).collect();
        shuffle(&mut indexes, order);
        let mut ledger = Ledger::new(jobs.len() as u64);
        for ((job, result), index) in jobs.iter_mut().zip(indexes) {
            job.index = index;
            record(&mut ledger, &batch(&[(*job, Outcome::Completed(result))]), &mut Vec::new());
        }
        let expected: Vec<SpelledOut> = jobs
            .iter()
            .map(|(job, result)| (job.key.labels.clone(), job.key.time, vec![result.clone()]))
            .collect();
        prop_assert_eq!(spelled_out(&ledger), expected);
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

fn one_job<'a>(labels: &'a LabelSet, payload: &'a [u8]) -> Job<'a> {
    Job {
        index: 0,
        key: GroupKey {
            labels,
            time: TimeBucket::from_hours(1),
        },
        part: 0,
        weight: payload.len() as u32,
        payload,
    }
}

#[test]
fn two_results_of_one_job_that_differ_are_a_conflict() {
    let labels = LabelSet::new(["Italy"]);
    let job = one_job(&labels, &[1, 0]);
    for (kept, other) in [
        (vec![1, 2], vec![2, 2]),
        (vec![], vec![0]),
        (vec![1; 8], vec![1; 9]),
        (vec![3; 100], [&[3; 99][..], &[4]].concat()),
    ] {
        let mut ledger = Ledger::new(1);
        let mut conflicts = Vec::new();
        record(
            &mut ledger,
            &batch(&[(job, Outcome::Completed(&kept))]),
            &mut conflicts,
        );
        record(
            &mut ledger,
            &batch(&[(job, Outcome::Completed(&other))]),
            &mut conflicts,
        );
        assert_eq!(conflicts.len(), 1);
        let shown = |result: &[u8]| Outcome::Completed(result).to_string();
        let conflict = &conflicts[0];
        assert!(conflict.kept.ends_with(&shown(&kept)), "{conflict}");
        assert!(conflict.other.ends_with(&shown(&other)), "{conflict}");
        assert_eq!(result_of(&ledger, 0), Some(kept));
    }
}

#[test]
fn two_descriptions_of_one_job_are_a_conflict_even_if_one_is_a_dead_letter() {
    let (italy, spain) = (LabelSet::new(["Italy"]), LabelSet::new(["Spain"]));
    let job = one_job(&italy, &[1]);
    let others = [
        one_job(&spain, &[1]),
        Job { part: 1, ..job },
        Job { weight: 2, ..job },
        // What the computation was given differs, though everything else is the same.
        Job {
            payload: &[0],
            ..job
        },
        Job {
            key: GroupKey {
                time: TimeBucket::from_seconds(3_601),
                ..job.key
            },
            ..job
        },
        Job {
            key: GroupKey {
                time: None,
                ..job.key
            },
            ..job
        },
    ];
    for (case, other) in others.into_iter().enumerate() {
        for (first, second) in [(job, other), (other, job)] {
            let mut ledger = Ledger::new(1);
            let mut conflicts = Vec::new();
            record(&mut ledger, &batch(&[(first, DEAD)]), &mut conflicts);
            record(
                &mut ledger,
                &batch(&[(second, Outcome::Completed(&[]))]),
                &mut conflicts,
            );
            assert_eq!(conflicts.len(), 1, "case {case}");
            assert_eq!(ledger.totals().dead_lettered, 1);
        }
    }
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
    record(
        &mut ledger,
        &batch(&[(one_job(&long, &[1]), dead)]),
        &mut conflicts,
    );
    let other = LabelSet::new(["y"]);
    let result = [7; 1_000];
    let contradiction = (one_job(&other, &[1]), Outcome::Completed(&result));
    let many = vec![contradiction; 2 * MAX_CONFLICTS];
    let recorded = record(&mut ledger, &batch(&many), &mut conflicts);
    assert_eq!(recorded.conflicts, 2 * MAX_CONFLICTS as u64);
    assert_eq!(conflicts.len(), MAX_CONFLICTS);
    let text = conflicts[0].to_string();
    assert!(text.len() < 1_000 && text.contains("xxx…, time"), "{text}");
    assert!(text.contains("zzz…)"), "{text}");
    // What is dropped takes no memory.
    assert_eq!(ledger.results.held_bytes(), 0);
}

#[test]
fn an_index_beyond_the_run_is_dropped_and_noticed() {
    let labels = LabelSet::new(["Italy"]);
    let mut job = one_job(&labels, &[1]);
    job.index = u64::MAX - 1;
    let mut ledger = Ledger::new(3);
    let outcome = Outcome::Completed(&[1; 100]);
    let recorded = record(&mut ledger, &batch(&[(job, outcome)]), &mut Vec::new());
    assert_eq!(recorded.beyond, 1);
    assert_eq!(ledger.missing(), 3);
    assert_eq!(ledger.first_missing(2), [0, 1]);
    assert_eq!(ledger.first_missing(9), [0, 1, 2]);
    assert_eq!(ledger.job_set_digest(), None);
    assert_eq!(ledger.results.held_bytes(), 0);
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
        let outcome = Outcome::Completed(&[1]);
        record(&mut ledger, &batch(&[(job, outcome)]), &mut Vec::new());
    }
    assert_eq!(ledger.first_missing(0), [0; 0]);
    assert_eq!(ledger.first_missing(5), [0, 3, 4, 6, 7]);
    assert_eq!(ledger.first_missing(200).last(), Some(&203));
    assert_eq!(ledger.missing(), u64::MAX - 4);
    assert!(ledger.describe(5).is_some() && ledger.describe(6).is_none());
    assert_eq!(completed_count(&ledger), 4);
}

/// Results of a run with a heavy tail: 10,000 small ones, then up to 256 KiB.
fn heavy_tail() -> Vec<Vec<u8>> {
    let small = (0..10_000usize).map(|nth| vec![nth as u8; nth % 12]);
    let large = (0..120usize).map(|nth| vec![nth as u8; 1 << (nth % 10 + 9)]);
    small.chain(large).collect()
}

/// A ledger of these results, two jobs a group, within a budget; with the reads of its store.
fn within(budget_bytes: u64, results: &[Vec<u8>]) -> (Ledger, Arc<AtomicU64>) {
    let store = InMemory::default();
    let reads = Arc::clone(&store.reads);
    let store = Box::new(store);
    let mut ledger = Ledger::new(results.len() as u64).with_memory(Memory {
        budget_bytes,
        store,
    });
    for (first, results) in (0..).step_by(100).zip(results.chunks(100)) {
        record(&mut ledger, &tail_batch(first, results), &mut Vec::new());
        ledger.make_room(0).expect("a vector has room");
    }
    (ledger, reads)
}

fn tail_batch(first: u64, results: &[Vec<u8>]) -> OutcomeBatch {
    let labels: Vec<LabelSet> = (first..)
        .take(results.len())
        .map(|index| LabelSet::new([format!("{:08}", index / 2)]))
        .collect();
    let outcomes: Vec<(Job<'_>, Outcome<'_>)> = (first..)
        .zip(results)
        .zip(&labels)
        .map(|((index, result), labels)| {
            let part = (index % 2) as u32;
            let job = one_job(labels, &[1]);
            (Job { index, part, ..job }, Outcome::Completed(result))
        })
        .collect();
    batch(&outcomes)
}

#[test]
fn a_memory_budget_changes_where_results_are_and_nothing_else() {
    let results = heavy_tail();
    let (free, _) = within(u64::MAX, &results);
    let (tight, reads) = within(1_000_000, &results);
    assert_eq!(free.memory_use().spilled, 0);
    let used = tight.memory_use();
    assert!(used.spilled > 3_000_000, "{used:?}");
    assert!(used.held < used.fixed + SEGMENT_BYTES as u64, "{used:?}");
    assert_eq!(spelled_out(&tight), spelled_out(&free));
    assert!(reads.load(Ordering::Relaxed) <= 100);
    let mut sums = (0, 0);
    let mut bytes = 0;
    let read = tight.for_each_completed(|weight, result| {
        sums = (sums.0 + weight, sums.1 + 1);
        bytes += result.len();
    });
    read.expect("what was spilled can be read back");
    assert_eq!(sums, (results.len() as u32, results.len()));
    assert_eq!(bytes, results.iter().map(Vec::len).sum::<usize>());
    assert_eq!(tight.job_set_digest(), free.job_set_digest());
    for (index, result) in (0..).zip(&results) {
        assert_eq!(result_of(&tight, index).as_ref(), Some(result));
    }
}

#[test]
fn a_spilled_result_is_compared_without_being_read_and_shown_when_it_is_contradicted() {
    let results = heavy_tail();
    let (mut tight, reads) = within(0, &results);
    let mut conflicts = Vec::new();
    for (first, results) in (0..).step_by(100).zip(results.chunks(100)) {
        let recorded = record(&mut tight, &tail_batch(first, results), &mut conflicts);
        assert_eq!(recorded.duplicates, results.len() as u64);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    let mut other = results[10_009].clone();
    other[100_000] ^= 1;
    let recorded = record(&mut tight, &tail_batch(10_009, &[other]), &mut conflicts);
    assert_eq!(recorded.conflicts, 1);
    assert!(
        conflicts[0].kept.contains("262144 bytes: 09 09"),
        "{}",
        conflicts[0]
    );
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

#[test]
fn what_cannot_be_spilled_may_exceed_the_budget_and_is_told_apart() {
    let results = vec![vec![1; 8]; 10_000];
    let (ledger, _) = within(1_000, &results);
    let used = ledger.memory_use();
    assert_eq!((used.spilled, used.held), (0, used.fixed));
    assert!(used.fixed > 400_000, "{used:?}");
}

#[test]
fn of_results_that_differ_the_lowest_counts_even_where_the_other_was_spilled() {
    let results = heavy_tail();
    let rules = CountingRules::new(ResultsPolicy::Any);
    let mut ledger = Ledger::under(results.len() as u64, rules).with_memory(Memory {
        budget_bytes: 0,
        store: Box::new(InMemory::default()),
    });
    let mut conflicts = Vec::new();
    for (first, results) in (0..).step_by(100).zip(results.chunks(100)) {
        record(&mut ledger, &tail_batch(first, results), &mut conflicts);
        ledger.make_room(0).expect("a vector has room");
    }
    let kept = &results[10_009];
    let changed = |by: fn(u8) -> u8| {
        let mut other = kept.clone();
        other[100_000] = by(other[100_000]);
        other
    };
    let (higher, lower) = (changed(|byte| byte + 1), changed(|byte| byte - 1));
    for (other, expected) in [(higher, kept), (lower.clone(), &lower)] {
        let recorded = record(&mut ledger, &tail_batch(10_009, &[other]), &mut conflicts);
        assert_eq!(recorded.duplicates + recorded.replaced, 1);
        assert_eq!(result_of(&ledger, 10_009).as_ref(), Some(expected));
        assert_eq!(ledger.totals().differing, 1);
        assert_eq!(ledger.first_differing(9), [10_009]);
    }
    assert_eq!(conflicts, []);
    let totals = ledger.totals();
    assert_eq!(totals.completed, results.len() as u64);
    // The run turns out to have fewer jobs.
    ledger.set_jobs(10_009);
    let totals = ledger.totals();
    assert_eq!((totals.completed, totals.differing), (10_009, 0));
    assert_eq!(ledger.missing(), 0);
}

//! Aggregators that stop at different prefixes come to one table a generation, under both policies,
//! across a replay, and whatever retention takes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::JobSetHasher;
use crate::job::tests::{OwnedJob, job};
use crate::ledger::{Ledger, SpillError};
use crate::outcome::OutcomeBatch;
use crate::outcome::tests::batch_of_one;
use crate::run::RunOptions;
use crate::run::tests::{manifest, opened, options};
use crate::{IndexRanges, Manifest, ResultsPolicy, RunEvent, RunHistory, RunOpened};

const JOBS: u64 = 3;
const PARTITIONS: usize = 2;

fn run_id() -> RunId {
    "a-run".parse().expect("a run id")
}

fn job_at(index: u64) -> OwnedJob {
    job(index as i64, &[1, 1, 1])
}

fn outcome(index: u64, generation: u32, result: Option<u8>) -> OutcomeBatch {
    let result = result.as_ref().map(std::slice::from_ref);
    batch_of_one("a-run", generation, &job_at(index).at(index), result)
}

fn run_manifest() -> Manifest {
    let mut hasher = JobSetHasher::new();
    for index in 0..JOBS {
        hasher.update(&job_at(index).at(index));
    }
    Manifest {
        job_set_digest: hasher.finish(),
        ..manifest(JOBS, 3 * JOBS)
    }
}

/// The topics of one run.
struct Topics {
    policy: ResultsPolicy,
    history: RunHistory,
    outcomes: Vec<Vec<OutcomeBatch>>,
    /// Where each partition begins now: retention has taken what is before.
    beginnings: Vec<i64>,
}

/// A table: by job, its result, `None` for a dead letter.
type Table = BTreeMap<u64, Option<u8>>;

impl Topics {
    fn new(policy: ResultsPolicy) -> Self {
        let mut history = RunHistory::new(run_id());
        history.apply(RunEvent::Opened(RunOpened {
            outcomes_start_offsets: vec![0; PARTITIONS],
            options: RunOptions {
                results: policy,
                ..options()
            },
            ..opened()
        }));
        history.apply(RunEvent::Dispatched(run_manifest()));
        Self {
            policy,
            history,
            outcomes: vec![Vec::new(); PARTITIONS],
            beginnings: vec![0; PARTITIONS],
        }
    }

    /// What there is to be read now, but for the last records of each partition.
    fn kept(&self, behind: &[i64]) -> Vec<OffsetRange> {
        let partitions = self.outcomes.iter().zip(&self.beginnings).zip(behind);
        let ranges = partitions.map(|((log, &start), behind)| OffsetRange {
            start,
            end: (log.len() as i64 - behind).max(start),
        });
        ranges.collect()
    }

    /// Judges as an aggregator does that has read these offsets, partitions in either order.
    fn judge(&self, read: &[OffsetRange], at: Option<VerdictKey>, turned: bool) -> (Judged, Table) {
        let mut collection = Collection::of(self.policy, &self.history);
        let mut partitions: Vec<usize> = (0..PARTITIONS).collect();
        if turned {
            partitions.reverse();
        }
        for partition in partitions {
            let OffsetRange { start, end } = read[partition];
            let log = &self.outcomes[partition][start as usize..end as usize];
            for (offset, batch) in (start..).zip(log) {
                let recorded = collection.apply_outcomes_at(partition as i32, offset, batch);
                recorded.expect("all is in memory");
            }
        }
        let no_checks = |_: &Ledger| Ok::<_, SpillError>(Vec::new());
        let judged = collection.reconcile(no_checks);
        let verdict = judged.expect("no check of results").verdict;
        let ledger = collection.ledger().expect("it has a manifest");
        let mut table = Table::new();
        let known = (0..JOBS).filter(|&index| ledger.describe(index).is_some());
        for index in known {
            let result = ledger.result(index).expect("all is in memory");
            table.insert(index, result.map(|bytes| bytes[0]));
        }
        let table_digest = ContentDigest::of(format!("{table:?}").as_bytes());
        let judged = Judged::of(&collection, read.to_vec(), at, verdict, table_digest);
        (judged, table)
    }
}

/// How an aggregator ended.
#[derive(Clone, Debug, PartialEq)]
enum Ended {
    Placed(u32, Verdict, Table),
    Contradiction,
    Deleted,
    Other,
}

/// An aggregator, which may pause before each step.
struct Aggregator {
    judged: Judged,
    table: Table,
    /// The verdict that it has decided to publish, by a log that may have grown since.
    deciding: Option<RunReconciled>,
    is_published: bool,
    turned: bool,
}

impl Aggregator {
    fn start(topics: &Topics, behind: &[i64], turned: bool) -> Self {
        let (judged, table) = topics.judge(&topics.kept(behind), None, turned);
        Self {
            judged,
            table,
            deciding: None,
            is_published: false,
            turned,
        }
    }

    /// Steps to the end, with nothing in between; `None` where there is no end.
    fn finish(&mut self, topics: &mut Topics) -> Option<Ended> {
        (0..8).find_map(|_| self.step(topics))
    }

    fn step(&mut self, topics: &mut Topics) -> Option<Ended> {
        if let Some(event) = self.deciding.take() {
            topics.history.apply(RunEvent::Reconciled(event));
            self.is_published = true;
            return None;
        }
        self.deciding = {
            let timeline = topics.history.timeline();
            match self.judged.settle(&timeline, self.is_published) {
                Settlement::Publish => Some(self.judged.event(&run_id(), "an aggregator")?),
                Settlement::Agrees(standing) => {
                    let (generation, verdict) = (standing.generation, standing.verdict);
                    return Some(Ended::Placed(generation, verdict, self.table.clone()));
                }
                Settlement::JudgeAt(standing) => {
                    if deleted_outcomes(&standing.outcomes, &topics.beginnings).is_some() {
                        return Some(Ended::Deleted);
                    }
                    let at = Some(standing.verdict_key());
                    let (judged, table) = topics.judge(&standing.outcomes, at, self.turned);
                    (self.judged, self.table) = (judged, table);
                    return None;
                }
                Settlement::Contradicts(_) => return Some(Ended::Contradiction),
                Settlement::NextGeneration(_) => {
                    let kept = topics.kept(&[0; PARTITIONS]);
                    (self.judged, self.table) = topics.judge(&kept, None, self.turned);
                    self.is_published = false;
                    return None;
                }
                Settlement::Incomplete | Settlement::Cancelled(_) | Settlement::NotCounted => {
                    return Some(Ended::Other);
                }
                Settlement::FrozenDeleted(..) => return Some(Ended::Deleted),
            }
        };
        None
    }
}

/// What happens next to the run.
#[derive(Clone, Debug)]
enum Act {
    Outcome {
        partition: usize,
        index: u64,
        result: Option<u8>,
        is_old: bool,
        /// Where the run says that it is reproducible, and is not.
        contradicts: bool,
    },
    Start {
        behind: [i64; PARTITIONS],
        turned: bool,
    },
    Step(prop::sample::Index),
    Replay,
    Delete {
        partition: usize,
        records: i64,
    },
}

fn any_act() -> impl Strategy<Value = Act> {
    let result = prop_oneof![1 => Just(None), 3 => (1u8..3).prop_map(Some)];
    let contradicts = prop::bool::weighted(0.02);
    let outcome = (0..PARTITIONS, 0..JOBS, result, any::<bool>(), contradicts).prop_map(
        |(partition, index, result, is_old, contradicts)| Act::Outcome {
            partition,
            index,
            result,
            is_old,
            contradicts,
        },
    );
    prop_oneof![
        6 => outcome,
        3 => ([0i64..3, 0i64..3], any::<bool>())
            .prop_map(|(behind, turned)| Act::Start { behind, turned }),
        6 => any::<prop::sample::Index>().prop_map(Act::Step),
        1 => Just(Act::Replay),
        1 => (0..PARTITIONS, 1i64..4)
            .prop_map(|(partition, records)| Act::Delete { partition, records }),
    ]
}

/// Reopens what is dead at the verdict that stands, if one does.
fn replay(topics: &mut Topics) -> bool {
    let next = {
        let timeline = topics.history.timeline();
        let Some(latest) = timeline.newest().verdict() else {
            return false;
        };
        let is_deleted = deleted_outcomes(&latest.outcomes, &topics.beginnings).is_some();
        if topics.policy == ResultsPolicy::Any && is_deleted {
            return false;
        }
        let (_, table) = topics.judge(&latest.outcomes, None, false);
        let dead = table.iter().filter(|(_, result)| result.is_none());
        let dead = IndexRanges::of_ascending(dead.map(|(index, _)| *index));
        timeline.next_generation(&run_id(), dead, "a replay")
    };
    match next {
        Ok(next) => {
            topics.history.apply(RunEvent::Generation(next));
            true
        }
        Err(_) => false,
    }
}

/// Plays acts, and hands back how each aggregator ended.
fn play(policy: ResultsPolicy, acts: &[Act]) -> Vec<Ended> {
    let mut topics = Topics::new(policy);
    let mut aggregators = Vec::new();
    let mut ended = Vec::new();
    for act in acts {
        match act {
            Act::Outcome {
                partition,
                index,
                result,
                is_old,
                contradicts,
            } => {
                let newest = topics.history.timeline().number();
                let generation = if *is_old { 0 } else { newest };
                let result = match policy {
                    ResultsPolicy::Any => *result,
                    ResultsPolicy::Reproducible => result.map(|_| 1 + u8::from(*contradicts)),
                };
                topics.outcomes[*partition].push(outcome(*index, generation, result));
            }
            Act::Start { behind, turned } => {
                aggregators.push(Aggregator::start(&topics, behind, *turned));
            }
            Act::Step(which) if !aggregators.is_empty() => {
                let which = which.index(aggregators.len());
                if let Some(end) = aggregators[which].step(&mut topics) {
                    aggregators.swap_remove(which);
                    ended.push(end);
                }
            }
            Act::Step(_) => {}
            Act::Replay => {
                replay(&mut topics);
            }
            Act::Delete { partition, records } => {
                let end = topics.outcomes[*partition].len() as i64;
                let beginning = &mut topics.beginnings[*partition];
                *beginning = (*beginning + records).min(end);
            }
        }
    }
    for mut aggregator in aggregators {
        ended.push(loop {
            if let Some(end) = aggregator.step(&mut topics) {
                break end;
            }
        });
    }
    ended
}

proptest! {
    #[test]
    fn aggregators_that_stop_at_different_prefixes_agree(
        // Every job has some outcome early on, so that runs come to verdicts.
        first in prop::collection::vec(prop_oneof![Just(None), (1u8..3).prop_map(Some)], 3),
        acts in prop::collection::vec(any_act(), 0..60),
        is_any in any::<bool>(),
    ) {
        let policy = if is_any { ResultsPolicy::Any } else { ResultsPolicy::Reproducible };
        let mut all: Vec<Act> = (0..)
            .zip(first)
            .map(|(index, result)| Act::Outcome {
                partition: 0,
                index,
                result,
                is_old: true,
                contradicts: false,
            })
            .collect();
        all.extend(acts);
        let mut tables: BTreeMap<u32, (Verdict, Table)> = BTreeMap::new();
        for end in play(policy, &all) {
            prop_assert_ne!(&end, &Ended::Contradiction);
            if let Ended::Placed(generation, verdict, table) = end {
                let known = tables.entry(generation).or_insert((verdict, table.clone()));
                prop_assert_eq!(known.0, verdict, "generation {}", generation);
                if verdict != Verdict::Failed {
                    prop_assert_eq!(&known.1, &table, "generation {}", generation);
                }
            }
        }
        // A contradiction within a run cannot be detected once retention has taken its first result.
        let contradicts = |act: &Act| matches!(act, Act::Outcome { contradicts: true, .. });
        if !is_any && all.iter().any(contradicts) {
            return Ok(());
        }
        // A completed job's result is frozen by the first verdict that counts it.
        let tables = tables.values().filter(|(verdict, _)| *verdict != Verdict::Failed);
        let tables: Vec<&Table> = tables.map(|(_, table)| table).collect();
        for (one, next) in tables.iter().zip(tables.iter().skip(1)) {
            for (index, result) in one.iter().filter(|(_, result)| result.is_some()) {
                let next = next.get(index);
                // One that is reproducible is computed again where retention has taken it.
                let is_dead_again = !is_any && next == Some(&None);
                prop_assert!(next == Some(result) || is_dead_again, "job {}: {:?}", index, next);
            }
        }
    }
}

#[test]
fn two_results_beyond_the_verdict_change_nothing_at_its_end_offsets() {
    let mut topics = Topics::new(ResultsPolicy::Any);
    for index in 0..JOBS {
        topics.outcomes[0].push(outcome(index, 0, Some(2)));
    }
    let mut early = Aggregator::start(&topics, &[0, 0], false);
    topics.outcomes[1].push(outcome(0, 0, Some(1)));
    let mut late = Aggregator::start(&topics, &[0, 0], true);
    assert_ne!(early.table, late.table);
    // Both decide to publish before either does.
    assert_eq!(early.step(&mut topics), None);
    assert_eq!(late.step(&mut topics), None);
    assert_eq!(early.step(&mut topics), None);
    let placed = (0..3).find_map(|_| late.step(&mut topics));
    assert_eq!(placed, early.step(&mut topics));
    assert!(
        matches!(placed, Some(Ended::Placed(0, Verdict::Complete, _))),
        "{placed:?}"
    );
}

#[test]
fn a_result_that_a_verdict_has_counted_is_not_replaced_when_retention_takes_it() {
    let mut topics = Topics::new(ResultsPolicy::Any);
    for (index, result) in [(0, Some(1)), (1, Some(1)), (2, None)] {
        topics.outcomes[0].push(outcome(index, 0, result));
    }
    let mut first = Aggregator::start(&topics, &[0, 0], false);
    assert!(matches!(
        first.finish(&mut topics),
        Some(Ended::Placed(0, ..))
    ));
    assert!(replay(&mut topics));
    // A second attempt at job 0, whose first result is deleted then, and the replayed job.
    topics.outcomes[1].push(outcome(0, 0, Some(2)));
    topics.outcomes[1].push(outcome(2, 1, Some(1)));
    let mut early = Aggregator::start(&topics, &[0, 0], false);
    topics.beginnings[0] = 1;
    let mut late = Aggregator::start(&topics, &[0, 0], false);
    assert_eq!(late.finish(&mut topics), Some(Ended::Deleted));
    let placed = early.finish(&mut topics);
    let Some(Ended::Placed(1, Verdict::Complete, table)) = placed else {
        panic!("{placed:?}");
    };
    assert_eq!(table[&0], Some(1));
}

#[test]
fn two_that_find_a_run_failed_agree_whatever_they_have_read_first() {
    let mut topics = Topics::new(ResultsPolicy::Reproducible);
    for index in 0..JOBS {
        topics.outcomes[0].push(outcome(index, 0, Some(1)));
    }
    topics.outcomes[1].push(outcome(0, 0, Some(2)));
    let mut one = Aggregator::start(&topics, &[0, 0], false);
    let mut other = Aggregator::start(&topics, &[0, 0], true);
    assert_ne!(one.table, other.table);
    for aggregator in [&mut one, &mut other] {
        let ended = aggregator.finish(&mut topics);
        assert!(
            matches!(ended, Some(Ended::Placed(0, Verdict::Failed, _))),
            "{ended:?}"
        );
    }
}

#[test]
fn a_table_of_the_same_rows_with_other_counts_is_judged_again() {
    let mut topics = Topics::new(ResultsPolicy::Any);
    for index in 0..JOBS {
        topics.outcomes[0].push(outcome(index, 0, Some(1)));
    }
    let mut early = Aggregator::start(&topics, &[0, 0], false);
    // Its report would list a job with several results that the verdict does not.
    topics.outcomes[1].push(outcome(0, 0, Some(2)));
    let mut late = Aggregator::start(&topics, &[0, 0], false);
    assert_eq!(early.table, late.table);
    let placed = early.finish(&mut topics);
    assert_eq!(late.judged.differing, 1);
    assert_eq!(late.finish(&mut topics), placed);
    assert_eq!(late.judged.differing, 0);
}

#[test]
fn outcomes_that_say_otherwise_at_the_same_end_offsets_are_a_contradiction() {
    let mut topics = Topics::new(ResultsPolicy::Reproducible);
    for index in 0..JOBS {
        topics.outcomes[0].push(outcome(index, 0, Some(2)));
    }
    let mut honest = Aggregator::start(&topics, &[0, 0], false);
    let mut wrong = honest.judged.clone();
    wrong.table_digest = ContentDigest::of(b"another table");
    let event = wrong.event(&run_id(), "another").expect("it is complete");
    topics.history.apply(RunEvent::Reconciled(event));
    assert_eq!(honest.step(&mut topics), None);
    assert_eq!(honest.step(&mut topics), Some(Ended::Contradiction));
}

#[test]
fn an_incomplete_run_publishes_nothing_and_one_without_a_manifest_neither() {
    let topics = Topics::new(ResultsPolicy::Reproducible);
    let (judged, _) = topics.judge(&topics.kept(&[0, 0]), None, false);
    assert_eq!(judged.verdict, Verdict::Incomplete);
    let timeline = topics.history.timeline();
    assert_eq!(judged.settle(&timeline, false), Settlement::Incomplete);
    assert_eq!(judged.event(&run_id(), "an aggregator"), None);
    let blind = Judged {
        manifest_digest: None,
        verdict: Verdict::Failed,
        ..judged
    };
    assert_eq!(blind.settle(&timeline, false), Settlement::Incomplete);
}

#[test]
fn a_published_verdict_that_does_not_count_is_not_published_again() {
    let mut topics = Topics::new(ResultsPolicy::Reproducible);
    for index in 0..JOBS {
        topics.outcomes[0].push(outcome(index, 0, Some(2)));
    }
    let (mut judged, _) = topics.judge(&topics.kept(&[0, 0]), None, false);
    let timeline = topics.history.timeline();
    assert_eq!(judged.settle(&timeline, false), Settlement::Publish);
    judged.manifest_digest = Some(manifest(9, 9).digest());
    assert_eq!(judged.settle(&timeline, true), Settlement::NotCounted);
}

#[test]
fn outcomes_are_deleted_where_a_partition_begins_after_what_was_read() {
    let range = |start, end| OffsetRange { start, end };
    let outcomes = [range(3, 3), range(2, 5)];
    assert_eq!(deleted_outcomes(&outcomes, &[9, 2]), None);
    assert_eq!(deleted_outcomes(&outcomes, &[0, 3]), Some(1));
    assert_eq!(deleted_outcomes(&outcomes, &[0]), Some(1));
    assert_eq!(lost_outcomes(&outcomes, &[0, 3], &[3, 5]), Some(1));
    assert_eq!(lost_outcomes(&outcomes, &[0, 2], &[3, 5]), None);
    // The topic was made again, and has fewer records, or fewer partitions.
    assert_eq!(lost_outcomes(&outcomes, &[0, 0], &[3, 4]), Some(1));
    assert_eq!(lost_outcomes(&outcomes, &[0, 0], &[0, 9]), Some(0));
    assert_eq!(lost_outcomes(&outcomes, &[0, 0], &[3]), Some(1));
}

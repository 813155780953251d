//! The rules by values, and that compaction at any point changes nothing that they say.

use proptest::prelude::*;

use super::*;
use crate::reconciled::OffsetRange;
use crate::run::tests::{cancelled, manifest, opened, reconciled};
use crate::{Manifest, RunEvent, RunHistory, RunLog, RunOpened};

fn run_id() -> RunId {
    "a-run".parse().expect("a run id")
}

/// The runs topic with one run: keys and values, an empty value being a tombstone.
#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the outcomes topic ends.
    end: i64,
}

impl Log {
    fn write(&mut self, event: &RunEvent) {
        let key = event.key().into_bytes();
        self.records.push((key, event.encode()));
    }

    /// What somebody knows who has not read the last `stale` records.
    fn history(&self, stale: usize) -> RunHistory {
        history(&self.records[..self.records.len().saturating_sub(stale)])
    }

    fn open(&mut self) {
        let known = self.history(0).opened().cloned();
        let opened = known.unwrap_or_else(|| RunOpened {
            outcomes_start_offsets: vec![self.end],
            ..opened()
        });
        self.write(&RunEvent::Opened(opened));
    }

    fn verdict(&self, stale: usize, verdict: Verdict, behind: i64) -> Option<RunReconciled> {
        let history = self.history(stale);
        let timeline = history.timeline();
        let start = history.opened()?.outcomes_start_offsets[0];
        Some(RunReconciled {
            generation: timeline.number(),
            outcomes: vec![OffsetRange {
                start,
                end: (self.end - behind).max(start),
            }],
            manifest_digest: history.manifest()?.digest(),
            verdict,
            table_digest: ContentDigest::of(&behind.to_le_bytes()),
            published_by: "an aggregator".to_owned(),
            ..reconciled()
        })
    }

    fn cancel(&self, stale: usize) -> RunCancelled {
        RunCancelled {
            generation: self.history(stale).timeline().number(),
            ..cancelled()
        }
    }

    fn next(&self, stale: usize) -> Result<GenerationOpened, NoFurtherGeneration> {
        let history = self.history(stale);
        let reopened = IndexRanges::of_ascending([1]);
        history
            .timeline()
            .next_generation(&run_id(), reopened, "a replay")
    }

    /// Tombstones for the first `at_most` keys of the run.
    fn remove(&mut self, at_most: usize) {
        let mut keys: Vec<Vec<u8>> = self.records.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        keys.dedup();
        let tombstones = keys.into_iter().take(at_most).map(|key| (key, Vec::new()));
        self.records.extend(tombstones);
    }
}

fn history(records: &[(Vec<u8>, Vec<u8>)]) -> RunHistory {
    let mut log = RunLog::default();
    for (offset, (key, value)) in (0..).zip(records) {
        log.add(offset, key, value);
    }
    let mut history = RunHistory::new(run_id());
    for (_, key, value) in log.take() {
        let event = RunEvent::decode(&key, &value).expect("a valid event");
        history.apply(event.expect("a kind that is known"));
    }
    history
}

/// The log after the broker has compacted its first records: of each key, the last of these is left.
fn compacted(log: &Log, first: usize, keeps_tombstones: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (clean, rest) = log.records.split_at(first);
    let is_last =
        |position: usize, key: &[u8]| !clean[position + 1..].iter().any(|(later, _)| later == key);
    let kept = clean.iter().enumerate().filter(|(position, (key, value))| {
        is_last(*position, key) && (keeps_tombstones || !value.is_empty())
    });
    let kept = kept.map(|(_, record)| record.clone());
    kept.chain(rest.iter().cloned()).collect()
}

/// The state of a run by the rules, as text.
fn state_text(history: &RunHistory) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        history.opened(),
        history.manifest().map(Manifest::digest),
        history.aborted(),
        history.timeline(),
    )
}

fn dispatched() -> Log {
    let mut log = Log::default();
    log.open();
    log.write(&RunEvent::Dispatched(manifest(3, 9)));
    log.end = 10;
    log
}

fn number(log: &Log) -> u32 {
    log.history(0).timeline().number()
}

#[test]
fn the_first_of_two_generations_that_are_opened_at_once_counts_and_the_loser_opens_the_next() {
    let mut log = dispatched();
    let (one, other) = (log.next(0).expect("one"), log.next(0).expect("other"));
    log.write(&RunEvent::Generation(one.clone()));
    log.write(&RunEvent::Generation(other.clone()));
    let history = log.history(0);
    let timeline = history.timeline();
    assert!(timeline.is_opened_by(1, &one.writer));
    assert!(!timeline.is_opened_by(1, &other.writer));
    assert_eq!(log.next(0).map(|next| next.generation), Ok(2));
}

#[test]
fn a_generation_that_does_not_know_the_verdict_before_it_does_not_count() {
    let mut log = dispatched();
    let unaware = log.next(0).expect("the next");
    let verdict = log
        .verdict(0, Verdict::CompleteWithDeadLetters, 0)
        .expect("dispatched");
    log.write(&RunEvent::Reconciled(verdict.clone()));
    log.write(&RunEvent::Generation(unaware));
    assert_eq!(number(&log), 0);
    let aware = log.next(0).expect("the next");
    assert_eq!(aware.builds_on, Some(verdict.verdict_key()));
    log.write(&RunEvent::Generation(aware));
    assert_eq!(number(&log), 1);
    let history = log.history(0);
    let timeline = history.timeline();
    assert_eq!(timeline.earlier_verdicts().collect::<Vec<_>>(), [&verdict]);
    assert_eq!(timeline.newest().verdict(), None);
}

#[test]
fn the_first_verdict_before_the_next_generation_counts() {
    let mut log = dispatched();
    let mut verdicts = Vec::new();
    for behind in 0..2 {
        verdicts.push(
            log.verdict(0, Verdict::Complete, behind)
                .expect("dispatched"),
        );
    }
    let mut of_another = verdicts[0].clone();
    of_another.manifest_digest = manifest(4, 9).digest();
    of_another.writer = WriterId::fresh();
    log.write(&RunEvent::Reconciled(of_another));
    let without = log.clone();
    for verdict in &verdicts {
        log.write(&RunEvent::Reconciled(verdict.clone()));
    }
    assert_eq!(
        log.history(0).timeline().newest().verdict(),
        Some(&verdicts[0])
    );

    // A replay that races the verdict: whichever is first in the log.
    let mut raced = without;
    raced.write(&RunEvent::Generation(raced.next(0).expect("the next")));
    raced.write(&RunEvent::Reconciled(verdicts[0].clone()));
    let history = raced.history(0);
    assert_eq!(history.timeline().number(), 1);
    assert_eq!(history.timeline().latest_verdict(), None);
}

#[test]
fn a_cancellation_holds_unless_a_verdict_comes_before_it() {
    let cancelled_first = {
        let mut log = dispatched();
        log.write(&RunEvent::Cancelled(log.cancel(0)));
        let verdict = log.verdict(0, Verdict::Complete, 0).expect("dispatched");
        log.write(&RunEvent::Reconciled(verdict));
        log
    };
    let history = cancelled_first.history(0);
    let timeline = history.timeline();
    assert!(timeline.newest().cancelled().is_some());
    assert_eq!(timeline.latest_verdict(), None);
    assert_eq!(timeline.cancelled_up_to(), Some(0));

    let mut late = dispatched();
    let stale = late.cancel(0);
    let verdict = late.verdict(0, Verdict::Complete, 0).expect("dispatched");
    late.write(&RunEvent::Reconciled(verdict));
    late.write(&RunEvent::Cancelled(stale));
    assert_eq!(late.history(0).timeline().cancelled_up_to(), None);

    // The next generation goes on; jobs of the cancelled one are still passed over.
    let mut resumed = cancelled_first;
    let unaware = resumed.next(2).expect("the next");
    assert_eq!(unaware.ends_cancellation, None);
    resumed.write(&RunEvent::Generation(unaware));
    assert_eq!(
        number(&resumed),
        0,
        "it would end a cancellation that it does not know"
    );
    resumed.write(&RunEvent::Generation(resumed.next(0).expect("the next")));
    let history = resumed.history(0);
    assert_eq!(history.timeline().newest().cancelled(), None);
    assert_eq!(history.timeline().cancelled_up_to(), Some(0));
    // Of who publishes the former generation, and of who publishes the next.
    assert!(history.timeline().cancelled_since(0).is_some());
    assert_eq!(history.timeline().cancelled_since(1), None);
}

#[test]
fn failed_is_final() {
    let mut log = dispatched();
    let stale = log.next(0).expect("the next");
    let verdict = log.verdict(0, Verdict::Failed, 0).expect("dispatched");
    log.write(&RunEvent::Reconciled(verdict.clone()));
    let refused = log.next(0).expect_err("it has failed").to_string();
    assert!(refused.contains("an aggregator"), "{refused}");
    let knowing = GenerationOpened {
        builds_on: Some(verdict.verdict_key()),
        ..stale
    };
    log.write(&RunEvent::Generation(knowing));
    assert_eq!(number(&log), 0);
}

#[test]
fn a_verdict_on_a_removed_run_is_none_on_the_next_of_its_name() {
    let mut log = dispatched();
    let late = log.verdict(0, Verdict::Complete, 0).expect("dispatched");
    log.remove(usize::MAX);
    assert_eq!(log.history(0).opened(), None);
    log.open();
    log.write(&RunEvent::Dispatched(manifest(3, 9)));
    log.write(&RunEvent::Reconciled(late));
    assert_eq!(log.history(0).timeline().latest_verdict(), None);
    log.end += 3;
    let own = log.verdict(0, Verdict::Complete, 0).expect("dispatched");
    log.write(&RunEvent::Reconciled(own.clone()));
    assert_eq!(log.history(0).timeline().latest_verdict(), Some(&own));
}

#[test]
fn a_removed_run_that_failed_does_not_fail_the_next_of_its_name() {
    let mut log = dispatched();
    let late = log.verdict(0, Verdict::Failed, 0).expect("dispatched");
    log.remove(usize::MAX);
    log.open();
    log.write(&RunEvent::Dispatched(manifest(3, 9)));
    log.write(&RunEvent::Reconciled(late));
    assert_eq!(log.history(0).timeline().latest_verdict(), None);
    // A run can fail before it has an outcome: by two manifests.
    let own = log.verdict(0, Verdict::Failed, 0).expect("dispatched");
    log.write(&RunEvent::Reconciled(own.clone()));
    assert_eq!(log.history(0).timeline().latest_verdict(), Some(&own));
}

/// What somebody does, having read all but the last `stale` records.
#[derive(Clone, Debug)]
enum Act {
    Open,
    Dispatch,
    Outcomes(i64),
    Replay {
        stale: usize,
    },
    Judge {
        stale: usize,
        failed: bool,
        behind: i64,
    },
    Cancel {
        stale: usize,
    },
    Remove {
        at_most: usize,
    },
}

fn any_act() -> impl Strategy<Value = Act> {
    let stale = || 0usize..4;
    prop_oneof![
        2 => Just(Act::Open),
        2 => Just(Act::Dispatch),
        3 => (1i64..5).prop_map(Act::Outcomes),
        3 => stale().prop_map(|stale| Act::Replay { stale }),
        4 => (stale(), prop::bool::weighted(0.1), 0i64..5).prop_map(|(stale, failed, behind)| {
            Act::Judge { stale, failed, behind }
        }),
        2 => stale().prop_map(|stale| Act::Cancel { stale }),
        1 => prop_oneof![Just(usize::MAX), 1usize..6].prop_map(|at_most| Act::Remove { at_most }),
    ]
}

fn play(acts: &[Act]) -> Log {
    let mut log = Log::default();
    for act in acts {
        match *act {
            Act::Open => log.open(),
            Act::Dispatch => log.write(&RunEvent::Dispatched(manifest(3, 9))),
            Act::Outcomes(number) => log.end += number,
            Act::Replay { stale } => {
                if let Ok(next) = log.next(stale) {
                    log.write(&RunEvent::Generation(next));
                }
            }
            Act::Judge {
                stale,
                failed,
                behind,
            } => {
                let verdict = if failed {
                    Verdict::Failed
                } else {
                    Verdict::Complete
                };
                if let Some(verdict) = log.verdict(stale, verdict, behind) {
                    log.write(&RunEvent::Reconciled(verdict));
                }
            }
            Act::Cancel { stale } => log.write(&RunEvent::Cancelled(log.cancel(stale))),
            Act::Remove { at_most } => log.remove(at_most),
        }
    }
    log
}

proptest! {
    /// However far the broker has compacted the topic, and whether tombstones are still there.
    #[test]
    fn compaction_at_any_point_changes_nothing(acts in prop::collection::vec(any_act(), 0..30)) {
        let log = play(&acts);
        let whole = state_text(&history(&log.records));
        for first in 0..=log.records.len() {
            for keeps_tombstones in [true, false] {
                let left = compacted(&log, first, keeps_tombstones);
                prop_assert_eq!(state_text(&history(&left)), whole.as_str(), "first {}", first);
            }
        }
    }

    /// What has ended stays as it ended, and each verdict reaches as far as the one before it.
    #[test]
    fn what_stands_goes_on_standing(acts in prop::collection::vec(any_act(), 0..30)) {
        let acts: Vec<Act> = acts
            .into_iter()
            .filter(|act| !matches!(act, Act::Remove { .. }))
            .collect();
        let log = play(&acts);
        let last = history(&log.records);
        let last = last.timeline();
        for first in 0..=log.records.len() {
            let earlier = history(&log.records[..first]);
            let earlier = earlier.timeline();
            prop_assert!(earlier.number() <= last.number());
            for (earlier, last) in earlier.generations().iter().zip(last.generations()) {
                prop_assert_eq!(earlier.opened, last.opened);
                if earlier.end.is_some() {
                    prop_assert_eq!(earlier.end, last.end);
                }
            }
        }
        let verdicts: Vec<_> = last.generations().iter().filter_map(Generation::verdict).collect();
        for (one, next) in verdicts.iter().zip(verdicts.iter().skip(1)) {
            prop_assert!(reaches(next, &one.ends()));
        }
    }
}

//! Tests of the offsets that may be committed.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

fn start(partition: i32, offset: i64) -> Start {
    Start {
        partition,
        offset,
        ..Start::default()
    }
}

/// A partition whose previous owners left this marker, with this number of messages waiting.
fn marked(partition: i32, offset: i64, metadata: &str, waiting: i64) -> Start {
    Start {
        partition,
        offset,
        metadata: metadata.to_owned(),
        end: Some(offset + waiting),
    }
}

/// The commits that are new, each as "partition@offset marker".
fn new_commits(tracker: &mut OffsetTracker) -> Vec<String> {
    in_short(&tracker.committable())
}

/// The commits that are waited for, which are then acknowledged.
fn confirm(tracker: &mut OffsetTracker) -> Vec<String> {
    let commits = tracker.to_be_confirmed();
    tracker.confirm(&commits);
    in_short(&commits)
}

fn in_short(commits: &[Commit]) -> Vec<String> {
    let short = |commit: &Commit| {
        let mark = commit.metadata.replace("rollcall/1", "");
        format!("{}@{}{mark}", commit.partition, commit.offset)
    };
    commits.iter().map(short).collect()
}

fn whole(partition: i32, epoch: Epoch, offset: i64) -> Settled {
    Settled {
        partition,
        epoch,
        offset,
        jobs: 1,
        jobs_in_message: 1,
    }
}

#[test]
fn an_offset_is_committed_once_all_messages_before_it_are_settled() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&start(3, 10));
    assert_eq!(new_commits(&mut tracker), ["3@10 held"]);
    for offset in [10, 11, 14] {
        assert_eq!(tracker.take(3, offset), Some(epoch));
    }
    tracker.settle(&whole(3, epoch, 11));
    assert_eq!(new_commits(&mut tracker), [""; 0]);
    tracker.settle(&whole(3, epoch, 10));
    assert_eq!(new_commits(&mut tracker), ["3@12"]);
    assert_eq!(new_commits(&mut tracker), [""; 0]);
    tracker.settle(&whole(3, epoch, 14));
    assert_eq!(new_commits(&mut tracker), ["3@15"]);
    assert_eq!(tracker.in_hand(), 0);
}

#[test]
fn the_position_is_that_of_the_first_message_that_is_not_settled() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&start(3, 10));
    let position = |tracker: &OffsetTracker| tracker.positions().collect::<Vec<_>>();
    tracker.take(3, 10);
    tracker.take(3, 11);
    assert_eq!(position(&tracker), [(3, 10)]);
    tracker.settle(&whole(3, epoch, 10));
    assert_eq!(position(&tracker), [(3, 11)]);
    tracker.settle(&whole(3, epoch, 11));
    assert_eq!(position(&tracker), [(3, 12)]);
}

#[test]
fn a_message_is_settled_when_all_its_jobs_are() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&start(0, 5));
    tracker.committable();
    tracker.take(0, 5);
    let piece = |jobs| Settled {
        partition: 0,
        epoch,
        offset: 5,
        jobs,
        jobs_in_message: 10,
    };
    assert_eq!(tracker.jobs_left(0, 5), None);
    tracker.settle(&piece(9));
    assert_eq!(tracker.jobs_left(0, 5), Some(1));
    assert_eq!(new_commits(&mut tracker), [""; 0]);
    tracker.settle(&piece(1));
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
}

#[test]
fn work_of_an_earlier_assignment_moves_no_offset() {
    let mut tracker = OffsetTracker::new();
    let earlier = tracker.assign(&start(0, 5));
    tracker.take(0, 5);
    tracker.revoke(0);
    tracker.settle(&whole(0, earlier, 5));
    assert_eq!(new_commits(&mut tracker), [""; 0]);
    let later = tracker.assign(&start(0, 5));
    assert_ne!(earlier, later);
    assert_eq!(new_commits(&mut tracker), ["0@5 held"]);
    tracker.take(0, 5);
    tracker.settle(&whole(0, earlier, 5));
    assert_eq!(new_commits(&mut tracker), [""; 0]);
    tracker.settle(&whole(0, later, 5));
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
}

#[test]
fn a_failed_commit_is_returned_again() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&start(0, 5));
    tracker.take(0, 5);
    tracker.settle(&whole(0, epoch, 5));
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
    tracker.give_out_again();
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
}

#[test]
fn a_clean_revoke_releases_the_marker() {
    let mut tracker = OffsetTracker::new();
    tracker.assign(&start(0, 5));
    let other = tracker.assign(&start(1, 5));
    tracker.committable();
    tracker.take(1, 5);
    tracker.settle(&whole(1, other, 5));
    let released = tracker.release(&[0, 1]);
    assert_eq!(in_short(&released), ["0@5", "1@6"]);
    tracker.confirm(&released);
    assert_eq!(in_short(&tracker.release(&[0, 1])), [""; 0]);
}

#[test]
fn after_one_death_few_messages_are_in_flight_until_there_is_progress() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&marked(0, 5, "rollcall/1 held", 1_000));
    tracker.assign(&start(1, 0));
    assert!(tracker.marks_are_due());
    assert_eq!(confirm(&mut tracker), ["0@5 held take-overs=1", "1@0 held"]);
    assert!(!tracker.marks_are_due());
    assert_eq!(tracker.room(1), usize::MAX);
    assert_eq!(tracker.room(0), NARROW_MESSAGES);
    for offset in 5..5 + NARROW_MESSAGES as i64 {
        tracker.take(0, offset);
    }
    assert_eq!(tracker.room(0), 0);
    tracker.settle(&whole(0, epoch, 5));
    assert_eq!(tracker.room(0), usize::MAX);
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
}

#[test]
fn after_two_deaths_a_partition_is_read_alone_one_message_at_a_time() {
    let mut tracker = OffsetTracker::new();
    let healthy = tracker.assign(&start(0, 0));
    tracker.take(0, 0);
    let epoch = tracker.assign(&marked(1, 5, "rollcall/1 held take-overs=1", 2));
    assert_eq!(tracker.alone(), Some(1));
    // The messages in flight are finished first, and one of them may still be the one that kills.
    assert_eq!((tracker.room(0), tracker.room(1)), (0, 0));
    assert_eq!(new_commits(&mut tracker), ["0@0 held", "1@5 take-overs=2"]);
    tracker.settle(&whole(0, healthy, 0));
    let expected = ["0@1", "1@5 held take-overs=2"];
    assert_eq!(new_commits(&mut tracker), expected);
    assert_eq!((tracker.room(0), tracker.room(1)), (0, 1));
    tracker.take(1, 5);
    assert_eq!(tracker.room(1), 0);
    tracker.settle(&whole(1, epoch, 5));
    // The previous owner may have died of the next message.
    assert_eq!(new_commits(&mut tracker), ["1@6 held take-overs=2"]);
    assert_eq!(tracker.room(1), 1);
    tracker.take(1, 6);
    tracker.settle(&whole(1, epoch, 6));
    assert_eq!(new_commits(&mut tracker), ["1@7"]);
    assert_eq!((tracker.alone(), tracker.room(0)), (None, usize::MAX));
}

#[test]
fn while_a_partition_is_read_alone_no_other_marker_is_held() {
    let mut tracker = OffsetTracker::new();
    tracker.assign(&start(0, 0));
    assert_eq!(new_commits(&mut tracker), ["0@0 held"]);
    let first = tracker.assign(&marked(1, 5, "rollcall/1 held take-overs=2", 1));
    tracker.assign(&marked(
        2,
        7,
        "rollcall/1 held take-overs=4 position=3 deaths=1",
        1,
    ));
    let expected = [
        "0@0",
        "1@5 held take-overs=3",
        "2@7 take-overs=5 position=3 deaths=2",
    ];
    assert_eq!(new_commits(&mut tracker), expected);
    tracker.take(1, 5);
    tracker.settle(&whole(1, first, 5));
    assert_eq!(tracker.alone(), Some(2));
    assert!(tracker.marks_are_due());
    let expected = ["1@6", "2@7 held take-overs=5 position=3 deaths=2"];
    assert_eq!(new_commits(&mut tracker), expected);
    assert_eq!(tracker.first_position(2), 3);
}

#[test]
fn a_job_that_is_computed_alone_is_in_the_marker_with_its_deaths() {
    let mut tracker = OffsetTracker::new();
    let mark = "rollcall/1 held take-overs=3 position=1 deaths=1";
    let epoch = tracker.assign(&marked(0, 5, mark, 1));
    confirm(&mut tracker);
    tracker.take(0, 5);
    assert_eq!(tracker.try_alone(0, 1), 2);
    assert!(!tracker.marks_are_due());
    assert_eq!(tracker.try_alone(0, 2), 0);
    assert!(tracker.marks_are_due());
    let expected = ["0@5 held take-overs=4 position=2 deaths=0"];
    assert_eq!(confirm(&mut tracker), expected);
    assert!(!tracker.marks_are_due());
    tracker.settle(&whole(0, epoch, 5));
    assert!(tracker.marks_are_due());
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
}

#[test]
fn no_message_is_taken_until_the_broker_has_cleared_a_marker_that_blames_one() {
    let mut tracker = OffsetTracker::new();
    let epoch = tracker.assign(&marked(0, 5, "rollcall/1 held take-overs=3", 2));
    confirm(&mut tracker);
    tracker.take(0, 5);
    tracker.settle(&whole(0, epoch, 5));
    // The commit is under way and not acknowledged.
    assert_eq!(new_commits(&mut tracker), ["0@6"]);
    assert!(tracker.marks_are_due());
    tracker.give_out_again();
    assert!(tracker.marks_are_due());
    assert_eq!(confirm(&mut tracker), ["0@6"]);
    assert!(!tracker.marks_are_due());
}

#[test]
fn a_partition_assigned_while_another_is_read_alone_waits_for_its_message() {
    let mut tracker = OffsetTracker::new();
    let mark = "rollcall/1 held take-overs=3";
    let epoch = tracker.assign(&marked(4, 5, mark, 1));
    tracker.take(4, 5);
    tracker.assign(&marked(0, 7, mark, 1));
    assert_eq!((tracker.alone(), tracker.room(0)), (Some(4), 0));
    tracker.settle(&whole(4, epoch, 5));
    assert_eq!((tracker.alone(), tracker.room(0)), (Some(0), 1));
}

#[test]
fn nothing_is_read_alone_beside_work_of_an_earlier_assignment() {
    let mut tracker = OffsetTracker::new();
    tracker.assign(&marked(0, 5, "rollcall/1 held take-overs=3", 1));
    tracker.set_stale_work(true);
    assert_eq!(tracker.room(0), 0);
    assert_eq!(new_commits(&mut tracker), ["0@5 take-overs=4"]);
    tracker.set_stale_work(false);
    assert_eq!(tracker.room(0), 1);
    assert_eq!(new_commits(&mut tracker), ["0@5 held take-overs=4"]);
}

#[test]
fn the_marker_of_a_partition_with_a_message_that_hangs_stays_held_on_release() {
    let mut tracker = OffsetTracker::new();
    tracker.assign(&start(0, 5));
    tracker.assign(&start(1, 5));
    tracker.hangs(0);
    let expected = ["0@5 held take-overs=1", "1@5"];
    assert_eq!(in_short(&tracker.release(&[0, 1])), expected);
}

#[derive(Clone, Debug)]
enum Step {
    Take(i32, i64),
    Settle(prop::sample::Index, u32),
    Reassign(i32),
    Commit,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3i32, 1..4i64).prop_map(|(partition, gap)| Step::Take(partition, gap)),
        6 => (any::<prop::sample::Index>(), 1..3u32)
            .prop_map(|(piece, jobs)| Step::Settle(piece, jobs)),
        1 => (0..3i32).prop_map(Step::Reassign),
        2 => Just(Step::Commit),
    ]
}

proptest! {
    /// In every sequence of steps, no offset is committed while a job before it is not acknowledged,
    /// and each commit is as high as it may be.
    #[test]
    fn no_offset_is_ever_ahead_of_the_acknowledged_jobs(
        steps in prop::collection::vec(any_step(), 1..200),
    ) {
        const JOBS: u32 = 3;
        let mut tracker = OffsetTracker::new();
        let mut epochs: HashMap<i32, Epoch> =
            (0..3).map(|partition| (partition, tracker.assign(&start(partition, 1)))).collect();
        let mut next: HashMap<i32, i64> = HashMap::new();
        // The model: (partition, epoch, offset) -> jobs left.
        let mut left: BTreeMap<(i32, Epoch, i64), u32> = BTreeMap::new();
        let mut given: BTreeSet<(i32, i64)> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Take(partition, gap) => {
                    let offset = next.entry(partition).or_insert(0);
                    *offset += gap;
                    let epoch = tracker.take(partition, *offset).expect("assigned");
                    prop_assert_eq!(epoch, epochs[&partition]);
                    left.insert((partition, epoch, *offset), JOBS);
                }
                Step::Settle(piece, jobs) => {
                    if left.is_empty() {
                        continue;
                    }
                    let key = *left.keys().nth(piece.index(left.len())).expect("in range");
                    let open = left.get_mut(&key).expect("the key is of the map");
                    let jobs = jobs.min(*open);
                    if jobs == 0 {
                        continue;
                    }
                    *open -= jobs;
                    let (partition, epoch, offset) = key;
                    tracker.settle(&Settled {
                        partition,
                        epoch,
                        offset,
                        jobs,
                        jobs_in_message: JOBS,
                    });
                }
                Step::Reassign(partition) => {
                    tracker.revoke(partition);
                    // The next owner starts at the committed offset.
                    let committed = given.iter().filter(|(id, _)| *id == partition);
                    let first = committed.map(|(_, offset)| *offset).max().unwrap_or(1);
                    epochs.insert(partition, tracker.assign(&start(partition, first)));
                    next.insert(partition, first - 1);
                }
                Step::Commit => {
                    for Commit { partition, offset, .. } in tracker.committable() {
                        let epoch = epochs[&partition];
                        let open = left.range((partition, epoch, i64::MIN)..(partition, epoch, offset));
                        prop_assert!(open.into_iter().all(|(_, left)| *left == 0));
                        // And the offset is as high as it may be.
                        let at_it = left.range((partition, epoch, offset)..=(partition, epoch, i64::MAX)).next();
                        prop_assert!(at_it.is_none_or(|(_, left)| *left > 0));
                        given.insert((partition, offset));
                    }
                }
            }
        }
    }
}

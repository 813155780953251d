//! Tests of the event loop, by the actions that it returns.

use kafka::Record;
use pipeline::mark::Reading;
use pipeline::offsets::Settled;

use super::*;
use crate::delivery::{AtLeastOnce, Settlement};
use crate::state::outbox::Finished;

const INTERVAL: Duration = Duration::from_millis(100);

fn event_loop(limits: Limits, now: Instant) -> EventLoop {
    let delivery = Box::new(AtLeastOnce::new(&limits, now));
    let config = Config {
        commit_interval: INTERVAL,
        job_timeout: Some(Duration::from_secs(5)),
        threads: 2,
        limits,
    };
    EventLoop::new(config, delivery, now)
}

/// Assigns partition 0, and acknowledges the commits of the assignment.
fn assign(own: &mut EventLoop) {
    let starts = [Start {
        partition: 0,
        ..Start::default()
    }];
    let assignment = own.assigned(&starts);
    own.state_mut().apply_committed(&assignment.commits);
}

/// A batch of messages of partition 0.
fn records(offsets: std::ops::Range<i64>) -> RecordBatch {
    let mut records = RecordBatch::default();
    for offset in offsets {
        records.push(Record {
            partition: 0,
            offset,
            key: None,
            payload: b"",
        });
    }
    records
}

fn threads(is_finished: bool) -> [ThreadStatus; 2] {
    [ThreadStatus {
        is_finished,
        is_unable: false,
        at_work: None,
    }; 2]
}

/// One thread, at work on a job of a partition.
fn at_work(partition: i32, since: Instant) -> [ThreadStatus; 1] {
    [ThreadStatus {
        is_finished: false,
        is_unable: false,
        at_work: Some(Attempt {
            id: 1,
            partition,
            since: Some(since),
        }),
    }]
}

/// The finished work of a message of partition 0.
fn finished(own: &EventLoop, offset: i64) -> Finished {
    Finished {
        outcomes: Some(vec![1]),
        settles: vec![Settled {
            partition: 0,
            epoch: own.state().leases()[&0].epoch(),
            offset,
            jobs: 1,
            jobs_in_message: 1,
        }],
        ..Finished::default()
    }
}

/// The next action that a test decides about. The actions before it are carried out with idle threads
/// and a broker that acknowledges nothing. `produced`: the ids that were handed to the producer.
fn next(own: &mut EventLoop, produced: &mut Vec<usize>, now: Instant) -> Action {
    loop {
        match own.next(now) {
            Action::Poll | Action::Collect => {}
            Action::Deliver(Step::Produce { id, .. }) => {
                produced.push(id);
                own.apply_report(Report::Produced(true), now);
            }
            Action::Deliver(Step::DeliveryReports) => {
                let report = Report::Delivered {
                    reports: Vec::new(),
                    unreported: produced.len(),
                };
                own.apply_report(report, now);
            }
            Action::Threads => own.apply_threads(threads(false), now),
            action => return action,
        }
    }
}

fn acknowledge(own: &mut EventLoop, id: usize, now: Instant) -> Vec<Settlement> {
    let report = kafka::Delivery {
        id,
        partition: 0,
        offset: 0,
        error: None,
    };
    let report = Report::Delivered {
        reports: vec![report],
        unreported: 0,
    };
    own.apply_report(report, now).settlements
}

#[test]
fn an_offset_is_committed_after_the_acknowledgement_and_after_the_interval() {
    let now = Instant::now();
    let mut own = event_loop(Limits::default(), now);
    assign(&mut own);
    let mut produced = Vec::new();
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(action, Action::Consume(Consume::One(_), _)));
    own.apply_records(records(0..1), now);
    // The records that are fetched already are taken with the first one.
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(
        action,
        Action::Consume(Consume::Batch(Duration::ZERO), _)
    ));
    own.apply_records(records(0..2), now);
    for _ in 0..2 {
        assert!(matches!(
            next(&mut own, &mut produced, now),
            Action::HandOut(_)
        ));
    }
    let work = finished(&own, 0);
    own.state_mut().apply_finished(work);
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(action, Action::Consume(Consume::Batch(_), _)));
    own.apply_records(RecordBatch::default(), now);
    assert_eq!(acknowledge(&mut own, produced[0], now).len(), 1);
    produced.clear();
    // The other message is in flight, and the interval is not over.
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(action, Action::Consume(..)));
    own.apply_records(RecordBatch::default(), now);
    let action = next(&mut own, &mut produced, now + INTERVAL);
    let Action::Commit(commits) = action else {
        panic!("{action:?}");
    };
    assert_eq!((commits[0].offset, commits.len()), (1, 1));
}

#[test]
fn nothing_is_taken_while_too_much_is_unacknowledged_or_the_threads_are_busy() {
    let now = Instant::now();
    let limits = Limits {
        max_unconfirmed_bytes: 1,
        ..Limits::default()
    };
    let mut own = event_loop(limits, now);
    assign(&mut own);
    let mut produced = Vec::new();
    next(&mut own, &mut produced, now);
    own.apply_records(records(0..1), now);
    next(&mut own, &mut produced, now);
    own.apply_records(records(0..1), now);
    let Action::HandOut(unit) = next(&mut own, &mut produced, now) else {
        panic!("a work unit");
    };
    own.apply_no_room(unit);
    for _ in 0..2 {
        let action = next(&mut own, &mut produced, now);
        let Action::HandOut(unit) = action else {
            panic!("{action:?}");
        };
        own.apply_no_room(unit);
        let action = next(&mut own, &mut produced, now);
        assert!(matches!(action, Action::AwaitFinished(_)), "{action:?}");
    }
    assert!(matches!(
        next(&mut own, &mut produced, now),
        Action::HandOut(_)
    ));
    let work = finished(&own, 0);
    own.state_mut().apply_finished(work);
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(action, Action::Wait(_)), "{action:?}");
}

#[test]
fn a_thread_that_has_ended_or_hangs_ends_the_worker() {
    let now = Instant::now();
    let mut own = event_loop(Limits::default(), now);
    own.apply_threads(threads(true), now);
    let ends = |own: &mut EventLoop| next(own, &mut Vec::new(), now);
    assert!(matches!(ends(&mut own), Action::End(Failure::ThreadDied)));

    let mut own = event_loop(Limits::default(), now);
    own.apply_threads(at_work(3, now), now + Duration::from_secs(5));
    let action = ends(&mut own);
    let is_hang = matches!(action, Action::End(Failure::Hang { partition: 3, .. }));
    assert!(is_hang, "{action:?}");
}

#[test]
fn winding_down_waits_for_the_threads_then_for_acknowledgements_and_leaves_last() {
    let now = Instant::now();
    let mut own = event_loop(Limits::default(), now);
    assign(&mut own);
    let work = finished(&own, 0);
    own.state_mut().apply_finished(work);
    own.wind_down(now);
    let mut produced = Vec::new();
    assert!(matches!(
        next(&mut own, &mut produced, now),
        Action::CloseWorkUnits
    ));
    // While the threads run, the group is served.
    let action = next(&mut own, &mut produced, now);
    assert!(
        matches!(action, Action::Commit(_) | Action::AwaitFinished(_)),
        "{action:?}"
    );
    let action = next(&mut own, &mut produced, now);
    assert!(matches!(action, Action::AwaitFinished(_)), "{action:?}");
    assert!(matches!(own.next(now), Action::Threads));
    own.apply_threads(threads(true), now);
    let action = next(&mut own, &mut produced, now);
    assert!(
        matches!(action, Action::Deliver(Step::Wait(_))),
        "{action:?}"
    );
    acknowledge(&mut own, produced[0], now);
    produced.clear();
    assert!(matches!(
        next(&mut own, &mut produced, now),
        Action::Leave(_)
    ));
    assert!(matches!(next(&mut own, &mut produced, now), Action::Exit));
}

/// The isolation level of partition 0 after it had no message for the idle timeout, where it was
/// assigned with this marker.
fn isolation_after_idling(metadata: &str) -> Option<Reading> {
    let now = Instant::now();
    let limits = Limits::default();
    let later = now + limits.idle_timeout;
    let mut own = event_loop(limits, now);
    let starts = [Start {
        partition: 0,
        offset: 5,
        metadata: metadata.to_owned(),
        end: Some(9),
    }];
    let assignment = own.assigned(&starts);
    own.state_mut().apply_committed(&assignment.commits);
    assert_eq!(own.state().in_flight().alone(), Some(0));
    for now in [now, later] {
        loop {
            match next(&mut own, &mut Vec::new(), now) {
                Action::CommitAndWait(commits) => {
                    own.state_mut().apply_committed(&commits);
                    own.apply_commit_answer(true);
                }
                Action::Consume(consume, records) => {
                    assert!(matches!(consume, Consume::Isolated { .. }), "{consume:?}");
                    own.apply_records(records, now);
                    break;
                }
                Action::Commit(_) | Action::Wait(_) => {}
                action => panic!("{action:?}"),
            }
        }
    }
    own.state().in_flight().isolation(0)
}

#[test]
fn isolation_ends_after_the_idle_timeout_unless_the_next_message_was_begun() {
    let untouched = "rollcall/1 take-overs=3 position=0 deaths=1";
    assert_eq!(isolation_after_idling(untouched), Some(Reading::Freely));
    let begun = "rollcall/1 take-overs=3 position=2 deaths=0";
    assert_eq!(isolation_after_idling(begun), Some(Reading::Carefully));
}

/// The metadata of the last commit of partition 0, where a job of it hangs. `is_stale`: the job is of
/// an assignment that has ended.
fn marker_after_hang(is_stale: bool) -> String {
    let now = Instant::now();
    let mut own = event_loop(Limits::default(), now);
    assign(&mut own);
    let lease = own.state().lease(0);
    if is_stale {
        own.lost(&[0]);
        assign(&mut own);
    }
    own.apply_threads(at_work(0, now), now + Duration::from_secs(5));
    assert!(own.state().has_failed());
    drop(lease);
    let commits = own.state_mut().in_flight.release(&[0]);
    commits[0].metadata.clone()
}

#[test]
fn a_job_of_an_ended_assignment_that_hangs_is_not_attributed_to_the_next_one() {
    assert!(marker_after_hang(false).contains("held"));
    assert!(!marker_after_hang(true).contains("held"));
}

//! What the two deliveries make of finished work, with the messages in flight.

use pipeline::offsets::{Epoch, Settled, Start};

use super::*;
use crate::event_loop::Limits;

/// Messages in flight and their delivery.
struct Desk {
    in_flight: InFlight,
    delivery: Box<dyn Delivery>,
}

impl Desk {
    fn at_least_once() -> Self {
        Self {
            in_flight: InFlight::new(),
            delivery: Box::new(AtLeastOnce::new(&Limits::default(), Instant::now())),
        }
    }

    fn exactly_once() -> Self {
        Self {
            in_flight: InFlight::new(),
            delivery: Box::new(ExactlyOnce::new()),
        }
    }

    fn finish(&mut self, finished: Finished) {
        self.delivery.finish(&mut self.in_flight, finished);
    }

    fn next_transaction(&mut self) -> Option<PendingTransaction> {
        self.delivery.next_transaction(&mut self.in_flight)
    }

    fn ended(&mut self, transaction: PendingTransaction, ending: Ending) {
        let report = Report::Ended(transaction, ending);
        self.delivery
            .apply(report, &mut self.in_flight, Instant::now())
            .expect("an end is no failure");
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.delivery.forget(partitions);
        self.in_flight.forget(partitions);
    }

    /// Produces everything, and has it acknowledged.
    fn deliver(&mut self) -> Vec<Settlement> {
        let mut ids = Vec::new();
        let mut settlements = Vec::new();
        while let Some(step) = self.delivery.next_step() {
            let report = match step {
                Step::Produce { id, .. } => {
                    ids.push(id);
                    Report::Produced(true)
                }
                _ => Report::Delivered {
                    reports: std::mem::take(&mut ids)
                        .into_iter()
                        .map(delivered)
                        .collect(),
                    unreported: 0,
                },
            };
            let applied = self
                .delivery
                .apply(report, &mut self.in_flight, Instant::now());
            settlements.extend(applied.expect("all is delivered").settlements);
        }
        settlements
    }
}

fn delivered(id: usize) -> DeliveryReport {
    DeliveryReport {
        id,
        partition: 0,
        offset: 0,
        error: None,
    }
}

const JOBS: u32 = 4;
const OFFSET: i64 = 7;

fn start(metadata: &str) -> Start {
    Start {
        partition: 0,
        offset: OFFSET,
        metadata: metadata.to_owned(),
        end: Some(OFFSET + 1),
    }
}

/// One life of a worker that gets the partition with this mark and dies of the job at
/// `deadly`, unless that is buried before. Returns the last mark, the positions that were
/// computed and those that were buried.
fn life(metadata: &str, deadly: u32) -> (String, Vec<u32>, Vec<u32>) {
    let mut desk = Desk::at_least_once();
    let epoch = desk.in_flight.assign(&[start(metadata)])[0];
    let mut mark = String::new();
    let mut commit = |desk: &mut Desk| {
        let commits = desk.in_flight.commits_to_confirm();
        for commit in &commits {
            mark = format!("{} {}", commit.offset, commit.metadata);
        }
        desk.in_flight.confirm(&commits);
    };
    desk.in_flight.suspect_first(0);
    commit(&mut desk);
    desk.in_flight.take(0, OFFSET);
    desk.in_flight.isolate(0, OFFSET, JOBS);
    let (mut computed, mut buried) = (Vec::new(), Vec::new());
    while let Some(job) = desk.in_flight.next_isolated() {
        let position = job.position;
        commit(&mut desk);
        desk.in_flight.begun(position);
        assert_eq!(desk.in_flight.next_isolated(), None);
        if job.is_to_be_buried() {
            buried.push(position);
        } else if position == deadly {
            return (mark, computed, buried);
        } else {
            computed.push(position);
        }
        desk.finish(Finished {
            outcomes: Some(vec![1]),
            settles: vec![Settled {
                partition: 0,
                epoch,
                offset: OFFSET,
                jobs: 1,
                jobs_in_message: JOBS,
            }],
            ..Finished::default()
        });
        desk.deliver();
    }
    commit(&mut desk);
    (mark, computed, buried)
}

fn metadata(mark: &str) -> &str {
    mark.split_once(' ').expect("offset and mark").1
}

#[test]
fn a_job_that_kills_is_buried_after_three_deaths_and_no_other_is() {
    let first = life("rollcall/1 held take-overs=2", 2);
    assert_eq!(
        first.0,
        "7 rollcall/1 held take-overs=3 position=2 deaths=0"
    );
    assert_eq!((first.1, first.2), (vec![0, 1], vec![]));
    // The next ones begin where it died: the outcomes before it are acknowledged.
    let second = life(metadata(&first.0), 2);
    assert_eq!(
        second.0,
        "7 rollcall/1 held take-overs=4 position=2 deaths=1"
    );
    assert_eq!((second.1, second.2), (vec![], vec![]));
    let third = life(metadata(&second.0), 2);
    let last = life(metadata(&third.0), 2);
    assert_eq!(last, ("8 ".to_owned(), vec![3], vec![2]));
}

#[test]
fn a_healthy_message_is_passed_job_by_job_and_clears_the_mark() {
    let passed = life("rollcall/1 held take-overs=9", JOBS);
    assert_eq!(passed, ("8 ".to_owned(), vec![0, 1, 2, 3], vec![]));
}

#[test]
fn a_mark_that_names_a_job_beyond_the_message_skips_nothing() {
    let mark = "rollcall/1 held take-overs=3 position=4 deaths=0";
    assert_eq!(life(mark, JOBS).1, [0, 1, 2, 3]);
}

#[test]
fn a_partition_that_goes_takes_its_message_with_it() {
    let mut desk = Desk::at_least_once();
    desk.in_flight
        .assign(&[start("rollcall/1 held take-overs=2")]);
    desk.in_flight.take(0, OFFSET);
    desk.in_flight.isolate(0, OFFSET, JOBS);
    assert!(desk.in_flight.is_isolating());
    desk.forget(&[0]);
    assert!(!desk.in_flight.is_isolating());
    assert_eq!(
        (desk.in_flight.next_isolated(), desk.in_flight.in_hand()),
        (None, 0)
    );
}

/// Finished jobs of a message of partition 0.
fn finished(epoch: Epoch, offset: i64, jobs: u32) -> Finished {
    Finished {
        outcomes: Some(vec![1]),
        settles: vec![Settled {
            partition: 0,
            epoch,
            offset,
            jobs,
            jobs_in_message: JOBS,
        }],
        ..Finished::default()
    }
}

#[test]
fn what_a_transaction_holds_is_settled_when_it_is_committed_and_comes_again_when_it_is_not() {
    let mut desk = Desk::exactly_once();
    let epoch = desk.in_flight.assign(&[start("")])[0];
    assert_eq!(
        desk.delivery.first_commits(&mut desk.in_flight, &[0]).len(),
        1
    );
    desk.in_flight.take(0, OFFSET);
    desk.finish(finished(epoch, OFFSET, JOBS));
    assert_eq!(
        (desk.in_flight.in_hand(), desk.delivery.unconfirmed_bytes()),
        (0, 1)
    );
    for ending in [Ending::Aborted, Ending::Committed] {
        let transaction = desk.next_transaction().expect("a message is finished");
        assert_eq!(
            transaction.commits().next().map(|own| own.offset),
            Some(OFFSET + 1)
        );
        assert!(
            desk.next_transaction().is_none()
                && !desk.delivery.is_settled()
                && !desk.delivery.is_empty()
        );
        desk.ended(transaction, ending);
    }
    assert!(
        desk.next_transaction().is_none() && desk.delivery.is_settled() && desk.delivery.is_empty()
    );
    assert_eq!(desk.delivery.unconfirmed_bytes(), 0);
}

#[test]
fn what_outlived_its_assignment_is_in_no_transaction() {
    let mut desk = Desk::exactly_once();
    let earlier = desk.in_flight.assign(&[start("")])[0];
    desk.in_flight.take(0, OFFSET);
    desk.finish(finished(earlier, OFFSET, 1));
    desk.forget(&[0]);
    let epoch = desk.in_flight.assign(&[start("")])[0];
    desk.delivery.first_commits(&mut desk.in_flight, &[0]);
    desk.in_flight.take(0, OFFSET);
    desk.finish(finished(earlier, OFFSET, JOBS - 1));
    assert_eq!(desk.delivery.unconfirmed_bytes(), 0);
    assert!(desk.next_transaction().is_none());
    desk.finish(finished(epoch, OFFSET, JOBS));
    let transaction = desk.next_transaction().expect("a message is finished");
    assert_eq!(transaction.finished().count(), 1);
}

#[test]
fn a_partition_that_comes_takes_no_offset_of_another_out_of_its_transaction() {
    let mut desk = Desk::exactly_once();
    let epoch = desk.in_flight.assign(&[start("")])[0];
    desk.delivery.first_commits(&mut desk.in_flight, &[0]);
    desk.in_flight.take(0, OFFSET);
    desk.finish(finished(epoch, OFFSET, JOBS));
    let other = Start {
        partition: 1,
        ..start("")
    };
    desk.in_flight.assign(&[other]);
    let first: Vec<_> = desk.delivery.first_commits(&mut desk.in_flight, &[1]);
    assert_eq!(
        first.iter().map(|own| own.partition).collect::<Vec<_>>(),
        [1]
    );
    let transaction = desk.next_transaction().expect("a message is finished");
    let own: Vec<_> = transaction
        .commits()
        .map(|own| (own.partition, own.offset))
        .collect();
    assert_eq!(own, [(0, OFFSET + 1)]);
}

/// A desk with a message of which workers have died: its jobs are tried one at a time.
fn with_a_suspect() -> (Desk, Epoch) {
    let mut desk = Desk::exactly_once();
    let epoch = desk
        .in_flight
        .assign(&[start("rollcall/1 held take-overs=2")])[0];
    desk.delivery.first_commits(&mut desk.in_flight, &[0]);
    desk.in_flight.suspect_first(0);
    desk.in_flight.take(0, OFFSET);
    desk.in_flight.isolate(0, OFFSET, JOBS);
    (desk, epoch)
}

#[test]
fn what_is_committed_again_takes_no_outcome_with_the_mark_of_its_own_job() {
    let (mut desk, epoch) = with_a_suspect();
    for position in 0..2 {
        let job = desk.in_flight.next_isolated().expect("a job");
        if let Some(transaction) = desk.next_transaction() {
            desk.ended(transaction, Ending::Committed);
        }
        desk.in_flight.begun(job.position);
        desk.finish(finished(epoch, OFFSET, 1));
        // As where the first commit of a partition that came meanwhile is lost.
        desk.in_flight.commit_failed();
        let transaction = desk.next_transaction().expect("an outcome and a mark");
        assert_eq!(transaction.finished().count(), 1);
        let next = format!("position={} ", position + 1);
        assert!(
            transaction
                .commits()
                .all(|own| own.metadata.contains(&next))
        );
        desk.ended(transaction, Ending::Committed);
    }
}

#[test]
fn the_outcome_of_a_job_that_was_tried_alone_goes_with_the_mark_of_the_next() {
    let (mut desk, epoch) = with_a_suspect();
    for position in 0..2 {
        let job = desk.in_flight.next_isolated().expect("a job");
        assert_eq!(job.position, position);
        assert!((desk.in_flight.marks_are_due() || desk.delivery.has_marks()));
        let transaction = desk.next_transaction().expect("a mark");
        let outcomes = usize::from(position > 0);
        assert_eq!(transaction.finished().count(), outcomes);
        assert!((desk.in_flight.marks_are_due() || desk.delivery.has_marks()));
        desk.ended(transaction, Ending::Committed);
        assert!(!(desk.in_flight.marks_are_due() || desk.delivery.has_marks()));
        desk.in_flight.begun(position);
        assert!(desk.next_transaction().is_none());
        desk.finish(finished(epoch, OFFSET, 1));
    }
    // It goes while the second outcome is in no transaction yet.
    assert_eq!(desk.delivery.release(&mut desk.in_flight, &[0]), []);
    let transaction = desk.next_transaction().expect("an outcome and a mark");
    assert_eq!(transaction.finished().count(), 1);
    let mark = "rollcall/1 take-overs=3 position=2 deaths=0";
    assert_eq!(
        transaction
            .commits()
            .next()
            .map(|own| own.metadata.as_str()),
        Some(mark)
    );
}

#[test]
fn a_worker_whose_messages_are_given_up_leaves_no_mark_held() {
    let held = Commit {
        partition: 0,
        offset: OFFSET,
        metadata: "rollcall/1 held take-overs=1".to_owned(),
    };
    let given_up = |desk: &mut Desk| {
        let epoch = desk.in_flight.assign(&[start("rollcall/1 held")])[0];
        desk.in_flight.take(0, OFFSET);
        desk.finish(finished(epoch, OFFSET, JOBS));
        desk.next_transaction().expect("outcomes")
    };
    let ended = |desk: &mut Desk, transaction| {
        let report = Report::Ended(transaction, Ending::GaveUp(vec![held.clone()]));
        let applied = desk
            .delivery
            .apply(report, &mut desk.in_flight, Instant::now());
        assert!(matches!(applied, Err(Failure::Client)), "{applied:?}");
        assert!(desk.next_transaction().is_none());
        desk.delivery.release(&mut desk.in_flight, &[0])
    };
    let mut desk = Desk::exactly_once();
    let transaction = given_up(&mut desk);
    let released = Commit {
        metadata: "rollcall/1 take-overs=1".to_owned(),
        ..held.clone()
    };
    assert_eq!(ended(&mut desk, transaction), [released]);
    // It has been another worker's meanwhile, which may have committed more.
    let mut desk = Desk::exactly_once();
    let transaction = given_up(&mut desk);
    desk.forget(&[0]);
    desk.in_flight.assign(&[start("")]);
    assert!(desk.next_transaction().is_none());
    assert_eq!(ended(&mut desk, transaction), []);
}

#[test]
fn a_dead_letter_is_acknowledged_before_its_outcome_goes_out() {
    let mut desk = Desk::at_least_once();
    let epoch = desk.in_flight.assign(&[start("")])[0];
    desk.in_flight.take(0, OFFSET);
    desk.finish(Finished {
        dead_letter: Some(DeadLetterMessage::default()),
        ..finished(epoch, OFFSET, JOBS)
    });
    let letter = &desk.deliver()[0];
    assert!(letter.dead_letter && letter.settles.is_empty());
    assert_eq!(desk.in_flight.in_hand(), 1);
}

#[test]
fn messages_without_any_acknowledgement_for_two_minutes_end_the_worker() {
    let start = Instant::now();
    let limits = Limits::default();
    let mut delivery = AtLeastOnce::new(&limits, start);
    let mut in_flight = InFlight::new();
    let mut report = |unreported, now| {
        let report = Report::Delivered {
            reports: Vec::new(),
            unreported,
        };
        delivery.apply(report, &mut in_flight, now).is_ok()
    };
    assert!(report(1, start + limits.acknowledge_timeout / 2));
    // Nothing is on its way any more: the time begins anew.
    assert!(report(0, start + limits.acknowledge_timeout));
    assert!(report(1, start + limits.acknowledge_timeout * 3 / 2));
    assert!(!report(1, start + limits.acknowledge_timeout * 2));
}

#[test]
fn no_further_work_is_accepted_beyond_the_bound() {
    let limits = Limits {
        max_unconfirmed_bytes: 2,
        ..Limits::default()
    };
    let mut delivery = AtLeastOnce::new(&limits, Instant::now());
    let mut in_flight = InFlight::new();
    for accepts in [true, true, false] {
        assert_eq!(delivery.accepts_finished(), accepts);
        delivery.finish(&mut in_flight, finished(1, OFFSET, JOBS));
    }
}

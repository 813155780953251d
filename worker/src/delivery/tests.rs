//! Tests of the two deliveries, with the messages in flight.

use pipeline::offsets::{Epoch, Settled, Start};

use super::*;
use crate::event_loop::Limits;

/// The messages in flight of a worker, with their delivery.
struct Fixture {
    in_flight: InFlight,
    delivery: Box<dyn Delivery>,
}

impl Fixture {
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

    /// Produces and acknowledges all messages.
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

/// The life of a worker that is assigned the partition with this marker, and dies of the job at
/// `deadly` unless that becomes a dead letter before. Returns the last marker, the positions that were
/// computed and those that became dead letters.
fn life(metadata: &str, deadly: u32) -> (String, Vec<u32>, Vec<u32>) {
    let mut fixture = Fixture::at_least_once();
    let epoch = fixture.in_flight.assign(&[start(metadata)])[0];
    let mut mark = String::new();
    let mut commit = |fixture: &mut Fixture| {
        let commits = fixture.in_flight.commits_to_confirm();
        for commit in &commits {
            mark = format!("{} {}", commit.offset, commit.metadata);
        }
        fixture.in_flight.confirm(&commits);
    };
    fixture.in_flight.suspect_first(0);
    commit(&mut fixture);
    fixture.in_flight.take(0, OFFSET);
    fixture.in_flight.isolate(0, OFFSET, JOBS);
    let (mut computed, mut buried) = (Vec::new(), Vec::new());
    while let Some(job) = fixture.in_flight.next_isolated() {
        let position = job.position;
        commit(&mut fixture);
        fixture.in_flight.begun(position);
        assert_eq!(fixture.in_flight.next_isolated(), None);
        if job.is_to_be_buried() {
            buried.push(position);
        } else if position == deadly {
            return (mark, computed, buried);
        } else {
            computed.push(position);
        }
        fixture.finish(Finished {
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
        fixture.deliver();
    }
    commit(&mut fixture);
    (mark, computed, buried)
}

fn metadata(mark: &str) -> &str {
    mark.split_once(' ').expect("offset and mark").1
}

#[test]
fn a_job_that_kills_becomes_a_dead_letter_after_three_deaths_and_no_other_does() {
    let first = life("rollcall/1 held take-overs=2", 2);
    assert_eq!(
        first.0,
        "7 rollcall/1 held take-overs=3 position=2 deaths=0"
    );
    assert_eq!((first.1, first.2), (vec![0, 1], vec![]));
    // The next workers begin with the deadly job, because the outcomes before it are acknowledged.
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
fn a_healthy_message_is_computed_job_by_job_and_clears_the_marker() {
    let passed = life("rollcall/1 held take-overs=9", JOBS);
    assert_eq!(passed, ("8 ".to_owned(), vec![0, 1, 2, 3], vec![]));
}

#[test]
fn a_marker_with_a_position_out_of_range_skips_no_job() {
    let mark = "rollcall/1 held take-overs=3 position=4 deaths=0";
    assert_eq!(life(mark, JOBS).1, [0, 1, 2, 3]);
}

#[test]
fn an_isolated_message_is_forgotten_with_its_partition() {
    let mut fixture = Fixture::at_least_once();
    fixture
        .in_flight
        .assign(&[start("rollcall/1 held take-overs=2")]);
    fixture.in_flight.take(0, OFFSET);
    fixture.in_flight.isolate(0, OFFSET, JOBS);
    assert!(fixture.in_flight.is_isolating());
    fixture.forget(&[0]);
    assert!(!fixture.in_flight.is_isolating());
    assert_eq!(
        (
            fixture.in_flight.next_isolated(),
            fixture.in_flight.in_hand()
        ),
        (None, 0)
    );
}

/// The finished work of this number of jobs of a message of partition 0.
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
fn work_is_settled_when_its_transaction_is_committed_and_sent_again_when_it_is_aborted() {
    let mut fixture = Fixture::exactly_once();
    let epoch = fixture.in_flight.assign(&[start("")])[0];
    assert_eq!(
        fixture
            .delivery
            .first_commits(&mut fixture.in_flight, &[0])
            .len(),
        1
    );
    fixture.in_flight.take(0, OFFSET);
    fixture.finish(finished(epoch, OFFSET, JOBS));
    assert_eq!(
        (
            fixture.in_flight.in_hand(),
            fixture.delivery.unconfirmed_bytes()
        ),
        (0, 1)
    );
    for ending in [Ending::Aborted, Ending::Committed] {
        let transaction = fixture.next_transaction().expect("a message is finished");
        assert_eq!(
            transaction.commits().next().map(|own| own.offset),
            Some(OFFSET + 1)
        );
        assert!(
            fixture.next_transaction().is_none()
                && !fixture.delivery.is_settled()
                && !fixture.delivery.is_empty()
        );
        fixture.ended(transaction, ending);
    }
    assert!(
        fixture.next_transaction().is_none()
            && fixture.delivery.is_settled()
            && fixture.delivery.is_empty()
    );
    assert_eq!(fixture.delivery.unconfirmed_bytes(), 0);
}

#[test]
fn work_of_an_ended_assignment_is_in_no_transaction() {
    let mut fixture = Fixture::exactly_once();
    let earlier = fixture.in_flight.assign(&[start("")])[0];
    fixture.in_flight.take(0, OFFSET);
    fixture.finish(finished(earlier, OFFSET, 1));
    fixture.forget(&[0]);
    let epoch = fixture.in_flight.assign(&[start("")])[0];
    fixture.delivery.first_commits(&mut fixture.in_flight, &[0]);
    fixture.in_flight.take(0, OFFSET);
    fixture.finish(finished(earlier, OFFSET, JOBS - 1));
    assert_eq!(fixture.delivery.unconfirmed_bytes(), 0);
    assert!(fixture.next_transaction().is_none());
    fixture.finish(finished(epoch, OFFSET, JOBS));
    let transaction = fixture.next_transaction().expect("a message is finished");
    assert_eq!(transaction.finished().count(), 1);
}

#[test]
fn an_assignment_commits_no_offset_of_another_partition_outside_its_transaction() {
    let mut fixture = Fixture::exactly_once();
    let epoch = fixture.in_flight.assign(&[start("")])[0];
    fixture.delivery.first_commits(&mut fixture.in_flight, &[0]);
    fixture.in_flight.take(0, OFFSET);
    fixture.finish(finished(epoch, OFFSET, JOBS));
    let other = Start {
        partition: 1,
        ..start("")
    };
    fixture.in_flight.assign(&[other]);
    let first: Vec<_> = fixture.delivery.first_commits(&mut fixture.in_flight, &[1]);
    assert_eq!(
        first.iter().map(|own| own.partition).collect::<Vec<_>>(),
        [1]
    );
    let transaction = fixture.next_transaction().expect("a message is finished");
    let own: Vec<_> = transaction
        .commits()
        .map(|own| (own.partition, own.offset))
        .collect();
    assert_eq!(own, [(0, OFFSET + 1)]);
}

/// A worker with a message of which workers died, so that its jobs are computed one at a time.
fn with_a_suspect() -> (Fixture, Epoch) {
    let mut fixture = Fixture::exactly_once();
    let epoch = fixture
        .in_flight
        .assign(&[start("rollcall/1 held take-overs=2")])[0];
    fixture.delivery.first_commits(&mut fixture.in_flight, &[0]);
    fixture.in_flight.suspect_first(0);
    fixture.in_flight.take(0, OFFSET);
    fixture.in_flight.isolate(0, OFFSET, JOBS);
    (fixture, epoch)
}

#[test]
fn a_repeated_commit_has_no_outcome_with_the_marker_of_its_own_job() {
    let (mut fixture, epoch) = with_a_suspect();
    for position in 0..2 {
        let job = fixture.in_flight.next_isolated().expect("a job");
        if let Some(transaction) = fixture.next_transaction() {
            fixture.ended(transaction, Ending::Committed);
        }
        fixture.in_flight.begun(job.position);
        fixture.finish(finished(epoch, OFFSET, 1));
        // This happens where the first commit of a partition that is assigned meanwhile is lost.
        fixture.in_flight.commit_failed();
        let transaction = fixture.next_transaction().expect("an outcome and a mark");
        assert_eq!(transaction.finished().count(), 1);
        let next = format!("position={} ", position + 1);
        assert!(
            transaction
                .commits()
                .all(|own| own.metadata.contains(&next))
        );
        fixture.ended(transaction, Ending::Committed);
    }
}

#[test]
fn the_outcome_of_an_isolated_job_is_committed_with_the_marker_of_the_next_job() {
    let (mut fixture, epoch) = with_a_suspect();
    for position in 0..2 {
        let job = fixture.in_flight.next_isolated().expect("a job");
        assert_eq!(job.position, position);
        assert!((fixture.in_flight.marks_are_due() || fixture.delivery.has_marks()));
        let transaction = fixture.next_transaction().expect("a mark");
        let outcomes = usize::from(position > 0);
        assert_eq!(transaction.finished().count(), outcomes);
        assert!((fixture.in_flight.marks_are_due() || fixture.delivery.has_marks()));
        fixture.ended(transaction, Ending::Committed);
        assert!(!(fixture.in_flight.marks_are_due() || fixture.delivery.has_marks()));
        fixture.in_flight.begun(position);
        assert!(fixture.next_transaction().is_none());
        fixture.finish(finished(epoch, OFFSET, 1));
    }
    // The partition is revoked before the second outcome is in a transaction.
    assert_eq!(fixture.delivery.release(&mut fixture.in_flight, &[0]), []);
    let transaction = fixture.next_transaction().expect("an outcome and a mark");
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
fn a_worker_whose_messages_are_given_up_releases_its_markers() {
    let held = Commit {
        partition: 0,
        offset: OFFSET,
        metadata: "rollcall/1 held take-overs=1".to_owned(),
    };
    let given_up = |fixture: &mut Fixture| {
        let epoch = fixture.in_flight.assign(&[start("rollcall/1 held")])[0];
        fixture.in_flight.take(0, OFFSET);
        fixture.finish(finished(epoch, OFFSET, JOBS));
        fixture.next_transaction().expect("outcomes")
    };
    let ended = |fixture: &mut Fixture, transaction| {
        let report = Report::Ended(transaction, Ending::GaveUp(vec![held.clone()]));
        let applied = fixture
            .delivery
            .apply(report, &mut fixture.in_flight, Instant::now());
        assert!(matches!(applied, Err(Failure::Client)), "{applied:?}");
        assert!(fixture.next_transaction().is_none());
        fixture.delivery.release(&mut fixture.in_flight, &[0])
    };
    let mut fixture = Fixture::exactly_once();
    let transaction = given_up(&mut fixture);
    let released = Commit {
        metadata: "rollcall/1 take-overs=1".to_owned(),
        ..held.clone()
    };
    assert_eq!(ended(&mut fixture, transaction), [released]);
    // The partition was another worker's meanwhile, which may have committed a higher offset.
    let mut fixture = Fixture::exactly_once();
    let transaction = given_up(&mut fixture);
    fixture.forget(&[0]);
    fixture.in_flight.assign(&[start("")]);
    assert!(fixture.next_transaction().is_none());
    assert_eq!(ended(&mut fixture, transaction), []);
}

#[test]
fn a_dead_letter_is_acknowledged_before_its_outcome_is_produced() {
    let mut fixture = Fixture::at_least_once();
    let epoch = fixture.in_flight.assign(&[start("")])[0];
    fixture.in_flight.take(0, OFFSET);
    fixture.finish(Finished {
        dead_letter: Some(DeadLetterMessage::default()),
        ..finished(epoch, OFFSET, JOBS)
    });
    let letter = &fixture.deliver()[0];
    assert!(letter.dead_letter && letter.settles.is_empty());
    assert_eq!(fixture.in_flight.in_hand(), 1);
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
    // No message is in flight any more, so the time restarts.
    assert!(report(0, start + limits.acknowledge_timeout));
    assert!(report(1, start + limits.acknowledge_timeout * 3 / 2));
    assert!(!report(1, start + limits.acknowledge_timeout * 2));
}

#[test]
fn no_more_work_is_accepted_at_the_limit() {
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

//! Tests with jobs that are answered late, out of order, or never.

use std::collections::BTreeSet;

use crossbeam_channel::{Receiver, never};
use proptest::prelude::*;

use super::*;

/// An executor whose answers the test supplies.
#[derive(Default)]
struct Window {
    /// The attempts in flight, each with the index of its job.
    in_flight: Vec<(AttemptId, u64)>,
    answers: Vec<Done>,
    cancelled: BTreeSet<AttemptId>,
    most_in_flight: usize,
}

const WINDOW: usize = 8;

impl Executor for Window {
    fn window(&self) -> usize {
        WINDOW
    }

    fn prepare(&mut self, _: &Computation) -> Result<(), Unable> {
        Ok(())
    }

    fn submit(
        &mut self,
        id: AttemptId,
        job: &Job<'_>,
        _: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>> {
        self.in_flight.push((id, job.index));
        self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
        Poll::Pending
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.answers);
    }

    fn cancel(&mut self, id: AttemptId) {
        assert!(self.cancelled.insert(id), "cancelled twice");
    }

    fn wake(&self) -> Receiver<()> {
        never()
    }
}

impl Window {
    /// Answers the attempt at this position among those in flight.
    fn answer(&mut self, position: usize, answer: Result<Vec<u8>, JobError>) {
        let (id, _) = self.in_flight.remove(position);
        self.answers.push(Done { id, answer });
    }

    /// Answers the attempt at a job.
    fn answer_job(&mut self, index: u64, answer: Result<Vec<u8>, JobError>) {
        let mut all = self.in_flight.iter();
        let position = all.position(|(_, own)| *own == index);
        self.answer(position.expect("it is in flight"), answer);
    }
}

fn driven(apart_by_partition: bool) -> Driven<Window> {
    Driven::new(Window::default(), apart_by_partition)
}

fn result() -> Result<Vec<u8>, JobError> {
    Ok(vec![1, 0, 0, 0, 0, 0, 0, 0])
}

fn failed() -> Result<Vec<u8>, JobError> {
    Err(JobError::Transient("not now".to_owned()))
}

fn broken() -> Result<Vec<u8>, JobError> {
    Err(JobError::Permanent("never".to_owned()))
}

proptest! {
    /// In every order of answers and failures, each job is settled once and has one outcome.
    #[test]
    fn each_job_is_settled_once(
        messages in prop::collection::vec((0i32..3, 1usize..12), 1..8),
        answers in prop::collection::vec((0usize..WINDOW, 0u8..6, any::<bool>()), 0..200),
        apart in any::<bool>(),
    ) {
        let mut driven = driven(apart);
        let (mut encoded, mut first) = (Vec::new(), 0);
        for (offset, &(partition, jobs)) in (0i64..).zip(&messages) {
            encoded.push((partition, offset, message_from(first, &vec![&[1][..]; jobs])));
            first += jobs as u64;
        }
        let each = encoded.iter();
        let each = each.map(|(partition, offset, own)| (*partition, *offset, own.as_slice()));
        driven.begin(unit_of(each, None, &lease()));
        driven.run_out();
        for (position, kind, waits) in answers {
            if !driven.executor.in_flight.is_empty() {
                let position = position % driven.executor.in_flight.len();
                let answer = match kind {
                    0 | 1 => failed(),
                    2 => broken(),
                    _ => result(),
                };
                driven.executor.answer(position, answer);
            }
            if !waits {
                driven.run_out();
            }
        }
        driven.run_out();
        while !driven.executor.in_flight.is_empty() {
            driven.executor.answer(0, result());
            driven.run_out();
        }
        let outcomes = driven.outcomes();
        let indexes: Vec<_> = outcomes.iter().map(|(index, _)| *index).collect();
        prop_assert_eq!(indexes, (0..first).collect::<Vec<_>>());
        for (offset, count) in driven.settled() {
            prop_assert_eq!(count as usize, messages[offset as usize].1);
        }
        prop_assert_eq!(driven.watch.at_work(), None);
        let letters = driven.finished.iter().filter(|own| own.dead_letter.is_some());
        let dead = outcomes.iter().filter(|(_, is_dead)| *is_dead);
        prop_assert_eq!(letters.count(), dead.count());
        prop_assert!(driven.executor.most_in_flight <= WINDOW);
        for own in &driven.finished {
            let settled: u32 = own.settles.iter().map(|own| own.jobs).sum();
            prop_assert_eq!(super::outcomes(own).len() as u32, settled);
            let partitions: BTreeSet<_> = own.settles.iter().map(|own| own.partition).collect();
            prop_assert!(!apart || partitions.len() == 1);
        }
    }
}

#[test]
fn a_job_that_is_never_answered_delays_no_other_and_is_visible_as_in_flight() {
    let mut driven = driven(false);
    driven.begin(unit(&[message(&[&[1][..]; 50])], None, &lease()));
    driven.settle_down();
    let began = driven.now;
    driven.now += Duration::from_secs(1);
    while let Some(position) = driven.executor.in_flight.iter().position(|own| own.1 != 2) {
        driven.executor.answer(position, result());
        driven.settle_down();
    }
    driven.run_out();
    assert_eq!(driven.settled(), BTreeMap::from([(OFFSET, 49)]));
    let hanging = driven.watch.in_flight();
    assert_eq!(hanging.len(), 1);
    assert_eq!((hanging[0].partition, hanging[0].since), (PARTITION, began));
    let (_, partition) = driven.watch.at_work().expect("it is under way");
    assert_eq!(partition, PARTITION);
}

#[test]
fn answers_after_the_end_of_a_lease_are_dropped_and_so_are_retries() {
    let ends = lease();
    let mut driven = driven(false);
    driven.begin(unit(&[message(&[&[1][..]; 20])], None, &ends));
    driven.settle_down();
    driven.executor.answer_job(0, failed());
    driven.settle_down();
    ends.end();
    driven.run_out();
    // No further job was begun, and all attempts were cancelled; those in flight are waited for.
    assert_eq!(driven.executor.cancelled.len(), WINDOW);
    assert!(Arc::strong_count(&ends) > 1);
    while !driven.executor.in_flight.is_empty() {
        driven.executor.answer(0, result());
        driven.run_out();
    }
    assert_eq!(driven.finished, []);
    assert!(!driven.own.is_in_flight() && driven.own.wants_unit());
    assert_eq!(Arc::strong_count(&ends), 1);
}

#[test]
fn a_second_answer_to_an_attempt_is_ignored() {
    let mut driven = driven(false);
    driven.begin(unit(&[message(&[&[1], &[1]])], None, &lease()));
    driven.settle_down();
    let (id, _) = driven.executor.in_flight.remove(0);
    for answer in [result(), result(), broken()] {
        driven.executor.answers.push(Done { id, answer });
    }
    driven.run_out();
    driven.executor.answers.push(Done {
        id,
        answer: result(),
    });
    driven.run_out();
    assert_eq!(driven.outcomes(), [(0, false)]);
    driven.executor.answer(0, result());
    driven.run_out();
    assert_eq!(driven.outcomes(), [(0, false), (1, false)]);
}

#[test]
fn the_answer_to_an_isolated_job_settles_that_job_only() {
    let job = IsolatedJob {
        position: 1,
        deaths: 1,
    };
    let mut driven = driven(false);
    let messages = [message(&[&[1], &[1], &[1]])];
    driven.begin(unit(&messages, Some(job), &lease()));
    driven.settle_down();
    assert_eq!(driven.executor.in_flight.len(), 1);
    driven.executor.answer_job(1, result());
    driven.run_out();
    assert_eq!(driven.settled(), BTreeMap::from([(OFFSET, 1)]));
    assert_eq!(driven.outcomes(), [(1, false)]);
}

#[test]
fn a_stop_waits_for_the_jobs_in_flight() {
    let mut driven = driven(false);
    driven.begin(unit(&[message(&[&[1][..]; 20])], None, &lease()));
    driven.settle_down();
    driven.own.stop(driven.now);
    driven.executor.answer_job(3, result());
    driven.run_out();
    driven.executor.answer_job(5, result());
    driven.run_out();
    assert_eq!(driven.outcomes(), [(3, false), (5, false)]);
    assert!(driven.own.is_in_flight());
    assert_eq!(driven.executor.in_flight.len(), WINDOW - 2);
}

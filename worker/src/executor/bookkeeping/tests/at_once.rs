//! Tests with jobs that are computed in the submitting thread.

use computations::{Compute, Definition, ParameterError, Registry, count};
use pipeline::mark::{MAX_DEATHS, MAX_DEATHS_OF_MESSAGE};
use pipeline::outcome::MAX_RESULT_BYTES;
use pipeline::{RunCancelled, RunEvent, RunHistory, WriterId};

use super::*;
use crate::executor::Inline;
use crate::executor::detached_job::MAX_LETTER_BYTES;
use crate::simulated_work::SimulatedWork;

type MakeCompute = fn(&Computation) -> Result<Box<dyn Compute>, ParameterError>;

/// A worker with one computation, `bytes`.
fn driven_by(compute: MakeCompute, apart_by_partition: bool) -> Driven<Inline> {
    let definition = Definition {
        name: "bytes",
        compute,
        ..count::DEFINITION
    };
    let executor = Inline::new(Registry::of([definition]), SimulatedWork::default());
    Driven::new(executor, apart_by_partition)
}

pub(super) fn driven(apart_by_partition: bool) -> Driven<impl Executor> {
    driven_by(|_| Ok(Box::new(Bytes)), apart_by_partition)
}

/// A computation whose result is the payload. A job with a nine in it fails.
struct Bytes;

impl Compute for Bytes {
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        if job.payload.contains(&9) {
            return Err(JobError::Transient("there is a nine in it".to_owned()));
        }
        result.extend_from_slice(job.payload);
        Ok(())
    }
}

/// The finished work of a work unit.
fn finished_of(unit: WorkUnit) -> Vec<Finished> {
    let mut driven = driven(false);
    driven.begin(unit);
    driven.run_out();
    driven.finished
}

#[test]
fn outcomes_of_several_messages_are_in_one_batch() {
    let messages = [message(&[&[0, 1], &[1]]), message(&[&[0]])];
    let finished = finished_of(unit(&messages, None, &lease()));
    assert_eq!(finished.len(), 1);
    assert_eq!(outcomes(&finished[0]).len(), 3);
    let settled = |offset, jobs| Settled {
        partition: PARTITION,
        epoch: 7,
        offset,
        jobs,
        jobs_in_message: jobs,
    };
    assert_eq!(
        finished[0].settles,
        [settled(OFFSET, 2), settled(OFFSET + 1, 1)]
    );
}

#[test]
fn for_transactions_all_outcomes_of_a_batch_are_of_one_partition() {
    let (one, two) = (message(&[&[0, 1]]), message(&[&[1]]));
    let messages = [(1, 0, &one), (1, 1, &two), (2, 0, &one), (1, 2, &two)];
    let batches = |apart| {
        let messages = messages.iter();
        let messages =
            messages.map(|&(partition, offset, own)| (partition, offset, own.as_slice()));
        let mut driven = driven(apart);
        driven.begin(unit_of(messages, None, &lease()));
        driven.run_out();
        let offsets = |finished: &Finished| -> Vec<_> {
            let settles = finished.settles.iter();
            settles.map(|own| (own.partition, own.offset)).collect()
        };
        driven.finished.iter().map(offsets).collect::<Vec<_>>()
    };
    assert_eq!(batches(false).len(), 1);
    assert_eq!(
        batches(true),
        [vec![(1, 0), (1, 1)], vec![(2, 0)], vec![(1, 2)]]
    );
}

#[test]
fn a_failing_job_is_retried_and_becomes_a_dead_letter_and_delays_no_other() {
    let finished = finished_of(unit(&[message(&[&[0, 1], &[9], &[1]])], None, &lease()));
    assert_eq!(finished.len(), 2);
    let settled: u32 = finished[0].settles.iter().map(|piece| piece.jobs).sum();
    assert_eq!(settled, 2);
    assert_eq!(finished[0].dead_letter, None);
    assert_eq!(outcomes(&finished[0]).len(), 2);

    let buried = outcomes(&finished[1]);
    let dead: Vec<_> = buried.outcomes().collect();
    assert_eq!(dead[0].index, 1);
    assert!(
        matches!(dead[0].outcome, Outcome::DeadLettered { attempts: 3, .. }),
        "{}",
        dead[0].outcome
    );
    assert_eq!(buried.retries(), 2);
    let letter = finished[1].dead_letter.as_ref().expect("a dead letter");
    assert!(letter.reason.contains("a nine"), "{}", letter.reason);
    let alone = JobBatch::decode(&letter.payload).expect("the dead job alone");
    assert_eq!((alone.first_index(), alone.jobs_count()), (1, 1));
    assert_eq!((letter.partition, letter.offset), (PARTITION, OFFSET));
}

#[test]
fn an_outcome_has_the_result_and_the_digest_of_what_was_computed() {
    let payloads: [&[u8]; 3] = [&[0, 1], &[], &[7; 300]];
    // First jobs within a message, and below a job that is retried on its own.
    let finished = finished_of(unit(&[message(&payloads)], None, &lease()));
    let batch = outcomes(&finished[0]);
    let found: Vec<_> = batch.outcomes().collect();
    assert_eq!(found.len(), payloads.len());
    for (own, payload) in found.iter().zip(payloads) {
        assert_eq!(own.outcome, Outcome::Completed(payload));
        assert_eq!(own.payload_digest, payload_digest(payload));
        assert_eq!(own.weight as usize, 1 + payload.len());
    }
    let buried = finished_of(unit(&[message(&[&[9]])], None, &lease()));
    let batch = outcomes(&buried[0]);
    let digests: Vec<_> = batch.outcomes().map(|own| own.payload_digest).collect();
    assert_eq!(digests, [payload_digest(&[9])]);
}

#[test]
fn jobs_of_an_unknown_computation_are_not_settled_and_other_work_is_finished() {
    let known = [message(&[&[1], &[2]]), message_from(7, &[&[3]])];
    let unknown = message_for("other", 2, &[&[0], &[1]]);
    let messages = [known[0].clone(), unknown.clone(), known[1].clone()];
    let mut driven = driven(false);
    assert_eq!(driven.own.unable(), None);
    driven.begin(unit(&messages, None, &lease()));
    driven.run_out();
    let settled = BTreeMap::from([(OFFSET, 2), (OFFSET + 2, 1)]);
    assert_eq!(driven.settled(), settled);
    assert_eq!(driven.outcomes(), [(0, false), (1, false), (7, false)]);
    let unable = driven
        .own
        .unable()
        .expect("one message was left")
        .to_string();
    assert_eq!(unable, "computation other is not known here; known: bytes");
    // An isolated job of such a message is not settled, either.
    let isolated = IsolatedJob {
        position: 1,
        deaths: 1,
    };
    let mut driven = self::driven(false);
    driven.begin(unit(&[unknown], Some(isolated), &lease()));
    driven.run_out();
    assert!(driven.finished.is_empty() && driven.own.unable().is_some());
}

/// A computation whose result or error depends on the first byte of the payload.
struct ByRow;

impl Compute for ByRow {
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        match job.payload[0] {
            0 => result.extend([0; 8]),
            1 => return Err(JobError::Permanent("it can never be computed".to_owned())),
            2 => panic!("it cannot go on"),
            // A result that is too long for a message.
            _ => result.resize(MAX_RESULT_BYTES + 1, 0),
        }
        Ok(())
    }
}

#[test]
fn a_permanent_error_is_a_dead_letter_at_once_and_a_panic_is_retried() {
    let mut driven = driven_by(|_| Ok(Box::new(ByRow)), false);
    let jobs = message(&[&[0], &[1], &[2], &[3]]);
    driven.begin(unit(&[jobs], None, &lease()));
    driven.run_out();
    let letters = driven.finished.iter();
    let letters = letters.filter_map(|own| own.dead_letter.as_ref());
    let letters: Vec<_> = letters
        .map(|letter| (letter.attempts, letter.reason.as_str()))
        .collect();
    let expected = [
        (1, "it can never be computed"),
        (
            1,
            "its result has 500001 bytes, and an outcome takes 500000",
        ),
        (3, "panic: it cannot go on"),
    ];
    assert_eq!(letters, expected);
    assert_eq!(
        driven.outcomes(),
        [(0, false), (1, true), (2, true), (3, true)]
    );
}

#[test]
fn no_job_is_begun_while_too_many_failed_ones_wait() {
    let payloads: Vec<&[u8]> = vec![&[9]; MAX_FAILED_JOBS + 100];
    let mut driven = driven(false);
    driven.begin(unit(&[message(&payloads)], None, &lease()));
    driven.settle_down();
    assert!(!driven.own.wants_unit());
    assert_eq!(driven.own.jobs.failed.len(), MAX_FAILED_JOBS + 1);
    driven.run_out();
    assert!(driven.own.wants_unit());
    assert_eq!(driven.outcomes().len(), payloads.len());
}

#[test]
fn a_job_of_which_workers_died_is_isolated_and_a_dead_letter_after_three_deaths() {
    let messages = [message(&[&[0, 1], &[1, 1], &[1]])];
    let finished = |deaths| {
        let job = IsolatedJob {
            position: 1,
            deaths,
        };
        let mut finished = finished_of(unit(&messages, Some(job), &lease()));
        assert_eq!(finished.len(), 1);
        let settles = finished[0].settles[0];
        assert_eq!((settles.jobs, settles.jobs_in_message), (1, 3));
        finished.remove(0)
    };
    let counted = finished(2);
    assert_eq!(counted.retries, 2);
    let counted = outcomes(&counted);
    let outcome: Vec<_> = counted.outcomes().collect();
    assert_eq!((outcome.len(), outcome[0].index), (1, 1));
    assert!(!is_dead(&outcome[0].outcome));

    let buried = finished(MAX_DEATHS);
    let letter = buried.dead_letter.as_ref().expect("a dead letter");
    assert_eq!(letter.reason, "3 workers died of it");
    assert!(matches!(
        outcomes(&buried).outcomes().next().expect("one").outcome,
        Outcome::DeadLettered { attempts: 3, .. }
    ));
}

#[test]
fn a_message_with_too_many_deaths_is_a_dead_letter_as_a_whole() {
    let messages = [message(&[&[0, 1], &[1, 1]])];
    let job = IsolatedJob {
        position: 0,
        deaths: MAX_DEATHS_OF_MESSAGE,
    };
    let finished = finished_of(unit(&messages, Some(job), &lease()));
    let letter = finished[0].dead_letter.as_ref().expect("a dead letter");
    assert_eq!(letter.payload, messages[0]);
    assert_eq!(finished[0].outcomes, None);
}

#[test]
fn a_message_that_cannot_be_decoded_is_a_dead_letter_as_a_whole() {
    let messages = [b"\xffnonsense".to_vec(), message(&[&[1]])];
    let finished = finished_of(unit(&messages, None, &lease()));
    let buried = finished.iter().find_map(|own| own.dead_letter.as_ref());
    assert_eq!(buried.expect("a dead letter").payload, b"\xffnonsense");
    assert!(finished.iter().any(|own| own.outcomes.is_some()));
}

#[test]
fn the_dead_letter_of_a_message_that_is_too_large_has_its_beginning() {
    let messages = [vec![0xff; MAX_LETTER_BYTES], vec![0xff; 1_048_000]];
    let finished = finished_of(unit(&messages, None, &lease()));
    let letters = finished.iter().filter_map(|own| own.dead_letter.as_ref());
    let letters: Vec<_> = letters
        .map(|letter| {
            let says_so = letter.reason.contains("of its 1048000 bytes");
            (letter.payload.len(), says_so)
        })
        .collect();
    assert_eq!(
        letters,
        [(MAX_LETTER_BYTES, false), (MAX_LETTER_BYTES, true)]
    );
}

#[test]
fn work_whose_lease_has_ended_is_dropped() {
    let ended = lease();
    ended.end();
    assert_eq!(finished_of(unit(&[message(&[&[1]])], None, &ended)), []);

    // The lease ends in the middle of a message: the jobs that were begun before are finished.
    let ends = lease();
    let mut driven = driven(false);
    let jobs = message(&[&[1], &[9], &[0], &[0]]);
    driven.begin(unit(&[jobs], None, &ends));
    let now = driven.now;
    driven.own.step(&mut driven.executor, 3, &mut || now);
    ends.end();
    driven.run_out();
    assert_eq!(driven.outcomes(), [(0, false)]);
    assert!(driven.own.wants_unit() && driven.own.jobs.failed.is_empty());
}

#[test]
fn outcomes_of_slow_jobs_are_flushed_after_the_interval() {
    let mut driven = driven(false);
    driven.begin(unit(&[message(&[&[0], &[1], &[0]])], None, &lease()));
    let now = driven.now;
    driven.own.step(&mut driven.executor, 2, &mut || now);
    driven
        .own
        .look(&mut driven.executor, now + FLUSH_INTERVAL / 2);
    assert_eq!(driven.own.take_finished().count(), 0);
    driven.own.look(&mut driven.executor, now + FLUSH_INTERVAL);
    let finished: Vec<_> = driven.own.take_finished().collect();
    assert_eq!(finished[0].settles[0].jobs, 1);
}

#[test]
fn a_stop_flushes_finished_outcomes_and_drops_the_other_jobs() {
    let mut driven = driven(false);
    let jobs = message(&[&[0], &[9], &[0], &[0]]);
    driven.begin(unit(&[jobs], None, &lease()));
    let now = driven.now;
    driven.own.step(&mut driven.executor, 3, &mut || now);
    driven.own.stop(now);
    driven.run_out();
    driven.begin(unit(&[message(&[&[1]])], None, &lease()));
    driven.run_out();
    assert_eq!(driven.outcomes(), [(0, false)]);
    assert_eq!(driven.own.next_call(), None);
}

#[test]
fn jobs_of_a_cancelled_run_are_settled_without_an_outcome() {
    let run_id = header("bytes").run_id;
    let mut history = RunHistory::new(run_id.clone());
    history.apply(RunEvent::Cancelled(RunCancelled {
        run_id,
        generation: 0,
        writer: WriterId::fresh(),
        reason: String::new(),
        cancelled_by: String::new(),
    }));
    let (first, second) = (message(&[&[0, 1], &[1]]), message(&[&[9]]));
    let cancelled = |job| {
        let mut driven = driven(false);
        let ends = vec![0, 0, 0, OFFSET + 2];
        driven
            .cancellations
            .update(|known| known.update(&history, ends));
        // The third message is after the end offset of the cancellation.
        let messages = [first.clone(), second.clone(), second.clone()];
        driven.begin(unit(&messages, job, &lease()));
        driven.run_out();
        let passed_over = driven.finished.iter().map(Finished::passed_over_jobs);
        (
            passed_over.sum::<u64>(),
            driven.settled(),
            driven.outcomes(),
        )
    };
    let settled = BTreeMap::from([(OFFSET, 2), (OFFSET + 1, 1), (OFFSET + 2, 1)]);
    assert_eq!(cancelled(None), (3, settled, vec![(0, true)]));
    let alone = IsolatedJob {
        position: 1,
        deaths: 1,
    };
    let (passed_over, settled, _) = cancelled(Some(alone));
    assert_eq!((passed_over, settled[&OFFSET]), (2, 1));
}

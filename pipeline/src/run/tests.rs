//! Tests of the `run` module.

use super::*;
use crate::digest::JobSetHasher;
use crate::generation::{IndexRanges, VerdictKey};
use crate::reconciled::OffsetRange;
use crate::reconciliation::Verdict;
use crate::writer_id::WriterId;

pub(crate) fn manifest(jobs: u64, rows: u64) -> Manifest {
    Manifest {
        run_id: "a-run".parse().expect("a run id"),
        jobs,
        rows_read: rows,
        rows_accepted: rows,
        rejected: BTreeMap::new(),
        job_set_digest: JobSetHasher::new().finish(),
        messages: 1,
        stages: vec![("read".to_owned(), 0.5)],
    }
}

pub(crate) fn options() -> RunOptions {
    RunOptions {
        numbering_version: NUMBERING_VERSION,
        cut: Cut {
            label_columns: vec!["country".to_owned()],
            time: Some(TimeColumn {
                name: "test_date".to_owned(),
                grain: Grain::Week,
            }),
            max_rows_per_job: 10_000,
        },
        computation: Computation::named("a-computation").with("column", "result"),
        results: ResultsPolicy::Reproducible,
    }
}

pub(crate) fn opened() -> RunOpened {
    RunOpened {
        run_id: "a-run".parse().expect("a run id"),
        options: options(),
        opened_at_ms: 1_594_718_631_000,
        jobs_start_offsets: vec![3, 0],
        outcomes_start_offsets: vec![7],
    }
}

fn generation() -> GenerationOpened {
    GenerationOpened {
        run_id: "a-run".parse().expect("a run id"),
        generation: 3,
        writer: WriterId::fresh(),
        reopened: IndexRanges::of_ascending([0, 1, 7]),
        builds_on: Some(VerdictKey {
            generation: 1,
            writer: WriterId::fresh(),
        }),
        ends_cancellation: Some(WriterId::fresh()),
        opened_by: "dlq replay on a-host".to_owned(),
    }
}

pub(crate) fn reconciled() -> RunReconciled {
    RunReconciled {
        run_id: "a-run".parse().expect("a run id"),
        generation: 2,
        writer: WriterId::fresh(),
        outcomes: vec![
            OffsetRange { start: 3, end: 3 },
            OffsetRange { start: 0, end: 9 },
        ],
        manifest_digest: manifest(3, 9).digest(),
        verdict: Verdict::CompleteWithDeadLetters,
        completed: 2,
        dead_lettered: 1,
        differing: 0,
        table_digest: ContentDigest::of(b"a table"),
        published_by: "aggregator on a-host".to_owned(),
    }
}

pub(crate) fn cancelled() -> RunCancelled {
    RunCancelled {
        run_id: "a-run".parse().expect("a run id"),
        generation: 0,
        writer: WriterId::fresh(),
        reason: "no longer wanted".to_owned(),
        cancelled_by: "somebody on a-host".to_owned(),
    }
}

#[test]
fn every_option_comes_back_from_the_wire() {
    let change = |change: &dyn Fn(&mut RunOptions)| {
        let mut opened = opened();
        change(&mut opened.options);
        opened
    };
    let all = [
        change(&|options| options.cut.time = None),
        change(&|options| options.cut.label_columns.clear()),
        change(&|options| options.results = ResultsPolicy::Any),
        change(&|options| options.numbering_version = 9),
    ];
    for opened in all {
        let event = RunEvent::Opened(opened);
        let decoded = RunEvent::decode(event.key().as_bytes(), &event.encode());
        assert_eq!(decoded.expect("a valid event"), Some(event));
    }
}

#[test]
fn what_this_version_does_not_know_of_a_run_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut wire::RunOpened)| {
        let mut wire = opened().to_wire();
        change(&mut wire);
        let decoded = RunEvent::decode(b"a-run/opened", &wire.encode_to_vec());
        decoded.expect_err("it is not known").to_string()
    };
    let grain = refused(&|wire| {
        let Some(wire::Cut {
            kind: Some(wire::cut::Kind::ByGroup(cut)),
        }) = &mut wire.cut
        else {
            panic!("a run is cut by group");
        };
        cut.time.as_mut().expect("it has a time").grain = 99;
    });
    assert_eq!(grain, "RunOpened: unknown grain 99");
    let policy = refused(&|wire| wire.results = 3);
    assert_eq!(policy, "RunOpened: unknown results policy 3");
    let cut = refused(&|wire| wire.cut = Some(wire::Cut { kind: None }));
    assert_eq!(cut, "RunOpened: it has no cut that this version knows");
    let computation = refused(&|wire| wire.computation = None);
    assert_eq!(computation, "RunOpened: it has no computation");
}

#[test]
fn every_event_comes_back_from_the_wire() {
    let mut dispatched = manifest(3, 9);
    dispatched.rejected.insert("unknown_result".to_owned(), 2);
    let events = [
        RunEvent::Opened(opened()),
        RunEvent::Dispatched(dispatched),
        RunEvent::Aborted(RunAborted {
            run_id: "a-run".parse().expect("a run id"),
            reason: "too many rejects".to_owned(),
        }),
        RunEvent::Generation(generation()),
        RunEvent::Reconciled(reconciled()),
        RunEvent::Cancelled(cancelled()),
    ];
    for event in events {
        let key = event.key();
        let is_abort = matches!(event, RunEvent::Aborted(_));
        assert_eq!(key == RunEvent::key_of_abort(event.run_id()), is_abort);
        let is_opening = matches!(event, RunEvent::Opened(_));
        assert_eq!(RunEvent::is_key_of_opening(key.as_bytes()), is_opening);
        let run_id = RunEvent::run_of_key(key.as_bytes());
        assert_eq!(run_id.as_ref(), Some(event.run_id()));
        let decoded = RunEvent::decode(key.as_bytes(), &event.encode());
        assert_eq!(decoded.expect("a valid event"), Some(event));
    }
}

#[test]
fn a_key_that_names_another_generation_or_writer_is_refused() {
    let events = [
        RunEvent::Generation(generation()),
        RunEvent::Reconciled(reconciled()),
        RunEvent::Cancelled(cancelled()),
    ];
    for event in events {
        let key = event.key();
        let (kind, _) = key.rsplit_once('/').expect("a writer");
        let (of_run, _) = kind.rsplit_once('/').expect("a generation");
        let value = event.encode();
        let writer = WriterId::fresh();
        for other in [
            format!("{kind}/{writer}"),
            format!("{of_run}/9/{writer}"),
            format!("{key}/more"),
            of_run.to_owned(),
            kind.to_owned(),
        ] {
            assert!(
                RunEvent::decode(other.as_bytes(), &value).is_err(),
                "{other}"
            );
        }
    }
}

#[test]
fn events_that_cannot_be_are_refused() {
    let first = GenerationOpened {
        generation: 0,
        builds_on: None,
        ..generation()
    };
    let last = GenerationOpened {
        generation: u32::MAX,
        ..generation()
    };
    let mut itself = generation();
    itself.builds_on = Some(VerdictKey {
        generation: 3,
        writer: WriterId::fresh(),
    });
    let incomplete = RunReconciled {
        verdict: Verdict::Incomplete,
        ..reconciled()
    };
    let backwards = RunReconciled {
        outcomes: vec![OffsetRange { start: 3, end: 2 }],
        ..reconciled()
    };
    for event in [
        RunEvent::Generation(first),
        RunEvent::Generation(last),
        RunEvent::Generation(itself),
        RunEvent::Reconciled(incomplete),
        RunEvent::Reconciled(backwards),
    ] {
        let decoded = RunEvent::decode(event.key().as_bytes(), &event.encode());
        assert!(decoded.is_err(), "{event:?}");
    }
}

#[test]
fn a_key_of_another_kind_is_skipped_and_one_of_another_run_refused() {
    let value = RunEvent::Opened(opened()).encode();
    assert!(matches!(
        RunEvent::decode(b"a-run/paused", &value),
        Ok(None)
    ));
    assert!(matches!(RunEvent::decode(b"\xff", &value), Ok(None)));
    assert!(RunEvent::decode(b"b-run/opened", &value).is_err());
    assert!(RunEvent::decode(b"a-run/dispatched", &value).is_err());
}

#[test]
fn manifests_agree_on_the_job_set_and_not_on_how_it_was_sent() {
    let one = manifest(3, 9);
    let mut repacked = one.clone();
    repacked.messages = 99;
    repacked.stages.clear();
    assert!(one.agrees_with(&repacked));
    assert_eq!(one.digest(), repacked.digest());
    let mut other = one.clone();
    other.rows_accepted = 8;
    assert!(!one.agrees_with(&other));
    assert_ne!(one.digest(), other.digest());
}

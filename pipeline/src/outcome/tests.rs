use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::job::tests::{OwnedJob, any_jobs};
use crate::protobuf::tests::any_other_form;
use crate::{Job, payload_digest, wire};

fn worker() -> Worker {
    Worker {
        host: "a-host".to_owned(),
        id: "worker-1".to_owned(),
    }
}

/// A job, and its result unless it is dead.
type Given = (OwnedJob, u64, Option<Vec<u8>>);

/// Results that are all of one length, or of any.
fn any_outcomes(number: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Given>> {
    let result = prop::option::of(prop::collection::vec(any::<u8>(), 0..12));
    let results = prop::collection::vec((0u64..60, result), number.end);
    (any_jobs(number), results, prop::option::of(0usize..4)).prop_map(
        |(jobs, results, common_length)| {
            let given = jobs.into_iter().zip(results);
            given
                .map(|(job, (index, mut result))| {
                    if let (Some(result), Some(length)) = (&mut result, common_length) {
                        result.resize(length, 7);
                    }
                    (job, index, result)
                })
                .collect()
        },
    )
}

fn outcome_of(result: Option<&[u8]>) -> Outcome<'_> {
    match result {
        Some(result) => Outcome::Completed(result),
        None => Outcome::DeadLettered {
            reason: "it is broken",
            attempts: 3,
        },
    }
}

/// A message with one outcome: the result of a job, or `None` for its dead letter.
pub(crate) fn batch_of_one(
    run_id: &str,
    generation: u32,
    job: &Job<'_>,
    result: Option<&[u8]>,
) -> OutcomeBatch {
    let run_id = run_id.parse().expect("a run id");
    let mut builder = OutcomeBatchBuilder::new(&run_id, generation, &Worker::default());
    builder.push(job, payload_digest(job.payload), outcome_of(result));
    OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
}

fn encode(given: &[Given]) -> Vec<u8> {
    let run_id = "a-run".parse().expect("a run id");
    let mut builder = OutcomeBatchBuilder::new(&run_id, 5, &worker());
    for (job, index, result) in given {
        let digest = payload_digest(&job.payload);
        builder.push(&job.at(*index), digest, outcome_of(result.as_deref()));
    }
    builder.add_retries(2);
    let (bytes, bound) = (builder.encode(), builder.bytes_bound());
    assert!(bytes.len() <= bound, "{} > {bound}", bytes.len());
    bytes
}

proptest! {
    #[test]
    fn what_is_built_is_decoded(given in any_outcomes(0..60)) {
        let batch = OutcomeBatch::decode(&encode(&given)).expect("a valid batch");
        prop_assert_eq!(batch.worker(), &worker());
        prop_assert_eq!((batch.retries(), batch.generation()), (2, 5));
        prop_assert_eq!(batch.len(), given.len());
        let mut outcomes = batch.outcomes();
        for (job, index, result) in &given {
            let outcome = outcomes.next().expect("as many as were pushed");
            prop_assert_eq!(outcome.index, *index);
            prop_assert_eq!(outcome.key, job.at(*index).key);
            prop_assert_eq!(&batch.label_sets()[outcome.label_position], &job.labels);
            prop_assert_eq!(outcome.part, job.part);
            prop_assert_eq!(outcome.weight, job.weight);
            prop_assert_eq!(outcome.payload_digest, payload_digest(&job.payload));
            prop_assert_eq!(outcome.outcome, outcome_of(result.as_deref()));
        }
        prop_assert!(outcomes.next().is_none());
    }

    #[test]
    fn prost_writes_and_reads_the_same(given in any_outcomes(0..60), seed: u64) {
        let bytes = encode(&given);
        let wire = wire::OutcomeBatch::decode(bytes.as_slice()).expect("a message");
        prop_assert_eq!(&wire.encode_to_vec(), &bytes);
        let batch = OutcomeBatch::decode(&bytes).expect("a valid batch");
        // As other encoders may write it: what prost reads of it is what counts.
        let other = any_other_form(&bytes, seed);
        let of_prost = wire::OutcomeBatch::decode(other.as_slice()).expect("a message");
        prop_assert_eq!(of_prost, wire);
        prop_assert_eq!(OutcomeBatch::decode(&other).expect("a valid batch"), batch);
    }

    #[test]
    fn changed_bytes_never_panic(
        given in any_outcomes(1..8),
        at in 0usize..600,
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(&given);
        let at = at % bytes.len();
        bytes[at] = byte;
        let decoded = OutcomeBatch::decode(&bytes).ok();
        if let Some(batch) = &decoded {
            prop_assert_eq!(batch.outcomes().count(), batch.len());
        }
        // It is what prost reads.
        let of_prost = wire::OutcomeBatch::decode(bytes.as_slice()).ok();
        let of_prost = of_prost.and_then(|wire| OutcomeBatch::decode(&wire.encode_to_vec()).ok());
        prop_assert_eq!(decoded, of_prost);
    }
}

#[test]
fn results_of_one_length_take_no_column_beside_the_dead() {
    let job = OwnedJob {
        labels: crate::LabelSet::default(),
        time: None,
        part: 0,
        weight: 1,
        payload: vec![1],
    };
    let lengths = |results: &[Option<&[u8]>]| {
        let given: Vec<Given> = (0..)
            .zip(results)
            .map(|(index, result)| (job.clone(), index, result.map(<[u8]>::to_vec)))
            .collect();
        let wire = wire::OutcomeBatch::decode(encode(&given).as_slice()).expect("a message");
        wire.result_lengths
    };
    assert_eq!(lengths(&[]), [0; 0]);
    assert_eq!(lengths(&[None, None]), [0; 0]);
    assert_eq!(lengths(&[Some(b"")]), [0]);
    assert_eq!(lengths(&[None, Some(b"ab"), None, Some(b"cd")]), [2]);
    assert_eq!(
        lengths(&[Some(b"a"), None, Some(b"bc"), None]),
        [1, 0, 2, 0]
    );
}

#[test]
fn an_outcome_is_shown_in_little_room() {
    let shown = |result: &[u8]| Outcome::Completed(result).to_string();
    assert_eq!(shown(&[]), "completed (0 bytes)");
    assert_eq!(shown(&[1, 255]), "completed (2 bytes: 01 ff)");
    assert!(shown(&[0; 99]).ends_with(" 00 …)"));
}

#[test]
fn columns_that_do_not_fit_together_are_refused() {
    let whole = wire::OutcomeBatch {
        run_id: "a-run".to_owned(),
        worker: Some(worker()),
        span_starts: vec![4, 9],
        span_lengths: vec![1, 1],
        label_sets: vec![crate::LabelSet::new(["x"])],
        label_set_jobs: vec![2],
        time_offsets: vec![0, 1],
        parts: vec![0, 0],
        weights: vec![1, 2],
        payload_digests: vec![7, 8],
        result_lengths: vec![1, 2],
        results: vec![0, 1, 2],
        dead_letters: Vec::new(),
        retries: 0,
        generation: 0,
        first_time: -3600,
        time_offsets_high: Vec::new(),
    };
    assert!(OutcomeBatch::decode(&whole.encode_to_vec()).is_ok());
    let dead = |position| DeadLetter {
        position,
        ..Default::default()
    };
    let broken: [&dyn Fn(&mut wire::OutcomeBatch); 15] = [
        &|batch| batch.worker = None,
        &|batch| batch.run_id = "a/b".to_owned(),
        &|batch| batch.parts.truncate(1),
        &|batch| batch.time_offsets.truncate(1),
        &|batch| batch.payload_digests.truncate(1),
        &|batch| batch.span_lengths = vec![1, 2],
        &|batch| batch.span_lengths = vec![2, 0],
        &|batch| batch.span_starts[1] = u64::MAX,
        &|batch| batch.first_time = i64::MIN,
        &|batch| batch.dead_letters = vec![dead(2)],
        &|batch| batch.dead_letters = vec![dead(1), dead(0)],
        // The dead letter would have a result.
        &|batch| batch.dead_letters = vec![dead(1)],
        &|batch| batch.result_lengths = vec![1],
        &|batch| batch.result_lengths.clear(),
        &|batch| batch.result_lengths = vec![u32::MAX, 4],
    ];
    for (case, break_it) in broken.into_iter().enumerate() {
        let mut batch = whole.clone();
        break_it(&mut batch);
        assert!(
            OutcomeBatch::decode(&batch.encode_to_vec()).is_err(),
            "case {case}"
        );
    }
}

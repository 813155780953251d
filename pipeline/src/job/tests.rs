use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::grain::TimeBucket;
use crate::group_key::{LabelSet, MAX_LABEL_BYTES};
use crate::protobuf::tests::any_other_form;
use crate::wire;

/// A job that owns what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct OwnedJob {
    pub(crate) labels: LabelSet,
    pub(crate) time: Option<TimeBucket>,
    pub(crate) part: u32,
    pub(crate) weight: u32,
    pub(crate) payload: Vec<u8>,
}

impl OwnedJob {
    pub(crate) fn at(&self, index: u64) -> Job<'_> {
        Job {
            index,
            key: GroupKey {
                labels: &self.labels,
                time: self.time,
            },
            part: self.part,
            weight: self.weight,
            payload: &self.payload,
        }
    }
}

/// A job of the hour of this number, with as many rows as its payload has bytes.
pub(crate) fn job(hours: i64, payload: &[u8]) -> OwnedJob {
    OwnedJob {
        labels: LabelSet::new(["Italy"]),
        time: TimeBucket::from_hours(hours),
        part: 0,
        weight: payload.len() as u32,
        payload: payload.to_vec(),
    }
}

/// Jobs of one run: with a time or without, as long as their weight or of any length.
pub(crate) fn any_jobs(number: std::ops::Range<usize>) -> impl Strategy<Value = Vec<OwnedJob>> {
    let job = (
        prop::collection::vec("[a-c]{0,2}", 0..3),
        -1_000_000_000i64..1_000_000_000,
        0u32..4,
        1u32..20,
        prop::collection::vec(any::<u8>(), 0..20),
    );
    let jobs = prop::collection::vec(job, number);
    (jobs, any::<bool>(), any::<bool>()).prop_map(|(jobs, has_time, is_row_wise)| {
        let jobs = jobs.into_iter();
        jobs.map(|(labels, seconds, part, weight, mut payload)| {
            if is_row_wise {
                payload.resize(weight as usize, 1);
            }
            OwnedJob {
                labels: LabelSet::new(labels),
                time: TimeBucket::from_seconds(seconds).filter(|_| has_time),
                part,
                weight,
                payload,
            }
        })
        .collect()
    })
}

/// What the jobs of a run have in common.
pub(crate) fn header(run_id: &str) -> JobHeader {
    JobHeader {
        run_id: run_id.parse().expect("a run id"),
        generation: 0,
        computation: Computation::named("a-computation").with("a", "b").into(),
    }
}

fn encode(first_index: u64, jobs: &[OwnedJob]) -> Vec<u8> {
    let mut encoder = JobBatchEncoder::new(&header("a-run"));
    for (position, job) in jobs.iter().enumerate() {
        encoder.push(&job.at(first_index + position as u64));
    }
    let bound = encoder.bytes_bound();
    let mut buffer = Vec::new();
    let bytes = encoder.finish(&mut buffer);
    assert!(bytes <= bound, "{bytes} > {bound}");
    buffer
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        first_index in 0u64..u64::MAX / 2,
        jobs in any_jobs(1..50),
    ) {
        let bytes = encode(first_index, &jobs);
        let batch = JobBatch::decode(&bytes).expect("a valid batch");
        // A decoder that was used before says the same, whatever it has seen.
        let mut decoder = JobBatchDecoder::default();
        let _ = decoder.decode(&encode(3, &jobs[..1]));
        let _ = decoder.decode(&bytes[..bytes.len() / 2]);
        prop_assert_eq!(decoder.decode(&bytes).expect("a valid batch"), &batch);
        prop_assert_eq!(batch.run_id().as_str(), "a-run");
        prop_assert_eq!(batch.jobs_count() as usize, jobs.len());
        let decoded: Vec<_> = batch.jobs().collect();
        let expected: Vec<_> = jobs
            .iter()
            .enumerate()
            .map(|(position, job)| job.at(first_index + position as u64))
            .collect();
        prop_assert_eq!(&decoded, &expected);
        // A walk that is left and gone on with meets the same jobs.
        let mut cursor = Cursor::default();
        for job in expected {
            let mut rest = batch.jobs_from(cursor);
            prop_assert_eq!(rest.next(), Some(job));
            cursor = rest.cursor();
        }
        prop_assert_eq!(batch.jobs_from(cursor).next(), None);
    }

    #[test]
    fn prost_writes_and_reads_the_same(
        first_index in 0u64..300,
        jobs in any_jobs(1..50),
        seed: u64,
    ) {
        let bytes = encode(first_index, &jobs);
        let wire = wire::JobBatch::decode(bytes.as_slice()).expect("a message");
        prop_assert_eq!(&wire.encode_to_vec(), &bytes);
        let batch = JobBatch::decode(&bytes).expect("a valid batch");
        // As other encoders may write it: what prost reads of it is what counts.
        let other = any_other_form(&bytes, seed);
        let of_prost = wire::JobBatch::decode(other.as_slice()).expect("a message");
        prop_assert_eq!(of_prost, wire);
        prop_assert_eq!(JobBatch::decode(&other).expect("a valid batch"), batch);
    }

    #[test]
    fn cut_or_changed_bytes_never_panic(
        jobs in any_jobs(1..8),
        cut in 0usize..400,
        at in 0usize..400,
        byte in any::<u8>(),
    ) {
        let mut bytes = encode(7, &jobs);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut % 8));
        let decoded = JobBatch::decode(&bytes).ok();
        if let Some(batch) = &decoded {
            prop_assert_eq!(batch.jobs().count(), batch.jobs_count() as usize);
        }
        // It is what prost reads.
        let of_prost = wire::JobBatch::decode(bytes.as_slice()).ok();
        let of_prost = of_prost.and_then(|wire| JobBatch::decode(&wire.encode_to_vec()).ok());
        prop_assert_eq!(decoded, of_prost);
    }
}

#[test]
fn an_encoder_begins_each_batch_anew() {
    let job = OwnedJob {
        labels: LabelSet::new(["Italy"]),
        time: None,
        part: 0,
        weight: 2,
        payload: vec![1, 0],
    };
    let mut encoder = JobBatchEncoder::new(&header("a-run"));
    let mut buffer = Vec::new();
    encoder.push(&job.at(3));
    assert!(encoder.takes(4) && !encoder.takes(9));
    let first = encoder.finish(&mut buffer);
    assert!(encoder.takes(9));
    encoder.push(&job.at(9));
    encoder.finish(&mut buffer);
    let second = JobBatch::decode(&buffer[first..]).expect("a valid batch");
    assert_eq!(second.first_index(), 9);
    assert_eq!(second.jobs().count(), 1);
}

#[test]
fn columns_that_do_not_fit_together_are_refused() {
    let whole = wire::JobBatch {
        run_id: "a-run".to_owned(),
        first_index: 0,
        label_sets: vec![LabelSet::new(["x"])],
        label_set_jobs: vec![2],
        time_offsets: vec![0, 1],
        parts: vec![0, 0],
        weights: vec![1, 2],
        payload_lengths: vec![3, 0],
        payload: vec![0, 1, 1],
        computation: header("a-run").computation.encode(),
        generation: 0,
        first_time: -3600,
        time_offsets_high: Vec::new(),
    };
    assert!(JobBatch::decode(&whole.encode_to_vec()).is_ok());
    let fitting: [fn(&mut wire::JobBatch); 2] = [
        |batch| batch.time_offsets.clear(),
        |batch| batch.payload_lengths.clear(),
    ];
    for fit in fitting {
        let mut batch = whole.clone();
        fit(&mut batch);
        assert!(JobBatch::decode(&batch.encode_to_vec()).is_ok());
    }
    let broken: [fn(&mut wire::JobBatch); 15] = [
        |batch| batch.run_id.clear(),
        |batch| batch.time_offsets.truncate(1),
        |batch| batch.parts.push(0),
        |batch| batch.label_set_jobs[0] = 3,
        |batch| batch.label_set_jobs.clear(),
        |batch| batch.first_index = u64::MAX,
        |batch| batch.weights = vec![0, 3],
        |batch| batch.payload.truncate(2),
        |batch| batch.payload_lengths.truncate(1),
        |batch| batch.payload_lengths = vec![u32::MAX, 4],
        |batch| batch.first_time = i64::MAX,
        |batch| batch.computation.clear(),
        |batch| batch.label_sets = vec![LabelSet::new(["x".repeat(3 * MAX_LABEL_BYTES)])],
        |batch| batch.label_sets = vec![LabelSet::new(vec![""; MAX_LABEL_BYTES])],
        |batch| {
            batch.payload = vec![0; MAX_PAYLOAD_BYTES + 1];
            batch.payload_lengths = vec![MAX_PAYLOAD_BYTES as u32 + 1, 0];
        },
    ];
    for (case, break_it) in broken.into_iter().enumerate() {
        let mut batch = whole.clone();
        break_it(&mut batch);
        assert!(
            JobBatch::decode(&batch.encode_to_vec()).is_err(),
            "case {case}"
        );
    }
}

#[test]
fn a_decoder_takes_up_what_the_next_batch_has_in_common() {
    let headers = [
        header("a-run"),
        JobHeader {
            generation: 3,
            ..header("b-run")
        },
        JobHeader {
            computation: Computation::named("another").into(),
            ..header("b-run")
        },
    ];
    let mut decoder = JobBatchDecoder::default();
    for header in headers.iter().chain(&headers) {
        let labels = LabelSet::default();
        let job = Job {
            index: 0,
            key: GroupKey {
                labels: &labels,
                time: None,
            },
            part: 0,
            weight: 9,
            payload: &[],
        };
        let message = job.alone(header);
        let batch = decoder.decode(&message).expect("a valid batch");
        assert_eq!((batch.header(), batch.job(0)), (header, job));
    }
}

//! What a worker takes from the jobs topic.

use pipeline::job::JobBatchDecoder;
use pipeline::wire::{self, Message};
use pipeline::{JobBatch, JobBatchEncoder};

pub fn holds(input: &[u8]) {
    let decoded = JobBatch::decode(input);
    // What was decoded before, and failed maybe, leaves nothing behind.
    let mut decoder = JobBatchDecoder::default();
    let (head, tail) = input.split_at(input.len() / 2);
    for before in [head, tail, input] {
        let _ = decoder.decode(before);
    }
    let again = decoder.decode(input);
    assert_eq!(again.ok(), decoded.as_ref().ok());
    // It is what prost reads.
    let of_prost = wire::JobBatch::decode(input).ok();
    let of_prost = of_prost.and_then(|wire| JobBatch::decode(&wire.encode_to_vec()).ok());
    assert_eq!(decoded.as_ref().ok(), of_prost.as_ref());
    let Ok(batch) = decoded else {
        return;
    };
    assert_eq!(batch.jobs().count(), batch.jobs_count() as usize);
    let mut encoder = JobBatchEncoder::new(batch.header());
    for job in batch.jobs() {
        assert!(encoder.takes(job.index));
        encoder.push(&job);
    }
    let bound = encoder.bytes_bound();
    let mut bytes = Vec::new();
    assert!(encoder.finish(&mut bytes) <= bound);
    let again = JobBatch::decode(&bytes).expect("what is encoded is decoded");
    assert!(again.jobs().eq(batch.jobs()));
    assert_eq!(again.header(), batch.header());
}

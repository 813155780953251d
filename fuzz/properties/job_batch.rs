//! What a worker takes from the jobs topic.

use pipeline::{JobBatch, JobBatchEncoder};

pub fn holds(input: &[u8]) {
    let Ok(batch) = JobBatch::decode(input) else {
        return;
    };
    assert_eq!(batch.jobs().count(), batch.jobs_count() as usize);
    let mut encoder = JobBatchEncoder::new(batch.run_id());
    for job in batch.jobs() {
        assert!(encoder.takes(job.index));
        encoder.push(&job);
    }
    let bound = encoder.bytes_bound();
    let mut bytes = Vec::new();
    assert!(encoder.finish(&mut bytes) <= bound);
    let again = JobBatch::decode(&bytes).expect("what is encoded is decoded");
    assert!(again.jobs().eq(batch.jobs()));
    assert_eq!(again.run_id(), batch.run_id());
}

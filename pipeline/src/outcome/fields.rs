//! The fields of an `OutcomeBatch` on the wire. Their numbers are those of `outcomes.proto`.

pub(super) const RUN_ID: u32 = 1;
pub(super) const WORKER: u32 = 2;
pub(super) const SPAN_STARTS: u32 = 3;
pub(super) const SPAN_LENGTHS: u32 = 4;
/// The numbers of their jobs are in the next one.
pub(super) const LABEL_SETS: u32 = 5;
pub(super) const TIME_OFFSETS: u32 = 7;
pub(super) const PARTS: u32 = 8;
pub(super) const WEIGHTS: u32 = 9;
pub(super) const PAYLOAD_DIGESTS: u32 = 10;
pub(super) const RESULT_LENGTHS: u32 = 11;
pub(super) const RESULTS: u32 = 12;
pub(super) const DEAD_LETTERS: u32 = 13;
pub(super) const RETRIES: u32 = 14;
pub(super) const GENERATION: u32 = 15;
pub(super) const FIRST_TIME: u32 = 16;
pub(super) const TIME_OFFSETS_HIGH: u32 = 17;

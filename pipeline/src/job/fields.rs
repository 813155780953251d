//! The fields of a `JobBatch` on the wire. Their numbers are those of `jobs.proto`.

pub(super) const RUN_ID: u32 = 1;
pub(super) const FIRST_INDEX: u32 = 2;
/// The numbers of their jobs are in the next one.
pub(super) const LABEL_SETS: u32 = 3;
pub(super) const TIME_OFFSETS: u32 = 5;
pub(super) const PARTS: u32 = 6;
pub(super) const WEIGHTS: u32 = 7;
pub(super) const PAYLOAD_LENGTHS: u32 = 8;
pub(super) const PAYLOAD: u32 = 9;
pub(super) const COMPUTATION: u32 = 10;
pub(super) const GENERATION: u32 = 11;
pub(super) const FIRST_TIME: u32 = 12;
pub(super) const TIME_OFFSETS_HIGH: u32 = 13;

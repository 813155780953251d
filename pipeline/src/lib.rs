//! The protocol of rollcall, pure: what a job and an outcome are, how they cross the wire, which
//! offsets may be committed, and when a run is complete. No I/O, no clock, no Kafka client, and no
//! knowledge of what is computed: a payload and a result are bytes.
//!
//! In the order in which data goes through it: a [`GroupKey`] names a group of rows, a [`Job`] is a
//! part of it on its way in a [`JobBatch`], its [`Outcome`] comes back in an [`OutcomeBatch`], the
//! [`Ledger`] keeps one outcome per job index, and [`Collection`] holds the ledger
//! against the [`Manifest`].

pub mod cancelled;
pub mod computation;
pub mod content_digest;
pub mod dead_letters;
pub mod difference;
pub mod digest;
pub mod error;
pub mod generation;
pub mod grain;
pub mod group_key;
pub mod job;
pub mod label_runs;
pub mod ledger;
pub mod mark;
pub mod offsets;
pub mod outcome;
mod protobuf;
pub mod reconciled;
pub mod reconciliation;
pub mod resume;
pub mod run;
pub mod run_history;
pub mod run_id;
pub mod run_log;
mod time_column;
pub mod timeline;
pub mod verdict;
pub mod writer_id;

pub use cancelled::{Cancellations, RunCancelled};
pub use computation::Computation;
pub use content_digest::ContentDigest;
pub use dead_letters::DeadLetters;
pub use difference::Difference;
pub use digest::{JobSetDigest, JobSetHasher, payload_digest};
pub use error::{Conflict, DecodeError};
pub use generation::{GenerationOpened, IndexRanges, VerdictKey};
pub use grain::{Grain, TimeBucket};
pub use group_key::{GroupKey, LabelSet};
pub use job::{Cursor, Job, JobBatch, JobBatchDecoder, JobBatchEncoder, JobHeader, Jobs};
pub use ledger::Ledger;
pub use outcome::{DeadLetter, Outcome, OutcomeBatch, OutcomeBatchBuilder, Worker};
pub use reconciled::{OffsetRange, RunReconciled};
pub use reconciliation::{Collection, Reconciliation, Verdict};
pub use resume::Resume;
pub use run::{
    Cut, Manifest, ResultsPolicy, RunAborted, RunEvent, RunOpened, RunOptions, TimeColumn,
};
pub use run_history::RunHistory;
pub use run_id::RunId;
pub use run_log::RunLog;
pub use timeline::{Generation, GenerationEnd, Timeline};
pub use verdict::{Judged, Settlement};
pub use writer_id::WriterId;

/// The generated protobuf messages, for those who need a field that the types of this crate hide.
#[allow(missing_docs, clippy::pedantic, unused_qualifications)]
pub mod wire {
    pub use prost::Message;

    include!(concat!(env!("OUT_DIR"), "/rollcall.v2.rs"));
}

//! The only crate that names rdkafka: one table of client settings, a producer and consumers that
//! move batches through librdkafka's C API, the topics, the runs topic, and the in-process broker.
//!
//! Configuration, callbacks, administration and errors stay rdkafka's; only the two hot calls
//! (producing and consuming a batch) go to C directly, because a call per message costs two to
//! three times as much end to end (docs/adr/0003).

pub mod args;
pub mod cancellations;
mod closing;
pub mod cluster;
pub mod dlq;
pub mod error;
pub mod group_consumer;
pub mod in_process;
pub mod offsets;
mod passing;
pub mod producer;
mod queue;
pub mod reader;
pub mod record;
pub mod rejection;
pub mod rights;
pub mod runs;
pub mod settings;
pub mod survey;
pub mod topics;
pub mod transactions;
mod within;

pub use args::BrokerArgs;
pub use cancellations::{CancellationReader, SharedCancellations};
pub use cluster::Cluster;
pub use dlq::{DlqRecord, read_dlq};
pub use error::Error;
pub use group_consumer::{Assigned, GroupConsumer, Membership, RebalanceListener};
pub use in_process::InProcessBroker;
pub use offsets::{GroupOffsets, beginning_offsets, decided_end_offsets, end_offsets};
pub use producer::{BatchProducer, Delivery, Header, Outgoing, Topic};
pub use rdkafka::types::RDKafkaErrorCode as ErrorCode;
pub use reader::{Reader, read_to_end};
pub use record::{Record, RecordBatch};
pub use rejection::Rejection;
pub use runs::{
    RunEventWriter, RunsReader, all_run_events, check_frozen_outcomes, lost_partition,
    open_generation, publish_run_event, remove_runs, retract_abort, run_history,
};
pub use survey::{Refusal, Survey, survey};
pub use topics::{TopicNames, TopicSpec, default_group};
pub use transactions::{GroupMetadata, TransactionError, TransactionalProducer};

//! A reader of the dead-letter topic with its headers, which the batched [`Reader`](crate::Reader)
//! leaves out. Dead letters are few, so they are read one by one.

use std::time::Duration;

use pipeline::offsets::of_partition;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::offsets::{beginning_offsets, decided_end_offsets};
use crate::reader::{advance, assign, consumer};
use crate::topics;

/// A record of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlqRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The names and values of its headers. A header whose value is not UTF-8 is left out.
    pub headers: Vec<(String, String)>,
    /// Its value.
    pub payload: Vec<u8>,
}

/// Passes each record that the dead-letter topic has now to `visit`, as
/// [`read_to_end`](crate::read_to_end) does. Visits nothing when the topic does not exist.
///
/// # Errors
/// When the topic cannot be read, or [`Error::Stopped`] when `stopped` returns true.
pub fn read_dlq(
    cluster: &Cluster,
    topic: &str,
    stopped: &dyn Fn() -> bool,
    visit: &mut dyn FnMut(DlqRecord),
) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(100);
    let Some(partitions) = topics::partition_count(cluster, topic)? else {
        return Ok(());
    };
    let mut next = beginning_offsets(cluster, topic, partitions)?;
    let end = decided_end_offsets(cluster, topic, partitions, stopped)?;
    let consumer = consumer(cluster)?;
    assign(&consumer, topic, &next)?;
    while next.iter().zip(&end).any(|(next, end)| next < end) {
        if stopped() {
            return Err(Error::Stopped);
        }
        match consumer.poll(STEP) {
            None => {}
            Some(Ok(message)) => {
                advance(&mut next, message.partition(), message.offset() + 1);
                visit(DlqRecord {
                    partition: message.partition(),
                    offset: message.offset(),
                    headers: headers_of(&message),
                    payload: message.payload().unwrap_or_default().to_vec(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if let Some(end) = of_partition(&end, partition) {
                    advance(&mut next, partition, end);
                }
            }
            Some(Err(error)) => check_error(topic, &error)?,
        }
        consumer.context().check_admission()?;
    }
    Ok(())
}

fn headers_of(message: &impl Message) -> Vec<(String, String)> {
    let headers = message.headers();
    let headers = headers.into_iter().flat_map(Headers::iter);
    headers
        .filter_map(|header| {
            let value = std::str::from_utf8(header.value?).ok()?;
            Some((header.key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Returns the errors that do not pass. The others, such as a leader that moved or a broker that
/// restarted, are retried by librdkafka's fetcher. Where the client reports no partition, partition 0
/// is named, because the topic that rollcall creates has one partition.
fn check_error(topic: &str, error: &KafkaError) -> Result<(), Error> {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Err(Error::OffsetOutOfRange {
                topic: topic.to_owned(),
                partition: 0,
            })
        }
        Some(
            code @ (RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition),
        ) => Err(Error::unread(topic, 0, code)),
        _ => {
            tracing::debug!(topic, %error, "reading dead letters");
            Ok(())
        }
    }
}

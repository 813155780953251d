//! The queues of a consumer: one for the records of its partitions, read in batches, and its own one
//! for events.
//!
//! A batch read on the consumer's own queue would drop its rebalance events. So each assigned partition
//! is forwarded to a queue that is created here, and the consumer's own queue holds events only.

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use crate::error::Error;
use crate::record::{Record, RecordBatch};

/// The most messages that one call returns.
const MAX_MESSAGES: usize = 1024;

/// The target for the payload bytes of one batch. At this size the cost of the call is already small in
/// comparison; for messages above 64 KiB, batches are not faster.
const TARGET_BYTES: usize = 1024 * 1024;

/// An entry of the queue that is not a message: an error or the end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionError {
    pub(crate) partition: i32,
    /// The end offset, where `code` is [`PartitionEOF`](RDKafkaErrorCode::PartitionEOF).
    pub(crate) offset: i64,
    pub(crate) code: RDKafkaErrorCode,
}

impl PartitionError {
    /// The error for the caller of this crate; `None` for the end of a partition and for errors after
    /// which librdkafka continues by itself.
    pub(crate) fn into_error(self, topic: &str) -> Option<Error> {
        let partition = self.partition;
        match self.code {
            RDKafkaErrorCode::PartitionEOF => None,
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                Some(Error::OffsetOutOfRange {
                    topic: topic.to_owned(),
                    partition,
                })
            }
            // These do not pass. All others, such as a leader that moved or a broker that restarted,
            // are retried by librdkafka's fetcher.
            code @ (RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::NotImplemented) => Some(Error::unread(topic, partition, code)),
            code => {
                tracing::debug!(topic, partition, %code, "consumer error");
                None
            }
        }
    }
}

/// A queue to which partitions are forwarded. It must be dropped before its consumer: the consumer's
/// close waits for ever for a queue that still exists.
pub(crate) struct DataQueue {
    queue: *mut sys::rd_kafka_queue_t,
    /// Reused by all calls; empty between them.
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// The average payload of the last batch, which determines the size of the next one.
    average_bytes: usize,
}

// SAFETY: librdkafka's queues may be used from any thread; `&mut self` allows one thread at a time.
unsafe impl Send for DataQueue {}

impl DataQueue {
    /// Creates a queue of a consumer.
    pub(crate) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client's handle is valid as long as `consumer` lives.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self {
            queue,
            messages: Vec::with_capacity(MAX_MESSAGES),
            average_bytes: TARGET_BYTES / 16,
        }
    }

    /// The target to forward partitions to, for a rebalance callback.
    pub(crate) fn target(&self) -> ForwardTarget {
        ForwardTarget(self.queue)
    }

    /// Appends messages to `batch` and errors to `errors`. Returns when there are about as many as
    /// [`TARGET_BYTES`] hold, or after `timeout`.
    pub(crate) fn consume(
        &mut self,
        timeout: Duration,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        let wanted = (TARGET_BYTES / self.average_bytes.max(1)).clamp(1, MAX_MESSAGES);
        self.consume_up_to(wanted, timeout, batch, errors);
    }

    /// Takes one message as soon as there is one, and waits at most `timeout` for it. (A call for
    /// several messages waits until all have arrived or the timeout is over.)
    pub(crate) fn consume_one(
        &mut self,
        timeout: Duration,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        self.consume_up_to(1, timeout, batch, errors);
    }

    /// Takes at most `at_most` messages. Does not wait.
    pub(crate) fn consume_at_most(
        &mut self,
        at_most: usize,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        let wanted = at_most.min(MAX_MESSAGES);
        if wanted > 0 {
            self.consume_up_to(wanted, Duration::ZERO, batch, errors);
        }
    }

    /// Forwards the messages of this queue, present and future ones, to another queue.
    pub(crate) fn forward_to(&self, other: &Self) {
        // SAFETY: both queues are alive; librdkafka keeps a reference to the other one while it
        // forwards.
        unsafe { sys::rd_kafka_queue_forward(self.queue, other.queue) };
    }

    fn consume_up_to(
        &mut self,
        wanted: usize,
        timeout: Duration,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the buffer has room for `MAX_MESSAGES >= wanted` pointers, and the call writes the
        // number of pointers that it returns.
        let taken = unsafe {
            let taken = sys::rd_kafka_consume_batch_queue(
                self.queue,
                timeout_ms,
                self.messages.as_mut_ptr(),
                wanted,
            );
            let taken = usize::try_from(taken).unwrap_or(0);
            self.messages.set_len(taken);
            taken
        };
        let before = batch.bytes();
        for message in self.messages.drain(..) {
            // SAFETY: the pointer was just returned by librdkafka and is destroyed once, below; payload
            // and key are valid until then and are copied.
            unsafe {
                let raw = &*message;
                if raw.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    batch.push(Record {
                        partition: raw.partition,
                        offset: raw.offset,
                        key: bytes(raw.key, raw.key_len),
                        payload: bytes(raw.payload, raw.len).unwrap_or_default(),
                    });
                } else {
                    errors.push(PartitionError {
                        partition: raw.partition,
                        offset: raw.offset,
                        code: raw.err.into(),
                    });
                }
                sys::rd_kafka_message_destroy(message);
            }
        }
        if let Some(average) = (batch.bytes() - before).checked_div(taken) {
            self.average_bytes = average;
        }
    }
}

impl Drop for DataQueue {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
    }
}

/// The bytes at a pointer; `None` for a null pointer.
///
/// # Safety
/// `data` is null or points to `len` bytes that outlive the use of the result.
unsafe fn bytes<'a>(data: *const std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller guarantees it.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// The queue to which partitions are forwarded. Valid as long as its [`DataQueue`].
#[derive(Clone, Copy)]
pub(crate) struct ForwardTarget(*mut sys::rd_kafka_queue_t);

// SAFETY: the pointer is only passed to librdkafka, whose queues may be used from any thread.
unsafe impl Send for ForwardTarget {}
// SAFETY: as above.
unsafe impl Sync for ForwardTarget {}

impl ForwardTarget {
    /// Forwards the messages of a partition to the queue. Needed at each assignment of the partition,
    /// because librdkafka ends the forwarding when the partition is revoked.
    pub(crate) fn forward<C: ClientContext>(
        self,
        client: &rdkafka::client::Client<C>,
        topic: &str,
        partition: i32,
    ) {
        let Ok(topic) = CString::new(topic) else {
            return;
        };
        // SAFETY: the handle is valid as long as `client`, the topic's name for the call; the reference
        // to the partition's queue is released.
        unsafe {
            let queue =
                sys::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition);
            if !queue.is_null() {
                sys::rd_kafka_queue_forward(queue, self.0);
                sys::rd_kafka_queue_destroy(queue);
            }
        }
    }
}

/// A consumer's own queue, which holds its events: rebalances, results of commits, errors. Like a
/// [`DataQueue`], it must be dropped before its consumer.
pub(crate) struct EventQueue(*mut sys::rd_kafka_queue_t);

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for EventQueue {}

impl EventQueue {
    /// The event queue of a consumer with a `group.id`.
    pub(crate) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client's handle is valid as long as `consumer` lives.
        Self(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) })
    }

    /// The number of events to be served. (rdkafka's `poll` serves one and does not return whether
    /// there are more.)
    pub(crate) fn waiting(&self) -> usize {
        if self.0.is_null() {
            return 0;
        }
        // SAFETY: the reference is held until this is dropped.
        unsafe { sys::rd_kafka_queue_length(self.0) }
    }
}

impl Drop for EventQueue {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the reference was taken by `new` and is released once.
            unsafe { sys::rd_kafka_queue_destroy(self.0) };
        }
    }
}

/// Whether a consumer is a member of its group, by its own state: it is, until it has sent the request
/// to leave.
pub(crate) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    // SAFETY: the handle is valid as long as `consumer`; the text, which ends with a nul byte, is owned
    // by the caller and freed here.
    unsafe {
        let client = consumer.client().native_ptr();
        let id = sys::rd_kafka_memberid(client);
        let is_named = !id.is_null() && *id != 0;
        if !id.is_null() {
            sys::rd_kafka_mem_free(client, id.cast());
        }
        is_named
    }
}

/// The beginning and end offsets of a partition, as of the last fetch from its leader. Sends no
/// request. `None` before the first fetch.
pub(crate) fn known_watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<(i64, i64)> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the handle is valid as long as `consumer`, the topic's name and both numbers for the
    // call.
    let code = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    let known = code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0;
    known.then_some((low.max(0), high))
}

/// The metadata of the offsets in a list, in its order; empty for an offset without metadata.
/// (rdkafka's own accessor panics on bytes that are not UTF-8, and any client may have written them.)
pub(crate) fn metadata(list: &rdkafka::TopicPartitionList) -> Vec<String> {
    let raw = list.ptr();
    // SAFETY: the list is alive; it has `cnt` elements, whose metadata is null or has `metadata_size`
    // bytes.
    unsafe {
        let elements = (0..(*raw).cnt).map(|position| &*(*raw).elems.offset(position as isize));
        elements
            .map(|element| bytes(element.metadata, element.metadata_size))
            .map(|metadata| String::from_utf8_lossy(metadata.unwrap_or_default()).into_owned())
            .collect()
    }
}

/// Starts a commit whose result is passed to the consumer's `commit_callback`. (rdkafka's own
/// asynchronous commit drops the result.)
pub(crate) fn commit_async<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &rdkafka::TopicPartitionList,
) -> Result<(), RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    // SAFETY: handle and list are valid for the call, which copies the list; the reference to the
    // consumer's queue is released.
    let code = unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(client);
        let code = sys::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, ptr::null_mut());
        sys::rd_kafka_queue_destroy(queue);
        code
    };
    if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(code.into())
    }
}

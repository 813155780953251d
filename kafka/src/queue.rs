//! One queue for the data of all partitions, read in batches.
//!
//! A batch read on the consumer's own queue would swallow its rebalance events, so each assigned
//! partition is forwarded to a queue of its own making, and the consumer's is left for events.

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use crate::error::Error;
use crate::record::{Record, RecordBatch};

/// The most messages that one call takes.
const MAX_MESSAGES: usize = 1024;

/// How many payload bytes one call aims at. Messages over 64 KiB gain nothing, and a batch of this
/// size already spreads the price of a call.
const TARGET_BYTES: usize = 1024 * 1024;

/// Something on the queue that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionError {
    pub(crate) partition: i32,
    /// For the end of a partition: the offset at which it is.
    pub(crate) offset: i64,
    pub(crate) code: RDKafkaErrorCode,
}

impl PartitionError {
    /// The error for a user of this crate; `None` for those that librdkafka gets over by itself.
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
            // Leaders move and brokers restart; the fetcher asks again.
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

/// A queue that partitions are forwarded to. It must be dropped before its consumer: a consumer's
/// close waits for ever for a queue that is still there.
pub(crate) struct DataQueue {
    queue: *mut sys::rd_kafka_queue_t,
    /// Reused between calls; holds no messages outside of one.
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// Average payload of the last batch, to size the next one by.
    average_bytes: usize,
}

// SAFETY: librdkafka's queues may be used from any thread; this one is used by one at a time.
unsafe impl Send for DataQueue {}

impl DataQueue {
    /// A new queue of a consumer.
    pub(crate) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client's handle is valid as long as `consumer` lives.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self {
            queue,
            messages: Vec::with_capacity(MAX_MESSAGES),
            average_bytes: TARGET_BYTES / 16,
        }
    }

    /// A reference for forwarding partitions from a rebalance.
    pub(crate) fn target(&self) -> ForwardTarget {
        ForwardTarget(self.queue)
    }

    /// Takes as many messages as a batch is good for, or those that come within `timeout`.
    /// Messages are appended to `batch`, errors to `errors`.
    pub(crate) fn consume(
        &mut self,
        timeout: Duration,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        let wanted = (TARGET_BYTES / self.average_bytes.max(1)).clamp(1, MAX_MESSAGES);
        self.consume_up_to(wanted, timeout, batch, errors);
    }

    /// Takes one message as soon as there is one, waiting at most `timeout`. (A call for many waits
    /// its whole time-out to fill.)
    pub(crate) fn consume_one(
        &mut self,
        timeout: Duration,
        batch: &mut RecordBatch,
        errors: &mut Vec<PartitionError>,
    ) {
        self.consume_up_to(1, timeout, batch, errors);
    }

    /// Takes at most so many messages, those that are there.
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

    /// Sends what is on this queue, and what will come to it, to another one.
    pub(crate) fn forward_to(&self, other: &Self) {
        // SAFETY: both queues live; librdkafka keeps a reference to the other one for as long as it
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
        // SAFETY: the buffer has room for `MAX_MESSAGES >= wanted` pointers, and the call writes as
        // many of them as it returns.
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
            // SAFETY: the pointer was just handed out by librdkafka and is destroyed once, below;
            // its payload and key are valid until then and are copied.
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

/// # Safety
/// `data` is null or points to `len` bytes that outlive the use of the result.
unsafe fn bytes<'a>(data: *const std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// Where partitions are forwarded to. Valid as long as its [`DataQueue`].
#[derive(Clone, Copy)]
pub(crate) struct ForwardTarget(*mut sys::rd_kafka_queue_t);

// SAFETY: the pointer is only handed to librdkafka, whose queues may be used from any thread.
unsafe impl Send for ForwardTarget {}
// SAFETY: as above.
unsafe impl Sync for ForwardTarget {}

impl ForwardTarget {
    /// Sends the data of a partition to the queue. To be done at every assignment of it: librdkafka
    /// undoes it when the partition is taken away.
    pub(crate) fn forward<C: ClientContext>(
        self,
        client: &rdkafka::client::Client<C>,
        topic: &str,
        partition: i32,
    ) {
        let Ok(topic) = CString::new(topic) else {
            return;
        };
        // SAFETY: the handle is valid as long as `client`, the topic's name for the call; the
        // reference to the partition's queue is given back.
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

/// A consumer's own queue, on which its events are: rebalances, results of commits, errors. It must
/// be dropped before its consumer, as a [`DataQueue`].
pub(crate) struct EventQueue(*mut sys::rd_kafka_queue_t);

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for EventQueue {}

impl EventQueue {
    /// The queue of a consumer that has a group.
    pub(crate) fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Self {
        // SAFETY: the client's handle is valid as long as `consumer` lives.
        Self(unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) })
    }

    /// How many events wait to be served. rdkafka's `poll` serves one and does not tell whether
    /// there are more.
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
            // SAFETY: the reference was taken by `new` and is given back once.
            unsafe { sys::rd_kafka_queue_destroy(self.0) };
        }
    }
}

/// Whether a consumer has a place in its group, as far as it knows: until it has asked to leave.
pub(crate) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    // SAFETY: the handle is valid as long as `consumer`; the text, which ends with a nul byte, is ours
    // and given back.
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

/// Where a partition begins and ends, as its leader said with the last messages that were fetched of
/// it: nobody is asked. `None` while none were.
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

/// The metadata of each offset in a list, in its order; empty where it has none. (rdkafka's own
/// accessor panics on bytes that are not UTF-8, and anybody may have written them.)
pub(crate) fn metadata(list: &rdkafka::TopicPartitionList) -> Vec<String> {
    let raw = list.ptr();
    // SAFETY: the list is alive; it has `cnt` elements, whose metadata is null or has the size that
    // stands beside it.
    unsafe {
        let elements = (0..(*raw).cnt).map(|position| &*(*raw).elems.offset(position as isize));
        elements
            .map(|element| bytes(element.metadata, element.metadata_size))
            .map(|metadata| String::from_utf8_lossy(metadata.unwrap_or_default()).into_owned())
            .collect()
    }
}

/// Asks for a commit whose result comes back through the consumer's `commit_callback`, unlike
/// rdkafka's asynchronous commit, which tells nobody.
pub(crate) fn commit_async<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &rdkafka::TopicPartitionList,
) -> Result<(), RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    // SAFETY: handle and list are valid for the call, which copies the list; the reference to the
    // consumer's queue is given back.
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

//! A producer that takes messages in batches: one call to librdkafka for all messages of a partition,
//! and one drain for all delivery reports.
//!
//! The caller names the partition, and messages on the hot path have neither key nor headers: measured,
//! the two together triple the cost of a message.

use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka_sys as sys;
use tracing::debug;

use crate::cluster::{Cluster, log_error, log_line};
use crate::error::Error;
use crate::rejection::AuthenticationState;
use crate::settings::{self, Role};

/// How long a drain sleeps between two polls. (`poll` with a timeout always waits for all of it.)
pub(crate) const DRAIN_STEP: Duration = Duration::from_micros(250);

/// A message to be produced.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its value.
    pub payload: &'a [u8],
    /// Any number of the caller's, returned with the [`Delivery`].
    pub id: usize,
}

/// A header of a message; not for the hot path.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// The delivery report of a message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The [id](Outgoing::id) of the message.
    pub id: usize,
    /// The partition.
    pub partition: i32,
    /// Its offset in the partition; -1 when the message was not delivered.
    pub offset: i64,
    /// Why the message was not delivered; `None` when it was.
    pub error: Option<RDKafkaErrorCode>,
}

/// The callbacks of a producer.
pub(crate) struct Context {
    authentication: Arc<AuthenticationState>,
    /// Reports that no poll has returned yet.
    deliveries: Mutex<Vec<Delivery>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.authentication.record_error(&error, reason);
        log_error(&error, reason);
    }
}

impl ProducerContext for Context {
    // rdkafka converts the opaque pointer of each message to this type. With a plain number that is
    // safe for messages that were produced through the C API, too.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                (message, Some(code.unwrap_or(RDKafkaErrorCode::Fail)))
            }
        };
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Delivery {
                id,
                partition: message.partition(),
                offset: message.offset(),
                error,
            });
    }
}

/// A topic to produce to. Created by [`BatchProducer::topic`], and valid with that producer only.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The position in the producer's list of topics.
    position: usize,
    name: String,
}

impl Topic {
    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The C API's handle of a topic, destroyed before its client.
struct RawTopic(*mut sys::rd_kafka_topic_t);

// SAFETY: librdkafka's topic handles may be used from any thread.
unsafe impl Send for RawTopic {}

impl Drop for RawTopic {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_topic_new`, destroyed once.
        unsafe { sys::rd_kafka_topic_destroy(self.0) };
    }
}

/// A producer of batches. Its queue is bounded; messages that do not fit are returned to the caller.
pub struct BatchProducer {
    // Dropped in this order: topics before their client.
    topics: Vec<RawTopic>,
    // Shared with a call that may outlast its timeout, see `TransactionalProducer::send_offsets`.
    pub(crate) producer: Arc<BaseProducer<Context>>,
    /// Reused between calls.
    messages: Vec<sys::rd_kafka_message_t>,
}

// SAFETY: the raw messages between calls hold no pointers (the vector is empty), and librdkafka's
// handles may be used from any thread.
unsafe impl Send for BatchProducer {}

impl BatchProducer {
    /// A producer for a cluster. It connects in the background.
    ///
    /// # Errors
    /// When a property is wrong.
    pub fn new(cluster: &Cluster) -> Result<Self, Error> {
        Self::with_config(cluster, &cluster.config(Role::Producer))
    }

    /// A producer that sends each message at once and at most once: one whose answer is lost is given
    /// up.
    ///
    /// # Errors
    /// When a property is wrong.
    pub fn without_retries(cluster: &Cluster) -> Result<Self, Error> {
        let mut config = cluster.config(Role::Producer);
        config.set("message.send.max.retries", "0");
        // Each is waited for alone: there is nothing to fill a batch with.
        config.set("linger.ms", "0");
        // An idempotent producer wants to retry.
        config.set("enable.idempotence", "false");
        Self::with_config(cluster, &config)
    }

    pub(crate) fn with_config(cluster: &Cluster, config: &ClientConfig) -> Result<Self, Error> {
        let context = Context {
            authentication: Arc::clone(cluster.authentication()),
            deliveries: Mutex::default(),
        };
        Ok(Self {
            topics: Vec::new(),
            producer: Arc::new(settings::create(config, context)?),
            messages: Vec::new(),
        })
    }

    /// Creates the handle of a topic to produce to.
    ///
    /// # Errors
    /// When the name is not valid for a topic.
    pub fn topic(&mut self, name: &str) -> Result<Topic, Error> {
        let wrong = || Error::Topic {
            topic: name.to_owned(),
            action: "produce to it",
            source: KafkaError::Nul(CString::new("\0").expect_err("it has a nul byte")),
        };
        let c_name = CString::new(name).map_err(|_| wrong())?;
        // SAFETY: the client's handle is valid as long as `self.producer`; a null configuration stands
        // for the client's default.
        let raw = unsafe {
            sys::rd_kafka_topic_new(
                self.producer.client().native_ptr(),
                c_name.as_ptr(),
                ptr::null_mut(),
            )
        };
        if raw.is_null() {
            return Err(wrong());
        }
        self.topics.push(RawTopic(raw));
        Ok(Topic {
            position: self.topics.len() - 1,
            name: name.to_owned(),
        })
    }

    /// Enqueues copies of messages for one partition. Returns the messages for which the queue had no
    /// room; they are to be produced again after a [`poll`](Self::poll).
    ///
    /// # Errors
    /// When a message can never be produced: it is too large, or the partition does not exist.
    pub fn produce<'a>(
        &mut self,
        topic: &Topic,
        partition: i32,
        batch: &[Outgoing<'a>],
    ) -> Result<Vec<Outgoing<'a>>, Error> {
        self.messages.clear();
        self.messages.extend(batch.iter().map(|message| {
            // SAFETY: an all-zero message is the C API's empty one.
            let mut raw: sys::rd_kafka_message_t = unsafe { std::mem::zeroed() };
            raw.payload = message.payload.as_ptr().cast_mut().cast();
            raw.len = message.payload.len();
            raw._private = ptr::without_provenance_mut(message.id);
            raw
        }));
        let count = i32::try_from(batch.len()).unwrap_or(i32::MAX);
        // SAFETY: the topic belongs to this client and both are alive; the payloads outlive the call,
        // which copies them (`F_COPY`) and keeps no pointer to the array.
        let accepted = unsafe {
            sys::rd_kafka_produce_batch(
                self.topics[topic.position].0,
                partition,
                sys::RD_KAFKA_MSG_F_COPY,
                self.messages.as_mut_ptr(),
                count,
            )
        };
        let mut refused = Vec::new();
        // The accepted messages need not be a prefix: each message has a result of its own.
        if usize::try_from(accepted) != Ok(batch.len()) {
            for (raw, message) in self.messages.iter().zip(batch) {
                match raw.err {
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => {
                        refused.push(*message);
                    }
                    code => {
                        self.messages.clear();
                        return Err(Error::untaken(&topic.name, partition, code.into()));
                    }
                }
            }
        }
        self.messages.clear();
        Ok(refused)
    }

    /// Enqueues one message with a key or headers, for the few messages that need them. Returns false
    /// when the queue is full.
    ///
    /// # Errors
    /// When the message can never be produced.
    pub fn produce_one(
        &self,
        topic: &Topic,
        partition: i32,
        key: Option<&[u8]>,
        headers: &[Header<'_>],
        message: Outgoing<'_>,
    ) -> Result<bool, Error> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic.name, message.id)
            .partition(partition)
            .payload(message.payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        if !headers.is_empty() {
            let mut owned = OwnedHeaders::new_with_capacity(headers.len());
            for header in headers {
                owned = owned.insert(KafkaHeader {
                    key: header.key,
                    value: Some(header.value),
                });
            }
            record = record.headers(owned);
        }
        self.send(topic, partition, record)
    }

    /// Enqueues a tombstone: a key without a value, which deletes the records of that key from a
    /// compacted topic. Returns false when the queue is full.
    ///
    /// # Errors
    /// When the message can never be produced.
    pub fn produce_tombstone(
        &self,
        topic: &Topic,
        partition: i32,
        key: &[u8],
    ) -> Result<bool, Error> {
        let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic.name, 0)
            .partition(partition)
            .key(key);
        self.send(topic, partition, record)
    }

    fn send(
        &self,
        topic: &Topic,
        partition: i32,
        record: BaseRecord<'_, [u8], [u8], usize>,
    ) -> Result<bool, Error> {
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(false),
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                Err(Error::untaken(&topic.name, partition, code))
            }
        }
    }

    /// Appends the delivery reports that have arrived to `deliveries`. Does not wait.
    pub fn poll(&self, deliveries: &mut Vec<Delivery>) {
        // One poll serves one event: the reports of one request.
        loop {
            self.producer.poll(Duration::ZERO);
            if self.take_reports(deliveries) == 0 {
                break;
            }
        }
    }

    fn take_reports(&self, deliveries: &mut Vec<Delivery>) -> usize {
        let mut reported = self
            .producer
            .context()
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = reported.len();
        deliveries.append(&mut reported);
        taken
    }

    /// Connects to the leader of a topic's first partition, by a request whose result does not matter:
    /// a client connects to a broker when it has something to ask it. Where that takes longer than
    /// `timeout`, it goes on in the background.
    pub(crate) fn connect(&self, topic: &str, timeout: Duration) {
        if let Err(error) = self.producer.client().fetch_watermarks(topic, 0, timeout) {
            // Whether the topic can be written to is found out by the first message.
            debug!(%error, topic, "not connected yet");
        }
    }

    /// Checks that no broker has refused to authenticate this process; after a refusal no
    /// acknowledgement can arrive.
    ///
    /// # Errors
    /// [`Error::Rejected`] when one has. Errors are seen when the producer is [polled](Self::poll).
    pub fn check_admission(&self) -> Result<(), Error> {
        self.producer.context().authentication.check()
    }

    /// The number of messages that are queued or sent and that no [`poll`](Self::poll) has reported
    /// yet.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Polls until every message is reported, for `timeout` at most. Returns whether all messages are
    /// reported. (rdkafka's own `flush` rounds up to 10 ms.)
    pub fn drain(&self, timeout: Duration, deliveries: &mut Vec<Delivery>) -> bool {
        let until = Instant::now() + timeout;
        loop {
            self.poll(deliveries);
            if self.in_flight() == 0 {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(DRAIN_STEP);
        }
    }
}

//! A producer that takes messages by the batch: one call to librdkafka for all messages of a
//! partition, one drain of delivery reports for all that came in.
//!
//! The partition is named by the caller and there is no key and no header on the hot path: measured,
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

use crate::cluster::{Cluster, log_error, log_line};
use crate::error::Error;
use crate::rejection::Admission;
use crate::settings::{self, Role};

/// How long a drain sleeps between two looks: `poll` with a time-out takes all of it.
pub(crate) const DRAIN_STEP: Duration = Duration::from_micros(250);

/// A message to be produced.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its value.
    pub payload: &'a [u8],
    /// Comes back with its [`Delivery`].
    pub id: usize,
}

/// A header of a message off the hot path.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// What became of a message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// As given with the message.
    pub id: usize,
    /// The partition it went to.
    pub partition: i32,
    /// Its offset there; -1 when it was not delivered.
    pub offset: i64,
    /// Why it was not delivered; `None` when it was.
    pub error: Option<RDKafkaErrorCode>,
}

pub(crate) struct Context {
    admission: Arc<Admission>,
    deliveries: Mutex<Vec<Delivery>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.admission.hear(&error, reason);
        log_error(&error, reason);
    }
}

impl ProducerContext for Context {
    // rdkafka turns every message's opaque back into this type; a plain number makes that safe for
    // the messages that were produced through the C API, too.
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

/// A topic to produce to. Made by [`BatchProducer::topic`], and of use with that producer only.
#[derive(Clone, Debug)]
pub struct Topic {
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

/// A producer of batches. Its queue is bounded; what does not fit is handed back.
pub struct BatchProducer {
    // Dropped in this order: topics before their client.
    topics: Vec<RawTopic>,
    // Shared with a call that may be left behind, see `TransactionalProducer::send_offsets`.
    pub(crate) producer: Arc<BaseProducer<Context>>,
    /// Reused between calls.
    messages: Vec<sys::rd_kafka_message_t>,
}

// SAFETY: the raw messages between calls hold no pointers (the vector is empty), and librdkafka's
// handles may be used from any thread.
unsafe impl Send for BatchProducer {}

impl BatchProducer {
    /// A producer for a cluster. It connects by itself, in the background.
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
            admission: Arc::clone(cluster.admission()),
            deliveries: Mutex::default(),
        };
        Ok(Self {
            topics: Vec::new(),
            producer: Arc::new(settings::create(config, context)?),
            messages: Vec::new(),
        })
    }

    /// Names a topic to produce to.
    ///
    /// # Errors
    /// When the name is none that a topic can have.
    pub fn topic(&mut self, name: &str) -> Result<Topic, Error> {
        let wrong = || Error::Topic {
            topic: name.to_owned(),
            action: "produce to it",
            source: KafkaError::Nul(CString::new("\0").expect_err("it has a nul byte")),
        };
        let c_name = CString::new(name).map_err(|_| wrong())?;
        // SAFETY: the client's handle is valid as long as `self.producer`; a null configuration is
        // the client's default one.
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

    /// Hands messages for one partition to the producer, which copies them. Returns the messages
    /// that found its queue full, to be handed over again after a [`poll`](Self::poll).
    ///
    /// # Errors
    /// When a message can never be produced: it is too large, or there is no such partition.
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
        // SAFETY: the topic belongs to this client and both are alive; the messages' payloads live
        // through the call, which copies them (`F_COPY`) and keeps no pointer to the array.
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
        // A subset may have been accepted, not a prefix: each message tells for itself.
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

    /// Hands one message with a key or headers to the producer; for the few that need them. Returns
    /// false when its queue is full.
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

    /// Hands a tombstone to the producer: a key without a value, which takes back the records of
    /// that key on a compacted topic. Returns false when its queue is full.
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

    /// Serves delivery reports and appends what became of messages to `deliveries`. Does not wait.
    pub fn poll(&self, deliveries: &mut Vec<Delivery>) {
        // One poll serves one event, which is the reports of one request.
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

    /// Whether there is any use in waiting for acknowledgements.
    ///
    /// # Errors
    /// [`Error::Rejected`] when a broker has said no to this process, as far as it was
    /// [polled](Self::poll).
    pub fn check_admission(&self) -> Result<(), Error> {
        self.producer.context().admission.check()
    }

    /// How many messages are in the producer's queue or on their way, or wait for a
    /// [`poll`](Self::poll) to report them.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Polls until every message is reported or `deadline` is over; tells whether all were. (The
    /// producer's own `flush` rounds up to 10 ms.)
    pub fn drain(&self, deadline: Duration, deliveries: &mut Vec<Delivery>) -> bool {
        let until = Instant::now() + deadline;
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

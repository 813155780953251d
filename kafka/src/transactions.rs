//! A producer whose messages and committed offsets become visible together, or not at all.
//!
//! The calls of a transaction are `begin`, `produce`, `drain`, `send_offsets`, and `commit` or `abort`,
//! in this order. Each call waits for the broker, so it belongs on a thread of its own. The variant of
//! a [`TransactionError`] says what to do after it.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pipeline::offsets::Commit;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use crate::cluster::Cluster;
use crate::error::{Error, is_denial};
use crate::group_consumer::commit_list;
use crate::producer::{BatchProducer, Context, DRAIN_STEP, Topic};
use crate::settings::Role;
use crate::within::call_with_timeout;

/// The time between two attempts of a call that failed with a retriable error.
const RETRY_STEP: Duration = Duration::from_millis(20);

/// The timeout of the first connection: the time that the connection saves.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How much longer than its timeout a call may take before it is left behind.
const GRACE: Duration = Duration::from_secs(1);

/// The identity of a member of a group: group, member id and generation of the group. A broker refuses
/// offsets of an old generation, so it is to be read anew for each transaction, on the thread that
/// serves the member's rebalances.
pub struct GroupMetadata(pub(crate) ConsumerGroupMetadata);

impl fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupMetadata")
    }
}

/// A call of a transactional producer that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The producer's `transactional.id`.
    pub transactional_id: String,
    /// The call, as a verb for the message.
    pub action: &'static str,
    /// librdkafka's message.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transactional_id,
            action,
            reason,
        } = self;
        write!(
            f,
            "transactions of {transactional_id}: cannot {action}: {reason}"
        )
    }
}

/// An error of a transaction. The variants are what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransactionError {
    /// The broker is away or busy. Nothing has changed, so the same call may be repeated.
    #[error("{0}; the broker may be away, try again")]
    Retriable(Failure),

    /// The transaction is lost and the producer is not: [`abort`](TransactionalProducer::abort) the
    /// transaction and begin another one.
    #[error("{0}; the transaction is to be aborted")]
    Abortable(Failure),

    /// The producer is fenced: another producer has the same transactional id, or the transaction
    /// exceeded `transaction.timeout.ms`, so the broker aborted it. This producer cannot be used any
    /// more.
    #[error(
        "{0}; another worker has its name, or it stood still for longer than \
         transaction.timeout.ms: give each worker a --group-instance-id of its own"
    )]
    Fenced(Failure),

    /// The user of this process is not allowed to make the call; a new producer would not be either.
    #[error(
        "{0}; grant this user what docs/security.md lists for a worker with transactions, or name \
         another user (sasl.username)"
    )]
    Denied(Failure),

    /// This producer cannot be used any more: [`renew`](TransactionalProducer::renew) it.
    #[error("{0}; this producer cannot be used any more: start the worker again")]
    Fatal(Failure),

    /// The transaction may be committed, aborted or still open. The initialisation of a
    /// [renewed](TransactionalProducer::renew) producer ends it.
    #[error("{0}; it is unknown whether the transaction is committed: start the worker again")]
    Unknown(Failure),
}

/// The error of a call that failed with retriable errors until its timeout.
#[derive(Clone, Copy)]
enum AfterTimeout {
    /// [`TransactionError::Retriable`]: the call has changed nothing.
    Retriable,
    /// [`TransactionError::Unknown`]: the call may have ended the transaction.
    Unknown,
}

/// A producer of batches in transactions.
pub struct TransactionalProducer {
    batches: BatchProducer,
    cluster: Cluster,
    transactional_id: String,
    /// The names of the topics that were created, for a renewed producer.
    topics: Vec<String>,
}

impl TransactionalProducer {
    /// A producer with this `transactional.id`. Of the producers with the same id, only the one that
    /// was [initialised](Self::init) last can be used; the others are fenced.
    ///
    /// # Errors
    /// When a property is wrong.
    pub fn new(cluster: &Cluster, transactional_id: &str) -> Result<Self, Error> {
        Ok(Self {
            batches: connect(cluster, transactional_id)?,
            cluster: cluster.clone(),
            transactional_id: transactional_id.to_owned(),
            topics: Vec::new(),
        })
    }

    /// Replaces the client by a new one, after a fatal error. The new client is to be
    /// [initialised](Self::init); topics stay valid.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn renew(&mut self) -> Result<(), Error> {
        let mut batches = connect(&self.cluster, &self.transactional_id)?;
        for topic in &self.topics {
            batches.topic(topic)?;
        }
        self.batches = batches;
        Ok(())
    }

    /// Creates the handle of a topic to produce to.
    ///
    /// # Errors
    /// As [`BatchProducer::topic`].
    pub fn topic(&mut self, name: &str) -> Result<Topic, Error> {
        let topic = self.batches.topic(name)?;
        self.topics.push(name.to_owned());
        Ok(topic)
    }

    /// Initialises transactions and fences earlier producers with the same id. An open transaction of
    /// one of them is ended: committed if the commit was already decided, else aborted.
    ///
    /// # Errors
    /// [`TransactionError::Retriable`] when the broker did not answer within `timeout`.
    pub fn init(&self, timeout: Duration) -> Result<(), TransactionError> {
        const ACTION: &str = "initialise";
        self.connect_first(timeout.min(CONNECT_TIMEOUT));
        let initialised = self.retry(
            ACTION,
            timeout,
            AfterTimeout::Retriable,
            |producer, left| producer.init_transactions(left),
        );
        if let Err(TransactionError::Retriable(_)) = initialised {
            // No message is in flight, so all events are errors of connections.
            self.batches.poll(&mut Vec::new());
            if let Err(error) = self.batches.check_admission() {
                return Err(TransactionError::Denied(
                    self.failure(ACTION, error.to_string()),
                ));
            }
        }
        initialised
    }

    /// Connects to the leader of a partition by a request whose result does not matter. Without a
    /// connection to a broker by its id, librdkafka's initialisation would wait for 500 ms.
    fn connect_first(&self, timeout: Duration) {
        if let Some(topic) = self.topics.first() {
            self.batches.connect(topic, timeout);
        }
    }

    /// Begins a transaction. Sends no request.
    ///
    /// # Errors
    /// When the producer cannot be used any more.
    pub fn begin(&self) -> Result<(), TransactionError> {
        let begun = self.batches.producer.begin_transaction();
        begun.map_err(|error| self.failed("begin", &error))
    }

    /// Produces messages within the transaction, by the calls that `produce` makes.
    ///
    /// # Errors
    /// [`TransactionError::Abortable`] when a message cannot be produced.
    pub fn produce<T>(
        &mut self,
        produce: impl FnOnce(&mut BatchProducer) -> Result<T, Error>,
    ) -> Result<T, TransactionError> {
        produce(&mut self.batches).map_err(|error| {
            let is_denied = error.is_denied();
            let reason = error.to_string();
            match is_denied {
                true => TransactionError::Denied(self.failure("produce", reason)),
                false => self.lost("produce", &reason, None),
            }
        })
    }

    /// Waits until every message is acknowledged. To be called before [`commit`](Self::commit), which
    /// would wait in steps of 100 ms. Reports that another caller has [polled](BatchProducer::poll) are
    /// not checked.
    ///
    /// # Errors
    /// When a message was not delivered, or not all are acknowledged within `timeout`.
    pub fn drain(&self, timeout: Duration) -> Result<(), TransactionError> {
        let mut deliveries = Vec::new();
        let drained = self.batches.drain(timeout, &mut deliveries);
        if let Some(code) = deliveries.iter().find_map(|delivery| delivery.error) {
            return Err(self.undelivered(code));
        }
        if !drained {
            let reason = format!(
                "not acknowledged within {}",
                humantime::format_duration(timeout)
            );
            return Err(self.lost("deliver", &reason, None));
        }
        Ok(())
    }

    /// Adds the offsets of a group member to the transaction, which commits them.
    ///
    /// librdkafka 2.12 does not keep to the timeout here: when the group's coordinator has died, it
    /// looks for the next one only when a connection opens or closes, possibly never. So the call runs
    /// on a thread of its own, and is left behind there, with its client, when the timeout is over.
    ///
    /// # Errors
    /// [`TransactionError::Abortable`] when the generation of the group has changed,
    /// [`TransactionError::Fatal`] when the call was left behind.
    pub fn send_offsets(
        &self,
        topic: &str,
        commits: &[Commit],
        group: GroupMetadata,
        timeout: Duration,
    ) -> Result<(), TransactionError> {
        const ACTION: &str = "add offsets";
        let list = commit_list(topic, commits).map_err(|error| self.failed(ACTION, &error))?;
        let arguments = Arc::new((list, group.0));
        self.retry(
            ACTION,
            timeout,
            AfterTimeout::Retriable,
            |producer, left| {
                let (producer, arguments) = (Arc::clone(producer), Arc::clone(&arguments));
                let result = call_with_timeout(left + GRACE, "offsets", move || {
                    let (list, member) = &*arguments;
                    producer.send_offsets_to_transaction(list, member, left)
                });
                result.unwrap_or(Err(KafkaError::Canceled))
            },
        )
    }

    /// Commits the transaction, which must be [drained](Self::drain).
    ///
    /// # Errors
    /// After each error but [`TransactionError::Abortable`] it is unknown whether the transaction is
    /// committed.
    pub fn commit(&self, timeout: Duration) -> Result<(), TransactionError> {
        self.retry(
            "commit",
            timeout,
            AfterTimeout::Unknown,
            |producer, left| producer.commit_transaction(left),
        )
    }

    /// Aborts the transaction. Messages that are not sent yet are dropped; those that are sent are
    /// waited for.
    ///
    /// # Errors
    /// After each error the producer is to be [renewed](Self::renew).
    pub fn abort(&self, timeout: Duration) -> Result<(), TransactionError> {
        let aborted = self.retry("abort", timeout, AfterTimeout::Unknown, |producer, left| {
            // The call waits until the delivery reports of all messages are polled, so they are polled
            // here. (A purge before the call would leave gaps in the sequence numbers of partitions.)
            thread::scope(|scope| {
                let aborting = scope.spawn(move || producer.abort_transaction(left));
                while !aborting.is_finished() {
                    producer.poll(Duration::ZERO);
                    thread::sleep(DRAIN_STEP);
                }
                aborting.join().unwrap_or(Err(KafkaError::Canceled))
            })
        });
        // The reports of aborted messages are dropped.
        self.batches.poll(&mut Vec::new());
        aborted
    }

    /// Repeats a call while it fails with a retriable error, for `timeout` at most.
    fn retry(
        &self,
        action: &'static str,
        timeout: Duration,
        after_timeout: AfterTimeout,
        call: impl Fn(&Arc<BaseProducer<Context>>, Duration) -> KafkaResult<()>,
    ) -> Result<(), TransactionError> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Err(error) = call(&self.batches.producer, left) else {
                return Ok(());
            };
            let error = self.failed(action, &error);
            let TransactionError::Retriable(failure) = error else {
                return Err(error);
            };
            if Instant::now() >= until {
                return Err(match after_timeout {
                    AfterTimeout::Retriable => TransactionError::Retriable(failure),
                    AfterTimeout::Unknown => TransactionError::Unknown(failure),
                });
            }
            thread::sleep(RETRY_STEP);
        }
    }

    fn failure(&self, action: &'static str, reason: String) -> Failure {
        Failure {
            transactional_id: self.transactional_id.clone(),
            action,
            reason,
        }
    }

    /// The error of a call of the transactional API, by the flags of librdkafka's error. A call that
    /// was left behind still runs, and its client accepts no other.
    fn failed(&self, action: &'static str, error: &KafkaError) -> TransactionError {
        if let KafkaError::Canceled = error {
            let reason = "the call does not return".to_owned();
            return TransactionError::Fatal(self.failure(action, reason));
        }
        let KafkaError::Transaction(error) = error else {
            return self.lost(action, &error.to_string(), error.rdkafka_error_code());
        };
        let failure = self.failure(action, error.string());
        if is_denial(error.code()) {
            TransactionError::Denied(failure)
        } else if error.is_fatal() {
            fatal(failure, error.code())
        } else if error.is_retriable() {
            TransactionError::Retriable(failure)
        } else if error.txn_requires_abort() {
            TransactionError::Abortable(failure)
        } else {
            self.unclassified(failure, error)
        }
    }

    /// The error of a call whose error has none of librdkafka's flags. Such an error means that the
    /// call is not allowed in the current state, as when the producer failed meanwhile.
    fn unclassified(&self, failure: Failure, error: &RDKafkaError) -> TransactionError {
        match self.batches.producer.client().fatal_error() {
            Some((code, _)) => fatal(failure, code),
            None => {
                tracing::debug!(code = %error.code(), "an error of a transaction without a classification");
                TransactionError::Fatal(failure)
            }
        }
    }

    /// The error of a message that was not delivered. If librdkafka has purged it, the reason is the
    /// error of the transaction, which `begin_transaction` returns without changing anything.
    fn undelivered(&self, code: RDKafkaErrorCode) -> TransactionError {
        let is_purged = matches!(
            code,
            RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight
        );
        if is_purged
            && let Err(KafkaError::Transaction(why)) = self.batches.producer.begin_transaction()
        {
            return self.lost("deliver", &why.string(), Some(why.code()));
        }
        self.lost("deliver", &code.to_string(), Some(code))
    }

    /// The error after which the transaction is lost, and possibly the producer.
    fn lost(
        &self,
        action: &'static str,
        reason: &str,
        code: Option<RDKafkaErrorCode>,
    ) -> TransactionError {
        let failure = self.failure(action, reason.to_owned());
        if code.is_some_and(is_denial) {
            return TransactionError::Denied(failure);
        }
        match self.batches.producer.client().fatal_error() {
            Some((code, _)) => fatal(failure, code),
            None => TransactionError::Abortable(failure),
        }
    }
}

/// A client with this `transactional.id`.
fn connect(cluster: &Cluster, transactional_id: &str) -> Result<BatchProducer, Error> {
    let mut config = cluster.config(Role::Transactional);
    config.set("transactional.id", transactional_id);
    BatchProducer::with_config(cluster, &config)
}

/// The error for a fatal error of librdkafka's.
fn fatal(failure: Failure, code: RDKafkaErrorCode) -> TransactionError {
    match code {
        RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::ProducerFenced
        | RDKafkaErrorCode::InvalidProducerEpoch => TransactionError::Fenced(failure),
        _ => TransactionError::Fatal(failure),
    }
}

//! A producer whose messages and committed offsets become visible together, or not at all.
//!
//! A transaction is begun, filled, drained, given the offsets that go with it, and ended. Each call
//! waits for the broker, so it belongs on a thread that has nothing else to do. What an error leaves
//! to be done is its variant: see [`TransactionError`].

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
use crate::within::within;

/// Between two attempts at a call that the client says can be made again.
const RETRY_STEP: Duration = Duration::from_millis(20);

/// How long a first connection is waited for: as long as it saves.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// How much later than it was asked to a call may return.
const GRACE: Duration = Duration::from_secs(1);

/// Who a member of a group is, and in which generation of it. A broker refuses the offsets of a
/// transaction whose generation is over, so it is to be taken afresh for each transaction, by the
/// thread that serves the member's rebalances.
pub struct GroupMetadata(pub(crate) ConsumerGroupMetadata);

impl fmt::Debug for GroupMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupMetadata")
    }
}

/// Which call failed, and how.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The producer's lasting name.
    pub transactional_id: String,
    /// What was to be done.
    pub action: &'static str,
    /// What the client says.
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

/// Why a transaction does not go on, by what is left to be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransactionError {
    /// The broker is away or busy. Nothing has changed: the same call may be made again.
    #[error("{0}; the broker may be away, try again")]
    Retriable(Failure),

    /// The transaction is lost and the producer is not: [`abort`](TransactionalProducer::abort) it
    /// and begin another.
    #[error("{0}; the transaction is to be aborted")]
    Abortable(Failure),

    /// Another producer has taken over this one's transactional id, or the transaction took so long
    /// that the broker has ended it. This producer is of no use any more.
    #[error(
        "{0}; another worker has its name, or it stood still for longer than \
         transaction.timeout.ms: give each worker a --group-instance-id of its own"
    )]
    Fenced(Failure),

    /// The cluster does not allow it, and will not allow it to another producer either.
    #[error(
        "{0}; grant this user what docs/security.md lists for a worker with transactions, or name \
         another user (sasl.username)"
    )]
    Denied(Failure),

    /// This producer is of no use any more: [`renew`](TransactionalProducer::renew) it.
    #[error("{0}; its producer is of no use any more: start the worker again")]
    Fatal(Failure),

    /// Nobody has told whether the transaction has ended. A [renewed](TransactionalProducer::renew)
    /// producer ends it when it is initialised, one way or the other.
    #[error("{0}; nobody has told how the transaction has ended: start the worker again")]
    Unknown(Failure),
}

/// Whether a failed call leaves it open how a transaction has ended.
#[derive(Clone, Copy)]
enum WhenOver {
    Retriable,
    Unknown,
}

/// A producer of batches in transactions.
pub struct TransactionalProducer {
    batches: BatchProducer,
    cluster: Cluster,
    transactional_id: String,
    /// To be named again for a renewed producer.
    topics: Vec<String>,
}

impl TransactionalProducer {
    /// A producer that `transactional_id` is the lasting name of: of those with the same one, only
    /// the last that was [initialised](Self::init) may go on.
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

    /// Puts a new client in the place of one that is of no use any more. It is to be
    /// [initialised](Self::init) as the first one was; topics stay valid.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn renew(&mut self) -> Result<(), Error> {
        let mut batches = connect(&self.cluster, &self.transactional_id)?;
        for topic in &self.topics {
            batches.topic(topic)?;
        }
        self.batches = batches;
        Ok(())
    }

    /// Names a topic to produce to.
    ///
    /// # Errors
    /// As [`BatchProducer::topic`].
    pub fn topic(&mut self, name: &str) -> Result<Topic, Error> {
        let topic = self.batches.topic(name)?;
        self.topics.push(name.to_owned());
        Ok(topic)
    }

    /// Takes over the transactional id: a transaction that an earlier producer of this name left
    /// open is ended, committed if that had been decided, else aborted.
    ///
    /// # Errors
    /// [`TransactionError::Retriable`] when the broker did not answer within `patience`.
    pub fn init(&self, patience: Duration) -> Result<(), TransactionError> {
        const ACTION: &str = "initialise";
        self.connect_first(patience.min(CONNECT_PATIENCE));
        let initialised = self.again(ACTION, patience, WhenOver::Retriable, |producer, left| {
            producer.init_transactions(left)
        });
        if let Err(TransactionError::Retriable(_)) = initialised {
            // Nothing is in flight, so that only errors of connections can be there.
            self.batches.poll(&mut Vec::new());
            if let Err(error) = self.batches.check_admission() {
                return Err(TransactionError::Denied(
                    self.failure(ACTION, error.to_string()),
                ));
            }
        }
        initialised
    }

    /// A client that has no connection to a broker that it knows by its id when it is to be initialised
    /// looks for one 500 ms later. A question to a leader brings one up; the answer does not matter.
    fn connect_first(&self, patience: Duration) {
        if let Some(topic) = self.topics.first() {
            let client = self.batches.producer.client();
            if let Err(error) = client.fetch_watermarks(topic, 0, patience) {
                tracing::debug!(%error, "no connection before transactions are initialised");
            }
        }
    }

    /// Begins a transaction. Asks nobody.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn begin(&self) -> Result<(), TransactionError> {
        let begun = self.batches.producer.begin_transaction();
        begun.map_err(|error| self.failed("begin", &error))
    }

    /// Produces within the transaction.
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

    /// Waits until every message is acknowledged. To be done before [`commit`](Self::commit), which
    /// would wait in steps of 100 ms. Deliveries that somebody else has [polled](BatchProducer::poll)
    /// are not looked at.
    ///
    /// # Errors
    /// When a message was given up, or when `patience` is over.
    pub fn drain(&self, patience: Duration) -> Result<(), TransactionError> {
        let mut deliveries = Vec::new();
        let drained = self.batches.drain(patience, &mut deliveries);
        if let Some(code) = deliveries.iter().find_map(|delivery| delivery.error) {
            return Err(self.undelivered(code));
        }
        if !drained {
            let reason = format!(
                "not acknowledged within {}",
                humantime::format_duration(patience)
            );
            return Err(self.lost("deliver", &reason, None));
        }
        Ok(())
    }

    /// Adds to the transaction offsets that a member of a group would have committed.
    ///
    /// The client keeps to no time here: when the group's coordinator has died, it looks for the next
    /// one whenever a connection comes or goes, and if none does it waits for ever (librdkafka 2.12).
    /// So the call has a thread of its own, and is left there, with its client, when time is up.
    ///
    /// # Errors
    /// [`TransactionError::Abortable`] when the member's generation is over,
    /// [`TransactionError::Fatal`] when the call was left behind.
    pub fn send_offsets(
        &self,
        topic: &str,
        commits: &[Commit],
        group: GroupMetadata,
        patience: Duration,
    ) -> Result<(), TransactionError> {
        const ACTION: &str = "add offsets";
        let list = commit_list(topic, commits).map_err(|error| self.failed(ACTION, &error))?;
        let asked = Arc::new((list, group.0));
        self.again(ACTION, patience, WhenOver::Retriable, |producer, left| {
            let (producer, asked) = (Arc::clone(producer), Arc::clone(&asked));
            let answer = within(left + GRACE, "offsets", move || {
                let (list, member) = &*asked;
                producer.send_offsets_to_transaction(list, member, left)
            });
            answer.unwrap_or(Err(KafkaError::Canceled))
        })
    }

    /// Commits the transaction, which must be [drained](Self::drain).
    ///
    /// # Errors
    /// After every one but [`TransactionError::Abortable`] nobody knows whether it is committed.
    pub fn commit(&self, patience: Duration) -> Result<(), TransactionError> {
        self.again("commit", patience, WhenOver::Unknown, |producer, left| {
            producer.commit_transaction(left)
        })
    }

    /// Aborts the transaction. What was produced in it and is not on its way is forgotten; what is
    /// on its way is waited for.
    ///
    /// # Errors
    /// After every one the producer is to be [renewed](Self::renew).
    pub fn abort(&self, patience: Duration) -> Result<(), TransactionError> {
        let aborted = self.again("abort", patience, WhenOver::Unknown, |producer, left| {
            // The call waits for the reports of all messages, which nobody serves but we. (To purge
            // them before the call would leave gaps in the sequence numbers of their partitions.)
            thread::scope(|scope| {
                let aborting = scope.spawn(move || producer.abort_transaction(left));
                while !aborting.is_finished() {
                    producer.poll(Duration::ZERO);
                    thread::sleep(DRAIN_STEP);
                }
                aborting.join().unwrap_or(Err(KafkaError::Canceled))
            })
        });
        // What has become of aborted messages nobody needs to know.
        self.batches.poll(&mut Vec::new());
        aborted
    }

    /// Makes a call until it passes, fails for good, or patience is over.
    fn again(
        &self,
        action: &'static str,
        patience: Duration,
        when_over: WhenOver,
        call: impl Fn(&Arc<BaseProducer<Context>>, Duration) -> KafkaResult<()>,
    ) -> Result<(), TransactionError> {
        let until = Instant::now() + patience;
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
                return Err(match when_over {
                    WhenOver::Retriable => TransactionError::Retriable(failure),
                    WhenOver::Unknown => TransactionError::Unknown(failure),
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

    /// The error of a call of the transactional API, by what the client says is left to be done. One
    /// that was cancelled is still under way somewhere, and its client takes no other.
    fn failed(&self, action: &'static str, error: &KafkaError) -> TransactionError {
        if let KafkaError::Canceled = error {
            let reason = "the client does not return from it".to_owned();
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
            self.without_advice(failure, error)
        }
    }

    /// An error that says nothing of what is left to be done is that of a call in a state that it
    /// does not fit, which happens when the producer was lost meanwhile.
    fn without_advice(&self, failure: Failure, error: &RDKafkaError) -> TransactionError {
        match self.batches.producer.client().fatal_error() {
            Some((code, _)) => fatal(failure, code),
            None => {
                tracing::debug!(code = %error.code(), "an error of transactions without advice");
                TransactionError::Fatal(failure)
            }
        }
    }

    /// The error of a message that was given up. Where the client has purged it, the reason is that of
    /// the transaction, which every call of its state tells, and a beginning changes nothing.
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

    /// The transaction is lost, and perhaps the producer.
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

fn connect(cluster: &Cluster, transactional_id: &str) -> Result<BatchProducer, Error> {
    let mut config = cluster.config(Role::Transactional);
    config.set("transactional.id", transactional_id);
    BatchProducer::with_config(cluster, &config)
}

fn fatal(failure: Failure, code: RDKafkaErrorCode) -> TransactionError {
    match code {
        RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::ProducerFenced
        | RDKafkaErrorCode::InvalidProducerEpoch => TransactionError::Fenced(failure),
        _ => TransactionError::Fatal(failure),
    }
}

//! The transaction thread, which commits outcomes and offsets together, one transaction after the
//! other. Its calls wait for the broker, so they have a thread of their own. Meanwhile the event loop
//! polls and collects the content of the next transaction. The [`TransactionLoop`] decides the calls.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use kafka::{
    BatchProducer, Cluster, GroupMetadata, GroupOffsets, TransactionError, TransactionalProducer,
    topics,
};
use pipeline::offsets::Commit;
use service::{FaultPoint, Shutdown};
use tracing::{info, warn};

use crate::args::Config;
use crate::delivery::Ending;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::state::transaction::PendingTransaction;
use crate::transaction_loop::{Call, CallError, Next, TransactionLoop};

/// The timeout of a call: a broker aborts a transaction after 10 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of one attempt to reach the coordinator, after which the shutdown is checked.
const INIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The content of one transaction, and the member that commits it.
#[derive(Debug)]
pub struct Transaction {
    /// The finished work and its offsets.
    pub pending: PendingTransaction,
    /// The present membership of this worker in the group whose offsets are committed.
    pub member: GroupMetadata,
}

/// A transaction that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The content of the transaction.
    pub pending: PendingTransaction,
    /// The end of the transaction.
    pub ending: Ending,
    /// The error for which messages were given up, where no further transaction is begun.
    pub gave_up: Option<Error>,
}

/// The event loop's handle of the transaction thread.
pub struct Transactions {
    transactions: Sender<Transaction>,
    ended: Receiver<Result<Ended, Error>>,
    /// The error for which no further transaction is begun.
    pub(crate) gave_up: Option<Error>,
}

impl Transactions {
    /// Starts the thread, after its producer has aborted the open transaction of an earlier worker with
    /// this transactional id, so that the committed offsets of assigned partitions are final.
    ///
    /// # Errors
    /// When the producer cannot be created, or the broker denies it.
    pub fn start(
        config: &Config,
        shutdown: &Shutdown,
        outcome_partitions: usize,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let mut producer = TransactionalProducer::new(&config.cluster, &transactional_id(config))?;
        let output = Output::new(config, outcome_partitions, metrics, |name| {
            producer.topic(name)
        })?;
        let mut committer = Committer {
            producer,
            output,
            cluster: config.cluster.clone(),
            group: config.membership.group.clone(),
            jobs_topic: config.topics.jobs.clone(),
            shutdown: shutdown.clone(),
            transaction_loop: TransactionLoop::default(),
            before_produce: FaultPoint::new("worker.before-produce"),
            before_commit: FaultPoint::new("worker.before-commit"),
        };
        committer.init()?;
        // One transaction is under way, and none waits: work that is finished meanwhile is part of the
        // next one.
        let (transactions, taken) = crossbeam_channel::bounded::<Transaction>(1);
        let (report, ended) = crossbeam_channel::bounded(1);
        thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || {
                for transaction in taken {
                    if report.send(committer.carry_out(transaction)).is_err() {
                        break;
                    }
                }
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self {
            transactions,
            ended,
            gave_up: None,
        })
    }

    /// Begins a transaction. No other one may be under way.
    pub fn begin(&self, transaction: Transaction) {
        // If the thread has died, `ended` returns the error.
        let _ = self.transactions.send(transaction);
    }

    /// The end of the transaction under way, which is waited for at most `timeout`; `None` while it has
    /// not ended.
    ///
    /// # Errors
    /// When no further transaction can be committed.
    pub fn ended(&self, timeout: Duration) -> Result<Option<Ended>, Error> {
        match self.ended.recv_timeout(timeout) {
            Ok(ended) => ended.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Thread("the transaction thread died".to_owned()))
            }
        }
    }
}

/// The producer's transactional id. A static member has a lasting one, and fences the process before
/// it. Any other worker has a new one.
fn transactional_id(config: &Config) -> String {
    let group = &config.membership.group;
    match &config.membership.instance_id {
        Some(instance_id) => format!("{group}/{instance_id}"),
        None => format!("{group}/{}/{}", config.worker.host, crate::args::fresh_id()),
    }
}

/// The state of the transaction thread.
struct Committer {
    producer: TransactionalProducer,
    output: Output,
    cluster: Cluster,
    group: String,
    jobs_topic: String,
    shutdown: Shutdown,
    transaction_loop: TransactionLoop,
    before_produce: FaultPoint,
    before_commit: FaultPoint,
}

impl Committer {
    /// Initializes the producer. A broker that is away is waited for, until a shutdown is requested.
    fn init(&self) -> Result<(), Error> {
        while let Err(error) = self.producer.init(INIT_TIMEOUT) {
            let TransactionError::Retriable(failure) = error else {
                return Err(error.into());
            };
            if self.shutdown.is_requested() {
                return Ok(());
            }
            info!(%failure, "waiting for the transaction coordinator");
        }
        Ok(())
    }

    fn carry_out(&mut self, transaction: Transaction) -> Result<Ended, Error> {
        let Transaction { pending, member } = transaction;
        let mut member = Some(member);
        let mut failed: Option<TransactionError> = None;
        self.transaction_loop.begin();
        loop {
            match self.transaction_loop.next().clone() {
                Next::Call(Call::FetchCommits) => {
                    let found = self.commits()?;
                    self.transaction_loop.apply_commits(found);
                }
                Next::Call(call) => match self.call(call, &pending, &mut member) {
                    Ok(()) => self.transaction_loop.apply(Ok(())),
                    Err(Error::Transaction(error)) => {
                        warn!(%error, ?call, "call of a transaction failed");
                        self.transaction_loop.apply(Err(CallError::from(&error)));
                        failed = Some(error);
                    }
                    Err(error) => return Err(error),
                },
                Next::Report(ending) => {
                    let gave_up = matches!(ending, Ending::GaveUp(_)).then_some(failed);
                    return Ok(Ended {
                        pending,
                        ending,
                        gave_up: gave_up.flatten().map(Error::GaveUp),
                    });
                }
                Next::Close => {
                    let unknown = || Error::Thread("no further transaction is possible".to_owned());
                    return Err(failed.map_or_else(unknown, Error::Transaction));
                }
            }
        }
    }

    fn call(
        &mut self,
        call: Call,
        pending: &PendingTransaction,
        member: &mut Option<GroupMetadata>,
    ) -> Result<(), Error> {
        let producer = &self.producer;
        match call {
            Call::Begin => {
                self.before_produce.pass()?;
                producer.begin()?;
            }
            Call::Produce => self.produce(pending)?,
            Call::Drain => producer.drain(CALL_TIMEOUT)?,
            Call::SendOffsets => {
                let commits: Vec<Commit> = pending.commits().cloned().collect();
                if let Some(member) = member.take() {
                    producer.send_offsets(&self.jobs_topic, &commits, member, CALL_TIMEOUT)?;
                }
            }
            Call::Commit => {
                self.before_commit.pass()?;
                producer.commit(CALL_TIMEOUT)?;
            }
            Call::Abort => producer.abort(CALL_TIMEOUT)?,
            Call::Renew => {
                info!("a new producer takes over");
                self.producer.renew()?;
                self.init()?;
            }
            Call::FetchCommits => {}
        }
        Ok(())
    }

    fn produce(&mut self, pending: &PendingTransaction) -> Result<(), TransactionError> {
        let Self {
            producer, output, ..
        } = self;
        for (id, finished) in pending.finished().enumerate() {
            if let Some(letter) = &finished.dead_letter {
                until_accepted(producer, |batches| output.dead_letter(batches, id, letter))?;
            }
            if let Some(outcomes) = &finished.outcomes {
                until_accepted(producer, |batches| output.outcomes(batches, id, outcomes))?;
            }
        }
        Ok(())
    }

    /// The committed offsets of the group.
    fn commits(&self) -> Result<Vec<Commit>, Error> {
        let partitions = topics::partition_count(&self.cluster, &self.jobs_topic)?;
        let partitions = partitions.unwrap_or(0);
        let group = GroupOffsets::new(&self.cluster, &self.group, &self.jobs_topic, partitions)?;
        Ok(group.commits()?)
    }
}

/// Hands a message to the producer, again while its queue is full.
fn until_accepted(
    producer: &mut TransactionalProducer,
    mut produce: impl FnMut(&mut BatchProducer) -> Result<bool, kafka::Error>,
) -> Result<(), TransactionError> {
    const FULL_WAIT: Duration = Duration::from_millis(1);
    while !producer.produce(&mut produce)? {
        // Delivery reports make room. Their errors are ignored, because the commit fails for a message
        // that was given up.
        producer.produce(|batches| {
            batches.poll(&mut Vec::new());
            Ok(())
        })?;
        thread::sleep(FULL_WAIT);
    }
    Ok(())
}

//! The thread that commits outcomes and offsets together, one transaction after the other. Its calls
//! wait for the broker, so it has a thread of its own, while the one that moves data polls on and
//! gathers what goes into the next transaction. What it calls next is decided by [`TransactionLoop`].

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

/// How long a call of a transaction is tried: a broker ends the whole of it after 10 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two looks whether the process is to end, while a broker is waited for.
const INIT_TIMEOUT: Duration = Duration::from_secs(2);

/// What goes into one transaction, and who is to commit it.
#[derive(Debug)]
pub struct Transaction {
    /// The work and its offsets.
    pub pending: PendingTransaction,
    /// The member of the group whose offsets they are, as it is now.
    pub member: GroupMetadata,
}

/// A transaction that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What was in it.
    pub pending: PendingTransaction,
    /// How.
    pub ending: Ending,
    /// Why messages were given up, where no further transaction is begun for that.
    pub gave_up: Option<Error>,
}

/// The thread, as the one that hands it transactions has it.
pub struct Transactions {
    transactions: Sender<Transaction>,
    ended: Receiver<Result<Ended, Error>>,
    /// Why no further transaction is begun.
    pub(crate) gave_up: Option<Error>,
}

impl Transactions {
    /// Starts the thread, once its producer has ended what an earlier worker of this name has left
    /// open: partitions come with offsets that are decided.
    ///
    /// # Errors
    /// When no producer can be made, or the broker refuses it.
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
        // One under way, none waiting: what comes meanwhile goes into the next one.
        let (transactions, taken) = crossbeam_channel::bounded::<Transaction>(1);
        let (told, ended) = crossbeam_channel::bounded(1);
        thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || {
                for transaction in taken {
                    if told.send(committer.carry_out(transaction)).is_err() {
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

    /// Hands over a transaction. None may be under way.
    pub fn begin(&self, transaction: Transaction) {
        // If the thread has died, that is told by `ended`.
        let _ = self.transactions.send(transaction);
    }

    /// How the transaction under way has ended; `None` while it has not, after at most `timeout`.
    ///
    /// # Errors
    /// When no further transaction can be committed.
    pub fn ended(&self, timeout: Duration) -> Result<Option<Ended>, Error> {
        match self.ended.recv_timeout(timeout) {
            Ok(ended) => ended.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Thread("the one of transactions died".to_owned()))
            }
        }
    }
}

/// The producer's lasting name. A static member has one, and takes over from the process before it;
/// any other worker has a name of its own.
fn transactional_id(config: &Config) -> String {
    let group = &config.membership.group;
    match &config.membership.instance_id {
        Some(instance_id) => format!("{group}/{instance_id}"),
        None => format!("{group}/{}/{}", config.worker.host, crate::args::fresh_id()),
    }
}

/// What the thread works with.
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
    /// A broker that is away is waited for, unless the process is to end meanwhile.
    fn init(&self) -> Result<(), Error> {
        while let Err(error) = self.producer.init(INIT_TIMEOUT) {
            let TransactionError::Retriable(failure) = error else {
                return Err(error.into());
            };
            if self.shutdown.is_requested() {
                return Ok(());
            }
            info!(%failure, "waiting for the coordinator of transactions");
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
                        warn!(%error, ?call, "transaction");
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
                    let unknown = || Error::Thread("the one of transactions".to_owned());
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

    /// What the group has committed.
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
        // What is reported makes room. Of a message that was given up the commit hears as well.
        producer.produce(|batches| {
            batches.poll(&mut Vec::new());
            Ok(())
        })?;
        thread::sleep(FULL_WAIT);
    }
    Ok(())
}

//! The thread that commits outcomes and offsets together, one transaction after the other. Its calls
//! wait for the broker, so it has a thread of its own, while the one that moves data polls on and
//! gathers what goes into the next transaction.
//!
//! | what fails | what is done |
//! | --- | --- |
//! | the broker is away, or busy | the same call again, as long as the transaction may take |
//! | the transaction (a message given up, a generation that is over) | it is aborted; what was in it goes into the next one, as far as its partitions are still this worker's |
//! | the producer (fenced, fatal, or it does not return from a call), before the commit was asked for | a new one, which ends what the old one left open; then as above |
//! | the producer, or no answer, after that | a new one, and a look at what the group has committed: that tells how it has ended |
//! | the new producer, before it has committed anything | the worker ends |

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
use crate::error::Error;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::uncommitted::Cut;

/// How long a step of a transaction is tried: a broker ends the whole of it after 10 s.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// So often it is looked whether the process is to end, while a broker is waited for.
const INIT_PATIENCE: Duration = Duration::from_secs(2);

/// What goes into one transaction, and who is to commit it.
#[derive(Debug)]
pub struct Transaction {
    /// The work and its offsets.
    pub cut: Cut,
    /// The member of the group whose offsets they are, as it is now.
    pub member: GroupMetadata,
}

/// A transaction that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What was in it.
    pub cut: Cut,
    /// How.
    pub ending: Ending,
}

/// How a transaction has ended.
#[derive(Debug)]
pub enum Ending {
    /// It was committed.
    Committed,
    /// It was aborted.
    Aborted,
    /// Nobody has told; this is what the group has committed since it has ended.
    Unknown(Vec<Commit>),
}

/// The thread, for whoever hands it transactions.
pub struct Transactions {
    transactions: Sender<Transaction>,
    ended: Receiver<Result<Ended, Error>>,
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
            is_renewed: false,
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
        })
    }

    /// Hands over a transaction. None may be under way.
    pub fn begin(&self, transaction: Transaction) {
        // If the thread has died, that is told by `ended`.
        let _ = self.transactions.send(transaction);
    }

    /// How the transaction under way has ended; `None` while it has not, after at most `patience`.
    ///
    /// # Errors
    /// When no further transaction can be committed.
    pub fn ended(&self, patience: Duration) -> Result<Option<Ended>, Error> {
        match self.ended.recv_timeout(patience) {
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
    /// Whether the producer was made anew and has committed nothing since.
    is_renewed: bool,
    before_produce: FaultPoint,
    before_commit: FaultPoint,
}

impl Committer {
    /// A broker that is away is waited for, unless the process is to end meanwhile.
    fn init(&self) -> Result<(), Error> {
        while let Err(error) = self.producer.init(INIT_PATIENCE) {
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
        let Transaction { cut, member } = transaction;
        let ending = match self.fill(&cut, member)? {
            Ok(()) => {
                self.before_commit.pass()?;
                match self.producer.commit(STEP_PATIENCE) {
                    Ok(()) => Ending::Committed,
                    Err(TransactionError::Abortable(failure)) => {
                        warn!(%failure, "transaction aborted");
                        match self.producer.abort(STEP_PATIENCE) {
                            Ok(()) => Ending::Aborted,
                            Err(error) => self.find_out(error)?,
                        }
                    }
                    Err(error) => self.find_out(error)?,
                }
            }
            Err(error) => {
                warn!(%error, "transaction aborted");
                self.abandon(error)?;
                Ending::Aborted
            }
        };
        if matches!(ending, Ending::Committed) {
            self.is_renewed = false;
        }
        Ok(Ended { cut, ending })
    }

    /// Everything of a transaction but its commit.
    fn fill(
        &mut self,
        cut: &Cut,
        member: GroupMetadata,
    ) -> Result<Result<(), TransactionError>, Error> {
        self.before_produce.pass()?;
        let filled = self
            .producer
            .begin()
            .and_then(|()| self.produce(cut))
            .and_then(|()| self.producer.drain(STEP_PATIENCE))
            .and_then(|()| {
                let commits: Vec<Commit> = cut.commits().cloned().collect();
                self.producer
                    .send_offsets(&self.jobs_topic, &commits, member, STEP_PATIENCE)
            });
        Ok(filled)
    }

    fn produce(&mut self, cut: &Cut) -> Result<(), TransactionError> {
        let Self {
            producer, output, ..
        } = self;
        for (id, finished) in cut.finished().enumerate() {
            if let Some(letter) = &finished.dead_letter {
                until_accepted(producer, |batches| output.dead_letter(batches, id, letter))?;
            }
            if let Some(outcomes) = &finished.outcomes {
                until_accepted(producer, |batches| output.outcomes(batches, id, outcomes))?;
            }
        }
        Ok(())
    }

    /// Ends a transaction whose commit nobody has asked for.
    fn abandon(&mut self, error: TransactionError) -> Result<(), Error> {
        let aborted = match error {
            // Another producer would not be allowed either; the broker ends what is open.
            TransactionError::Denied(_) => return Err(error.into()),
            TransactionError::Abortable(_) | TransactionError::Retriable(_) => {
                self.producer.abort(STEP_PATIENCE)
            }
            error => Err(error),
        };
        match aborted {
            Ok(()) => Ok(()),
            Err(error) => self.renew(error),
        }
    }

    /// Looks at what the group has committed: only a transaction that was committed could move it.
    fn find_out(&mut self, error: TransactionError) -> Result<Ending, Error> {
        self.renew(error)?;
        let partitions = topics::partition_count(&self.cluster, &self.jobs_topic)?;
        let partitions = partitions.unwrap_or(0);
        let group = GroupOffsets::new(&self.cluster, &self.group, &self.jobs_topic, partitions)?;
        Ok(Ending::Unknown(group.commits()?))
    }

    /// Puts a new producer in the place of one that is of no use any more.
    fn renew(&mut self, error: TransactionError) -> Result<(), Error> {
        if self.is_renewed {
            return Err(error.into());
        }
        warn!(%error, "a new producer takes over");
        self.is_renewed = true;
        self.producer.renew()?;
        self.init()
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

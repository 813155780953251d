//! What a history may come across, and how often it did: a fault that never happens proves nothing.

/// Declares what a history may come across, each with its name.
macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a history may come across, counted so that nothing of it can be missing unnoticed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Seen {
            $($(#[$doc])* $name,)+
        }

        impl Seen {
            /// All of it.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

seen! {
    /// A worker was killed from outside.
    Killed,
    /// A worker was killed while it waited for a commit.
    KilledInCommit,
    /// A worker was killed while it buried a job.
    KilledWhileBurying,
    /// A job has killed its worker.
    KilledByJob,
    /// Several jobs of a compute thread were in flight.
    SeveralInFlight,
    /// A job in flight was answered before an older one.
    AnsweredOutOfOrder,
    /// A job was answered that had been cancelled.
    AnsweredAfterCancel,
    /// A job in flight is never answered.
    NeverAnswered,
    /// A worker gave up because a job hung.
    HangGivenUp,
    /// A worker left because it does not know the computation of the run.
    Unable,
    /// A worker was asked to end, and wound down.
    Stopped,
    /// A worker was not scheduled for a while.
    Slept,
    /// A worker was taken for dead and was not.
    Evicted,
    /// One of those noticed.
    ZombieBack,
    /// A static member was back before its session ran out.
    StaticBack,
    /// A worker's producer lost sight of the broker, and sent nothing any more.
    LostSight,
    /// A worker gave up because nothing was acknowledged.
    NotAcknowledged,
    /// The producer's queue was full.
    QueueFull,
    /// A partition was given back in good order.
    Revoked,
    /// A commit, or its answer, was lost.
    CommitFailed,
    /// A commit of who was no longer the owner.
    CommitFenced,
    /// Outcomes were produced twice.
    ProducedTwice,
    /// What a dead worker had sent arrived after its death.
    ArrivedLate,
    /// A message of jobs was published twice.
    PublishedTwice,
    /// A message of jobs cannot be read.
    MessageSpoiled,
    /// A worker came across one.
    UndecodableMessage,
    /// A failed job was tried again.
    TriedAgain,
    /// A job was buried because it failed too often.
    BuriedByFailures,
    /// A job was buried because workers died of it.
    BuriedByDeaths,
    /// A message was buried whole, because workers died of burying one of its jobs.
    BuriedWhole,
    /// A partition came with one unclean take-over.
    Narrow,
    /// … with two.
    Wary,
    /// … with three.
    Careful,
    /// A message of which some jobs have outcomes came late, after what a worker waits for others.
    BegunMessageLate,
    /// A dispatcher was killed.
    DispatcherKilled,
    /// A dispatcher was asked to end.
    DispatcherStopped,
    /// A dispatcher said that its run is aborted,
    Aborted,
    /// and another one took that back.
    AbortRetracted,
    /// A dispatcher waited, for the broker had as much as it may.
    FlowControlled,
    /// A second dispatcher began.
    DispatcherDoubled,
    /// Two dispatchers have opened the run.
    OpenedTwice,
    /// A dispatcher took the run up.
    Resumed,
    /// What has no outcome was asked for again.
    ResumedWithoutOutcome,
    /// A dispatcher has opened the next generation.
    GenerationOpened,
    /// Another generation, or a verdict, came before the one that a dispatcher or a replay opened.
    GenerationLost,
    /// A verdict was published behind the next generation, and does not count.
    VerdictPassedOver,
    /// Results of a job differed.
    ResultsDiffered,
    /// A run failed: its outcomes contradict one another, or the data set.
    RunFailed,
    /// A message of jobs was stored with another payload.
    PayloadAltered,
    /// A run was cancelled.
    Cancelled,
    /// A cancellation came behind a verdict or a generation, and does not hold.
    CancelledTooLate,
    /// An aggregator ended because its run is cancelled.
    RunCancelled,
    /// A worker passed over a job of a cancelled run.
    PassedOver,
    /// A cancelled run was resumed.
    CancelledResumed,
    /// A dispatcher ended because its run is cancelled.
    DispatcherCancelled,
    /// A dispatcher ended because the run is not the one that it has, or has failed.
    DispatcherRefused,
    /// Outcomes were held back, for the broker had as much as it may.
    OutcomesHeldBack,
    /// A second aggregator came to a verdict.
    SecondJudged,
    /// An aggregator has judged again at the end offsets of the verdict that stands.
    JudgedAgain,
    /// Retention had taken outcomes that the verdict rests on.
    OutcomesOfVerdictDeleted,
    /// The runs topic was compacted.
    Compacted,
    /// Retention took jobs that were worked on.
    JobsEaten,
    /// Retention took jobs that were not.
    PendingJobsEaten,
    /// Retention took outcomes.
    OutcomesEaten,
    /// A worker found its offset out of range.
    OffsetOutOfRange,
    /// The group was moved to where a partition begins.
    MovedByHand,
    /// An aggregator found its offset out of range.
    OutcomesOutOfRange,
    /// An aggregator was killed.
    AggregatorKilled,
    /// An aggregator ended because its run was aborted.
    RunAborted,
    /// An aggregator gave up waiting.
    GaveUp,
    /// An aggregator went on to wait, for workers had jobs before them.
    WorkersWaitedFor,
    /// Duplicates were dropped.
    DuplicatesDropped,
    /// A run was judged incomplete,
    Incomplete,
    /// complete,
    Complete,
    /// or complete with dead letters.
    CompleteWithDeadLetters,
    /// Dead letters were replayed.
    Replayed,
    /// Dead letters were replayed while the run went on.
    ReplayedEarly,
    /// A replay ended before it had published all of its jobs.
    ReplayInterrupted,
    /// A transaction was committed.
    TransactionCommitted,
    /// A transaction was aborted by its worker.
    TransactionAborted,
    /// A worker died within a transaction, after it had written a part of it.
    TransactionTorn,
    /// A transaction took too long, and the broker ended it.
    TransactionTimedOut,
    /// What a dead worker had left open was ended by its successor.
    TransactionEndedBySuccessor,
    /// Offsets in a transaction came from a generation that was over.
    OffsetsFenced,
    /// A worker found its producer fenced.
    ProducerFenced,
    /// A transaction was committed, and its worker did not receive the answer.
    UnknownAndCommitted,
    /// A worker did not receive the answer that its transaction was aborted.
    UnknownAndAborted,
    /// A worker was killed between asking for the commit of a transaction and the answer.
    KilledInTransactionCommit,
    /// A batch of outcomes reached beyond what was finished, and waited.
    WaitedForBatch,
    /// A partition came while a transaction held its offset.
    OffsetHeld,
    /// An undecided transaction held up a reader.
    ReaderHeld,
    /// A worker gave partitions away while a transaction was under way.
    RevokedInTransaction,
    /// A worker ended because a new producer was of no use either.
    TransactionsGivenUp,
}

/// How often each thing was seen.
#[derive(Clone, Debug)]
pub struct Coverage(Vec<u64>);

impl Coverage {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self(vec![0; Seen::ALL.len()])
    }

    /// One thing more was seen.
    pub fn count(&mut self, what: Seen) {
        self.0[what as usize] += 1;
    }

    /// Adds what another one has seen.
    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own += other;
        }
    }

    /// Each thing and how often it was seen.
    pub fn iter(&self) -> impl Iterator<Item = (Seen, u64)> {
        Seen::ALL.iter().copied().zip(self.0.iter().copied())
    }
}

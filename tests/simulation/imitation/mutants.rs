//! Teeth: defects that are put into the protocol one at a time, at the boundary of the models, and
//! that the invariants must find. A simulation that finds none of them would prove nothing.


/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A worker commits one offset further than it may.
    CommitsOneTooFar,
    /// What is handed to the producer counts as acknowledged.
    SettledWhenProduced,
    /// The outcome of a dead letter goes out with the letter, not after it.
    OutcomeBeforeDeadLetter,
    /// Work of an earlier assignment settles messages of this one.
    EpochsIgnored,
    /// Commits carry no marks.
    MarksDropped,
    /// Progress leaves the mark as it is.
    MarkNeverCleared,
    /// A partition that is taken over is marked as released.
    ReleasedInsteadOfHeld,
    /// While one partition is read alone, the others are marked as held.
    AllMarksHeld,
    /// A commit that was only asked for counts as confirmed.
    ConfirmedWhenAsked,
    /// A message is worked on alone beside work of an earlier assignment.
    StaleWorkIgnored,
    /// The deaths of a job begin at none with each worker.
    DeathsNotCounted,
    /// A manifest is published while jobs are on their way.
    SwornBeforeAcknowledged,
    /// Duplicates are counted into the series.
    DuplicatesCounted,
    /// A job's first outcome stays, whatever comes later.
    FirstOutcomeWins,
    /// A run is judged before its outcomes were read to the end.
    JudgedBeforeTheEnd,
    /// A batch goes into a transaction though it reaches beyond the offset.
    BatchesDivided,
    /// What was in an aborted transaction is dropped.
    AbortTakenForCommit,
    /// Nobody looks how a transaction has ended of which nobody told.
    UnknownTakenForAborted,
    /// Partitions that have gone meanwhile tell, too, how a transaction has ended.
    GoneHeardAsWell,
    /// Offsets are committed, and the outcomes of their transaction are not.
    OffsetsWithoutOutcomes,
    /// Outcomes are written outside of the transaction that commits their offsets.
    WrittenOutsideTransaction,
    /// Offsets of a generation that is over are taken.
    GenerationIgnored,
    /// A partition begins at the committed offset while another one is undecided.
    UndecidedOffsetsRead,
    /// Aborted and undecided outcomes are read.
    AbortedRead,
}


//! Teeth: defects that are put into the protocol one at a time, at the boundary of the models, and
//! that the invariants must find. A simulation that finds none of them would prove nothing.

use crate::history::{Outcome, simulate};

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
    /// The result of a work unit counts whose partition was revoked.
    ResultOfRevokedUnitAccepted,
    /// A failed job is never due again.
    RetryForgotten,
    /// A job that can never be computed is tried again.
    PermanentTriedAgain,
    /// A job that may be computed later is a dead letter at once.
    TransientBuriedAtOnce,
    /// A batch of a transaction has outcomes of jobs of two partitions.
    BatchesOfTwoPartitions,
    /// The answer to a single job settles its whole message.
    SingleJobSettlesMessage,
    /// A batch of outcomes is handed on without a message that it settles.
    HandedOnWithoutSettling,
    /// Two jobs in flight get each other's answer.
    AnswersMixedUp,
    /// An answer counts twice.
    AnswerCountedTwice,
    /// A job in flight that is never answered is not noticed.
    HangNotSeen,
    /// The partition rotation leaves a message out.
    MessageSkipped,
    /// The partition rotation sends a message again that the producer has taken.
    MessageRepeated,
    /// All batches go to one partition.
    RotationStands,
    /// Flow control takes every outcome for collected.
    FlowControlIgnoresOutcomes,
    /// Flow control takes every message for worked off.
    FlowControlIgnoresCommitted,
    /// Flow control never hears of a committed offset.
    FlowControlFreesNothing,
    /// A resume takes the jobs of a partition for never published.
    ResumePassesPartition,
    /// A resume takes jobs that have an outcome for jobs that have none.
    ResumeIgnoresOutcomes,
    /// A resume takes every copy of a job for one that is still to be worked on.
    ResumeIgnoresCommitted,
    /// A dispatcher says that a run is aborted which is another's.
    AbortsAnothersRun,
    /// A dispatcher that is stopped does not look whether the run is another's by now.
    AbortsWithoutLooking,
    /// A partition counts as read to its end though it was not.
    PartitionNotRead,
    /// The idle timer is not restarted by what comes.
    IdleTimerStands,
    /// An aggregator that finds nothing new does not know what the workers have before them.
    WorkersNotAsked,
    /// An aggregator that gives up does not read the outcomes of committed jobs first.
    OutcomesNotReadOut,
    /// The report is written before the tables that it names.
    ReportBeforeTables,
    /// The reports of an earlier aggregator are not removed.
    ReportsStay,
    /// The event loop is not told of a job that hangs.
    HangNotReported,
    /// The mark of a partition of which a job hangs is released.
    HangReleased,
    /// A commit is never sent, and counts as answered.
    CommitForgotten,
    /// A commit that is waited for is not sent, and counts as done.
    CommitNotWaitedFor,
    /// Messages count as acknowledged when their partition is revoked.
    CommittedBeforeAcknowledged,
    /// A partition is given back while finished work is on its way, though there is time.
    RevokedWithoutDrain,
    /// Finished work is not taken in before a partition is given back.
    RevokedWithoutCollecting,
    /// A partition is given back before its last commit.
    GivenBackBeforeCommit,
    /// A worker leaves while finished work is on its way, though there is time.
    LeftWithoutDrain,
    /// Messages are taken however much is not confirmed.
    TakenBeyondBound,
    /// A partition with which workers died is read with the others.
    IsolatedReadWithOthers,
    /// A partition's isolation ends as soon as nothing comes.
    IsolationEndedEarly,
    /// A worker waits for ever for acknowledgements.
    WaitsForEver,
    /// A transaction that fails is not aborted.
    AbortForgotten,
    /// A transaction is committed without its offsets.
    OffsetsForgotten,
    /// A transaction is committed before all of it is written.
    CommittedHalfWritten,
    /// No new producer ends what the old one has left open.
    NotRenewed,
    /// A worker settles messages of a computation that it does not know.
    UnableSettles,
    /// A worker computes without asking whether it knows the computation.
    NotAskedWhetherKnown,
    /// The event loop is not told that a thread does not know a computation.
    InabilityNotReported,
    /// An aggregator is not told of the run's generations.
    GenerationsUnseen,
    /// Of several results the first counts, not the lowest.
    FirstResultCounts,
    /// A verdict that stands is judged again by outcomes beyond its end offsets.
    JudgedBeyondEndOffsets,
    /// A result that a verdict has counted is replaced by one behind its end offsets.
    FrozenResultReplaced,
    /// The payload digest of an outcome is not held against that of the data set.
    PayloadDigestNotChecked,
    /// The bytes of outcomes are left out of flow control.
    ResultBytesLeftOut,
    /// Files are put in place before the verdict that was published is read back.
    VerdictNotReadBack,
    /// A verdict that stands is judged again by what retention has left.
    DeletedOutcomesUnseen,
    /// A dead letter counts though its job was opened again since.
    OldDeadLettersCount,
    /// A dispatcher is not told that its run is cancelled.
    DispatcherMissesCancellation,
    /// A worker passes over jobs of the generation after the one that is cancelled.
    CancelledBeyond,
}

/// How many histories it takes until a mutant is caught, and by what.
fn caught(mutation: Mutation, at_most: u64) -> (u64, &'static str) {
    for seed in 0..at_most {
        if let Outcome::Violated { violation, .. } = simulate(seed, Some(mutation), false) {
            println!(
                "{mutation:?}: caught after {} histories by \"{}\" ({})",
                seed + 1,
                violation.invariant,
                violation.what
            );
            return (seed + 1, violation.invariant);
        }
    }
    panic!("{mutation:?} was not caught within {at_most} histories");
}

/// A mutant, the histories within which it must be caught, and the invariants that may do it.
macro_rules! mutants {
    ($($name:ident: $mutation:ident within $at_most:literal by $($invariant:literal)|+;)+) => {
        $(
            #[test]
            fn $name() {
                let (_, invariant) = caught(Mutation::$mutation, $at_most);
                assert!([$($invariant),+].contains(&invariant), "{invariant}");
            }
        )+
    };
}

mutants! {
    committing_one_too_far_is_caught: CommitsOneTooFar within 100
        by "committed offsets are behind acknowledged outcomes"
        | "no offset is committed beyond the end";
    settling_what_is_only_produced_is_caught: SettledWhenProduced within 100
        by "committed offsets are behind acknowledged outcomes";
    telling_a_dead_letter_before_it_is_in_the_queue_is_caught: OutcomeBeforeDeadLetter within 500
        by "a dead letter is in the queue before its outcome is told";
    settling_by_work_of_an_earlier_assignment_is_caught: EpochsIgnored within 20_000
        by "committed offsets are behind acknowledged outcomes"
        | "no job has two committed outcomes";
    dropping_marks_is_caught: MarksDropped within 500
        by "a job costs a bounded number of workers" | "every history ends";
    never_clearing_a_mark_is_caught: MarkNeverCleared within 2_000
        by "a partition on which work goes on is never read carefully"
        | "a death is put down to the job that caused it"
        | "no innocent job is buried";
    releasing_instead_of_holding_is_caught: ReleasedInsteadOfHeld within 500
        by "a job costs a bounded number of workers" | "every history ends";
    holding_marks_beside_a_partition_read_alone_is_caught: AllMarksHeld within 20_000
        by "a partition on which work goes on is never read carefully"
        | "a death is put down to the job that caused it"
        | "no innocent job is buried";
    taking_a_commit_for_done_when_asked_for_is_caught: ConfirmedWhenAsked within 20_000
        by "a death is put down to the job that caused it"
        | "a partition on which work goes on is never read carefully"
        | "no innocent job is buried"
        | "a committed offset never moves back";
    working_alone_beside_stale_work_is_caught: StaleWorkIgnored within 200_000
        by "a death is put down to the job that caused it"
        | "a partition on which work goes on is never read carefully"
        | "no innocent job is buried";
    not_counting_deaths_is_caught: DeathsNotCounted within 500
        by "a job costs a bounded number of workers" | "every history ends";
    swearing_before_acknowledgements_is_caught: SwornBeforeAcknowledged within 100
        by "a manifest is told when every job is on the topic";
    counting_duplicates_is_caught: DuplicatesCounted within 100
        by "the series is the oracle's" | "a complete series is that of the rows";
    keeping_the_first_outcome_is_caught: FirstOutcomeWins within 2_000
        by "the verdict is true"
        | "the series is the oracle's";
    judging_before_the_end_is_caught: JudgedBeforeTheEnd within 2_000
        by "the verdict is true"
        | "the series is the oracle's";
    dividing_batches_is_caught: BatchesDivided within 500
        by "no job has two committed outcomes"
        | "committed offsets are behind acknowledged outcomes";
    dropping_what_was_aborted_is_caught: AbortTakenForCommit within 500
        by "committed offsets are behind acknowledged outcomes"
        | "every job has its committed outcome"
        | "a partition on which work goes on is never read carefully"
        | "every history ends";
    taking_an_unknown_outcome_for_an_abort_is_caught: UnknownTakenForAborted within 500
        by "no job has two committed outcomes";
    asking_partitions_that_have_gone_is_caught: GoneHeardAsWell within 20_000
        by "no job has two committed outcomes";
    committing_offsets_without_their_outcomes_is_caught: OffsetsWithoutOutcomes within 100
        by "committed offsets are behind acknowledged outcomes";
    writing_outside_of_the_transaction_is_caught: WrittenOutsideTransaction within 500
        by "no job has two committed outcomes";
    taking_offsets_of_an_earlier_generation_is_caught: GenerationIgnored within 5_000
        by "no job has two committed outcomes"
        | "a committed offset never moves back";
    reading_undecided_offsets_is_caught: UndecidedOffsetsRead within 20_000
        by "no job has two committed outcomes"
        | "a committed offset never moves back";
    reading_aborted_outcomes_is_caught: AbortedRead within 2_000
        by "the verdict is true" | "the series is the oracle's";
    accepting_the_result_of_a_revoked_work_unit_is_caught: ResultOfRevokedUnitAccepted within 20_000
        by "committed offsets are behind acknowledged outcomes"
        | "no job has two committed outcomes"
        | "every history ends";
    forgetting_a_retry_is_caught: RetryForgotten within 500
        by "every history ends";
    trying_a_permanent_failure_again_is_caught: PermanentTriedAgain within 500
        by "a job is tried as often as its error asks for";
    burying_a_transient_failure_at_once_is_caught: TransientBuriedAtOnce within 500
        by "no innocent job is buried"
        | "a job is tried as often as its error asks for";
    mixing_partitions_in_a_transactions_batch_is_caught: BatchesOfTwoPartitions within 500
        by "a batch of a transaction is of one partition";
    settling_a_message_by_a_single_job_is_caught: SingleJobSettlesMessage within 2_000
        by "committed offsets are behind acknowledged outcomes";
    handing_on_without_settling_is_caught: HandedOnWithoutSettling within 500
        by "every history ends";
    mixing_up_answers_is_caught: AnswersMixedUp within 500
        by "tallies are right"
        | "no innocent job is buried";
    counting_an_answer_twice_is_caught: AnswerCountedTwice within 500
        by "committed offsets are behind acknowledged outcomes"
        | "no job has two committed outcomes";
    overlooking_a_hang_is_caught: HangNotSeen within 500
        by "every history ends";
    leaving_a_message_out_is_caught: MessageSkipped within 100
        by "a manifest is told when every job is on the topic";
    sending_a_message_again_is_caught: MessageRepeated within 100
        by "a dispatcher publishes what is missing, and each job once";
    sending_all_to_one_partition_is_caught: RotationStands within 100
        by "every partition has its turn before one has its second";
    flow_control_that_ignores_outcomes_is_caught: FlowControlIgnoresOutcomes within 1_000
        by "a broker that keeps little drops nothing that was not read";
    flow_control_that_ignores_commits_is_caught: FlowControlIgnoresCommitted within 10_000
        by "a broker that keeps little drops nothing that was not read";
    flow_control_that_frees_nothing_is_caught: FlowControlFreesNothing within 1_000
        by "every history ends";
    publishing_what_is_there_is_caught: ResumePassesPartition within 500
        by "a dispatcher publishes what is missing, and each job once";
    publishing_what_has_an_outcome_is_caught: ResumeIgnoresOutcomes within 2_000
        by "a dispatcher publishes what is missing, and each job once";
    leaving_out_what_is_missing_is_caught: ResumeIgnoresCommitted within 2_000
        by "a run can be made complete";
    aborting_the_run_of_another_is_caught: AbortsAnothersRun within 500
        by "a run is aborted by whom it belongs to";
    aborting_without_looking_is_caught: AbortsWithoutLooking within 5_000
        by "a run is aborted by whom it belongs to";
    passing_over_a_partition_is_caught: PartitionNotRead within 2_000
        by "the verdict is true" | "the series is the oracle's";
    giving_up_while_something_comes_is_caught: IdleTimerStands within 2_000
        by "an aggregator gives up when nothing new has come for its timeout"
        | "every history ends";
    giving_up_beside_workers_at_work_is_caught: WorkersNotAsked within 5_000
        by "an aggregator gives up when the workers have nothing before them";
    giving_up_with_outcomes_unread_is_caught: OutcomesNotReadOut within 20_000
        by "an aggregator gives up when the workers have nothing before them";
    writing_the_report_before_the_tables_is_caught: ReportBeforeTables within 100
        by "a report has everything that it names beside it";
    leaving_reports_of_an_earlier_aggregator_is_caught: ReportsStay within 500
        by "a report has everything that it names beside it";
    not_reporting_a_hang_is_caught: HangNotReported within 500
        by "every history ends";
    releasing_the_mark_of_a_hang_is_caught: HangReleased within 2_000
        by "a job costs a bounded number of workers" | "every history ends";
    forgetting_a_commit_is_caught: CommitForgotten within 500
        by "every history ends";
    not_waiting_for_a_commit_is_caught: CommitNotWaitedFor within 500
        by "a job costs a bounded number of workers"
        | "every history ends"
        | "a death is put down to the job that caused it"
        | "no innocent job is buried"
        | "a partition on which work goes on is never read carefully";
    committing_before_the_acknowledgement_is_caught: CommittedBeforeAcknowledged within 500
        by "committed offsets are behind acknowledged outcomes";
    revoking_without_draining_is_caught: RevokedWithoutDrain within 500
        by "what is finished is acknowledged before a partition is given back";
    revoking_without_collecting_is_caught: RevokedWithoutCollecting within 500
        by "what is finished is acknowledged before a partition is given back";
    giving_back_before_the_commit_is_caught: GivenBackBeforeCommit within 500
        by "a partition on which work goes on is never read carefully"
        | "a job costs a bounded number of workers"
        | "no innocent job is buried";
    leaving_without_draining_is_caught: LeftWithoutDrain within 500
        by "what is finished is acknowledged before a worker leaves";
    taking_beyond_the_bound_is_caught: TakenBeyondBound within 500
        by "no message is taken while too much is not confirmed";
    reading_an_isolated_partition_with_others_is_caught: IsolatedReadWithOthers within 2_000
        by "an isolated partition is read as its isolation allows";
    ending_isolation_early_is_caught: IsolationEndedEarly within 2_000
        by "a job costs a bounded number of workers" | "every history ends"
        | "no job has two committed outcomes";
    waiting_for_ever_is_caught: WaitsForEver within 500
        by "every history ends";
    forgetting_to_abort_is_caught: AbortForgotten within 500
        by "every history ends";
    forgetting_offsets_is_caught: OffsetsForgotten within 500
        by "no job has two committed outcomes"
        | "every history ends"
        | "a partition on which work goes on is never read carefully";
    committing_half_is_caught: CommittedHalfWritten within 500
        by "committed offsets are behind acknowledged outcomes";
    not_renewing_a_producer_is_caught: NotRenewed within 2_000
        by "every history ends";
    settling_what_is_not_computed_is_caught: UnableSettles within 500
        by "committed offsets are behind acknowledged outcomes"
        | "every job has its committed outcome";
    computing_what_is_not_known_is_caught: NotAskedWhetherKnown within 500
        by "a worker settles nothing that it cannot compute";
    not_reporting_an_inability_is_caught: InabilityNotReported within 500
        by "every history ends";
    following_no_generation_is_caught: GenerationsUnseen within 100
        by "every history ends";
    counting_the_first_result_is_caught: FirstResultCounts within 2_000
        by "the series is the oracle's" | "jobs whose results differ are counted"
        | "the verdict is true";
    judging_beyond_end_offsets_is_caught: JudgedBeyondEndOffsets within 20_000
        by "a verdict that stands agrees"
        | "all aggregators write one table of a generation";
    replacing_a_frozen_result_is_caught: FrozenResultReplaced within 20_000
        by "the series is the oracle's";
    not_checking_payload_digests_is_caught: PayloadDigestNotChecked within 2_000
        by "the verdict is true";
    leaving_bytes_out_of_flow_control_is_caught: ResultBytesLeftOut within 5_000
        by "a broker that keeps little drops no outcome that was not read";
    putting_files_in_place_unread_is_caught: VerdictNotReadBack within 20_000
        by "all aggregators write one table of a generation"
        | "whoever looks afterwards finds the same";
    judging_by_what_is_left_is_caught: DeletedOutcomesUnseen within 20_000
        by "a verdict that stands agrees";
    counting_old_dead_letters_is_caught: OldDeadLettersCount within 500
        by "the verdict is true"
        | "a verdict that stands agrees";
    missing_a_cancellation_is_caught: DispatcherMissesCancellation within 2_000
        by "every history ends";
    passing_over_jobs_that_are_not_cancelled_is_caught: CancelledBeyond within 5_000
        by "committed offsets are behind acknowledged outcomes"
        | "every job has its committed outcome"
        | "a run can be made complete";
}

//! A dispatcher process: the broker, the data set and the clock of the dispatcher's own [`Dispatch`]
//! and [`Publisher`], which decide. It may die, be doubled or be asked to resume between any two
//! steps.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use dispatcher::dispatch::{Action, DataSetCounts, Dispatch, Options};
use dispatcher::job_set::JobSet;
use dispatcher::publish::{
    Batching, FlowControl, JobsPerMessage, Next, PartitionBatch, Publisher, Wait,
};
use pipeline::{
    JobBatch, JobHeader, Outcome, OutcomeBatch, RunAborted, RunEvent, RunHistory, RunId, RunOptions,
};
use service::Signal;

use crate::broker::{Payload, ends};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;
use crate::topics::{arrive, events, history, lacks_frozen, records, tell};

/// The data set and the options of all dispatchers of a history.
#[derive(Debug)]
pub struct DataSet {
    /// The run.
    pub run_id: RunId,
    /// Its options.
    pub options: RunOptions,
    /// The jobs.
    pub jobs: JobSet,
    /// How many jobs go into a message.
    pub jobs_per_message: JobsPerMessage,
}

impl DataSet {
    /// What all jobs of a generation have in common.
    pub fn header(&self, generation: u32) -> JobHeader {
        JobHeader {
            run_id: self.run_id.clone(),
            generation,
            computation: self.options.computation.of_jobs().into(),
        }
    }
}

/// What a partition may hold that is not worked off, where flow control is on.
const LIMIT_BYTES: usize = 400;

/// A record takes this much beside its payload, by flow control's estimate,
const RECORD_BYTES: usize = 70;

/// and an outcome at least this much.
const OUTCOME_BYTES: usize = 100;

/// Why a dispatcher may go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The run is cancelled; a resume goes on with it.
    Cancelled,
    /// The run is another one, has failed, or must not have a further generation.
    ForGood,
}

/// A dispatcher process.
#[derive(Debug)]
pub struct DispatcherProcess {
    dispatch: Dispatch,
    /// It publishes jobs.
    publisher: Option<Publisher>,
    /// Jobs that the publisher has taken.
    pushed: u64,
    has_begun: bool,
    /// It has ended with an error: another one goes on, or nobody.
    refused: Option<Refused>,
    watched: Watched,
    /// Sent and not acknowledged, with the partition.
    pub on_the_way: Vec<(usize, Payload)>,
}

/// What is known of a dispatcher's doings by other means than its own.
#[derive(Debug, Default)]
struct Watched {
    /// Jobs that it is not to publish: they are there, or it has published them.
    present: BTreeSet<u64>,
    /// What the group had committed when it was asked.
    committed: Vec<i64>,
    /// The run was open when the runs topic was read last.
    is_open: bool,
    /// Batches by partition.
    batches: Vec<usize>,
    published_jobs: usize,
}

impl DispatcherProcess {
    /// A dispatcher that knows nothing yet.
    pub fn start(shared: &Shared, resumes: bool) -> Self {
        let data_set = Rc::clone(&shared.dispatch);
        let partitions = shared.broker.jobs.len();
        Self {
            dispatch: Dispatch::new(Options {
                run_id: data_set.run_id.clone(),
                run_is_named: true,
                run: data_set.options.clone(),
                is_rereadable: true,
                republishes: resumes,
                published_by: "a dispatcher".to_owned(),
            }),
            publisher: None,
            pushed: 0,
            has_begun: false,
            refused: None,
            watched: Watched {
                batches: vec![0; partitions],
                ..Watched::default()
            },
            on_the_way: Vec::new(),
        }
    }

    /// Whether it has nothing left to do.
    pub fn is_done(&self) -> bool {
        (self.dispatch.is_done() || self.refused.is_some()) && self.on_the_way.is_empty()
    }

    /// Whether it resumes the run and is not done.
    pub fn is_resuming(&self) -> bool {
        self.dispatch.republishes() && !self.is_done()
    }

    /// Why it may go no further, if it must not.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// The next step of the dispatcher's way.
    pub fn step(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        if self.refused.is_some() {
            return Ok(());
        }
        match self.dispatch.next() {
            Action::ReadRuns => {
                let history = match shared.mutation {
                    Some(Mutation::DispatcherMissesCancellation) => without_cancellations(shared),
                    _ => history(shared),
                };
                self.watched.is_open = history.opened().is_some();
                let answer = self.dispatch.apply_history(history);
                self.goes(answer, shared)?;
                if self.has_begun
                    && self.dispatch.manifest().is_none()
                    && self.dispatch.openings() > 1
                {
                    shared.saw(Seen::OpenedTwice);
                }
                Ok(())
            }
            Action::AskEndOffsets => {
                let (jobs, outcomes) = (&shared.broker.jobs, &shared.broker.outcomes);
                self.dispatch.apply_end_offsets(ends(jobs), ends(outcomes));
                Ok(())
            }
            Action::ReadDataSet => {
                let counts = shared.dispatch.jobs.counts();
                let counts = DataSetCounts {
                    jobs: counts.jobs,
                    rows_read: counts.rows,
                    rows_accepted: counts.rows,
                    rejected: Default::default(),
                };
                let answer = self.dispatch.apply_data_set(counts, 0);
                self.goes(answer, shared)
            }
            Action::RetractAbort => {
                shared.saw(Seen::AbortRetracted);
                let key = RunEvent::key_of_abort(&shared.dispatch.run_id);
                shared.broker.runs.push(Some((key, None)));
                self.acknowledged(shared)
            }
            Action::Open(opened) => {
                self.has_begun = true;
                tell(shared, &RunEvent::Opened(opened))?;
                self.acknowledged(shared)
            }
            Action::OpenAgain(opened) => {
                tell(shared, &RunEvent::Opened(opened))?;
                self.acknowledged(shared)
            }
            Action::AskCommitted => {
                let mut committed = shared.broker.group.committed_offsets();
                self.watched.committed = committed.clone();
                if shared.mutation == Some(Mutation::ResumeIgnoresCommitted) {
                    committed.fill(0);
                }
                let answer = self.dispatch.apply_committed(committed);
                self.goes(answer, shared)
            }
            Action::ReadJobs(from) => {
                shared.saw(Seen::Resumed);
                self.read_jobs(&from, shared);
                Ok(())
            }
            // What is not decided is waited for.
            Action::ReadOutcomes(_) if !shared.broker.transactions.is_empty() => Ok(()),
            Action::ReadOutcomes(from) => {
                self.read_outcomes(&from, shared);
                Ok(())
            }
            Action::Compare => {
                self.has_begun = true;
                let answer = self.dispatch.compare(&shared.dispatch.jobs);
                self.goes(answer, shared)
            }
            Action::OpenGeneration(_) if lacks_frozen(self.dispatch.history(), shared) => {
                self.refused = Some(Refused::ForGood);
                Ok(())
            }
            Action::OpenGeneration(opened) => {
                shared.saw(Seen::GenerationOpened);
                tell(shared, &RunEvent::Generation(opened))?;
                self.acknowledged(shared)
            }
            Action::PublishJobs => self.publish(shared),
            Action::PublishManifest(manifest) => {
                shared.oracle.manifest_told(&manifest)?;
                tell(shared, &RunEvent::Dispatched(manifest))?;
                self.acknowledged(shared)
            }
            Action::Done => Ok(()),
        }
    }

    fn acknowledged(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        let answer = self.dispatch.apply_acknowledged();
        self.goes(answer, shared)
    }

    /// A dispatcher of this very run and data set is refused for a reason that is true.
    fn goes(
        &mut self,
        answer: Result<(), dispatcher::Error>,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let Err(error) = answer else {
            return Ok(());
        };
        let oracle = &shared.oracle;
        let (is_true, refused) = match &error {
            dispatcher::Error::Cancelled { .. } => {
                (oracle.cancelled_up_to.is_some(), Refused::Cancelled)
            }
            dispatcher::Error::Refused(_) => (oracle.has_altered(), Refused::ForGood),
            _ => (oracle.is_contradicted(), Refused::ForGood),
        };
        if !is_true {
            return violated("a dispatcher of this run may go on", error.to_string());
        }
        shared.tell(|| format!("a dispatcher is refused: {error}"));
        shared.saw(match refused {
            Refused::Cancelled => Seen::DispatcherCancelled,
            Refused::ForGood => Seen::DispatcherRefused,
        });
        self.refused = Some(refused);
        Ok(())
    }

    fn read_jobs(&mut self, from: &[i64], shared: &Shared) {
        let cancelled = self.dispatch.history().timeline().cancelled_up_to();
        let logs = shared.broker.jobs.iter().zip(from);
        for (partition, (log, &from)) in (0..).zip(logs) {
            for (offset, payload) in records(log, from) {
                let committed = self.watched.committed.get(partition as usize);
                // A resume leaves to the workers what they do not pass over.
                let is_waiting = committed.is_none_or(|&committed| offset >= committed);
                if is_waiting
                    && let Ok(batch) = JobBatch::decode(payload)
                    && (committed.is_none() || Some(batch.generation()) > cancelled)
                {
                    // A dead letter of a copy of before its job was opened again would not count.
                    let newest = self.dispatch.generation();
                    let of_resume = |index| match committed {
                        Some(_) => shared.oracle.reopened_in(index, newest),
                        None => 0,
                    };
                    let indexes = batch.jobs().map(|job| job.index);
                    let counting = indexes.filter(|&index| batch.generation() >= of_resume(index));
                    self.watched.present.extend(counting);
                }
                if shared.mutation == Some(Mutation::ResumePassesPartition) && partition == 0 {
                    continue;
                }
                self.dispatch.apply_job_record(partition, offset, payload);
            }
        }
        self.dispatch.apply_end_of_topic();
    }

    fn read_outcomes(&mut self, from: &[i64], shared: &Shared) {
        for (log, &from) in shared.broker.outcomes.iter().zip(from) {
            for (_, payload) in records(log, from) {
                if let Ok(batch) = OutcomeBatch::decode(payload) {
                    // A dead letter of before its job was opened again is no outcome.
                    let newest = self.dispatch.generation();
                    let counts = batch.outcomes().filter(|job| {
                        let reopened_in = shared.oracle.reopened_in(job.index, newest);
                        let is_dead = matches!(job.outcome, Outcome::DeadLettered { .. });
                        !is_dead || batch.generation() >= reopened_in
                    });
                    self.watched.present.extend(counts.map(|job| job.index));
                }
                if shared.mutation != Some(Mutation::ResumeIgnoresOutcomes) {
                    self.dispatch.apply_outcome_record(payload);
                }
            }
        }
        self.dispatch.apply_end_of_topic();
    }

    /// Publishes a batch, or waits, or is done.
    fn publish(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        let mut publisher = match self.publisher.take() {
            Some(publisher) => publisher,
            None => self.begin_to_publish(shared),
        };
        loop {
            let collected = match shared.mutation {
                Some(Mutation::FlowControlIgnoresOutcomes) => u64::MAX,
                _ => shared.collected,
            };
            match publisher.next(collected) {
                Next::Jobs => self.push(&mut publisher, &shared.dispatch.jobs),
                Next::CommittedOffsets => {
                    let committed = match shared.mutation {
                        Some(Mutation::FlowControlFreesNothing) => Vec::new(),
                        Some(Mutation::FlowControlIgnoresCommitted) => ends(&shared.broker.jobs),
                        _ => shared.broker.group.committed_offsets(),
                    };
                    publisher.apply_committed(&committed);
                }
                Next::Produce { partition } => {
                    self.produce(partition, &mut publisher, shared)?;
                    break;
                }
                Next::Wait(wait) => {
                    if wait == Wait::FlowControl {
                        shared.saw(Seen::FlowControlled);
                    }
                    break;
                }
                Next::Done => {
                    if let Some(published) = publisher.finish() {
                        self.dispatch.apply_published(&published, Vec::new());
                    }
                    return Ok(());
                }
            }
        }
        self.publisher = Some(publisher);
        Ok(())
    }

    fn begin_to_publish(&self, shared: &mut Shared) -> Publisher {
        let data_set = Rc::clone(&shared.dispatch);
        let partitions = shared.broker.jobs.len();
        let missing = self.dispatch.missing();
        shared.tell(|| format!("a dispatcher is to publish {missing} missing jobs"));
        let batching = Batching::of_missing(
            data_set.jobs_per_message,
            Duration::ZERO,
            data_set.jobs.counts(),
            missing,
            partitions,
        );
        let limited = shared.flow_control.then(|| ends(&shared.broker.jobs));
        Publisher::new(
            &data_set.header(self.dispatch.generation()),
            missing,
            batching,
            partitions,
            limited.map(|ends| FlowControl::new(&ends, LIMIT_BYTES)),
            shared.now(),
        )
    }

    /// Hands jobs over until the publisher has something else to do.
    fn push(&mut self, publisher: &mut Publisher, jobs: &JobSet) {
        let mut takes = true;
        let all = jobs.for_each(|job| {
            if takes && job.index == self.pushed {
                self.pushed += 1;
                takes = !publisher.push(job, self.dispatch.resumed());
            }
            Ok(())
        });
        all.expect("jobs in memory can be read");
        if takes {
            publisher.end_of_jobs();
        }
    }

    /// The producer takes a batch.
    fn produce(
        &mut self,
        partition: usize,
        publisher: &mut Publisher,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        let partition = match shared.mutation {
            Some(Mutation::RotationStands) => 0,
            _ => partition,
        };
        let batch = publisher.take_batch();
        self.check_batch(partition, &batch, shared)?;
        let mut messages: Vec<&[u8]> = batch.messages().map(|(payload, _)| payload).collect();
        if shared.mutation == Some(Mutation::MessageSkipped) {
            messages.pop();
        }
        let sent = messages
            .into_iter()
            .map(|payload| (partition, Payload::from(payload)));
        self.on_the_way.extend(sent);
        match shared.mutation {
            Some(Mutation::MessageRepeated) => publisher.produced(batch.len() - 1),
            _ => publisher.produced(batch.len()),
        }
        let early = match shared.mutation {
            Some(Mutation::SwornBeforeAcknowledged) => batch.len(),
            Some(Mutation::MessageSkipped) => 1,
            _ => 0,
        };
        if early > 0 {
            publisher.apply_acknowledged(early as u64, shared.now());
        }
        publisher.give_back(batch);
        Ok(())
    }

    fn check_batch(
        &mut self,
        partition: usize,
        batch: &PartitionBatch,
        shared: &Shared,
    ) -> Result<(), Violation> {
        let watched = &mut self.watched;
        if shared.flow_control {
            let own = self.on_the_way.iter().filter(|(own, _)| *own == partition);
            let own: usize = own.map(|(_, payload)| RECORD_BYTES + payload.len()).sum();
            let committed = shared.broker.group.committed_offsets()[partition];
            let uncommitted = records(&shared.broker.jobs[partition], committed);
            let held = own
                + uncommitted
                    .map(|(_, payload)| RECORD_BYTES + payload.len())
                    .sum::<usize>();
            if held >= LIMIT_BYTES {
                return violated(
                    "a broker that keeps little drops nothing that was not read",
                    format!("partition {partition} holds {held} bytes"),
                );
            }
            let uncollected = watched
                .published_jobs
                .saturating_sub(shared.collected as usize);
            if uncollected * OUTCOME_BYTES >= LIMIT_BYTES * shared.broker.jobs.len() {
                return violated(
                    "a broker that keeps little drops nothing that was not read",
                    format!("{uncollected} outcomes are not collected"),
                );
            }
        }
        for (payload, _) in batch.messages() {
            let Ok(batch) = JobBatch::decode(payload) else {
                return violated("messages of jobs can be read", "one cannot");
            };
            for job in batch.jobs() {
                watched.published_jobs += 1;
                if !watched.present.insert(job.index) {
                    return violated(
                        "a dispatcher publishes what is missing, and each job once",
                        format!("job {}", job.index),
                    );
                }
            }
        }
        watched.batches[partition] += 1;
        let most = watched.batches.iter().max();
        let least = watched.batches.iter().min();
        match most.zip(least) {
            Some((most, least)) if most - least > 1 && !shared.flow_control => violated(
                "every partition has its turn before one has its second",
                format!("{:?} batches", watched.batches),
            ),
            _ => Ok(()),
        }
    }

    /// The broker has taken a message; it may take it twice, or store it as nobody can read it.
    pub fn deliver(&mut self, number: usize, shared: &mut Shared) {
        let (partition, payload) = self.on_the_way[number].clone();
        arrive(partition, payload, shared);
        if shared.fault(1, 8) {
            shared.saw(Seen::PublishedTwice);
            return;
        }
        self.on_the_way.swap_remove(number);
        if let Some(publisher) = &mut self.publisher {
            publisher.apply_acknowledged(1, shared.now());
        }
    }

    /// It is asked to end before it is done, and says that the run is aborted if it is its own.
    pub fn stop(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        let stopped = dispatcher::Error::Stopped(Signal::Terminate);
        if self.dispatch.looks_before_abort() {
            let seen = history(shared);
            self.watched.is_open = seen.opened().is_some();
            if shared.mutation != Some(Mutation::AbortsWithoutLooking) {
                self.dispatch.apply_last_history(Some(seen));
            }
        }
        let mut aborted = self.dispatch.abort(&stopped);
        if shared.mutation == Some(Mutation::AbortsAnothersRun) {
            aborted = Some(RunAborted {
                run_id: shared.dispatch.run_id.clone(),
                reason: stopped.to_string(),
            });
        }
        let Some(aborted) = aborted else {
            return Ok(());
        };
        if self.watched.is_open && !self.has_begun {
            return violated("a run is aborted by whom it belongs to", "by another");
        }
        shared.saw(Seen::Aborted);
        tell(shared, &RunEvent::Aborted(aborted))
    }
}

/// What the runs topic has of the run, but for cancellations.
fn without_cancellations(shared: &Shared) -> RunHistory {
    let mut history = RunHistory::new(shared.dispatch.run_id.clone());
    let events = events(&shared.broker.runs).into_iter();
    let others = events.filter(|event| !matches!(event, RunEvent::Cancelled(_)));
    others.for_each(|event| history.apply(event));
    history
}

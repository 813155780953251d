//! A dispatcher process: the broker, the data set and the clock of the dispatcher's own [`Dispatch`]
//! and [`Publisher`], which decide. It may die, be doubled or be asked to resume between any two
//! steps.

use std::rc::Rc;
use std::time::Duration;

use dispatcher::dispatch::{Action, DataSetCounts, Dispatch, Options};
use dispatcher::job_set::JobSet;
use dispatcher::publish::{Batching, JobsPerMessage, Next, Publisher};
use pipeline::{Grouping, Manifest, ResultsPolicy, RunEvent, RunHistory, RunId, RunOpened};

use crate::broker::{Log, Payload, RunRecord, ends};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;

/// The data set and the options of all dispatchers of a history.
#[derive(Debug)]
pub struct DataSet {
    /// The run.
    pub run_id: RunId,
    /// Its grouping options.
    pub grouping: Grouping,
    /// The jobs.
    pub jobs: JobSet,
    /// How many jobs go into a message.
    pub jobs_per_message: JobsPerMessage,
}

/// A dispatcher process.
#[derive(Debug)]
pub struct DispatcherProcess {
    dispatch: Dispatch,
    /// It publishes jobs.
    publisher: Option<Publisher>,
    /// Jobs that the publisher has taken.
    pushed: u64,
    has_opened: bool,
    /// Sent and not acknowledged, with the partition.
    pub on_the_way: Vec<(usize, Payload)>,
}

impl DispatcherProcess {
    /// A dispatcher that has read its data set; the topics end where they do now.
    pub fn start(shared: &Shared, resumes: bool) -> Self {
        let data_set = Rc::clone(&shared.dispatch);
        let mut dispatch = Dispatch::new(Options {
            run_id: data_set.run_id.clone(),
            run_is_named: true,
            grouping: data_set.grouping.clone(),
            results: ResultsPolicy::Reproducible,
            is_rereadable: true,
            republishes: resumes,
            published_by: "a dispatcher".to_owned(),
        });
        let counts = data_set.jobs.counts();
        let counts = DataSetCounts {
            jobs: counts.jobs,
            rows_read: counts.rows,
            rows_accepted: counts.rows,
            rejected: Default::default(),
        };
        let expected = "the run is this one";
        dispatch.apply_history(history(shared)).expect(expected);
        dispatch.apply_end_offsets(ends(&shared.broker.jobs), ends(&shared.broker.outcomes));
        dispatch.apply_data_set(counts, 0).expect(expected);
        Self {
            dispatch,
            publisher: None,
            pushed: 0,
            has_opened: false,
            on_the_way: Vec::new(),
        }
    }

    /// Whether it has nothing left to do.
    pub fn is_done(&self) -> bool {
        self.dispatch.is_done() && self.on_the_way.is_empty()
    }

    /// The next step of the dispatcher's way.
    pub fn step(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        loop {
            let action = self.dispatch.next();
            if self.waits_for_transactions(&action, shared) {
                return Ok(());
            }
            let goes_on = match action {
                Action::ReadRuns => {
                    let read = self.dispatch.apply_history(history(shared));
                    goes(read)?;
                    if self.has_opened && self.dispatch.openings() > 1 {
                        shared.saw(Seen::OpenedTwice);
                    }
                    matches!(
                        self.dispatch.next(),
                        Action::OpenAgain(_) | Action::PublishManifest(_)
                    )
                }
                Action::Open(opened) => {
                    self.has_opened = true;
                    self.publish_opening(opened, shared)?;
                    false
                }
                Action::OpenAgain(opened) => {
                    self.publish_opening(opened, shared)?;
                    false
                }
                Action::AskCommitted => {
                    let committed = shared.broker.group.committed_offsets();
                    goes(self.dispatch.apply_committed(committed))?;
                    true
                }
                Action::ReadJobs(from) => {
                    shared.saw(Seen::Resumed);
                    let logs = shared.broker.jobs.iter().zip(from);
                    for (partition, (log, from)) in (0..).zip(logs) {
                        for (offset, payload) in records(log, from) {
                            self.dispatch.apply_job_record(partition, offset, payload);
                        }
                    }
                    self.dispatch.apply_end_of_topic();
                    true
                }
                Action::ReadOutcomes(from) => {
                    for (log, from) in shared.broker.outcomes.iter().zip(from) {
                        for (_, payload) in records(log, from) {
                            self.dispatch.apply_outcome_record(payload);
                        }
                    }
                    self.dispatch.apply_end_of_topic();
                    true
                }
                Action::Compare => {
                    goes(self.dispatch.compare(&shared.dispatch.jobs))?;
                    true
                }
                Action::OpenGeneration(opened) => {
                    shared.saw(Seen::GenerationOpened);
                    tell(shared, &RunEvent::Generation(opened));
                    goes(self.dispatch.apply_acknowledged())?;
                    false
                }
                Action::PublishJobs => {
                    self.publish(shared);
                    false
                }
                Action::PublishManifest(manifest) => {
                    self.publish_manifest(manifest, shared)?;
                    false
                }
                Action::RetractAbort | Action::AskEndOffsets | Action::ReadDataSet => {
                    return violated("a dispatcher goes its way in order", format!("{action:?}"));
                }
                Action::Done => false,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// What is not decided is waited for.
    fn waits_for_transactions(&self, action: &Action, shared: &Shared) -> bool {
        let begins = match action {
            Action::AskCommitted => true,
            Action::PublishJobs => self.dispatch.resumed().is_none() && self.publisher.is_none(),
            _ => false,
        };
        begins && self.dispatch.republishes() && !shared.broker.transactions.is_empty()
    }

    fn publish_opening(&mut self, opened: RunOpened, shared: &mut Shared) -> Result<(), Violation> {
        tell(shared, &RunEvent::Opened(opened));
        goes(self.dispatch.apply_acknowledged())
    }

    fn publish_manifest(
        &mut self,
        manifest: Manifest,
        shared: &mut Shared,
    ) -> Result<(), Violation> {
        shared.oracle.manifest_told(&manifest)?;
        tell(shared, &RunEvent::Dispatched(manifest));
        goes(self.dispatch.apply_acknowledged())
    }

    /// Publishes a batch, or waits, or is done.
    fn publish(&mut self, shared: &mut Shared) {
        let Some(publisher) = &mut self.publisher else {
            self.publisher = Some(self.begin_to_publish(shared));
            return;
        };
        let data_set = Rc::clone(&shared.dispatch);
        loop {
            match publisher.next(0) {
                Next::Jobs => push(publisher, &data_set.jobs, &mut self.pushed, &self.dispatch),
                Next::CommittedOffsets => {
                    publisher.apply_committed(&shared.broker.group.committed_offsets());
                }
                Next::Produce { partition } => {
                    let batch = publisher.take_batch();
                    let messages = batch.messages();
                    let sent = messages.map(|(payload, _)| (partition, Payload::from(payload)));
                    self.on_the_way.extend(sent);
                    publisher.produced(batch.len());
                    if shared.mutation == Some(Mutation::SwornBeforeAcknowledged) {
                        publisher.apply_acknowledged(batch.len() as u64, shared.now());
                    }
                    publisher.give_back(batch);
                    return;
                }
                Next::Wait(_) => return,
                Next::Done => break,
            }
        }
        if let Some(published) = self.publisher.take().and_then(Publisher::finish) {
            self.dispatch.apply_published(&published, Vec::new());
        }
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
        Publisher::new(
            &data_set.run_id,
            missing,
            batching,
            partitions,
            None,
            shared.now(),
        )
        .in_generation(self.dispatch.generation())
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
}

/// Hands jobs over until the publisher has something else to do.
fn push(publisher: &mut Publisher, jobs: &JobSet, pushed: &mut u64, dispatch: &Dispatch) {
    let mut takes = true;
    let all = jobs.for_each(|job| {
        if takes && job.index == *pushed {
            *pushed += 1;
            takes = !publisher.push(job, dispatch.resumed());
        }
        Ok(())
    });
    all.expect("jobs in memory can be read");
    if takes {
        publisher.end_of_jobs();
    }
}

/// A dispatcher of this very run and data set is never refused.
fn goes<T>(answer: Result<T, dispatcher::Error>) -> Result<T, Violation> {
    answer.or_else(|error| violated("a dispatcher of this run may go on", error.to_string()))
}

/// A message reaches the jobs topic.
pub fn arrive(partition: usize, payload: Payload, shared: &mut Shared) {
    let spoiled = shared.fault(1, 60);
    let stored = if spoiled {
        shared.saw(Seen::MessageSpoiled);
        shared.spoiled += 1;
        Payload::from(b"\xffno message".as_slice())
    } else {
        Rc::clone(&payload)
    };
    shared.happens(&format!("{partition} {payload:?}"));
    let offset = shared.broker.jobs[partition].append(stored);
    shared.tell(|| format!("a message reaches the jobs topic, partition {partition} at {offset}"));
    shared.oracle.job_published(partition, &payload, spoiled);
}

/// The committed records of a partition from an offset on, or from the first that is kept, up to the
/// first that is not decided.
pub fn records(log: &Log, from: i64) -> impl Iterator<Item = (i64, &Payload)> {
    let offsets = from.max(log.start())..log.end();
    let decided = offsets.map_while(|offset| Some((offset, log.read(offset)?)));
    decided.filter_map(|(offset, payload)| Some((offset, payload?)))
}

/// What the runs topic has of the run now.
pub fn history(shared: &Shared) -> RunHistory {
    let mut history = RunHistory::new(shared.dispatch.run_id.clone());
    let events = shared.broker.runs.iter().flatten().filter_map(event);
    events.for_each(|event| history.hear(event));
    history
}

/// The event that a record of the runs topic is.
pub fn event((key, value): &RunRecord) -> Option<RunEvent> {
    let value = value.as_ref()?;
    RunEvent::decode(key.as_bytes(), value).ok()?
}

pub fn tell(shared: &mut Shared, event: &RunEvent) {
    shared.happens(&format!("{event:?}"));
    shared.tell(|| format!("the runs topic is told {}", event.key()));
    if let RunEvent::Generation(opened) = event
        && opened.generation == history(shared).timeline().number() + 1
    {
        shared.oracle.generation_opened(opened);
    }
    let record = (event.key(), Some(event.encode()));
    shared.broker.runs.push(Some(record));
}

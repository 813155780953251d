//! A dispatcher process around the very types that the dispatcher runs: the numbered [`JobSet`], the
//! packing into messages, [`plan`] and [`Resume`]. It goes the dispatcher's way step by step, and may
//! die, be doubled or be asked to resume between any two of them.

use std::rc::Rc;
use std::time::Duration;

use dispatcher::job_set::JobSet;
use dispatcher::packing::{JobsPerMessage, Packing, TurnLimit};
use pipeline::resume::{Attempt, Plan, Rule, plan};
use pipeline::{
    Difference, JobBatch, JobBatchEncoder, JobHeader, JobSetHasher, Manifest, OutcomeBatch, Resume,
    RunEvent, RunHistory, RunId, RunOpened, RunOptions,
};

use crate::broker::{Log, Payload, RunRecord, ends};
use crate::history::Shared;
use crate::invariants::{Violation, violated};
use crate::mutants::Mutation;
use crate::seen::Seen;

/// The data set and the options of all dispatchers of a history.
#[derive(Debug)]
pub struct Dispatch {
    /// The run.
    pub run_id: RunId,
    /// Its options.
    pub options: RunOptions,
    /// The jobs.
    pub jobs: JobSet,
    /// How many jobs go into a message.
    pub jobs_per_message: JobsPerMessage,
}

impl Dispatch {
    /// What all jobs have in common.
    pub fn header(&self) -> JobHeader {
        JobHeader {
            run_id: self.run_id.clone(),
            generation: 0,
            computation: self.options.computation.clone(),
        }
    }
}

/// What a dispatcher does next.
#[derive(Debug)]
enum State {
    Looks,
    Opens,
    LooksAgain,
    Decides(Plan),
    Publishes(Plan),
    Swears,
    Done,
}

/// A dispatcher process.
#[derive(Debug)]
pub struct DispatcherProcess {
    state: State,
    history: RunHistory,
    starts: (Vec<i64>, Vec<i64>),
    has_opened: bool,
    /// Asked to publish again what has no outcome.
    resumes: bool,
    taken_up: Option<Resume>,
    /// Messages by turns, the last one first.
    turns: Vec<Vec<Payload>>,
    partition: usize,
    /// Sent and not acknowledged, with the partition.
    pub on_the_way: Vec<(usize, Payload)>,
    messages: u64,
    manifest: Option<Manifest>,
}

impl DispatcherProcess {
    /// A dispatcher that has read its data set; the topics end where they do now.
    pub fn start(shared: &Shared, resumes: bool) -> Self {
        Self {
            state: State::Looks,
            history: RunHistory::new(shared.dispatch.run_id.clone()),
            starts: (ends(&shared.broker.jobs), ends(&shared.broker.outcomes)),
            has_opened: false,
            resumes,
            taken_up: None,
            turns: Vec::new(),
            partition: 0,
            on_the_way: Vec::new(),
            messages: 0,
            manifest: None,
        }
    }

    /// Whether it has nothing left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done) && self.on_the_way.is_empty()
    }

    /// The next step of the dispatcher's way.
    pub fn step(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        match &self.state {
            State::Looks => {
                self.history = history(shared);
                self.state = match self.plan(shared)? {
                    Plan::Open => State::Opens,
                    planned => {
                        self.open_again(shared);
                        State::Decides(planned)
                    }
                };
            }
            State::Opens => {
                tell(shared, &self.opening(shared));
                self.has_opened = true;
                self.state = State::LooksAgain;
            }
            State::LooksAgain => {
                self.history = history(shared);
                if self.history.openings() > 1 {
                    shared.saw(Seen::OpenedTwice);
                }
                self.open_again(shared);
                self.state = State::Decides(self.plan(shared)?);
            }
            // What is not decided is waited for.
            State::Decides(_) if self.resumes && !shared.broker.transactions.is_empty() => {}
            State::Decides(planned) => {
                let planned = *planned;
                self.decide(planned, shared)?;
                self.state = State::Publishes(planned);
            }
            State::Publishes(planned) => {
                let planned = *planned;
                self.publish(planned, shared);
            }
            State::Swears => {
                if let Some(manifest) = self.manifest.take() {
                    shared.oracle.manifest_told(&manifest)?;
                    tell(shared, &RunEvent::Dispatched(manifest));
                }
                self.state = State::Done;
            }
            State::Done => {}
        }
        Ok(())
    }

    fn plan(&self, shared: &Shared) -> Result<Plan, Violation> {
        let attempt = Attempt {
            options: &shared.dispatch.options,
            is_rereadable: true,
            has_opened: self.has_opened,
        };
        let planned = plan(&self.history, &attempt);
        planned
            .or_else(|refusal| violated("a dispatcher of this run may go on", refusal.to_string()))
    }

    fn opening(&self, shared: &Shared) -> RunEvent {
        RunEvent::Opened(RunOpened {
            run_id: shared.dispatch.run_id.clone(),
            options: shared.dispatch.options.clone(),
            opened_at_ms: 0,
            jobs_start_offsets: self.starts.0.clone(),
            outcomes_start_offsets: self.starts.1.clone(),
        })
    }

    fn open_again(&self, shared: &mut Shared) {
        if let Some(opened) = self.history.to_be_opened_again() {
            tell(shared, &RunEvent::Opened(opened.clone()));
        }
    }

    /// Looks at what there is, holds the data set against it, and packs what is missing.
    fn decide(&mut self, planned: Plan, shared: &mut Shared) -> Result<(), Violation> {
        self.taken_up = match planned {
            Plan::Open | Plan::PublishAll => None,
            Plan::GoOn | Plan::Compare => {
                shared.saw(Seen::Resumed);
                Some(self.take_up(shared)?)
            }
        };
        let dispatch = Rc::clone(&shared.dispatch);
        let run = self.taken_up.as_ref();
        let mut hasher = JobSetHasher::new();
        let mut difference: Option<Difference> = None;
        let counts = dispatch.jobs.counts();
        let missing = run.map_or(counts.jobs, Resume::missing);
        let partitions = shared.broker.jobs.len();
        let packing = Packing::new(
            dispatch.jobs_per_message,
            Duration::ZERO,
            18 * missing + counts.rows,
            partitions,
        );
        let turn_limit = TurnLimit::new(missing, partitions);
        let mut encoder = JobBatchEncoder::new(&dispatch.header());
        let mut turns = Turns::default();
        let all = dispatch.jobs.for_each(|job| {
            hasher.update(job);
            if let Some(run) = run {
                difference = difference.take().or(run.check(job).err());
                if !run.is_missing(job.index) {
                    return Ok(());
                }
                if !encoder.takes(job.index) {
                    turns.add(&mut encoder, turn_limit);
                }
            }
            encoder.push(job);
            if packing.is_full(encoder.jobs_count() as u64, encoder.bytes_bound() as u64) {
                turns.add(&mut encoder, turn_limit);
            }
            Ok(())
        });
        if let Err(error) = all {
            return violated("jobs in memory can be read", error.to_string());
        }
        if let Some(difference) = difference {
            return violated("a data set is the same as itself", difference.to_string());
        }
        if encoder.jobs_count() > 0 {
            turns.add(&mut encoder, turn_limit);
        }
        self.turns = turns.finish();
        let rows = counts.rows;
        let manifest = Manifest {
            run_id: dispatch.run_id.clone(),
            jobs: counts.jobs,
            rows_read: rows,
            rows_accepted: rows,
            rejected: Default::default(),
            job_set_digest: hasher.finish(),
            messages: 0,
            stages: Vec::new(),
        };
        for known in self.history.manifests() {
            if let Some(difference) = Difference::of_manifests(&manifest, known) {
                return violated("manifests of one run agree", difference.to_string());
            }
        }
        self.manifest = (planned != Plan::Compare).then_some(manifest);
        shared.tell(|| {
            let turns = self.turns.len();
            format!("a dispatcher is to {planned:?}: {missing} missing jobs in {turns} turns")
        });
        Ok(())
    }

    fn take_up(&self, shared: &Shared) -> Result<Resume, Violation> {
        let Some(opened) = self.history.opened() else {
            return violated("a run that is taken up was opened", "it was not");
        };
        let rule = match self.resumes {
            false => Rule::NeverPublished,
            true => Rule::WithoutOutcome {
                committed: shared.broker.group.committed_offsets(),
            },
        };
        let jobs = shared.dispatch.jobs.counts().jobs;
        let Some(mut run) = Resume::new(&shared.dispatch.run_id, jobs, rule) else {
            return violated("a run fits in memory", "it does not");
        };
        let logs = shared.broker.jobs.iter().zip(&opened.jobs_start_offsets);
        for (partition, (log, &from)) in (0..).zip(logs) {
            for (offset, payload) in records(log, from) {
                if let Ok(batch) = JobBatch::decode(payload) {
                    run.hear_published(partition, offset, &batch);
                }
            }
        }
        if self.resumes {
            let logs = shared.broker.outcomes.iter();
            for (log, &from) in logs.zip(&opened.outcomes_start_offsets) {
                for (_, payload) in records(log, from) {
                    if let Ok(batch) = OutcomeBatch::decode(payload) {
                        run.hear_outcomes(&batch);
                    }
                }
            }
        }
        Ok(run)
    }

    fn publish(&mut self, planned: Plan, shared: &mut Shared) {
        if let Some(turn) = self.turns.pop() {
            self.messages += turn.len() as u64;
            let partition = self.partition;
            let turn = turn.into_iter().map(|payload| (partition, payload));
            self.on_the_way.extend(turn);
            self.partition = (self.partition + 1) % shared.broker.jobs.len();
        } else if self.on_the_way.is_empty()
            || shared.mutation == Some(Mutation::SwornBeforeAcknowledged)
        {
            self.state = match planned {
                Plan::Compare => State::Done,
                _ => State::Swears,
            };
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
    }
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

/// What the runs topic tells now.
pub fn history(shared: &Shared) -> RunHistory {
    let mut history = RunHistory::new(shared.dispatch.run_id.clone());
    for record in shared.broker.runs.iter().flatten() {
        hear(&mut history, record);
    }
    history
}

/// Hears a record of the runs topic.
pub fn hear(history: &mut RunHistory, (key, value): &RunRecord) {
    if let Some(value) = value
        && let Ok(Some(event)) = RunEvent::decode(key.as_bytes(), value)
    {
        history.hear(event);
    }
}

fn tell(shared: &mut Shared, event: &RunEvent) {
    shared.tell(|| format!("the runs topic is told {}", event.key()));
    let record = (event.key(), Some(event.encode()));
    shared.broker.runs.push(Some(record));
}

/// Messages for one partition after the other.
#[derive(Default)]
struct Turns {
    turns: Vec<Vec<Payload>>,
    turn: Vec<Payload>,
    jobs: u64,
    bytes: usize,
}

impl Turns {
    fn add(&mut self, encoder: &mut JobBatchEncoder, limit: TurnLimit) {
        let mut payload = Vec::new();
        self.jobs += encoder.jobs_count() as u64;
        self.bytes += encoder.finish(&mut payload);
        self.turn.push(Payload::from(payload));
        if limit.is_reached(self.jobs, self.turn.len(), self.bytes) {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.turn.is_empty() {
            self.turns.push(std::mem::take(&mut self.turn));
        }
        (self.jobs, self.bytes) = (0, 0);
    }

    fn finish(mut self) -> Vec<Vec<Payload>> {
        self.send();
        self.turns.reverse();
        self.turns
    }
}

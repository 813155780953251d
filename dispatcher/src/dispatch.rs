//! The order of a dispatch as a state machine without clock or I/O: open the run or resume it, which
//! opens its next generation, publish the missing jobs, and publish the manifest after the last
//! acknowledgement. [`mod@crate::run`] drives it with a broker, the simulation with a model of one.

mod action;

use pipeline::resume::{Attempt, Plan, Refusal, Rule, plan};
use pipeline::{
    Difference, GenerationOpened, JobBatch, JobSetDigest, JobSetHasher, Manifest, OutcomeBatch,
    Resume, RunAborted, RunEvent, RunHistory, RunOpened, WriterId,
};

pub use self::action::{Action, DataSetCounts, Options};
use crate::error::Error;
use crate::job_set::JobSet;
use crate::publish::Published;

#[derive(Debug)]
enum State {
    /// Whether the run can be dispatched at all is to be seen before the data set is read.
    LooksEarly,
    AsksEndOffsets,
    ReadsDataSet,
    /// Others may have come while the data set was read.
    Looks,
    RetractsAbort,
    Opens,
    LooksAfterOpening,
    OpensAgain(RunOpened),
    AsksCommitted(RunOpened),
    ReadsJobs(RunOpened),
    ReadsOutcomes(RunOpened),
    Compares,
    OpensGeneration(GenerationOpened),
    LooksAfterGeneration(GenerationOpened),
    PublishesJobs,
    LooksBeforeManifest(Manifest),
    /// A manifest that disagrees with the first fails the run for everybody, and then the dispatch.
    PublishesManifest(Manifest, Option<Refusal>),
    Done,
}

/// The dispatch of a run by one dispatcher.
#[derive(Debug)]
pub struct Dispatch {
    options: Options,
    state: State,
    /// The run, as the runs topic was read last.
    history: RunHistory,
    /// The end offsets of the jobs topic and the outcomes topic before the run was opened.
    start_offsets: (Vec<i64>, Vec<i64>),
    opened_at_ms: i64,
    has_opened: bool,
    /// Whether it is for this dispatcher to say that the run is aborted: not while it may be
    /// another's.
    is_own: bool,
    plan: Plan,
    data_set: DataSetCounts,
    /// The state of the jobs on the topics, of a run that other dispatchers have begun.
    resume: Option<Resume>,
    undecodable: u64,
    manifest: Option<Manifest>,
}

impl Dispatch {
    /// Nothing is known of the run yet.
    pub fn new(options: Options) -> Self {
        Self {
            history: RunHistory::new(options.run_id.clone()),
            // Nothing is published about a run whose name no other process knows.
            state: match options.run_is_named {
                true => State::LooksEarly,
                false => State::AsksEndOffsets,
            },
            options,
            start_offsets: (Vec::new(), Vec::new()),
            opened_at_ms: 0,
            has_opened: false,
            is_own: false,
            plan: Plan::Open,
            data_set: DataSetCounts::default(),
            resume: None,
            undecodable: 0,
            manifest: None,
        }
    }

    /// The next action.
    pub fn next(&self) -> Action {
        match &self.state {
            State::LooksEarly
            | State::Looks
            | State::LooksAfterOpening
            | State::LooksAfterGeneration(_)
            | State::LooksBeforeManifest(_) => Action::ReadRuns,
            State::AsksEndOffsets => Action::AskEndOffsets,
            State::ReadsDataSet => Action::ReadDataSet,
            State::RetractsAbort => Action::RetractAbort,
            State::Opens => Action::Open(self.opening()),
            State::OpensAgain(opened) => Action::OpenAgain(opened.clone()),
            State::AsksCommitted(_) => Action::AskCommitted,
            State::ReadsJobs(opened) => Action::ReadJobs(opened.jobs_start_offsets.clone()),
            State::ReadsOutcomes(opened) => {
                Action::ReadOutcomes(opened.outcomes_start_offsets.clone())
            }
            State::Compares => Action::Compare,
            State::OpensGeneration(opened) => Action::OpenGeneration(opened.clone()),
            State::PublishesJobs => Action::PublishJobs,
            State::PublishesManifest(manifest, _) => Action::PublishManifest(manifest.clone()),
            State::Done => Action::Done,
        }
    }

    fn opening(&self) -> RunOpened {
        RunOpened {
            run_id: self.options.run_id.clone(),
            options: self.options.run.clone(),
            opened_at_ms: self.opened_at_ms,
            jobs_start_offsets: self.start_offsets.0.clone(),
            outcomes_start_offsets: self.start_offsets.1.clone(),
        }
    }

    fn plan(&self) -> Result<Plan, Refusal> {
        let attempt = Attempt {
            options: &self.options.run,
            is_rereadable: self.options.is_rereadable,
            has_opened: self.has_opened,
        };
        plan(&self.history, &attempt)
    }

    /// Applies the history of the run, as it is on the runs topic now.
    ///
    /// # Errors
    /// When the run is not for this dispatcher to go on with, or was removed.
    pub fn apply_history(&mut self, history: RunHistory) -> Result<(), Error> {
        self.history = history;
        match std::mem::replace(&mut self.state, State::Done) {
            State::LooksEarly => {
                self.plan()?;
                self.is_own = self.history.opened().is_none();
                self.state = State::AsksEndOffsets;
            }
            State::Looks => self.look()?,
            State::LooksAfterOpening => {
                // Up to its own opening at least, so of two that come at once one sees both.
                self.is_own = self.history.openings() <= 1;
                self.open_again()?;
            }
            State::LooksAfterGeneration(opened) => match self.generation_is_open(&opened) {
                true => self.publish_jobs(),
                false => {
                    self.check_cancelled(opened.ends_cancellation.as_ref())?;
                    self.open_generation()?;
                }
            },
            State::LooksBeforeManifest(manifest) => {
                if self.history.opened().is_none() {
                    return Err(Error::Removed(self.options.run_id.clone()));
                }
                self.check_cancelled(None)?;
                self.look_before_manifest(manifest);
            }
            // Nobody has asked.
            other => self.state = other,
        }
        Ok(())
    }

    /// Applies the present end offsets of the jobs topic and the outcomes topic.
    pub fn apply_end_offsets(&mut self, jobs: Vec<i64>, outcomes: Vec<i64>) {
        if let State::AsksEndOffsets = self.state {
            self.start_offsets = (jobs, outcomes);
            self.is_own = self.history.opened().is_none();
            self.state = State::ReadsDataSet;
        }
    }

    /// The data set was read, and has this much; it is `now_ms`, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the run is not for this dispatcher to go on with.
    pub fn apply_data_set(&mut self, data_set: DataSetCounts, now_ms: i64) -> Result<(), Error> {
        if let State::ReadsDataSet = self.state {
            self.data_set = data_set;
            self.opened_at_ms = now_ms;
            match self.options.run_is_named {
                true => self.state = State::Looks,
                false => self.look()?,
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Error> {
        // Another one may have opened it while the data set was read.
        self.is_own = self.history.opened().is_none();
        self.plan = self.plan()?;
        match self.history.aborted() {
            Some(_) => self.state = State::RetractsAbort,
            None => self.open()?,
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Error> {
        if self.plan == Plan::Open {
            self.state = State::Opens;
            return Ok(());
        }
        self.open_again()
    }

    /// An opening is never overwritten by a later one: where several dispatchers have opened the
    /// run, each that sees more than one publishes what they are together, for the topic is
    /// compacted to the last. Each asks for the topics' ends before it opens the run, and publishes
    /// jobs only after, so the first opening alone would serve all of them, too.
    fn open_again(&mut self) -> Result<(), Error> {
        match self.history.to_be_opened_again() {
            Some(opened) => self.state = State::OpensAgain(opened.clone()),
            None => self.begin()?,
        }
        Ok(())
    }

    /// The run is open: what is on its topics is to be known before anything is published, unless
    /// this dispatcher is alone with it.
    fn begin(&mut self) -> Result<(), Error> {
        if self.has_opened {
            self.plan = self.plan()?;
        }
        let opened = match self.history.opened() {
            Some(opened) if self.plan != Plan::Open => opened.clone(),
            _ => return Err(Error::Removed(self.options.run_id.clone())),
        };
        if !self.options.republishes {
            self.check_cancelled(None)?;
        }
        match self.plan {
            Plan::PublishAll => self.publish_jobs(),
            _ if self.options.republishes => self.state = State::AsksCommitted(opened),
            _ => self.load(Rule::NeverPublished, opened)?,
        }
        Ok(())
    }

    /// Applies the committed offsets of the workers' group, by partition of the jobs topic.
    ///
    /// # Errors
    /// When memory has no room for nine bytes a job.
    pub fn apply_committed(&mut self, committed: Vec<i64>) -> Result<(), Error> {
        match std::mem::replace(&mut self.state, State::Done) {
            // Asked for before the topics are read: see the rule.
            State::AsksCommitted(opened) => self.load(Rule::WithoutOutcome { committed }, opened),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    fn load(&mut self, rule: Rule, opened: RunOpened) -> Result<(), Error> {
        let jobs = self.data_set.jobs;
        let resume = Resume::new(&self.options.run_id, jobs, rule);
        let resume = resume.ok_or(Error::TooManyJobs { jobs })?;
        self.resume = Some(resume.in_generation_of(&self.history.timeline()));
        self.state = State::ReadsJobs(opened);
        Ok(())
    }

    /// Applies a record of the jobs topic.
    pub fn apply_job_record(&mut self, partition: i32, offset: i64, payload: &[u8]) {
        match (JobBatch::decode(payload), &mut self.resume) {
            (Ok(batch), Some(resume)) => resume.apply_published(partition, offset, &batch),
            (Ok(_), None) => {}
            (Err(_), _) => self.undecodable += 1,
        }
    }

    /// Applies a record of the outcomes topic.
    pub fn apply_outcome_record(&mut self, payload: &[u8]) {
        match (OutcomeBatch::decode(payload), &mut self.resume) {
            (Ok(batch), Some(resume)) => resume.apply_outcomes(&batch),
            (Ok(_), None) => {}
            (Err(_), _) => self.undecodable += 1,
        }
    }

    /// Applies the end of the topic that was read.
    pub fn apply_end_of_topic(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::ReadsJobs(opened) if self.options.republishes => State::ReadsOutcomes(opened),
            State::ReadsJobs(_) | State::ReadsOutcomes(_) => State::Compares,
            other => other,
        };
    }

    /// Holds every job of the data set against what was published, and its manifest against those
    /// of others.
    ///
    /// # Errors
    /// With the first difference, or when rows on disk cannot be read.
    pub fn compare(&mut self, jobs: &JobSet) -> Result<(), Error> {
        let (State::Compares, Some(resume)) = (&self.state, &self.resume) else {
            return Ok(());
        };
        let mut hasher = JobSetHasher::new();
        jobs.for_each(|job| {
            hasher.update(job);
            resume
                .check(job)
                .map_err(|difference| Refusal::differs(&self.options.run_id, difference).into())
        })?;
        self.refuse_other_manifests(&self.manifest_of(hasher.finish(), 0, Vec::new()))?;
        let is_cancelled = self.history.timeline().newest().cancelled().is_some();
        match self.options.republishes && (self.missing() > 0 || is_cancelled) {
            true => self.open_generation(),
            false => {
                self.publish_jobs();
                Ok(())
            }
        }
    }

    /// What is published again is of a generation of its own. One without jobs would take the verdict
    /// of a run away for nothing, unless it ends a cancellation.
    fn open_generation(&mut self) -> Result<(), Error> {
        let run_id = &self.options.run_id;
        let missing = self.resume.as_ref().map(Resume::missing_jobs);
        let timeline = self.history.timeline();
        let published_by = &self.options.published_by;
        let next = timeline.next_generation(run_id, missing.unwrap_or_default(), published_by);
        let opened = next.map_err(kafka::Error::from)?;
        self.state = State::OpensGeneration(opened);
        Ok(())
    }

    fn generation_is_open(&self, opened: &GenerationOpened) -> bool {
        let timeline = self.history.timeline();
        timeline.is_opened_by(opened.generation, &opened.writer)
    }

    /// Refuses a run that is cancelled, unless its cancellation is the `ended` one. A run that is cancelled
    /// is gone on with by `--resume` alone. A resume ends the cancellation that it knew of, and none that
    /// came while it looked for what is missing: jobs of which a copy was waiting then are passed over now.
    fn check_cancelled(&self, ended: Option<&WriterId>) -> Result<(), Error> {
        match self.history.timeline().newest().cancelled() {
            Some(cancelled) if ended != Some(&cancelled.writer) => Err(Error::cancelled(cancelled)),
            _ => Ok(()),
        }
    }

    /// Begins to publish jobs. From here on, this dispatcher publishes the end of the run, unless it was
    /// published before.
    fn publish_jobs(&mut self) {
        self.is_own = self.plan != Plan::Compare;
        self.state = State::PublishesJobs;
    }

    /// Every job that was missing is on the broker; the seconds of the stages go to the manifest.
    pub fn apply_published(&mut self, published: &Published, stages: Vec<(String, f64)>) {
        if let State::PublishesJobs = self.state {
            let before = self.resume.as_ref().map_or(0, Resume::messages);
            let messages = published.messages + before;
            let manifest = self.manifest_of(published.digest, messages, stages);
            self.manifest = Some(manifest.clone());
            match self.plan {
                Plan::Compare => self.state = State::Done,
                _ if self.options.run_is_named => {
                    self.state = State::LooksBeforeManifest(manifest);
                }
                _ => self.look_before_manifest(manifest),
            }
        }
    }

    /// Publishes the manifest, unless one that agrees is there: of two dispatchers of one run the one
    /// that is done first publishes it. One that disagrees is answered with the own, for this
    /// dispatcher has published jobs by then, and both together fail the run for everybody.
    fn look_before_manifest(&mut self, manifest: Manifest) {
        let refusal = self.refuse_other_manifests(&manifest).err();
        self.state = match (self.history.manifest(), &refusal) {
            (Some(_), None) => State::Done,
            _ => State::PublishesManifest(manifest, refusal),
        };
    }

    fn manifest_of(
        &self,
        job_set_digest: JobSetDigest,
        messages: u64,
        stages: Vec<(String, f64)>,
    ) -> Manifest {
        Manifest {
            run_id: self.options.run_id.clone(),
            jobs: self.data_set.jobs,
            rows_read: self.data_set.rows_read,
            rows_accepted: self.data_set.rows_accepted,
            rejected: self.data_set.rejected.clone(),
            job_set_digest,
            messages,
            stages,
        }
    }

    fn refuse_other_manifests(&self, own: &Manifest) -> Result<(), Refusal> {
        let mut differences = self
            .history
            .manifests()
            .filter_map(|known| Difference::of_manifests(own, known));
        match differences.next() {
            Some(difference) => Err(Refusal::differs(self.history.run_id(), difference)),
            None => Ok(()),
        }
    }

    /// Applies the acknowledgement of the event that was published on the runs topic.
    ///
    /// # Errors
    /// When the run is not for this dispatcher to go on with, or was removed.
    pub fn apply_acknowledged(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::RetractsAbort => self.open(),
            State::Opens => {
                self.has_opened = true;
                if self.options.run_is_named {
                    self.state = State::LooksAfterOpening;
                    return Ok(());
                }
                self.history.apply(RunEvent::Opened(self.opening()));
                self.begin()
            }
            State::OpensAgain(_) => self.begin(),
            State::OpensGeneration(opened) => {
                self.state = State::LooksAfterGeneration(opened);
                Ok(())
            }
            State::PublishesManifest(_, Some(refusal)) => Err(refusal.into()),
            State::PublishesManifest(_, None) => Ok(()),
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// Whether the runs topic is to be [read](Self::apply_last_history) before the run is aborted:
    /// until jobs are published, others may have opened it meanwhile.
    pub fn looks_before_abort(&self) -> bool {
        let has_published = matches!(
            self.state,
            State::PublishesJobs
                | State::LooksBeforeManifest(_)
                | State::PublishesManifest(..)
                | State::Done
        );
        self.options.run_is_named && self.is_own && !has_published
    }

    /// What the runs topic has of the run now that the dispatch is to end; `None` where it cannot be
    /// read, and the run may be another's.
    pub fn apply_last_history(&mut self, history: Option<RunHistory>) {
        // Its own opening is there, if it came to that.
        let own = usize::from(self.has_opened);
        self.is_own &= history.is_some_and(|history| history.openings() <= own);
    }

    /// What is to be said where the dispatch ends with this error: that the run is aborted, if it is
    /// this dispatcher's.
    pub fn abort(&self, error: &Error) -> Option<RunAborted> {
        // Of a run that was removed, nothing is to be left on the topic.
        let is_refused = matches!(
            error,
            Error::Refused(_) | Error::Cancelled { .. } | Error::Removed(_)
        );
        (self.is_own && !is_refused).then(|| RunAborted {
            run_id: self.options.run_id.clone(),
            reason: error.without_rows(),
        })
    }

    /// What is on the topics of a run that others have begun, once it was read.
    pub fn resumed(&self) -> Option<&Resume> {
        self.resume.as_ref()
    }

    /// The run, as the runs topic was read last.
    pub fn history(&self) -> &RunHistory {
        &self.history
    }

    /// The generation that jobs are published in.
    pub fn generation(&self) -> u32 {
        self.history.timeline().number()
    }

    /// The number of jobs to publish.
    pub fn missing(&self) -> u64 {
        let resume = self.resume.as_ref();
        resume.map_or(self.data_set.jobs, Resume::missing)
    }

    /// Whether the manifest was there before.
    pub fn was_dispatched(&self) -> bool {
        self.plan == Plan::Compare
    }

    /// The number of openings of the run when the runs topic was read last.
    pub fn openings(&self) -> usize {
        self.history.openings()
    }

    /// Whether jobs without an outcome are published again.
    pub fn republishes(&self) -> bool {
        self.options.republishes
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Records on the topics that could not be decoded.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The manifest of what was dispatched, once every job is on the broker.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}

#[cfg(test)]
mod tests;

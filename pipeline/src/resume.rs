//! A run that is taken up again: what a dispatcher is to do with a run, given what the runs topic
//! tells, and which jobs are missing, given what the other topics hold. Pure: topics are told to it.

use crate::difference::{Difference, shown};
use crate::grain::TimeBucket;
use crate::job::{Job, JobBatch};
use crate::outcome::OutcomeBatch;
use crate::run::RunOptions;
use crate::run_history::RunHistory;
use crate::run_id::RunId;

/// One dispatcher's attempt at a run.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Its options.
    pub options: &'a RunOptions,
    /// Whether its data set can be read a second time; standard input cannot.
    pub is_rereadable: bool,
    /// Whether one of the openings that were heard is its own.
    pub has_opened: bool,
}

/// What a dispatcher does with its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nobody has opened the run: open it, listen again, and plan again.
    Open,
    /// It has opened the run and is alone with it: publish all jobs, without looking.
    PublishAll,
    /// Somebody has begun: look at what is there, and publish what is missing.
    GoOn,
    /// All jobs are published: look whether they are these.
    Compare,
}

/// Why a dispatcher does nothing with its run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The run exists, and standard input gives its rows once.
    #[error(
        "run {run_id} exists, and standard input cannot be read again to take it up: dispatch a \
         file, or choose another --run-id"
    )]
    StandardInput {
        /// The run.
        run_id: RunId,
    },

    /// The run is another one.
    #[error("run {run_id} exists and is not this one: {difference}; choose another --run-id")]
    Differs {
        /// The run.
        run_id: RunId,
        /// How it differs.
        difference: Difference,
    },
}

impl Refusal {
    /// The run differs from what this dispatcher has.
    pub fn differs(run_id: &RunId, difference: Difference) -> Self {
        Self::Differs {
            run_id: run_id.clone(),
            difference,
        }
    }
}

/// What to do with a run of which this was heard.
///
/// # Errors
/// When it cannot be taken up by this dispatcher, which is then to publish nothing.
pub fn plan(history: &RunHistory, attempt: &Attempt<'_>) -> Result<Plan, Refusal> {
    let Some(opened) = history.opened() else {
        return Ok(Plan::Open);
    };
    if let Some(difference) = Difference::of_options(attempt.options, &opened.options) {
        return Err(Refusal::differs(history.run_id(), difference));
    }
    // One that has opened the run itself holds its rows already.
    if !attempt.is_rereadable && !attempt.has_opened {
        return Err(Refusal::StandardInput {
            run_id: history.run_id().clone(),
        });
    }
    Ok(match history.manifest() {
        Some(_) => Plan::Compare,
        None if attempt.has_opened && history.openings() == 1 => Plan::PublishAll,
        None => Plan::GoOn,
    })
}

/// Which jobs are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Those that are not on the jobs topic.
    NeverPublished,
    /// Those without an outcome, unless a copy on the jobs topic is still to be worked on.
    ///
    /// These offsets are to be asked for before topics are read: a worker has an outcome
    /// acknowledged before it commits the job's offset. So a copy that lies below an offset which
    /// was committed then, and whose outcome is not on the topic when that is read afterwards, has
    /// been passed and will never have one. Asked for later, jobs in between would be published
    /// again though all is well with them.
    WithoutOutcome {
        /// By partition of the jobs topic: the offset that the workers' group has committed. Where
        /// it has committed none, nothing was passed.
        committed: Vec<i64>,
    },
}

/// A copy of the job was on the jobs topic.
const PUBLISHED: u8 = 1;
/// One of its copies is still to be worked on.
const WAITING: u8 = 2;
/// It has an outcome.
const HAS_OUTCOME: u8 = 4;

/// Bits of a fingerprint that are of the job's key and part alone.
const KEY_BITS: u32 = 24;

/// What is on the topics of one run, as far as it decides which jobs are missing.
///
/// Takes nine bytes a job, by the dispatcher's own number of jobs: an index from a topic sizes no
/// memory.
#[derive(Clone, Debug)]
pub struct Resume {
    run_id: RunId,
    rule: Rule,
    fingerprints: Vec<u64>,
    marks: Vec<u8>,
    difference: Option<Difference>,
    messages: u64,
}

impl Resume {
    /// Nothing was heard yet of a run which has so many jobs by the dispatcher's own count; `None`
    /// when so many cannot be held in memory.
    pub fn new(run_id: &RunId, jobs: u64, rule: Rule) -> Option<Self> {
        let jobs = usize::try_from(jobs).ok()?;
        let mut fingerprints = Vec::new();
        fingerprints.try_reserve_exact(jobs).ok()?;
        fingerprints.resize(jobs, 0);
        let mut marks = Vec::new();
        marks.try_reserve_exact(jobs).ok()?;
        marks.resize(jobs, 0);
        Some(Self {
            run_id: run_id.clone(),
            rule,
            fingerprints,
            marks,
            difference: None,
            messages: 0,
        })
    }

    /// Hears a message of the jobs topic. Those of other runs change nothing.
    pub fn hear_published(&mut self, partition: i32, offset: i64, batch: &JobBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        self.messages += 1;
        let mark = match &self.rule {
            Rule::NeverPublished => PUBLISHED,
            Rule::WithoutOutcome { committed } => {
                let own = usize::try_from(partition).ok();
                let committed = own.and_then(|partition| committed.get(partition));
                match committed {
                    Some(&committed) if offset < committed => PUBLISHED,
                    _ => PUBLISHED | WAITING,
                }
            }
        };
        for job in batch.jobs() {
            let Some(own) = self.position(job.index) else {
                self.beyond(job.index, || shown(job.key));
                continue;
            };
            let fingerprint = fingerprint(&job);
            if self.marks[own] & PUBLISHED != 0 && self.fingerprints[own] != fingerprint {
                self.difference.get_or_insert_with(|| Difference::Twice {
                    index: job.index,
                    key: shown(job.key),
                });
            }
            self.fingerprints[own] = fingerprint;
            self.marks[own] |= mark;
        }
    }

    /// Hears outcomes. Those of other runs change nothing.
    pub fn hear_outcomes(&mut self, batch: &OutcomeBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        for outcome in batch.outcomes() {
            match self.position(outcome.index) {
                Some(own) => self.marks[own] |= HAS_OUTCOME,
                None => self.beyond(outcome.index, || shown(outcome.key)),
            }
        }
    }

    fn position(&self, index: u64) -> Option<usize> {
        let own = usize::try_from(index).ok()?;
        (own < self.marks.len()).then_some(own)
    }

    fn beyond(&mut self, index: u64, key: impl FnOnce() -> String) {
        let jobs = self.marks.len() as u64;
        self.difference.get_or_insert_with(|| Difference::Beyond {
            index,
            key: key(),
            jobs,
        });
    }

    /// Holds one of the dispatcher's own jobs against what was published. To be asked for every job
    /// before the first is published.
    ///
    /// # Errors
    /// When the run has another job of this index, or what was heard cannot be of this data set.
    pub fn check(&self, job: &Job<'_>) -> Result<(), Difference> {
        if let Some(difference) = &self.difference {
            return Err(difference.clone());
        }
        let Some(own) = self.position(job.index) else {
            return Ok(());
        };
        if self.marks[own] & PUBLISHED == 0 {
            return Ok(());
        }
        let (published, now) = (self.fingerprints[own], fingerprint(job));
        if published == now {
            return Ok(());
        }
        let same_key = published >> (u64::BITS - KEY_BITS) == now >> (u64::BITS - KEY_BITS);
        Err(Difference::Job {
            index: job.index,
            key: shown(job.key),
            what: if same_key {
                "other rows"
            } else {
                "another key"
            },
        })
    }

    /// Whether a job is to be published now.
    pub fn is_missing(&self, index: u64) -> bool {
        let present = match self.rule {
            Rule::NeverPublished => PUBLISHED,
            Rule::WithoutOutcome { .. } => WAITING | HAS_OUTCOME,
        };
        self.position(index)
            .is_some_and(|own| self.marks[own] & present == 0)
    }

    /// How many jobs are to be published now.
    pub fn missing(&self) -> u64 {
        let indexes = 0..self.marks.len() as u64;
        indexes.filter(|&index| self.is_missing(index)).count() as u64
    }

    /// How many jobs are left to the workers: a copy is still to be worked on, and there is no
    /// outcome yet. Always 0 under [`Rule::NeverPublished`], which does not look.
    pub fn waiting(&self) -> u64 {
        let waiting = |mark: &&u8| **mark & (WAITING | HAS_OUTCOME) == WAITING;
        self.marks.iter().filter(waiting).count() as u64
    }

    /// How many messages of the run were heard on the jobs topic.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

/// What a job is, in 64 bits of BLAKE3: the upper [`KEY_BITS`] of its key and part, the others of
/// its weight, its payload and all that.
fn fingerprint(job: &Job<'_>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    // Lengths come first, so that no two jobs are written the same way.
    hasher.update(&(job.key.labels.values.len() as u64).to_le_bytes());
    for value in &job.key.labels.values {
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(value.as_bytes());
    }
    // No time is not the time of any bucket.
    let time = job.key.time.map_or(i64::MIN, TimeBucket::seconds);
    hasher.update(&time.to_le_bytes());
    hasher.update(&job.part.to_le_bytes());
    let of_key = first_bits(&hasher);
    hasher.update(&job.weight.to_le_bytes());
    hasher.update(&(job.payload.len() as u64).to_le_bytes());
    hasher.update(job.payload);
    let of_all = first_bits(&hasher);
    let key_mask = !(u64::MAX >> KEY_BITS);
    (of_key & key_mask) | (of_all & !key_mask)
}

fn first_bits(hasher: &blake3::Hasher) -> u64 {
    let mut bits = [0; 8];
    hasher.finalize_xof().fill(&mut bits);
    u64::from_le_bytes(bits)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::job::tests::{OwnedJob, any_jobs, header};
    use crate::outcome::{Outcome, OutcomeBatchBuilder, Worker};
    use crate::run::tests::{manifest, opened, options};
    use crate::run::{RunAborted, RunEvent};
    use crate::{LabelSet, RunOpened, payload_digest};

    fn run_id(name: &str) -> RunId {
        name.parse().expect("a run id")
    }

    fn published(run: &str, job: &Job<'_>) -> JobBatch {
        JobBatch::decode(&job.alone(&header(run))).expect("a valid batch")
    }

    fn outcome(run: &str, job: &Job<'_>, is_dead: bool) -> OutcomeBatch {
        let mut builder = OutcomeBatchBuilder::new(&run_id(run), 0, &Worker::default());
        let outcome = match is_dead {
            true => Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            },
            false => Outcome::Completed(&[]),
        };
        builder.push(job, payload_digest(job.payload), outcome);
        OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
    }

    fn job(hours: i64, payload: &[u8]) -> OwnedJob {
        OwnedJob {
            labels: LabelSet::new(["Italy"]),
            time: TimeBucket::from_hours(hours),
            part: 0,
            weight: payload.len() as u32,
            payload: payload.to_vec(),
        }
    }

    fn resume(jobs: u64, rule: Rule) -> Resume {
        Resume::new(&run_id("a-run"), jobs, rule).expect("room")
    }

    /// What was heard of `events`, by an attempt whose options are those of the first opening.
    fn planned(
        events: &[RunEvent],
        change: impl FnOnce(&mut Attempt<'_>),
    ) -> Result<Plan, Refusal> {
        let mut history = RunHistory::new(run_id("a-run"));
        for event in events {
            history.hear(event.clone());
        }
        let options = options();
        let mut attempt = Attempt {
            options: &options,
            is_rereadable: true,
            has_opened: false,
        };
        change(&mut attempt);
        plan(&history, &attempt)
    }

    #[test]
    fn a_run_is_opened_once_gone_on_with_after_that_and_compared_in_the_end() {
        let opening = RunEvent::Opened(opened());
        let dispatched = RunEvent::Dispatched(manifest(3, 9));
        let aborted = RunEvent::Aborted(RunAborted {
            run_id: run_id("a-run"),
            reason: "stopped".to_owned(),
        });
        assert_eq!(planned(&[], |_| {}), Ok(Plan::Open));
        assert_eq!(
            planned(std::slice::from_ref(&aborted), |_| {}),
            Ok(Plan::Open)
        );
        let alone = [opening.clone()];
        let opener = |attempt: &mut Attempt<'_>| attempt.has_opened = true;
        assert_eq!(planned(&alone, opener), Ok(Plan::PublishAll));
        assert_eq!(planned(&alone, |_| {}), Ok(Plan::GoOn));
        let twice = [opening.clone(), opening.clone()];
        assert_eq!(planned(&twice, opener), Ok(Plan::GoOn));
        assert_eq!(planned(&[opening.clone(), aborted], |_| {}), Ok(Plan::GoOn));
        assert_eq!(planned(&[opening, dispatched], |_| {}), Ok(Plan::Compare));
    }

    #[test]
    fn standard_input_takes_no_run_up_but_goes_on_with_its_own() {
        let alone = [RunEvent::Opened(opened())];
        let refused = planned(&alone, |attempt| attempt.is_rereadable = false);
        assert!(matches!(refused, Err(Refusal::StandardInput { .. })));
        let own = |attempt: &mut Attempt<'_>| {
            attempt.is_rereadable = false;
            attempt.has_opened = true;
        };
        assert_eq!(planned(&alone, own), Ok(Plan::PublishAll));
        assert_eq!(
            planned(&[], |attempt| attempt.is_rereadable = false),
            Ok(Plan::Open)
        );
    }

    #[test]
    fn other_options_are_refused_by_name_whoever_came_first() {
        let mut other = opened();
        other.options.cut.max_rows_per_job = 7;
        let events = [other, opened()].map(RunEvent::Opened);
        let refused = planned(&events, |attempt| attempt.has_opened = true).expect_err("7 rows");
        assert!(
            refused.to_string().contains("--max-rows-per-job"),
            "{refused}"
        );
        let [first, second] = events;
        assert_eq!(planned(&[second, first], |_| {}), Ok(Plan::GoOn));
    }

    #[test]
    fn a_difference_names_the_job_and_what_differs() {
        let (one, other) = (job(440_000, &[1, 0]), job(440_001, &[1, 0]));
        let mut resume = resume(2, Rule::NeverPublished);
        resume.hear_published(0, 0, &published("a-run", &one.at(0)));
        assert_eq!(resume.check(&one.at(0)), Ok(()));
        assert_eq!(resume.check(&other.at(1)), Ok(()));
        let rows = job(440_000, &[1, 1]);
        assert_eq!(
            resume
                .check(&rows.at(0))
                .expect_err("another result")
                .to_string(),
            "data set differs: job 0 (Italy, 2020-03-12T08:00:00) was published with other rows"
        );
        let key = resume
            .check(&other.at(0))
            .expect_err("another time")
            .to_string();
        assert!(key.ends_with("was published with another key"), "{key}");
        resume.hear_published(0, 1, &published("a-run", &rows.at(0)));
        let twice = resume
            .check(&other.at(1))
            .expect_err("it was published twice");
        assert!(
            matches!(twice, Difference::Twice { index: 0, .. }),
            "{twice}"
        );
    }

    #[test]
    fn an_index_beyond_the_own_jobs_is_a_difference_and_sizes_nothing() {
        let one = job(440_000, &[1]);
        for far in [1, u64::MAX - 1] {
            let mut heard = resume(1, Rule::NeverPublished);
            heard.hear_published(0, 0, &published("a-run", &one.at(far)));
            let beyond = heard.check(&one.at(0)).expect_err("beyond").to_string();
            assert!(beyond.contains("it has 1 jobs"), "{beyond}");
            let mut heard = resume(1, Rule::NeverPublished);
            heard.hear_outcomes(&outcome("a-run", &one.at(far), false));
            assert!(heard.check(&one.at(0)).is_err());
        }
    }

    #[test]
    fn a_dead_letter_is_an_outcome() {
        let one = job(440_000, &[1]);
        let rule = Rule::WithoutOutcome { committed: vec![9] };
        let mut resume = resume(1, rule);
        resume.hear_published(0, 3, &published("a-run", &one.at(0)));
        assert!(resume.is_missing(0));
        resume.hear_outcomes(&outcome("a-run", &one.at(0), true));
        assert!(!resume.is_missing(0));
    }

    /// Something that stands on a topic.
    #[derive(Clone, Debug)]
    enum Heard {
        Published {
            partition: i32,
            offset: i64,
            index: u64,
            own: bool,
        },
        Outcome {
            index: u64,
            own: bool,
        },
    }

    const JOBS: u64 = 12;

    fn any_heard() -> impl Strategy<Value = Heard> {
        prop_oneof![
            (0i32..3, 0i64..20, 0..JOBS, any::<bool>()).prop_map(
                |(partition, offset, index, own)| Heard::Published {
                    partition,
                    offset,
                    index,
                    own
                }
            ),
            (0..JOBS, any::<bool>()).prop_map(|(index, own)| Heard::Outcome { index, own }),
        ]
    }

    proptest! {
        /// Against a model of sets, for every order in which topics may be heard.
        #[test]
        fn what_is_missing_is_what_the_rule_says(
            heard in prop::collection::vec(any_heard(), 0..60),
            // The last partition has no committed offset.
            committed in prop::collection::vec(0i64..20, 2),
            jobs in any_jobs(JOBS as usize..JOBS as usize + 1),
        ) {
            let mut by_rule = [
                resume(JOBS, Rule::NeverPublished),
                resume(JOBS, Rule::WithoutOutcome { committed: committed.clone() }),
            ];
            let mut copies: BTreeMap<u64, Vec<(usize, i64)>> = BTreeMap::new();
            let mut outcomes = BTreeSet::new();
            for heard in &heard {
                let name = |own: bool| if own { "a-run" } else { "b-run" };
                for resume in &mut by_rule {
                    match *heard {
                        Heard::Published { partition, offset, index, own } => {
                            let job = jobs[index as usize].at(index);
                            resume.hear_published(partition, offset, &published(name(own), &job));
                        }
                        Heard::Outcome { index, own } => {
                            let job = jobs[index as usize].at(index);
                            resume.hear_outcomes(&outcome(name(own), &job, false));
                        }
                    }
                }
                match *heard {
                    Heard::Published { partition, offset, index, own: true } => {
                        copies.entry(index).or_default().push((partition as usize, offset));
                    }
                    Heard::Outcome { index, own: true } => {
                        outcomes.insert(index);
                    }
                    _ => {}
                }
            }
            let passed = |&(partition, offset): &(usize, i64)| {
                committed.get(partition).is_some_and(|&committed| offset < committed)
            };
            for index in 0..JOBS {
                let own = copies.get(&index).map_or(&[][..], Vec::as_slice);
                prop_assert_eq!(by_rule[0].is_missing(index), own.is_empty());
                let lost = !outcomes.contains(&index) && own.iter().all(passed);
                prop_assert_eq!(by_rule[1].is_missing(index), lost);
                for resume in &by_rule {
                    prop_assert_eq!(resume.check(&jobs[index as usize].at(index)), Ok(()));
                }
            }
            prop_assert!(!by_rule[0].is_missing(JOBS));
            let missing = (0..JOBS).filter(|&index| by_rule[1].is_missing(index)).count();
            prop_assert_eq!(by_rule[1].missing(), missing as u64);
            // Every job has an outcome, is with the workers, or is published now.
            let known = outcomes.len() as u64 + by_rule[1].waiting() + by_rule[1].missing();
            prop_assert_eq!(known, JOBS);
        }

        #[test]
        fn any_change_of_a_job_is_a_difference(
            of in any_jobs(1..2),
            at in any::<prop::sample::Index>(),
            kind in 0usize..6,
        ) {
            let [of] = of.as_slice() else {
                unreachable!("one job was asked for");
            };
            let mut other = of.clone();
            match kind {
                0 if of.payload.is_empty() => other.payload.push(0),
                0 => other.payload[at.index(of.payload.len())] ^= 1,
                1 => other.payload.push(1),
                2 => other.part += 1,
                3 => {
                    let seconds = of.time.map_or(0, |time| time.seconds() + 1);
                    other.time = TimeBucket::from_seconds(seconds);
                }
                4 => other.weight += 1,
                _ => other.labels.values.push(String::new()),
            }
            let mut resume = resume(1, Rule::NeverPublished);
            resume.hear_published(0, 0, &published("a-run", &of.at(0)));
            prop_assert!(resume.check(&other.at(0)).is_err());
        }
    }

    #[test]
    fn an_opening_that_is_merged_serves_the_plan() {
        let later = RunOpened {
            jobs_start_offsets: vec![9, 9],
            ..opened()
        };
        let events = [later, opened()].map(RunEvent::Opened);
        assert_eq!(
            planned(&events, |attempt| attempt.has_opened = true),
            Ok(Plan::GoOn)
        );
    }
}

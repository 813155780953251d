//! The dead letters of one run: what the dead-letter topic holds of it, and which of it is still
//! dead. Pure: both are told, the topic letter by letter, the rest by the run's [`Ledger`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::computation::Computation;
use crate::digest::payload_digest;
use crate::job::{Job, JobBatch, JobHeader};
use crate::ledger::{KnownJob, Ledger};
use crate::outcome::{Outcome, OutcomeBatch, Worker};
use crate::run_id::RunId;

/// Why a job is shown as dead whose dead letter does not count any more.
const UNPUBLISHED: &str = "it was to be replayed, and is not on the jobs topic";

/// Messages that cannot be decoded are kept up to so many; more are only counted.
const MAX_UNREADABLE: usize = 1_000;

/// The headers of a dead letter, by the names of KIP-1191; what is not there or no number is
/// missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LetterHeaders {
    /// The topic that its message was on.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// The offset.
    pub offset: Option<i64>,
    /// The group whose member gave it up.
    pub group: Option<String>,
    /// How often it was tried.
    pub attempts: Option<u32>,
    /// Why it is here.
    pub reason: Option<String>,
}

impl LetterHeaders {
    /// Reads names and values. Other headers are passed over.
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut read = Self::default();
        for (name, value) in headers {
            match name {
                "__dlq.errors.topic" => read.topic = Some(value.to_owned()),
                "__dlq.errors.partition" => read.partition = value.parse().ok(),
                "__dlq.errors.offset" => read.offset = value.parse().ok(),
                "__dlq.errors.group" => read.group = Some(value.to_owned()),
                "__dlq.errors.delivery.count" => read.attempts = value.parse().ok(),
                "__dlq.errors.message" => read.reason = Some(value.to_owned()),
                _ => {}
            }
        }
        read
    }
}

/// A job on the dead-letter topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Its offset on the dead-letter topic.
    pub offset: i64,
    /// Where it came from and why.
    pub headers: Arc<LetterHeaders>,
    /// The jobs of its message, among which it is: those of one message share them, for a stranger may
    /// have put many jobs behind long labels and headers.
    batch: Arc<JobBatch>,
    /// Its place among them.
    position: usize,
}

impl Letter {
    /// The letter of the job at a position in the batch that was its message.
    pub fn new(
        offset: i64,
        headers: Arc<LetterHeaders>,
        batch: Arc<JobBatch>,
        position: usize,
    ) -> Self {
        Self {
            offset,
            headers,
            batch,
            position,
        }
    }

    /// The job.
    pub fn job(&self) -> Job<'_> {
        self.batch.job(self.position)
    }

    /// What the job has in common with those of its message.
    pub fn header(&self) -> &JobHeader {
        self.batch.header()
    }

    /// Whether it is the job that an outcome describes, and not one of an earlier run of this name.
    fn is_of(&self, known: &KnownJob<'_>) -> bool {
        let job = self.job();
        let labels = job.key.labels.values.iter().map(String::as_str);
        known.labels.values().eq(labels)
            && (known.time, known.part, known.weight) == (job.key.time, job.part, job.weight)
            && known.payload_digest == payload_digest(job.payload)
    }

    /// The job alone, as a message of the jobs topic in this generation.
    pub fn payload(&self, generation: u32) -> Vec<u8> {
        let header = JobHeader {
            generation,
            ..self.header().clone()
        };
        self.job().alone(&header)
    }
}

/// A message on the dead-letter topic of which nobody knows to which run it belonged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its offset on the dead-letter topic.
    pub offset: i64,
    /// How many bytes it has.
    pub bytes: usize,
    /// Where it came from and why.
    pub headers: LetterHeaders,
}

/// A job that is dead and was not completed since, or was to be replayed and is not on the jobs topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dead<'a> {
    /// The job's index.
    pub index: u64,
    /// What its outcome says of it.
    pub job: KnownJob<'a>,
    /// Why, in the worker's words.
    pub reason: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// Who gave it up last.
    pub worker: Option<&'a Worker>,
    /// The job itself; `None` when it is no longer on the dead-letter topic.
    pub letter: Option<&'a Letter>,
}

/// What the dead-letter topic and the outcomes tell of one run.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    run_id: RunId,
    letters: BTreeMap<u64, Letter>,
    /// Jobs of one message share theirs: a stranger may have given it a long name and many jobs.
    workers: BTreeMap<u64, Arc<Worker>>,
    unreadable: Vec<Unreadable>,
    unreadable_count: u64,
    /// What the run makes of its jobs; `None` where any letter of the run is taken.
    computation: Option<Computation>,
    /// Jobs that were opened again, by which generation, as far as no copy of it was seen.
    unpublished: BTreeMap<u64, u32>,
}

impl DeadLetters {
    /// Nothing was heard yet.
    pub fn new(run_id: &RunId) -> Self {
        Self {
            computation: None,
            unpublished: BTreeMap::new(),
            run_id: run_id.clone(),
            letters: BTreeMap::new(),
            workers: BTreeMap::new(),
            unreadable: Vec::new(),
            unreadable_count: 0,
        }
    }

    /// Has only letters count whose jobs are for this computation, which is the run's: others are of an
    /// earlier run of this name.
    #[must_use]
    pub fn for_computation(mut self, computation: &Computation) -> Self {
        self.computation = Some(computation.of_jobs());
        self
    }

    /// Applies a message of the dead-letter topic. A job that is there several times counts once, as
    /// it was heard last; those of other runs change nothing. To be asked for after the outcomes: a job
    /// is on this topic before its outcome is.
    pub fn apply_letter(&mut self, offset: i64, headers: LetterHeaders, payload: &[u8]) {
        let Ok(batch) = JobBatch::decode(payload) else {
            self.unreadable_count += 1;
            if self.unreadable.len() < MAX_UNREADABLE {
                let bytes = payload.len();
                self.unreadable.push(Unreadable {
                    offset,
                    bytes,
                    headers,
                });
            }
            return;
        };
        let wanted = self.computation.as_ref();
        let is_other = wanted.is_some_and(|wanted| *batch.header().computation != *wanted);
        if *batch.run_id() != self.run_id || is_other {
            return;
        }
        // A worker writes jobs one by one; whoever writes several at once means each of them.
        let (headers, batch) = (Arc::new(headers), Arc::new(batch));
        for (position, job) in batch.jobs().enumerate() {
            let letter = Letter::new(offset, Arc::clone(&headers), Arc::clone(&batch), position);
            self.letters.insert(job.index, letter);
        }
    }

    /// Applies outcomes, which name the workers. Those of other runs change nothing.
    pub fn apply_outcomes(&mut self, batch: &OutcomeBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        let worker = Arc::new(batch.worker().clone());
        for outcome in batch.outcomes() {
            if matches!(outcome.outcome, Outcome::DeadLettered { .. }) {
                self.workers.insert(outcome.index, Arc::clone(&worker));
            }
        }
    }

    /// Notes the jobs that were opened again and have no outcome since. Returns whether there are any:
    /// then [`apply_published`](Self::apply_published) is to be given what the jobs topic holds, for a
    /// replay may have ended before it published them.
    pub fn note_reopened(&mut self, ledger: &Ledger) -> bool {
        let reopened = ledger.reopened();
        let reopened = reopened.map(|(index, _)| (index, ledger.rules().reopened_in(index)));
        self.unpublished = reopened.collect();
        !self.unpublished.is_empty()
    }

    /// Applies a message of the jobs topic: copies of jobs that are under way. Those of other runs change
    /// nothing.
    pub fn apply_published(&mut self, batch: &JobBatch) {
        if *batch.run_id() != self.run_id {
            return;
        }
        for job in batch.jobs() {
            if let Some(&reopened_in) = self.unpublished.get(&job.index)
                && reopened_in <= batch.generation()
            {
                self.unpublished.remove(&job.index);
            }
        }
    }

    /// The jobs that are dead by the run's ledger, or opened again and not published, by index.
    pub fn still_dead<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = Dead<'a>> {
        let dead = ledger.dead().iter().filter_map(|(&index, dead)| {
            let job = ledger.describe(index)?;
            Some(self.dead(index, job, (&dead.reason, dead.attempts)))
        });
        let reopened = ledger.reopened();
        let unpublished = reopened.filter(|(index, _)| self.unpublished.contains_key(index));
        let unpublished = unpublished.map(|(index, job)| self.dead(index, job, (UNPUBLISHED, 0)));
        let mut all: Vec<Dead<'a>> = dead.chain(unpublished).collect();
        all.sort_by_key(|dead| dead.index);
        all.into_iter()
    }

    fn dead<'a>(
        &'a self,
        index: u64,
        job: KnownJob<'a>,
        (reason, attempts): (&'a str, u32),
    ) -> Dead<'a> {
        let letter = self.letters.get(&index);
        Dead {
            index,
            job,
            reason,
            attempts,
            worker: self.workers.get(&index).map(|worker| &**worker),
            letter: letter.filter(|letter| letter.is_of(&job)),
        }
    }

    /// The messages that cannot be decoded, of whatever run; the first 1,000.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// How many messages cannot be decoded.
    pub fn unreadable_count(&self) -> u64 {
        self.unreadable_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobBatchEncoder;
    use crate::job::tests::header;
    use crate::ledger::counting::CountingRules;
    use crate::outcome::OutcomeBatchBuilder;
    use crate::{GroupKey, IndexRanges, LabelSet, ResultsPolicy, RunEvent, RunHistory};

    fn run_id(name: &str) -> RunId {
        name.parse().expect("a run id")
    }

    fn with_job<T>(index: u64, of: impl FnOnce(&Job<'_>) -> T) -> T {
        let labels = LabelSet::new(["Italy"]);
        of(&Job {
            index,
            key: GroupKey {
                labels: &labels,
                time: None,
            },
            part: 0,
            weight: 3,
            payload: &[0, 1],
        })
    }

    fn letter(run: &str, index: u64) -> Vec<u8> {
        with_job(index, |job| job.alone(&header(run)))
    }

    fn push(builder: &mut OutcomeBatchBuilder, index: u64, outcome: Outcome<'_>) {
        with_job(index, |job| {
            builder.push(job, payload_digest(job.payload), outcome);
        });
    }

    fn outcomes(dead: &[u64], completed: &[u64]) -> OutcomeBatch {
        let worker = Worker {
            host: "a-host".to_owned(),
            id: "worker-1".to_owned(),
        };
        let mut builder = OutcomeBatchBuilder::new(&run_id("a-run"), 0, &worker);
        for &index in dead {
            let outcome = Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            };
            push(&mut builder, index, outcome);
        }
        for &index in completed {
            push(&mut builder, index, Outcome::Completed(&[2, 1]));
        }
        OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
    }

    fn still_dead(letters: &DeadLetters, heard: &[OutcomeBatch]) -> Vec<(u64, Option<i64>)> {
        let mut ledger = Ledger::new(10);
        for batch in heard {
            let recorded = ledger.record(batch, &mut Vec::new());
            recorded.expect("all is in memory");
        }
        let dead = letters.still_dead(&ledger);
        dead.map(|dead| (dead.index, dead.letter.map(|letter| letter.offset)))
            .collect()
    }

    #[test]
    fn those_not_completed_since_are_dead_each_once_as_it_died_last() {
        let mut letters = DeadLetters::new(&run_id("a-run"));
        for (offset, index) in [(0, 3), (1, 5), (2, 3), (3, 7)] {
            letters.apply_letter(offset, LetterHeaders::default(), &letter("a-run", index));
        }
        let dead = outcomes(&[3, 5, 7], &[]);
        letters.apply_outcomes(&dead);
        assert_eq!(
            still_dead(&letters, std::slice::from_ref(&dead)),
            [(3, Some(2)), (5, Some(1)), (7, Some(3))]
        );
        let completed = outcomes(&[], &[5]);
        // In whatever order they come: a result outranks a dead letter.
        for heard in [[dead.clone(), completed.clone()], [completed, dead]] {
            assert_eq!(still_dead(&letters, &heard), [(3, Some(2)), (7, Some(3))]);
        }
    }

    #[test]
    fn a_letter_that_is_gone_from_its_topic_is_told_without_the_job() {
        let mut letters = DeadLetters::new(&run_id("a-run"));
        let dead = outcomes(&[4], &[]);
        letters.apply_outcomes(&dead);
        assert_eq!(still_dead(&letters, &[dead]), [(4, None)]);
    }

    #[test]
    fn letters_of_other_runs_and_messages_that_are_none_stand_apart() {
        let mut letters = DeadLetters::new(&run_id("a-run"));
        letters.apply_letter(0, LetterHeaders::default(), &letter("b-run", 3));
        let headers = LetterHeaders::read([
            ("__dlq.errors.topic", "rollcall.jobs.v2"),
            ("__dlq.errors.partition", "7"),
            ("__dlq.errors.offset", "many"),
            ("__dlq.errors.message", "not a JobBatch message"),
            ("traceparent", "00"),
        ]);
        letters.apply_letter(1, headers, b"\xffno message");
        let dead = outcomes(&[3], &[]);
        assert_eq!(still_dead(&letters, &[dead]), [(3, None)]);
        let [unreadable] = letters.unreadable() else {
            panic!("one message is none");
        };
        assert_eq!((unreadable.offset, unreadable.bytes), (1, 11));
        assert_eq!(unreadable.headers.partition, Some(7));
        assert_eq!(unreadable.headers.offset, None);
    }

    #[test]
    fn a_letter_of_an_earlier_run_of_this_name_is_not_the_job_that_died() {
        let dead = outcomes(&[3], &[]);
        let other_rows = with_job(3, |job| {
            let payload: &[u8] = &[1, 1];
            Job { payload, ..*job }.alone(&header("a-run"))
        });
        let other_key = with_job(3, |job| {
            let labels = LabelSet::new(["Spain"]);
            let key = GroupKey {
                labels: &labels,
                ..job.key
            };
            Job { key, ..*job }.alone(&header("a-run"))
        });
        let of_other_computation = with_job(3, |job| {
            let computation = Computation::named("another").into();
            job.alone(&JobHeader {
                computation,
                ..header("a-run")
            })
        });
        for payload in [other_rows, other_key, of_other_computation] {
            let computation = header("a-run").computation;
            let mut letters = DeadLetters::new(&run_id("a-run")).for_computation(&computation);
            letters.apply_letter(0, LetterHeaders::default(), &payload);
            assert_eq!(
                still_dead(&letters, std::slice::from_ref(&dead)),
                [(3, None)]
            );
            letters.apply_letter(1, LetterHeaders::default(), &letter("a-run", 3));
            assert_eq!(
                still_dead(&letters, std::slice::from_ref(&dead)),
                [(3, Some(1))]
            );
        }
    }

    #[test]
    fn a_job_that_was_opened_again_and_not_published_is_dead_until_a_copy_of_it_is_there() {
        let mut history = RunHistory::new(run_id("a-run"));
        let reopened = IndexRanges::of_ascending([3, 5]);
        let timeline = history.timeline();
        let next = timeline.next_generation(&run_id("a-run"), reopened, "a replay");
        let next = next.expect("the next");
        history.apply(RunEvent::Generation(next));
        let rules = CountingRules::of(ResultsPolicy::Reproducible, &history.timeline());
        let mut ledger = Ledger::under(10, rules);
        let recorded = ledger.record(&outcomes(&[3, 5, 7], &[]), &mut Vec::new());
        recorded.expect("all is in memory");
        let mut letters = DeadLetters::new(&run_id("a-run"));
        for index in [3, 5, 7] {
            letters.apply_letter(0, LetterHeaders::default(), &letter("a-run", index));
        }
        let dead = |letters: &DeadLetters| {
            let dead = letters.still_dead(&ledger);
            dead.map(|dead| (dead.index, dead.letter.is_some()))
                .collect::<Vec<_>>()
        };
        // Nobody knows yet whether they are under way.
        assert_eq!(dead(&letters), [(7, true)]);
        assert!(letters.note_reopened(&ledger));
        assert_eq!(dead(&letters), [(3, true), (5, true), (7, true)]);
        // The copy that died, and one that the replay made before it ended.
        for (index, generation) in [(3, 0), (5, 1)] {
            let header = JobHeader {
                generation,
                ..header("a-run")
            };
            let copy = with_job(index, |job| job.alone(&header));
            letters.apply_published(&JobBatch::decode(&copy).expect("a valid batch"));
        }
        assert_eq!(dead(&letters), [(3, true), (7, true)]);
    }

    #[test]
    fn the_jobs_of_one_message_share_what_came_with_it() {
        let mut letters = DeadLetters::new(&run_id("a-run"));
        let mut encoder = JobBatchEncoder::new(&header("a-run"));
        (0..1_000).for_each(|index| with_job(index, |job| encoder.push(job)));
        let mut payload = Vec::new();
        encoder.finish(&mut payload);
        letters.apply_letter(0, LetterHeaders::default(), &payload);
        let shared = &letters.letters[&0];
        for letter in letters.letters.values() {
            assert!(Arc::ptr_eq(&letter.batch, &shared.batch));
            assert!(Arc::ptr_eq(&letter.headers, &shared.headers));
        }
        assert_eq!(letters.letters[&999].job().index, 999);
        letters.apply_outcomes(&outcomes(&[1, 2, 3], &[]));
        let worker = &letters.workers[&1];
        assert!(letters.workers.values().all(|own| Arc::ptr_eq(own, worker)));
    }

    #[test]
    fn what_is_to_be_replayed_is_the_job_alone() {
        let mut letters = DeadLetters::new(&run_id("a-run"));
        let mut encoder = JobBatchEncoder::new(&header("a-run"));
        with_job(2, |job| encoder.push(job));
        with_job(3, |job| encoder.push(job));
        let mut both = Vec::new();
        encoder.finish(&mut both);
        letters.apply_letter(0, LetterHeaders::default(), &both);
        let mut ledger = Ledger::new(4);
        let recorded = ledger.record(&outcomes(&[3], &[2]), &mut Vec::new());
        recorded.expect("all is in memory");
        let dead: Vec<_> = letters.still_dead(&ledger).collect();
        let payload = dead[0].letter.expect("it is there").payload(2);
        let again = JobHeader {
            generation: 2,
            ..header("a-run")
        };
        let again = with_job(3, |job| job.alone(&again));
        assert_eq!(payload, again);
        assert_eq!(dead.len(), 1);
    }
}

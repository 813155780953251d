//! Who reads the outcomes without the aggregator and counts by itself: while a row is played, to know
//! how far it is and how long nothing came; and once more from the beginning when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use computations::positivity::Tally;
use kafka::{Cluster, Reader, RecordBatch, topics};
use pipeline::{Grain, JobBatch, Outcome, OutcomeBatch, RunId};

use crate::cluster::TestCluster;

/// An outcome that has come.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub index: u64,
    pub worker: Arc<str>,
}

#[derive(Debug, Default)]
struct Seen {
    jobs: BTreeSet<u64>,
    arrivals: Vec<Arrival>,
}

/// Reads committed outcomes of one run as they come.
#[derive(Debug)]
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    leaves: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    pub fn start(test: &TestCluster, run_id: &RunId) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let leaves = Arc::<AtomicBool>::default();
        let (own, own_leaves) = (Arc::clone(&seen), Arc::clone(&leaves));
        let (cluster, topic) = (test.cluster.clone(), test.topics.outcomes.clone());
        let run_id = run_id.clone();
        let thread = thread::spawn(move || {
            const PAUSE: Duration = Duration::from_millis(50);
            while !own_leaves.load(Ordering::Relaxed) {
                // The topic may not be there yet, or be another one of the same name by now.
                *lock(&own) = Seen::default();
                let _ = watch(&cluster, &topic, &run_id, &own, &own_leaves);
                thread::sleep(PAUSE);
            }
        });
        Self {
            seen,
            leaves,
            thread: Some(thread),
        }
    }

    /// How many different jobs have an outcome.
    pub fn jobs(&self) -> u64 {
        lock(&self.seen).jobs.len() as u64
    }

    /// The jobs that a worker has told of.
    pub fn jobs_of(&self, worker: &str) -> BTreeSet<u64> {
        let seen = lock(&self.seen);
        let own = seen.arrivals.iter().filter(|one| &*one.worker == worker);
        own.map(|one| one.index).collect()
    }

    /// How long after `since` the first outcome came of which this is true.
    pub fn first_after(
        &self,
        since: Instant,
        is_one: impl Fn(&Arrival) -> bool,
    ) -> Option<Duration> {
        let seen = lock(&self.seen);
        let mut later = seen.arrivals.iter().filter(|one| one.at > since);
        later.find(|one| is_one(one)).map(|one| one.at - since)
    }

    /// How long after `since` the last of these partitions had its first outcome.
    pub fn first_of_each_after(
        &self,
        since: Instant,
        partition: impl Fn(&Arrival) -> Option<i32>,
    ) -> Duration {
        let seen = lock(&self.seen);
        let mut first = BTreeMap::new();
        for one in seen.arrivals.iter().filter(|one| one.at > since) {
            if let Some(partition) = partition(one) {
                first.entry(partition).or_insert(one.at);
            }
        }
        first
            .into_values()
            .max()
            .map_or(Duration::ZERO, |at| at - since)
    }

    /// The longest time without an outcome since a moment, until the last one.
    pub fn longest_silence(&self, since: Instant) -> Option<Duration> {
        let seen = lock(&self.seen);
        let later = seen
            .arrivals
            .iter()
            .map(|one| one.at)
            .filter(|&at| at > since);
        let mut before = since;
        later
            .map(|at| at - std::mem::replace(&mut before, at))
            .max()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.leaves.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads until it is told to leave or cannot go on.
fn watch(
    cluster: &Cluster,
    topic: &str,
    run_id: &RunId,
    seen: &Mutex<Seen>,
    leaves: &AtomicBool,
) -> Result<(), kafka::Error> {
    let Some(partitions) = topics::partition_count(cluster, topic)? else {
        return Ok(());
    };
    let mut reader = Reader::start(cluster, topic, &vec![0; partitions])?;
    let mut batch = RecordBatch::default();
    while !leaves.load(Ordering::Relaxed) {
        batch.clear();
        reader.read(Duration::from_millis(10), &mut batch)?;
        let at = Instant::now();
        for record in batch.iter() {
            let outcomes = OutcomeBatch::decode(record.payload).expect("an outcome batch");
            if outcomes.run_id() != run_id {
                continue;
            }
            let worker: Arc<str> = outcomes.worker().id.as_str().into();
            let mut seen = lock(seen);
            for outcome in outcomes.outcomes() {
                let index = outcome.index;
                seen.jobs.insert(index);
                seen.arrivals.push(Arrival {
                    at,
                    index,
                    worker: Arc::clone(&worker),
                });
            }
        }
    }
    Ok(())
}

/// Tests and positive ones by labels and date, as lines of a series show them.
pub type Counts = BTreeMap<String, (u64, u64)>;

/// What is on the outcomes topic in the end.
#[derive(Debug, Default)]
pub struct Testimony {
    /// How often each job has an outcome.
    pub copies: BTreeMap<u64, u32>,
    /// What the series comes to if each job counts once.
    pub counts: Counts,
    /// Jobs that are dead letters and nothing else, with their line of the series.
    pub dead: BTreeMap<u64, String>,
    /// Jobs with two tallies that differ.
    pub contradictory: BTreeSet<u64>,
}

impl Testimony {
    /// Reads every committed outcome of a run.
    #[track_caller]
    pub fn read(test: &TestCluster, run_id: &RunId, grain: Grain) -> Self {
        let mut own = Self::default();
        let mut tallies: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for record in test.records(&test.topics.outcomes).iter() {
            let batch = OutcomeBatch::decode(record.payload).expect("an outcome batch");
            if batch.run_id() != run_id {
                continue;
            }
            for outcome in batch.outcomes() {
                let index = outcome.index;
                *own.copies.entry(index).or_default() += 1;
                let labels = outcome.key.labels.values.join(",");
                let time = outcome.key.time.expect("the run is by time");
                let line = format!("{labels},{}", time.display(grain));
                let Outcome::Completed(result) = outcome.outcome else {
                    own.dead.insert(index, line);
                    continue;
                };
                let tally = Tally::read(result).expect("a result of positivity");
                let tally = (tally.tests, tally.positive);
                match tallies.insert(index, tally) {
                    Some(before) if before != tally => {
                        own.contradictory.insert(index);
                    }
                    Some(_) => {}
                    None => {
                        let sum = own.counts.entry(line).or_default();
                        sum.0 += u64::from(tally.0);
                        sum.1 += u64::from(tally.1);
                    }
                }
            }
        }
        own.dead.retain(|index, _| !tallies.contains_key(index));
        own
    }

    /// Outcomes beyond the first of each job.
    pub fn repeated(&self) -> u64 {
        self.copies
            .values()
            .map(|&copies| u64::from(copies - 1))
            .sum()
    }
}

/// The partition of the jobs topic that each job of a run is in.
#[track_caller]
pub fn partitions_of_jobs(test: &TestCluster, run_id: &RunId) -> BTreeMap<u64, i32> {
    let mut partitions = BTreeMap::new();
    for record in test.records(&test.topics.jobs).iter() {
        let batch = JobBatch::decode(record.payload).expect("a job batch");
        if batch.run_id() == run_id {
            partitions.extend(batch.jobs().map(|job| (job.index, record.partition)));
        }
    }
    partitions
}

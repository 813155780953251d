//! `rollcall dlq replay`: opens the next generation of the run, then publishes its dead jobs again in
//! it.

use std::ops::RangeInclusive;
use std::time::Duration;

use kafka::{BatchProducer, Cluster, Outgoing, TopicNames, open_generation, topics};
use pipeline::dead_letters::{Dead, Letter};
use pipeline::{IndexRanges, RunHistory, RunId};
use service::Shutdown;

use super::{Place, find};
use crate::error::Error;

/// How long the broker may take to acknowledge what is replayed.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(60);

/// How many jobs a generation opens again. Where none follows another, each takes up to 14 bytes of an
/// event, which has to be below the 1,000,000 bytes (`message.max.bytes`) of a producer's message.
const MAX_JOBS: usize = 50_000;

/// Those to be replayed, each once: all that are there, or those that are named. Nothing is
/// replayed when one of the named is a mistake.
///
/// # Errors
/// When one that is named is not dead, or no longer on the dead-letter topic.
pub(super) fn choose<'d, 'a>(
    dead: &'d [Dead<'a>],
    indexes: &[u64],
    run_id: &RunId,
) -> Result<Vec<&'d Dead<'a>>, Error> {
    if indexes.is_empty() {
        return Ok(dead.iter().filter(|dead| dead.letter.is_some()).collect());
    }
    let mut indexes = indexes.to_vec();
    indexes.sort_unstable();
    indexes.dedup();
    let mut chosen = Vec::with_capacity(indexes.len());
    for index in indexes {
        let one = find(dead, index, run_id)?;
        if one.letter.is_none() {
            return Err(Error::LetterGone {
                index,
                run_id: run_id.clone(),
            });
        }
        chosen.push(one);
    }
    Ok(chosen)
}

/// A replay of a run.
pub(super) struct Replay<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) names: &'a TopicNames,
    /// The history of the run, as it was read before the dead letters.
    pub(super) history: &'a RunHistory,
    pub(super) shutdown: &'a Shutdown,
}

impl Replay<'_> {
    /// Opens a generation and publishes jobs in it, or several with some of the jobs each; returns
    /// which, `None` where there is nothing to do. Where no job is dead any more, but a verdict counts
    /// some as dead, the generation lets a new verdict say so.
    ///
    /// # Errors
    /// When the run is cancelled or gets no further generation, or the broker cannot be used.
    pub(super) fn run(&self, chosen: &[&Dead<'_>]) -> Result<Option<RangeInclusive<u32>>, Error> {
        let timeline = self.history.timeline();
        let verdict = timeline.newest().verdict();
        let is_outdated = verdict.is_some_and(|verdict| verdict.dead_lettered > 0);
        if chosen.is_empty() && is_outdated {
            let generation = self.open(chosen)?;
            return Ok(Some(generation..=generation));
        }
        let mut opened: Option<RangeInclusive<u32>> = None;
        for jobs in chosen.chunks(MAX_JOBS) {
            let generation = self.open(jobs)?;
            self.publish(jobs, generation)?;
            let first = opened.map_or(generation, |opened| *opened.start());
            opened = Some(first..=generation);
        }
        Ok(opened)
    }

    /// Opens the next generation for these jobs.
    fn open(&self, chosen: &[&Dead<'_>]) -> Result<u32, Error> {
        let reopened = IndexRanges::of_ascending(chosen.iter().map(|dead| dead.index));
        let (generation, _) = open_generation(
            self.cluster,
            self.names,
            self.history.run_id(),
            &reopened,
            &service::process::on_this_host("dlq replay"),
            REPLAY_TIMEOUT,
            &|| self.shutdown.is_requested(),
        )
        .map_err(|error| Error::of_cluster(error, self.shutdown))?;
        Ok(generation)
    }

    /// Publishes jobs to the jobs topic, one a message, from partition to partition, and waits until the
    /// broker has acknowledged all.
    fn publish(&self, chosen: &[&Dead<'_>], generation: u32) -> Result<(), Error> {
        let (cluster, names) = (self.cluster, self.names);
        const TURN: usize = 100;
        let partitions = topics::partition_count(cluster, &names.jobs)?;
        let partitions = partitions.ok_or_else(|| kafka::Error::NoTopic {
            topic: names.jobs.clone(),
        })?;
        let mut producer = BatchProducer::new(cluster)?;
        let topic = producer.topic(&names.jobs)?;
        let not_delivered =
            |partition, code| kafka::Error::undelivered(&names.jobs, partition, code);
        for (turn, jobs) in chosen.chunks(TURN).enumerate() {
            let partition = (turn % partitions) as i32;
            let letters = jobs.iter().filter_map(|dead| dead.letter);
            let payloads: Vec<_> = letters
                .map(|letter: &Letter| letter.payload(generation))
                .collect();
            let messages: Vec<_> = payloads
                .iter()
                .map(|payload| Outgoing { payload, id: 0 })
                .collect();
            let mut left = messages;
            let mut deliveries = Vec::new();
            loop {
                left = producer.produce(&topic, partition, &left)?;
                // Turn by turn, so that the queue has room however many there are.
                if !producer.drain(REPLAY_TIMEOUT, &mut deliveries) {
                    return Err(kafka::Error::NotAcknowledged {
                        topic: names.jobs.clone(),
                        waited: REPLAY_TIMEOUT,
                    }
                    .into());
                }
                if left.is_empty() {
                    break;
                }
            }
            let failed = deliveries
                .iter()
                .find_map(|delivery| Some((delivery.partition, delivery.error?)));
            if let Some((partition, code)) = failed {
                return Err(not_delivered(partition, code).into());
            }
        }
        Ok(())
    }
}

/// What was replayed, for people.
pub(super) fn report(
    place: &Place,
    names: &TopicNames,
    chosen: &[&Dead<'_>],
    dead: usize,
    generations: Option<RangeInclusive<u32>>,
) -> String {
    let run_id = &place.run_id;
    let prefix = match place.topic_prefix.as_str() {
        "rollcall" => String::new(),
        prefix => format!(" --topic-prefix {prefix}"),
    };
    if chosen.is_empty() {
        return match dead {
            0 if generations.is_some() => format!(
                "no job of run {run_id} is dead any more: rollcall aggregator --run-id {run_id}{prefix} \
                 gives it a new verdict\n"
            ),
            0 => format!("run {run_id} has no dead letters\n"),
            dead => format!(
                "none of the {dead} dead letters of run {run_id} is on topic {} any more\n",
                names.dlq
            ),
        };
    }
    const SHOWN: usize = 20;
    let mut indexes: Vec<String> = chosen
        .iter()
        .take(SHOWN)
        .map(|dead| dead.index.to_string())
        .collect();
    if chosen.len() > SHOWN {
        indexes.push("…".to_owned());
    }
    format!(
        "{} of {dead} dead letters of run {run_id} replayed to topic {} as {}: {}\n\
         when workers have done them: rollcall aggregator --run-id {run_id}{prefix}\n",
        chosen.len(),
        names.jobs,
        named(generations),
        indexes.join(", "),
    )
}

fn named(generations: Option<RangeInclusive<u32>>) -> String {
    match generations.map(RangeInclusive::into_inner) {
        Some((first, last)) if first < last => format!("generations {first} to {last}"),
        Some((generation, _)) => format!("generation {generation}"),
        None => "no generation".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use computations::positivity::POSITIVE;
    use pipeline::{
        Computation, GroupKey, Job, JobBatch, JobHeader, LabelSet, Ledger, Outcome, OutcomeBatch,
        OutcomeBatchBuilder, TimeBucket, Worker,
    };

    use super::*;

    #[test]
    fn those_to_be_replayed_are_chosen_once_each_or_not_at_all() {
        let labels = LabelSet::new(["Italy"]);
        let run_id: RunId = "a-run".parse().expect("a run id");
        let job = Job {
            index: 3,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(0),
            },
            part: 0,
            weight: 1,
            payload: &[POSITIVE],
        };
        let header = JobHeader {
            run_id: run_id.clone(),
            generation: 0,
            computation: Computation::named("positivity").into(),
        };
        let batch = JobBatch::decode(&job.alone(&header)).expect("a valid batch");
        let letter = Letter::new(0, Arc::default(), Arc::new(batch), 0);
        let mut outcomes = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
        outcomes.push(&job, 0, Outcome::Completed(&[]));
        let outcomes = OutcomeBatch::decode(&outcomes.encode()).expect("a valid batch");
        let mut ledger = Ledger::new(4);
        let recorded = ledger.record(&outcomes, &mut Vec::new());
        recorded.expect("nothing was spilled");
        let known = ledger.describe(3).expect("it has an outcome");
        let dead = |index, letter| Dead {
            index,
            job: known,
            reason: "it is broken",
            attempts: 3,
            worker: None,
            letter,
        };
        let all = [
            dead(3, Some(&letter)),
            dead(5, None),
            dead(7, Some(&letter)),
        ];
        let chosen = |indexes: &[u64]| {
            let chosen = choose(&all, indexes, &run_id);
            chosen.map(|chosen| chosen.iter().map(|dead| dead.index).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).expect("all"), [3, 7]);
        assert_eq!(chosen(&[7, 7, 3]).expect("both"), [3, 7]);
        assert!(matches!(
            chosen(&[3, 4]),
            Err(Error::NotDead { index: 4, .. })
        ));
        assert!(matches!(
            chosen(&[5]),
            Err(Error::LetterGone { index: 5, .. })
        ));
    }
}

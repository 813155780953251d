//! What is true of outcomes as they reach the broker: each is of its job, dead letters come in order,
//! and a result is what the computation makes of the payload.

use std::collections::BTreeSet;

use computations::positivity::Tally;
use pipeline::mark::MAX_DEATHS;
use pipeline::outcome::JobOutcome;
use pipeline::{Outcome, OutcomeBatch};

use super::{Fate, Oracle, Violation, violated};

/// An outcome that a reader of the topic sees.
#[derive(Clone, Debug)]
pub(super) struct OutcomeSeen {
    pub index: u64,
    pub payload_digest: u64,
    pub made: Made,
}

/// What an outcome has made of its job.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// The bytes of a result.
    Result(Vec<u8>),
    /// A dead letter of this generation.
    DeadLetter(u32),
}

impl Oracle {
    /// A message has reached the outcomes topic.
    pub fn outcomes_told(
        &mut self,
        partition: usize,
        offset: i64,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let Ok(batch) = OutcomeBatch::decode(payload) else {
            return violated("outcomes can be read", "one cannot");
        };
        let mut told = Vec::with_capacity(batch.len());
        for job in batch.outcomes() {
            let index = job.index as usize;
            self.visible[index] += 1;
            if self.exactly_once && self.visible[index] > self.copies[index] {
                return violated(
                    "no job has two committed outcomes",
                    format!(
                        "job {index} has {}, with {} copies",
                        self.visible[index], self.copies[index]
                    ),
                );
            }
            let made = match job.outcome {
                Outcome::Completed(result) => {
                    self.counted[index] = true;
                    self.is_result_of(&job, result)?;
                    Made::Result(result.to_vec())
                }
                Outcome::DeadLettered { reason, attempts } => {
                    self.buried(job.index, reason, attempts)?;
                    Made::DeadLetter(batch.generation())
                }
            };
            self.check_digest(&job)?;
            told.push(OutcomeSeen {
                index: job.index,
                payload_digest: job.payload_digest,
                made,
            });
        }
        let own = &mut self.outcomes[partition];
        let offset = offset as usize;
        own.resize(own.len().max(offset + 1), Vec::new());
        own[offset] = told;
        Ok(())
    }

    fn check_digest(&self, job: &JobOutcome<'_>) -> Result<(), Violation> {
        let of_altered = self.altered.get(&job.index);
        let is_right = job.payload_digest == self.jobs[job.index as usize].payload_digest
            || of_altered.is_some_and(|digests| digests.contains(&job.payload_digest));
        match is_right {
            true => Ok(()),
            false => violated("payload digests are right", format!("job {}", job.index)),
        }
    }

    fn is_result_of(&self, job: &JobOutcome<'_>, result: &[u8]) -> Result<(), Violation> {
        let tally = Tally::read(result);
        let expected = &self.jobs[job.index as usize];
        let is_altered = job.payload_digest != expected.payload_digest;
        let is_right = tally.is_some_and(|own| match self.is_random || is_altered {
            true => own.tests == expected.tally.tests && own.positive <= own.tests,
            false => own == expected.tally,
        });
        match is_right {
            true => Ok(()),
            false => violated("tallies are right", format!("job {}: {tally:?}", job.index)),
        }
    }

    fn buried(&mut self, index: u64, reason: &str, attempts: u32) -> Result<(), Violation> {
        if !self.in_dlq.contains(&index) {
            return violated(
                "a dead letter is in the queue before its outcome is told",
                format!("job {index}"),
            );
        }
        self.dead[index as usize] = true;
        let fate = self.jobs[index as usize].fate;
        let has_killed = reason.contains("workers died of it");
        let rightly = if has_killed {
            // Nobody can tell a job that kills from three unlucky kills at the very same job.
            self.blamed(index) >= MAX_DEATHS
        } else {
            matches!(fate, Fate::Broken | Fate::Fails)
        };
        if !rightly {
            return violated(
                "no innocent job is buried",
                format!("job {index}, whose fate is {fate:?}: {reason}"),
            );
        }
        let asked_for = if fate == Fate::Broken { 1 } else { 3 };
        if !has_killed && attempts != asked_for {
            return violated(
                "a job is tried as often as its error asks for",
                format!("job {index}, whose fate is {fate:?}: {attempts} times"),
            );
        }
        Ok(())
    }

    /// A message of the jobs topic is stored with another payload of this job, which has this digest.
    pub fn altered(&mut self, index: u64, digest: u64) {
        self.altered.entry(index).or_default().insert(digest);
    }

    /// Whether a payload was altered, so that a run may be refused or fail.
    pub fn has_altered(&self) -> bool {
        !self.altered.is_empty()
    }

    /// Whether outcomes contradict one another or the data set, wherever they stand.
    pub fn is_contradicted(&self) -> bool {
        let mut results = vec![BTreeSet::new(); self.jobs.len()];
        for seen in self.outcomes.iter().flatten().flatten() {
            if let Made::Result(bytes) = &seen.made {
                results[seen.index as usize].insert(bytes);
            }
        }
        self.has_altered() || results.iter().any(|own| own.len() > 1)
    }
}

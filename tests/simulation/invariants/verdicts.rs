//! What is true of a run's verdicts: which jobs have an outcome that counts, by generation, and which of
//! several results.

use std::collections::{BTreeMap, BTreeSet};

use computations::positivity::{Series, Tally};
use pipeline::{GenerationOpened, ResultsPolicy, RunReconciled, Verdict};

use super::outcomes::Made;
use super::{Oracle, Violation, violated};

/// What an aggregator has made of the outcomes that it has read.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// By partition: the first offset that was read,
    pub from: &'a [i64],
    /// and the one behind the last.
    pub to: &'a [i64],
    /// The newest generation that it knows of, if it knows the manifest.
    pub generation: Option<u32>,
    /// Its verdict.
    pub verdict: Verdict,
    /// The series, if there is one.
    pub series: Option<&'a Series>,
    /// Jobs with several results that differ.
    pub differing: u64,
}

/// What a reader of some outcomes must find.
struct Truth {
    verdict: Verdict,
    /// By index: the result that counts, `None` within for a dead letter.
    jobs: Vec<Option<Option<Vec<u8>>>>,
    differing: u64,
}

impl Oracle {
    /// A generation of the run is opened.
    pub fn generation_opened(&mut self, opened: &GenerationOpened) {
        let reopened = (opened.generation, opened.reopened.clone());
        self.reopened.push(reopened);
    }

    /// A verdict stands from now on.
    pub fn verdict_stands(&mut self, standing: &RunReconciled) -> Result<(), Violation> {
        let from: Vec<i64> = standing.outcomes.iter().map(|own| own.start).collect();
        let to = standing.ends();
        let truth = self.truth(&from, &to, Some(standing.generation));
        if truth.verdict != standing.verdict {
            return violated(
                "a verdict that stands is true",
                format!("{:?}, and it is {:?}", standing.verdict, truth.verdict),
            );
        }
        self.ends.push((standing.generation, to));
        for (index, result) in (0..).zip(truth.jobs) {
            if let Some(Some(result)) = result {
                let generation = standing.generation;
                self.frozen.entry(index).or_insert((generation, result));
            }
        }
        Ok(())
    }

    /// The generation that last opened a job again, of those up to the newest; 0 where none has.
    pub fn reopened_in(&self, index: u64, newest: u32) -> u32 {
        let known = self.reopened.iter().filter(|(opened, _)| *opened <= newest);
        let own = known.filter(|(_, jobs)| jobs.contains(index));
        own.map(|(opened, _)| *opened).max().unwrap_or(0)
    }

    fn truth(&self, from: &[i64], to: &[i64], generation: Option<u32>) -> Truth {
        let newest = generation.unwrap_or(0);
        let earlier = self.ends.iter().filter(|(own, _)| *own < newest);
        let earlier: Vec<&Vec<i64>> = earlier.map(|(_, ends)| ends).collect();
        let count = self.jobs.len();
        let mut dead = vec![false; count];
        let mut digests = vec![BTreeSet::new(); count];
        // Each with the number of earlier verdicts that do not cover it.
        let mut results: Vec<BTreeSet<(usize, &[u8])>> = vec![BTreeSet::new(); count];
        for (partition, batches) in self.outcomes.iter().enumerate() {
            let range = from[partition]..to[partition];
            let within = (0..).zip(batches).filter(|(own, _)| range.contains(own));
            for (offset, seen) in within.flat_map(|(own, all)| all.iter().map(move |it| (own, it)))
            {
                let index = seen.index as usize;
                digests[index].insert(seen.payload_digest);
                match &seen.made {
                    Made::Result(bytes) => {
                        let beyond = earlier.iter().filter(|ends| offset >= ends[partition]);
                        results[index].insert((beyond.count(), bytes));
                    }
                    Made::DeadLetter(own) => {
                        dead[index] |= *own >= self.reopened_in(seen.index, newest);
                    }
                }
            }
        }
        let differs = |own: &&BTreeSet<(usize, &[u8])>| {
            let bytes: BTreeSet<_> = own.iter().map(|(_, bytes)| bytes).collect();
            bytes.len() > 1
        };
        let differing = results.iter().filter(differs).count() as u64;
        let is_reproducible = self.policy == ResultsPolicy::Reproducible;
        let is_contradicted =
            digests.iter().any(|own| own.len() > 1) || (is_reproducible && differing > 0);
        let of_data_set = |(own, job): (&BTreeSet<u64>, &super::ExpectedJob)| {
            own.iter().all(|&digest| digest == job.payload_digest)
        };
        let jobs = results.iter().zip(&dead).map(|(results, &is_dead)| {
            let first = results.first().map(|(_, bytes)| Some(bytes.to_vec()));
            first.or(is_dead.then_some(None))
        });
        let jobs: Vec<_> = jobs.collect();
        let verdict = if generation.is_none() {
            Verdict::Incomplete
        } else if is_contradicted {
            Verdict::Failed
        } else if jobs.contains(&None) {
            Verdict::Incomplete
        } else if !digests.iter().zip(&self.jobs).all(of_data_set) {
            Verdict::Failed
        } else if jobs.contains(&Some(None)) {
            Verdict::CompleteWithDeadLetters
        } else {
            Verdict::Complete
        };
        Truth {
            verdict,
            jobs,
            differing,
        }
    }

    /// An aggregator has judged.
    pub fn judged(&self, judgement: Judgement<'_>) -> Result<(), Violation> {
        let Judgement {
            from,
            to,
            generation,
            verdict,
            series,
            differing,
        } = judgement;
        let truth = self.truth(from, to, generation);
        if verdict != truth.verdict {
            return violated(
                "the verdict is true",
                format!("{verdict:?}, and it is {:?}", truth.verdict),
            );
        }
        // Which of the outcomes that contradict one another a failed run shows is nobody's promise.
        let Some(series) = series.filter(|_| verdict != Verdict::Failed) else {
            return Ok(());
        };
        if differing != truth.differing {
            return violated(
                "jobs whose results differ are counted",
                format!("{differing}, and they are {}", truth.differing),
            );
        }
        let found = spelled_out(series);
        let mut expected: BTreeMap<(String, i32), (u64, u64)> = BTreeMap::new();
        for (job, known) in self.jobs.iter().zip(&truth.jobs) {
            let Some(known) = known else { continue };
            let group = expected.entry(job.key.clone()).or_default();
            if let Some(tally) = known.as_deref().and_then(Tally::read) {
                group.0 += u64::from(tally.tests);
                group.1 += u64::from(tally.positive);
            }
        }
        if found != expected {
            return violated(
                "the series is the oracle's",
                format!("{found:?}, expected {expected:?}"),
            );
        }
        self.is_of_rows(verdict, &found)?;
        if self.are_outcomes_eaten {
            return Ok(());
        }
        let newest = generation.unwrap_or(0);
        let earlier = self.ends.iter().filter(|(own, _)| *own < newest);
        let reached = earlier.filter(|(_, ends)| ends.iter().zip(to).all(|(end, to)| to >= end));
        let reached = reached.map(|(own, _)| *own).max();
        for (&index, (counted_in, frozen)) in &self.frozen {
            let own = &truth.jobs[index as usize];
            if Some(*counted_in) <= reached && own.as_ref() != Some(&Some(frozen.clone())) {
                return violated(
                    "a result that a verdict has counted stays",
                    format!("job {index}: {frozen:?}, and then {own:?}"),
                );
            }
        }
        Ok(())
    }

    /// A complete series is that of the rows; where results are random, as far as the tests go.
    fn is_of_rows(
        &self,
        verdict: Verdict,
        found: &BTreeMap<(String, i32), (u64, u64)>,
    ) -> Result<(), Violation> {
        let known = |series: &BTreeMap<(String, i32), (u64, u64)>| {
            let rows = series.iter();
            let known = rows.map(|(key, &(tests, positive))| match self.is_random {
                true => (key.clone(), (tests, 0)),
                false => (key.clone(), (tests, positive)),
            });
            known.collect::<BTreeMap<_, _>>()
        };
        if verdict == Verdict::Complete && known(found) != known(&self.plain_series) {
            return violated(
                "a complete series is that of the rows",
                format!("{found:?}, expected {:?}", self.plain_series),
            );
        }
        Ok(())
    }
}

/// Tests and positive ones by label and hour.
fn spelled_out(series: &Series) -> BTreeMap<(String, i32), (u64, u64)> {
    let rows = series.rows.iter();
    rows.map(|row| {
        let label = series.label_sets[row.label_set as usize].values[0].clone();
        ((label, row.hours), (row.tests, row.positive))
    })
    .collect()
}

//! What is true of a run's verdicts: which jobs have an outcome that counts, by generation.

use std::collections::BTreeMap;

use computations::positivity::Series;
use pipeline::{GenerationOpened, Verdict};

use super::{Oracle, Violation, violated};

impl Oracle {
    /// A generation of the run is opened.
    pub fn generation_opened(&mut self, opened: &GenerationOpened) {
        let reopened = (opened.generation, opened.reopened.clone());
        self.reopened.push(reopened);
    }

    /// The generation that last opened a job again, of those up to the newest; 0 where none has.
    pub fn reopened_in(&self, index: u64, newest: u32) -> u32 {
        let known = self.reopened.iter().filter(|(opened, _)| *opened <= newest);
        let own = known.filter(|(_, jobs)| jobs.contains(index));
        own.map(|(opened, _)| *opened).max().unwrap_or(0)
    }

    /// What a reader of these outcomes (from and up to these offsets, by partition) must judge, and
    /// how many outcomes it must have dropped as duplicates at least. `generation`: the run's newest
    /// that it knows of, if it knows the manifest.
    fn truth(
        &self,
        from: &[i64],
        to: &[i64],
        generation: Option<u32>,
    ) -> (Verdict, Vec<Option<bool>>) {
        let newest = generation.unwrap_or(0);
        let mut known: Vec<Option<bool>> = vec![None; self.jobs.len()];
        for (partition, batches) in self.outcomes.iter().enumerate() {
            let within = |offset: i64| (offset as usize).min(batches.len());
            let range = within(from[partition])..within(to[partition]);
            for &(index, dead_in) in batches[range].iter().flatten() {
                let own = &mut known[index as usize];
                match dead_in {
                    Some(dead_in) if dead_in < self.reopened_in(index, newest) => {}
                    _ => *own = Some(dead_in.is_some() && own.unwrap_or(true)),
                }
            }
        }
        let verdict = if generation.is_none() || known.contains(&None) {
            Verdict::Incomplete
        } else if known.contains(&Some(true)) {
            Verdict::CompleteWithDeadLetters
        } else {
            Verdict::Complete
        };
        (verdict, known)
    }

    /// An aggregator that read from and up to these offsets has judged.
    pub fn judged(
        &self,
        from: &[i64],
        to: &[i64],
        generation: Option<u32>,
        verdict: Verdict,
        series: Option<&Series>,
    ) -> Result<(), Violation> {
        let (truth, known) = self.truth(from, to, generation);
        if verdict != truth {
            return violated(
                "the verdict is true",
                format!("{verdict:?}, and it is {truth:?}"),
            );
        }
        let Some(series) = series else {
            return Ok(());
        };
        let found = spelled_out(series);
        let mut expected: BTreeMap<(String, i32), (u64, u64)> = BTreeMap::new();
        for (job, known) in self.jobs.iter().zip(&known) {
            let Some(is_dead) = known else { continue };
            let group = expected.entry(job.key.clone()).or_default();
            if !is_dead {
                group.0 += u64::from(job.tally.tests);
                group.1 += u64::from(job.tally.positive);
            }
        }
        if found != expected {
            return violated(
                "the series is the oracle's",
                format!("{found:?}, expected {expected:?}"),
            );
        }
        if verdict == Verdict::Complete && found != self.plain_series {
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

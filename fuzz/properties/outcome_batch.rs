//! What an aggregator takes from the outcomes topic, what its ledger makes of it, and what
//! `rollcall dlq` does.

use computations::positivity::Series;
use computations::{Count, Positivity, Tabulate};
use pipeline::error::Conflict;
use pipeline::ledger::{Recorded, SpillError};
use pipeline::wire::{self, Message};
use pipeline::{DeadLetters, Ledger, Outcome, OutcomeBatch};

/// Jobs of the run that is told of. What is told of others is dropped.
const JOBS: u64 = 1_000;

fn record(ledger: &mut Ledger, batch: &OutcomeBatch, conflicts: &mut Vec<Conflict>) -> Recorded {
    let recorded = ledger.record(batch, conflicts);
    recorded.expect("all is in memory")
}

pub fn holds(input: &[u8]) {
    let decoded = OutcomeBatch::decode(input);
    // It is what prost reads.
    let of_prost = wire::OutcomeBatch::decode(input).ok();
    let of_prost = of_prost.and_then(|wire| OutcomeBatch::decode(&wire.encode_to_vec()).ok());
    assert_eq!(decoded.as_ref().ok(), of_prost.as_ref());
    let Ok(batch) = decoded else {
        return;
    };
    assert_eq!(batch.outcomes().count(), batch.len());
    let mut ledger = Ledger::new(JOBS);
    let mut conflicts = Vec::new();
    let first = record(&mut ledger, &batch, &mut conflicts);
    let told = first.new + first.replaced + first.duplicates + first.beyond + first.conflicts;
    assert_eq!(told, batch.len() as u64);
    assert_eq!(first.new, JOBS - ledger.missing());
    let totals = ledger.totals();
    // Of a run that has as many jobs as can be, each is there, and takes memory by what was told of.
    let mut endless = Ledger::new(u64::MAX);
    let all = record(&mut endless, &batch, &mut conflicts);
    assert_eq!(
        all.beyond,
        batch.outcomes().filter(|it| it.index == u64::MAX).count() as u64
    );
    assert_eq!(all.new, u64::MAX - endless.missing());
    assert_eq!(endless.job_set_digest(), None);
    // Bounded later, it is the same as if it had been bounded from the start.
    endless.set_jobs(JOBS);
    assert_eq!(endless.totals(), totals);
    assert_eq!(endless.dead(), ledger.dead());
    drop(endless);
    // The same again changes nothing.
    let again = record(&mut ledger, &batch, &mut conflicts);
    assert_eq!((again.new, again.replaced), (0, 0));
    assert_eq!(ledger.totals(), totals);
    // The groups have each job that was completed, and its result.
    let mut parts = 0;
    let walked = ledger.groups().for_each(|group| -> Result<(), SpillError> {
        parts += group.parts.len() as u64;
        Ok(())
    });
    walked.expect("all is in memory");
    assert_eq!(parts, totals.completed);
    let mut completed = 0;
    let read = ledger.for_each_completed(|_, _| completed += 1);
    read.expect("all is in memory");
    assert_eq!(completed, parts);
    // What a computation makes of them, whatever bytes they are, does not panic.
    for checks in [Positivity.checks(&ledger), Count.checks(&ledger)] {
        assert!(!checks.expect("all is in memory").is_empty());
    }
    let series = Series::of(&ledger).expect("all is in memory");
    assert!(series.rows.len() as u64 <= JOBS);
    for (index, dead) in ledger.dead() {
        let told = batch.outcomes().any(|outcome| {
            outcome.index == *index
                && matches!(outcome.outcome, Outcome::DeadLettered { reason, .. } if reason == dead.reason)
        });
        assert!(told, "job {index}");
    }
    let mut letters = DeadLetters::new(batch.run_id());
    letters.apply_outcomes(&batch);
    for dead in letters.still_dead(&ledger) {
        assert_eq!(dead.worker, Some(batch.worker()));
    }
}

//! What an aggregator takes from the outcomes topic, what its ledger makes of it, and what
//! `rollcall dlq` does.

use computations::positivity::Series;
use computations::{Count, Positivity, Tabulate};
use pipeline::{DeadLetters, Ledger, Outcome, OutcomeBatch};

/// Jobs of the run that is told of. What is told of others is dropped.
const JOBS: u64 = 1_000;

pub fn holds(input: &[u8]) {
    let Ok(batch) = OutcomeBatch::decode(input) else {
        return;
    };
    assert_eq!(batch.outcomes().count(), batch.len());
    let mut ledger = Ledger::new(JOBS);
    let mut conflicts = Vec::new();
    let first = ledger.record(&batch, &mut conflicts);
    let told = first.new + first.replaced + first.duplicates + first.beyond + first.conflicts;
    assert_eq!(told, batch.len() as u64);
    assert_eq!(first.new, JOBS - ledger.missing());
    let totals = ledger.totals();
    // Of a run that has as many jobs as can be, each is there, and takes memory by what was told of.
    let mut endless = Ledger::new(u64::MAX);
    let all = endless.record(&batch, &mut conflicts);
    assert_eq!(
        all.beyond,
        batch.outcomes().filter(|it| it.index == u64::MAX).count() as u64
    );
    assert_eq!(all.new, u64::MAX - endless.missing());
    assert_eq!(endless.job_set_digest(), None);
    drop(endless);
    // The same again changes nothing.
    let again = ledger.record(&batch, &mut conflicts);
    assert_eq!((again.new, again.replaced), (0, 0));
    assert_eq!(ledger.totals(), totals);
    // The groups have each job that was completed, and its result.
    let mut parts = 0;
    ledger.groups().for_each(|group| parts += group.parts.len());
    assert_eq!(parts as u64, totals.completed);
    assert_eq!(ledger.completed().count(), parts);
    // What a computation makes of them, whatever bytes they are, does not panic.
    for checks in [Positivity.checks(&ledger), Count.checks(&ledger)] {
        assert!(!checks.is_empty());
    }
    assert!(Series::of(&ledger).rows.len() as u64 <= JOBS);
    for (index, dead) in ledger.dead() {
        let told = batch.outcomes().any(|outcome| {
            outcome.index == *index
                && matches!(outcome.outcome, Outcome::DeadLettered { reason, .. } if reason == dead.reason)
        });
        assert!(told, "job {index}");
    }
    let mut letters = DeadLetters::new(batch.run_id());
    letters.hear_outcomes(&batch);
    for dead in letters.still_dead(&ledger) {
        assert_eq!(dead.worker, Some(batch.worker()));
    }
}

//! A deterministic simulation of the protocol under every failure that a model can draw: the types
//! that decide are those that the binaries run, only broker, network and scheduler are models. Each
//! history follows from one seed.
//!
//! `SIM_HISTORIES=1000000` plays more of them, `SIM_SEED=17` plays exactly one and tells all of it.

mod aggregator;
mod broker;
mod data_set;
mod dispatcher;
mod history;
mod invariants;
mod mutants;
mod rng;
mod seen;
mod topics;
mod transactions;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use history::{Outcome, simulate};
use seen::Coverage;

/// So many histories are played by the usual test run.
const HISTORIES: u64 = 10_000;

/// So many last lines of a trace are shown of a history that failed.
const LAST_LINES: usize = 60;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is to be a number, not '{text}'")),
    )
}

/// Plays a failed history again to tell how it came to that.
fn tell(seed: u64, lines: usize) -> String {
    match simulate(seed, None, true) {
        Outcome::Held { steps, .. } => format!("seed {seed}: all invariants hold, {steps} steps"),
        Outcome::Violated { violation, trace } => {
            let from = trace.len().saturating_sub(lines);
            let told = trace[from..].join("\n");
            format!("{told}\nseed {seed}: {violation}\nplay it again with SIM_SEED={seed}")
        }
    }
}

#[test]
fn every_history_keeps_every_invariant_and_every_fault_is_met() {
    if let Some(seed) = number("SIM_SEED") {
        let told = tell(seed, usize::MAX);
        println!("{told}");
        assert!(told.contains("all invariants hold"), "{told}");
        return;
    }
    let histories = number("SIM_HISTORIES").unwrap_or(HISTORIES);
    let first = number("SIM_FIRST_SEED").unwrap_or(0);
    let threads = number("SIM_THREADS").unwrap_or_else(|| {
        let available = thread::available_parallelism();
        available.map_or(1, |threads| threads.get() as u64)
    });
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let end = first + histories;
    let played: Vec<_> = thread::scope(|scope| {
        let play = || {
            let (mut coverage, mut all_steps, mut most_deaths) = (Coverage::new(), 0, 0);
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return (coverage, all_steps, most_deaths, None);
                }
                match simulate(seed, None, false) {
                    Outcome::Held {
                        coverage: own,
                        steps,
                        deaths,
                    } => {
                        coverage.add(&own);
                        all_steps += u64::from(steps);
                        most_deaths = most_deaths.max(deaths);
                    }
                    Outcome::Violated { .. } => {
                        next.store(end, Ordering::Relaxed);
                        return (coverage, all_steps, most_deaths, Some(seed));
                    }
                }
            }
        };
        let playing: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let played = playing
            .into_iter()
            .map(|thread| thread.join().expect("it ended"));
        played.collect()
    });
    let (mut coverage, mut steps, mut deaths) = (Coverage::new(), 0, 0);
    for (own, own_steps, own_deaths, failed) in played {
        if let Some(seed) = failed {
            panic!("{}", tell(seed, LAST_LINES));
        }
        coverage.add(&own);
        steps += own_steps;
        deaths = deaths.max(own_deaths);
    }
    println!(
        "{histories} histories of {} steps on average in {:.1} s; at most {deaths} plain deaths for one copy of a job",
        steps / histories.max(1),
        started.elapsed().as_secs_f64(),
    );
    for (seen, times) in coverage.iter() {
        println!("{times:>12}  {seen:?}");
    }
    if histories >= HISTORIES {
        for (seen, times) in coverage.iter() {
            assert!(times > 0, "no history has met this: {seen:?}");
        }
    }
}

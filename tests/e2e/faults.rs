//! Faults on a real Apache Kafka: [`rows`] is the table, [`stories`] says what happens in each row, and
//! [`verdict`] whether the run has come out as it must. A short set runs with the other tests; all of
//! it, as often as wanted:
//!
//! ```sh
//! ROLLCALL_FAULTS_REPEAT=3 cargo test -p rollcall --test e2e every_fault -- --ignored --nocapture
//! ```
//!
//! `ROLLCALL_FAULTS_ONLY='half-open|reset'` plays the rows with one of these in their name, and `ROLLCALL_FAULTS_OUT`
//! names the folder for `faults.md` and `faults.json` (else one below the target folder, which is told).

mod brokers;
mod clock;
mod disk;
mod play;
mod proxy;
mod results;
mod rows;
mod stories;
mod verdict;
mod witness;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use std::{env, fs, process};

use pipeline::Grain;

use brokers::{OneBroker, ThreeBrokers};
use play::{Data, Delivery, Outcome, Play, Stand};
use results::Result;
use rows::{Brokers, DataSet, ROWS, Row};

use crate::processes::FEW_JOBS;

/// What rows share: brokers and data, made when the first row asks for them.
#[derive(Default)]
struct House {
    one: Option<OneBroker>,
    strict: Option<OneBroker>,
    three: Option<ThreeBrokers>,
    few_jobs: Option<Data>,
    many_jobs: Option<Data>,
}

impl House {
    #[track_caller]
    fn attempt(&mut self, row: &Row, delivery: Delivery) -> Option<Outcome> {
        static PLAYS: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "faults-{}-{}",
            process::id(),
            PLAYS.fetch_add(1, Ordering::Relaxed)
        );
        let data = match row.data {
            DataSet::FewJobs => self
                .few_jobs
                .get_or_insert_with(|| Data::make(&FEW_JOBS, Grain::Day)),
            DataSet::ManyJobs => self
                .many_jobs
                .get_or_insert_with(|| Data::make(&["--rows", "2000000"], Grain::Hour)),
        };
        let stand = match row.brokers {
            Brokers::One => Stand::One(self.one.get_or_insert_with(|| OneBroker::start(&[]))),
            Brokers::Strict => Stand::One(
                self.strict
                    .get_or_insert_with(|| OneBroker::start(&[("message.max.bytes", "20000")])),
            ),
            Brokers::Three => Stand::Three(self.three.get_or_insert_with(ThreeBrokers::start)),
        };
        let mut play = Play::new(stand, &name, delivery, data);
        (row.story)(&mut play);
        play.end(row.must, row.strikes)
    }

    /// The same until the fault has struck when it had to: one that waits for a certain job may be too
    /// early on a machine that is busy with other things.
    #[track_caller]
    fn play(&mut self, row: &Row, delivery: Delivery) -> Outcome {
        const ATTEMPTS: usize = 3;
        let mut attempts = (0..ATTEMPTS).filter_map(|_| self.attempt(row, delivery));
        attempts.next().expect("it strikes when it has to")
    }

    /// After a row that failed nobody knows in which state its brokers are.
    fn leave(&mut self, brokers: Brokers) {
        match brokers {
            Brokers::One => self.one = None,
            Brokers::Strict => self.strict = None,
            Brokers::Three => self.three = None,
        }
    }
}

#[test]
fn a_short_set_of_faults_loses_nothing_and_counts_nothing_twice() {
    let mut house = House::default();
    for row in ROWS.iter().filter(|row| row.is_short) {
        // The stricter one, where there are two.
        let delivery = row.deliveries.last().expect("each row has a delivery");
        house.play(row, *delivery);
    }
}

#[test]
#[ignore = "takes half an hour; `cargo test -p rollcall --test e2e every_fault -- --ignored`"]
fn every_fault_loses_nothing_and_counts_nothing_twice() {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let repeat = set("ROLLCALL_FAULTS_REPEAT").map_or(1, |times| times.parse().expect("a number"));
    let only = set("ROLLCALL_FAULTS_ONLY").unwrap_or_default();
    let out = set("ROLLCALL_FAULTS_OUT").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults"),
        PathBuf::from,
    );
    fs::create_dir_all(&out).expect("the folder can be made");
    let mut house = House::default();
    let mut results: Vec<Result> = Vec::new();
    for row in ROWS.iter().filter(|row| is_meant(row, &only)) {
        for &delivery in row.deliveries {
            let mut result = Result::new(row, delivery);
            for run in 1..=repeat {
                play_once(&mut house, row, delivery, run, &mut result);
            }
            results.push(result);
            // After each row: whoever stops it has what was played.
            let json = format!("{:#}\n", results::json(&results));
            fs::write(out.join("faults.json"), json).expect("written");
            fs::write(out.join("faults.md"), results::markdown(&results)).expect("written");
        }
    }
    say(&format!(
        "{}\nin {}",
        results::markdown(&results),
        out.display()
    ));
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.failures.is_empty())
        .map(|result| format!("{}: {}", result.name(), result.failures.join("; ")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(!results.is_empty(), "no row has this in its name: {only}");
}

/// Whether a row has one of these parts, separated by `|`, in its name.
fn is_meant(row: &Row, only: &str) -> bool {
    only.split('|').any(|part| row.fault.contains(part))
}

/// Plays a row once and goes on if it fails.
fn play_once(house: &mut House, row: &Row, delivery: Delivery, run: u32, result: &mut Result) {
    if let Err(reason) = (row.is_possible)() {
        say(&format!("{}: not run: {reason}", result.name()));
        result.skip(reason);
        return;
    }
    let started = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| house.play(row, delivery)));
    let seconds = started.elapsed().as_secs_f64();
    match played {
        Ok(outcome) => {
            say(&format!(
                "{} ({run}): held, {seconds:.0} s: {outcome:?}",
                result.name()
            ));
            result.add(outcome);
        }
        Err(panic) => {
            let reason = panic.downcast_ref::<String>().cloned();
            let reason = reason.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            say(&format!(
                "{} ({run}): FAILED, {seconds:.0} s: {reason:?}",
                result.name()
            ));
            result.fail(reason.unwrap_or_default());
            house.leave(row.brokers);
        }
    }
}

/// Past libtest, which would keep it until the end: the whole takes its time.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

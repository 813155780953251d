//! Whether a row came out as it must: by the aggregator's report, and by a reader of the topics that
//! counts by itself and is held against the reference without Kafka.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::play::{Delivery, Play};
use super::witness::{Counts, Testimony};
use crate::processes::{assert_reconciled, assert_same, report};

/// What a row has to end in.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// Every job is counted.
    Complete,
    /// These jobs are dead letters, and every other one is counted.
    DeadLetters(&'static [u64]),
    /// The dispatcher gives up and says so; nobody calls the run complete.
    Abort,
    /// Jobs are missing, as many as the reader of the topics misses; nobody calls the run complete.
    Incomplete,
    /// One or the other, for it depends on what workers had read in time: whatever is really so.
    CompleteOrIncomplete,
}

impl Must {
    /// What is said by the aggregator's exit code, if that is one that may be.
    pub fn said_by(self, code: Option<i32>) -> Option<Self> {
        let due = match self {
            Self::Complete => 0,
            Self::DeadLetters(_) => 3,
            Self::Abort => 1,
            Self::Incomplete => 4,
            Self::CompleteOrIncomplete => {
                let mut both = [Self::Complete, Self::Incomplete].into_iter();
                return both.find_map(|must| must.said_by(code));
            }
        };
        (code == Some(due)).then_some(self)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::DeadLetters(_) => "complete with dead letters",
            Self::Abort => "aborted",
            Self::Incomplete => "incomplete",
            Self::CompleteOrIncomplete => "complete or incomplete, as it was",
        }
    }
}

/// What came of a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub jobs: u64,
    /// Jobs that the verdict claims and nobody has counted.
    pub lost: u64,
    /// Jobs without an outcome, which the report counts as missing.
    pub missing: u64,
    /// Jobs that are in the series more than once.
    pub counted_twice: u64,
    /// Outcomes that came again and were sorted out.
    pub duplicates: u64,
}

/// The reference without Kafka.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub report: Value,
    pub counts: Counts,
}

impl Oracle {
    /// Of an output folder of `--engine local`.
    #[track_caller]
    pub fn read(out: &Path) -> Self {
        Self {
            report: report(out),
            counts: series(out),
        }
    }
}

/// The lines of a series with their counts; those without any are left out.
#[track_caller]
fn series(out: &Path) -> Counts {
    let text = fs::read_to_string(out.join("series.csv")).expect("a series");
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.rsplitn(4, ',').skip(1);
            let positive = fields.next()?.parse().ok()?;
            let tests = fields.next()?.parse().ok()?;
            Some((fields.next()?.to_owned(), (tests, positive)))
        })
        .collect()
}

/// Lines of `this` with other counts than in `that`, which may be short of some of them.
fn beyond(this: &Counts, that: &Counts) -> u64 {
    let more = this.iter().filter(|(line, counts)| {
        let other = that.get(*line).copied().unwrap_or_default();
        counts.0 > other.0 || counts.1 > other.1
    });
    more.count() as u64
}

/// Judges a row whose aggregator has ended with the exit code that it must.
#[track_caller]
pub fn judge(play: &Play<'_>, must: Must) -> Figures {
    let oracle = &play.data.oracle;
    let out = play.test.out(&play.run_id);
    if let Must::Abort = must {
        assert!(
            !out.join("report.json").exists(),
            "an aborted run has a report"
        );
        return Figures::default();
    }
    let report = report(&out);
    let jobs = report["manifest"]["jobs"].as_u64().expect("a manifest");
    let heard = Testimony::read(&play.test, &play.run_id, play.data.grain);
    let series = series(&out);
    let mut figures = Figures {
        jobs,
        duplicates: heard.repeated(),
        counted_twice: beyond(&series, &oracle.counts),
        ..Figures::default()
    };
    assert_eq!(heard.contradictory, BTreeSet::new());
    assert_eq!(
        heard.counts, series,
        "the report's series is not the topic's"
    );
    match must {
        Must::Complete => {
            assert_eq!(report["status"], "complete");
            assert_reconciled(&report);
            assert_same(&report, &oracle.report);
            assert!(heard.dead.is_empty(), "{:?}", heard.dead);
        }
        Must::DeadLetters(expected) => {
            assert_eq!(report["status"], "complete-with-dead-letters");
            assert_reconciled(&report);
            assert!(heard.dead.keys().eq(expected), "{:?}", heard.dead);
        }
        Must::Incomplete => {
            assert_eq!(report["status"], "incomplete");
            let missing = report["jobs"]["missing"].as_u64().expect("a number");
            assert!(missing > 0);
            assert_eq!(heard.copies.len() as u64 + missing, jobs);
            figures.missing = missing;
            return figures;
        }
        Must::Abort | Must::CompleteOrIncomplete => unreachable!("neither has a report"),
    }
    figures.lost = beyond(&oracle.counts, &series) - heard.dead.len() as u64;
    figures.lost += jobs - heard.copies.len() as u64;
    assert_eq!((figures.lost, figures.counted_twice), (0, 0));
    if play.delivery == Delivery::ExactlyOnce && !play.is_published_again {
        let twice: Vec<_> = heard
            .copies
            .iter()
            .filter(|(_, copies)| **copies > 1)
            .collect();
        assert!(
            twice.is_empty(),
            "more than one committed outcome: {twice:?}"
        );
    }
    figures
}

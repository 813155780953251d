//! Progress that the threads which move data report by adding to a counter, a batch at a time,
//! and that one thread shows: as bars on a terminal, as a line every few seconds elsewhere.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{
    HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};

/// How often the bars are drawn again.
const REDRAW: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// A number as people read it, with a comma between groups of three digits.
pub fn grouped(number: u64) -> String {
    HumanCount(number).to_string()
}

/// One stage of the work: how much of it is done, of how much.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    unit: &'static str,
    done: AtomicU64,
    /// 0 while it is not known.
    total: AtomicU64,
}

impl Stage {
    fn new(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// Adds to what is done.
    pub fn add(&self, amount: u64) {
        self.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// Says how much there is to do in all.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// What is done so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How much there is to do in all, once that is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|&total| total != 0)
    }

    fn is_complete(&self) -> bool {
        self.total().is_some_and(|total| self.done() >= total)
    }

    fn line(&self) -> String {
        let done = HumanCount(self.done());
        match self.total() {
            Some(total) => format!("{} {done}/{} {}", self.name, HumanCount(total), self.unit),
            None => format!("{} {done} {}", self.name, self.unit),
        }
    }
}

/// The stages of the pipeline, in the order in which data goes through them.
#[derive(Debug)]
pub struct Progress {
    /// Bytes of the data set that were read.
    pub read: Stage,
    /// Jobs whose publication the broker has acknowledged.
    pub published: Stage,
    /// Jobs that have an outcome.
    pub collected: Stage,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            read: Stage::new("read", "bytes"),
            published: Stage::new("published", "jobs"),
            collected: Stage::new("collected", "jobs"),
        }
    }
}

impl Progress {
    /// A progress where nothing is done yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn stages(&self) -> [&Stage; 3] {
        [&self.read, &self.published, &self.collected]
    }

    /// Shows the progress on standard error until the returned guard is dropped.
    pub fn show(self: &Arc<Self>, quiet: bool) -> Option<Shown> {
        if quiet {
            return None;
        }
        let progress = Arc::clone(self);
        let ended = Arc::new(Ended::default());
        let seen_by_thread = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                if io::stderr().is_terminal() {
                    draw_bars(&progress, &seen_by_thread);
                } else {
                    write_lines(&progress, &seen_by_thread);
                }
            })
            .ok()?;
        Some(Shown {
            ended,
            thread: Some(thread),
        })
    }
}

/// The guard of a shown progress: dropping it takes the bars away.
#[derive(Debug)]
pub struct Shown {
    ended: Arc<Ended>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.ended.set();
        if let Some(thread) = self.thread.take() {
            // A panic while drawing is no reason to fail the work that was drawn.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Ended {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        *self.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for the end, `period` at most; tells whether it came.
    fn wait(&self, period: Duration) -> bool {
        let flag = self.flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (flag, _) = self
            .changed
            .wait_timeout_while(flag, period, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        *flag
    }
}

fn draw_bars(progress: &Progress, ended: &Ended) {
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let mut drawn: Vec<(&Stage, ProgressBar)> = Vec::new();
    loop {
        let over = ended.wait(REDRAW);
        for (position, stage) in progress.stages().into_iter().enumerate() {
            let known = drawn.len() > position;
            if !known && stage.done() == 0 && stage.total().is_none() {
                break;
            }
            if !known {
                drawn.push((stage, bars.add(bar(stage))));
            }
            let (_, bar) = &drawn[position];
            if let Some(total) = stage.total() {
                bar.set_length(total);
            }
            bar.set_position(stage.done());
            if stage.is_complete() && !bar.is_finished() {
                bar.finish();
            }
        }
        if over {
            for (_, bar) in &drawn {
                bar.finish_and_clear();
            }
            return;
        }
    }
}

fn bar(stage: &Stage) -> ProgressBar {
    let in_bytes = stage.unit == "bytes";
    let template = if in_bytes {
        "{prefix:>9} {wide_bar} {bytes:>10}/{total_bytes:10} {rate:>14} {eta:>4}"
    } else {
        "{prefix:>9} {wide_bar} {human_pos:>10}/{human_len:10} {rate:>14} {eta:>4}"
    };
    let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        let per_second = state.per_sec() as u64;
        // A formatter has nowhere to report an error to.
        let _ = match (state.is_finished(), in_bytes) {
            // Of a stage that is over only the time would go on.
            (true, _) => Ok(()),
            (false, true) => write!(out, "{}/s", HumanBytes(per_second)),
            (false, false) => write!(out, "{}/s", HumanCount(per_second)),
        };
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate);
    // Hidden until it is one of several: a bar that draws itself leaves a line behind.
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix(stage.name)
}

fn write_lines(progress: &Progress, ended: &Ended) {
    let started = Instant::now();
    while !ended.wait(LINE) {
        let stages: Vec<String> = progress
            .stages()
            .into_iter()
            .filter(|stage| stage.done() > 0 && !stage.is_complete())
            .map(Stage::line)
            .collect();
        if !stages.is_empty() {
            eprintln!(
                "{:>4} s: {}",
                started.elapsed().as_secs(),
                stages.join(", ")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_tells_what_is_done_of_what_is_known() {
        let progress = Progress::new();
        progress.published.add(1_500);
        assert_eq!(progress.published.line(), "published 1,500 jobs");
        progress.published.set_total(2_000);
        assert_eq!(progress.published.line(), "published 1,500/2,000 jobs");
        assert!(!progress.published.is_complete());
        progress.published.add(500);
        assert!(progress.published.is_complete());
    }
}

//! The progress of a run. The threads that move data add to counters, once per batch; one thread
//! displays them: as bars on a terminal, as a line every few seconds elsewhere, or as JSON.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{
    HumanBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget,
    ProgressState, ProgressStyle,
};
use serde::Serialize;

use crate::health::Health;
use crate::json_output;
use crate::metrics::Counter;

/// The time between two redraws of the bars.
const REDRAW_PERIOD: Duration = Duration::from_millis(100);

/// The time between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// The time between two JSON lines of an unfinished stage. The line of its end is printed at once.
const JSON_PERIOD: Duration = Duration::from_secs(1);

/// Where and how progress is displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Nowhere.
    Nothing,
    /// On standard error: bars on a terminal, lines elsewhere.
    ForPeople,
    /// On standard output, one JSON object per line.
    ForMachines,
}

impl Show {
    /// The display for the options `--quiet` and `--json`. `--quiet` does not turn JSON off.
    pub fn new(quiet: bool, json: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::ForMachines,
            (false, true) => Self::Nothing,
            (false, false) => Self::ForPeople,
        }
    }
}

/// A number for people, with a comma between groups of three digits.
pub fn grouped(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A stage of the work: the amount that is done, and the total.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    unit: &'static str,
    done: Counter,
    /// 0 while the total is unknown.
    total: AtomicU64,
    health: Arc<Health>,
}

impl Stage {
    fn new(name: &'static str, unit: &'static str, health: &Arc<Health>) -> Self {
        Self {
            name,
            unit,
            done: Counter::default(),
            total: AtomicU64::new(0),
            health: Arc::clone(health),
        }
    }

    /// Adds to the amount that is done, and records a beat of the process's [`Health`].
    pub fn add(&self, amount: u64) {
        self.done.inc_by(amount);
        self.health.beat();
    }

    /// The amount that is done, as a metric.
    pub fn counter(&self) -> Counter {
        self.done.clone()
    }

    /// Sets the total.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// The amount that is done.
    pub fn done(&self) -> u64 {
        self.done.get()
    }

    /// The total; `None` while it is unknown.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|&total| total != 0)
    }

    fn is_complete(&self) -> bool {
        self.total().is_some_and(|total| self.done() >= total)
    }

    fn human(&self, amount: u64) -> String {
        match self.unit {
            "bytes" => HumanBytes(amount).to_string(),
            _ => HumanCount(amount).to_string(),
        }
    }

    /// A line with the amount that is done, the total, the rate since the amount was `before`, and
    /// the time left at that rate.
    fn line(&self, before: u64, since: Duration) -> String {
        let done = self.done();
        let mut line = format!("{} {}", self.name, self.human(done));
        if let Some(total) = self.total() {
            line.push_str(&format!("/{}", self.human(total)));
        }
        if self.unit != "bytes" {
            line.push_str(&format!(" {}", self.unit));
        }
        let per_second = done.saturating_sub(before) as f64 / since.as_secs_f64().max(1e-3);
        line.push_str(&format!(", {}/s", self.human(per_second as u64)));
        if let Some(total) = self.total()
            && per_second >= 1.0
        {
            let left = Duration::from_secs_f64((total.saturating_sub(done)) as f64 / per_second);
            line.push_str(&format!(", {} left", HumanDuration(left)));
        }
        line
    }
}

/// The number of child workers that are up and that are being restarted.
#[derive(Debug, Default)]
pub struct Workers {
    up: AtomicU64,
    restarting: AtomicU64,
}

impl Workers {
    /// Counts a worker that was started.
    pub fn started(&self) {
        self.up.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a worker that has ended for good.
    pub fn ended(&self) {
        self.up.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a worker that has died and will be started again.
    pub fn died(&self) {
        self.restarting.fetch_add(1, Ordering::Relaxed);
        self.up.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a worker that was started again after it had died.
    pub fn restarted(&self) {
        self.up.fetch_add(1, Ordering::Relaxed);
        self.restarting.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many work, or will again.
    pub fn alive(&self) -> usize {
        let WorkersState { up, restarting } = self.state();
        usize::try_from(up + restarting).unwrap_or(usize::MAX)
    }

    fn state(&self) -> WorkersState {
        WorkersState {
            up: self.up.load(Ordering::Relaxed),
            restarting: self.restarting.load(Ordering::Relaxed),
        }
    }
}

/// The number of workers that are up and restarting, as in JSON lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct WorkersState {
    up: u64,
    restarting: u64,
}

impl fmt::Display for WorkersState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} up", self.up)?;
        match self.restarting {
            0 => Ok(()),
            restarting => write!(f, ", {restarting} restarting"),
        }
    }
}

/// The progress of a run: the stages of the pipeline in the order of the data, and the workers.
#[derive(Debug)]
pub struct Progress {
    /// Bytes of the data set that were read.
    pub read: Stage,
    /// Jobs that the broker has acknowledged.
    pub published: Stage,
    /// Jobs that have an outcome.
    pub collected: Stage,
    /// The child workers of this process; none where workers run elsewhere.
    pub workers: Workers,
    /// Liveness and readiness of the threads that add to the stages.
    pub health: Arc<Health>,
}

impl Default for Progress {
    fn default() -> Self {
        let health = Arc::new(Health::default());
        Self {
            read: Stage::new("read", "bytes", &health),
            published: Stage::new("published", "jobs", &health),
            collected: Stage::new("collected", "jobs", &health),
            workers: Workers::default(),
            health,
        }
    }
}

impl Progress {
    /// A progress with nothing done.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn stages(&self) -> [&Stage; 3] {
        [&self.read, &self.published, &self.collected]
    }

    /// Starts to display the progress, until the returned guard is dropped.
    pub fn show(self: &Arc<Self>, show: Show) -> Option<Shown> {
        if show == Show::Nothing {
            return None;
        }
        let progress = Arc::clone(self);
        let ended = Arc::new(Ended::default());
        let seen_by_thread = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                if show == Show::ForMachines {
                    write_json(&progress, &seen_by_thread);
                } else if io::stderr().is_terminal() {
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

/// The guard of a display: dropping it ends the display and removes the bars.
#[derive(Debug)]
pub struct Shown {
    ended: Arc<Ended>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.ended.set();
        if let Some(thread) = self.thread.take() {
            // A panic of the display is no reason to fail the work.
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

    /// Waits for the end, for `period` at most. Returns whether the display has to end.
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
    let mut workers: Option<ProgressBar> = None;
    loop {
        let over = ended.wait(REDRAW_PERIOD);
        for (position, stage) in progress.stages().into_iter().enumerate() {
            let known = drawn.len() > position;
            if !known && stage.done() == 0 && stage.total().is_none() {
                break;
            }
            if !known {
                // Before the workers' line, which stays the last one.
                drawn.push((stage, bars.insert(position, bar(stage))));
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
        let state = progress.workers.state();
        if workers.is_some() || state != WorkersState::default() {
            let line = workers.get_or_insert_with(|| bars.add(workers_line()));
            line.set_message(state.to_string());
        }
        if over {
            for bar in drawn.iter().map(|(_, bar)| bar).chain(&workers) {
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
        // The formatter cannot return an error.
        let _ = match (state.is_finished(), in_bytes) {
            // The rate of a finished stage would only fall.
            (true, _) => Ok(()),
            (false, true) => write!(out, "{}/s", HumanBytes(per_second)),
            (false, false) => write!(out, "{}/s", HumanCount(per_second)),
        };
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate);
    // Hidden until it is added to the group of bars: drawn alone, a bar leaves a line behind.
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix(stage.name)
}

fn workers_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>9} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        .with_style(style)
        .with_prefix("workers")
}

fn write_lines(progress: &Progress, ended: &Ended) {
    let started = Instant::now();
    let mut before = [0; 3];
    let mut last = started;
    while !ended.wait(LINE_PERIOD) {
        let now = Instant::now();
        let line = all_stages_line(progress, before, now - last);
        if !line.is_empty() {
            eprintln!("{:>4} s: {line}", started.elapsed().as_secs());
        }
        before = progress.stages().map(Stage::done);
        last = now;
    }
}

/// The unfinished stages and the workers in one line; empty when nothing has started.
fn all_stages_line(progress: &Progress, before: [u64; 3], since: Duration) -> String {
    let stages = progress.stages().into_iter().zip(before);
    let mut parts: Vec<String> = stages
        .filter(|(stage, _)| stage.done() > 0 && !stage.is_complete())
        .map(|(stage, before)| stage.line(before, since))
        .collect();
    let workers = progress.workers.state();
    if workers != WorkersState::default() {
        parts.push(format!("workers {workers}"));
    }
    parts.join("; ")
}

/// The state of a stage, as in JSON lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct StageState {
    stage: &'static str,
    unit: &'static str,
    done: u64,
    total: Option<u64>,
    /// Seconds since the display was started.
    seconds: f64,
}

/// Decides which JSON lines are due, without a clock of its own.
#[derive(Default)]
struct JsonLines {
    /// By stage: done and total of its last line, and the time of that line.
    last: [Option<(u64, Option<u64>, Duration)>; 3],
    workers: WorkersState,
}

impl JsonLines {
    /// The stages for which a line is due: a finished one once, an unfinished one every
    /// [`JSON_PERIOD`]. At the end (`over`), each that has changed since its last line.
    fn stages(&mut self, progress: &Progress, at: Duration, over: bool) -> Vec<StageState> {
        let mut states = Vec::new();
        for (stage, last) in progress.stages().into_iter().zip(&mut self.last) {
            // The total first: the amount done only grows, so a complete stage is seen as complete.
            let (total, done) = (stage.total(), stage.done());
            if done == 0 && total.is_none() {
                continue;
            }
            let has_changed = last.is_none_or(|(before, of, _)| (before, of) != (done, total));
            let complete = total.is_some_and(|total| done >= total);
            let is_due = last.is_none_or(|(.., printed_at)| at >= printed_at + JSON_PERIOD);
            if (has_changed && (complete || over)) || (is_due && !complete && !over) {
                *last = Some((done, total, at));
                states.push(StageState {
                    stage: stage.name,
                    unit: stage.unit,
                    done,
                    total,
                    seconds: (at.as_secs_f64() * 1e3).round() / 1e3,
                });
            }
        }
        states
    }

    /// The workers' state, if it has changed since the last call.
    fn workers(&mut self, progress: &Progress) -> Option<WorkersState> {
        let state = progress.workers.state();
        (state != std::mem::replace(&mut self.workers, state)).then_some(state)
    }
}

fn write_json(progress: &Progress, ended: &Ended) {
    let started = Instant::now();
    let mut lines = JsonLines::default();
    loop {
        let over = ended.wait(REDRAW_PERIOD);
        for state in lines.stages(progress, started.elapsed(), over) {
            json_output::print("progress", &state);
        }
        if let Some(state) = lines.workers(progress) {
            json_output::print("workers", &state);
        }
        if over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_amount_done_the_total_the_rate_and_the_time_left() {
        let progress = Progress::new();
        let stage = &progress.published;
        let over = Duration::from_secs(5);
        stage.add(1_500);
        assert_eq!(stage.line(500, over), "published 1,500 jobs, 200/s");
        stage.set_total(2_000);
        assert_eq!(
            stage.line(500, over),
            "published 1,500/2,000 jobs, 200/s, 3 seconds left"
        );
        // Without progress there is no time left to compute.
        assert_eq!(stage.line(1_500, over), "published 1,500/2,000 jobs, 0/s");
        assert!(!stage.is_complete());
        stage.add(500);
        assert!(stage.is_complete());
    }

    #[test]
    fn the_workers_state_is_at_the_end_of_the_line() {
        let progress = Progress::new();
        let line = || all_stages_line(&progress, [0; 3], Duration::from_secs(1));
        assert_eq!(line(), "");
        progress.read.add(2 * 1024 * 1024);
        for _ in 0..4 {
            progress.workers.started();
        }
        progress.workers.died();
        assert_eq!(
            line(),
            "read 2.00 MiB, 2.00 MiB/s; workers 3 up, 1 restarting"
        );
        progress.workers.restarted();
        progress.workers.ended();
        assert!(line().ends_with("; workers 3 up"), "{}", line());
    }

    #[test]
    fn json_lines_are_due_every_second_and_once_at_the_end_of_a_stage() {
        let progress = Progress::new();
        let mut lines = JsonLines::default();
        let mut due = |ms, over| {
            let states = lines.stages(&progress, Duration::from_millis(ms), over);
            let states = states.iter().map(|state| (state.stage, state.done));
            states.collect::<Vec<_>>()
        };
        assert_eq!(due(0, false), []);
        progress.published.set_total(10);
        progress.published.add(4);
        assert_eq!(due(100, false), [("published", 4)]);
        progress.published.add(1);
        assert_eq!(due(900, false), []);
        assert_eq!(due(1_100, false), [("published", 5)]);
        progress.published.add(5);
        assert_eq!(due(1_200, false), [("published", 10)]);
        assert_eq!(due(9_000, false), []);
        progress.collected.add(3);
        assert_eq!(due(9_100, false), [("collected", 3)]);
        progress.collected.add(1);
        assert_eq!(due(9_200, true), [("collected", 4)]);
        // The total may be known last, when all is done.
        progress.collected.set_total(4);
        assert_eq!(due(9_300, true), [("collected", 4)]);
    }

    #[test]
    fn adding_to_a_stage_is_a_beat_of_the_process() {
        let progress = Progress::new();
        let later = Instant::now() + Duration::from_secs(3_600);
        assert_eq!(progress.health.liveness_at(later), Ok(()));
        progress.collected.add(1);
        assert!(progress.health.liveness_at(later).is_err());
        assert_eq!(progress.collected.counter().get(), 1);
    }
}

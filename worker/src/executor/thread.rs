//! A compute thread: it gives its bookkeeping the time, work units and the shutdown, and sends on what
//! is finished. It decides nothing but how long it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, at, never, select};
use pipeline::Worker;
use service::Shutdown;
use service::metrics::SecondsCounter;

use super::pace::Pace;
use super::{Bookkeeping, Executor, Inability, Watch, WorkUnit};
use crate::outbox::Finished;
use crate::retry::RetryPolicy;

/// While no work unit is waited for, leases and the shutdown are looked at this often.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(50);

/// What a compute thread needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this worker is.
    pub worker: Worker,
    /// When a failing job is tried again.
    pub retry: RetryPolicy,
    /// Whether a batch of outcomes is of one partition of the jobs topic.
    pub apart_by_partition: bool,
    /// Where the time at work is counted.
    pub seconds: SecondsCounter,
    /// Where it is told that jobs were left to other workers.
    pub inability: Inability,
}

/// Runs a compute thread until the channel of work units closes.
pub fn run(
    settings: Settings,
    shutdown: Shutdown,
    watch: Arc<Watch>,
    mut executor: impl Executor,
    units: &Receiver<WorkUnit>,
    finished: Sender<Finished>,
) {
    let mut now = Instant::now();
    let mut bookkeeping = Bookkeeping::new(
        settings.worker,
        settings.retry,
        settings.apart_by_partition,
        watch,
        now,
    );
    let mut is_open = true;
    loop {
        let began = now;
        let mut pace = Pace::new(now);
        loop {
            if shutdown.is_requested() || !is_open {
                bookkeeping.stop(now);
            }
            bookkeeping.look(&mut executor, now);
            let step = bookkeeping.step(&mut executor, pace.jobs(), &mut Instant::now);
            for own in bookkeeping.take_finished() {
                // The receiver is gone only when the process gives up; then nobody commits either.
                let _ = finished.send(own);
            }
            if let Some(unable) = bookkeeping.unable() {
                settings.inability.report(unable);
            }
            if step.is_idle {
                break;
            }
            now = Instant::now();
            pace.look(now, step.begun);
        }
        settings.seconds.inc_by((now - began).as_secs_f64());
        if !is_open && !bookkeeping.is_in_flight() {
            return;
        }
        is_open = wait(&mut bookkeeping, &executor, units, is_open);
        now = Instant::now();
    }
}

/// Waits for a work unit, an answer or the time. Returns whether there may be further work units.
fn wait(
    bookkeeping: &mut Bookkeeping,
    executor: &impl Executor,
    units: &Receiver<WorkUnit>,
    is_open: bool,
) -> bool {
    let wants_unit = is_open && bookkeeping.wants_unit();
    let no_units = never();
    let due = bookkeeping.next_call().map_or_else(never, at);
    let look = if wants_unit && !bookkeeping.is_in_flight() {
        never()
    } else {
        after(LOOK_AT_LEAST_EVERY)
    };
    select! {
        recv(if wants_unit { units } else { &no_units }) -> unit => match unit {
            Ok(unit) => bookkeeping.begin(unit, Instant::now()),
            Err(_) => return false,
        },
        recv(executor.wake()) -> _ => {}
        recv(due) -> _ => {}
        recv(look) -> _ => {}
    }
    is_open
}

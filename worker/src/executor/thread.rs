//! The loop of a compute thread: it passes the time, work units and the shutdown to its bookkeeping, and
//! sends finished work to the event loop. It decides only how long it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, at, never, select};
use kafka::SharedCancellations;
use pipeline::Worker;
use service::Shutdown;
use service::metrics::{Counter, SecondsCounter};

use super::pace::Pace;
use super::{Bookkeeping, Executor, Inability, Watch, WorkUnit};
use crate::outbox::Finished;
use crate::retry::RetryPolicy;

/// The longest time between two checks of the leases and the shutdown, except while only a work unit is
/// waited for.
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The settings of a compute thread.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The worker's id and host, which are part of its outcomes.
    pub worker: Worker,
    /// The number of attempts at a failing job, and the pauses between them.
    pub retry: RetryPolicy,
    /// Whether all outcomes of a batch are of one partition of the jobs topic.
    pub apart_by_partition: bool,
    /// The counter of the seconds for which the thread computed.
    pub seconds: SecondsCounter,
    /// The place to report that the thread cannot compute its jobs.
    pub inability: Inability,
    /// The cancelled runs, whose jobs are skipped.
    pub cancellations: SharedCancellations,
    /// The counter of skipped jobs.
    pub cancelled_jobs: Counter,
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
        settings.cancellations,
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
                settings.cancelled_jobs.inc_by(own.passed_over_jobs());
                // The receiver is gone only when the process ends; then no offset is committed, either.
                let _ = finished.send(own);
            }
            if let Some(unable) = bookkeeping.unable() {
                settings.inability.report(unable);
            }
            if step.is_idle {
                break;
            }
            now = Instant::now();
            pace.adapt(now, step.begun);
        }
        settings.seconds.inc_by((now - began).as_secs_f64());
        if !is_open && !bookkeeping.is_in_flight() {
            return;
        }
        is_open = wait(&mut bookkeeping, &executor, units, is_open);
        now = Instant::now();
    }
}

/// Waits for a work unit, an answer or the next due time. Returns whether the channel of work units is
/// open.
fn wait(
    bookkeeping: &mut Bookkeeping,
    executor: &impl Executor,
    units: &Receiver<WorkUnit>,
    is_open: bool,
) -> bool {
    let wants_unit = is_open && bookkeeping.wants_unit();
    let no_units = never();
    let due = bookkeeping.next_call().map_or_else(never, at);
    let check = if wants_unit && !bookkeeping.is_in_flight() {
        never()
    } else {
        after(MAX_CHECK_INTERVAL)
    };
    select! {
        recv(if wants_unit { units } else { &no_units }) -> unit => match unit {
            Ok(unit) => bookkeeping.begin(unit, Instant::now()),
            Err(_) => return false,
        },
        recv(executor.wake()) -> _ => {}
        recv(due) -> _ => {}
        recv(check) -> _ => {}
    }
    is_open
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::task::Poll;
    use std::thread;

    use computations::{JobError, Unable};
    use crossbeam_channel::{bounded, unbounded};
    use kafka::{Record, RecordBatch};
    use pipeline::{Computation, GroupKey, Job, JobHeader, LabelSet};

    use super::*;
    use crate::executor::{AttemptId, Done, Lease, Leases};

    /// An executor that answers from another thread, the later of two jobs first.
    struct Elsewhere {
        ids: Sender<AttemptId>,
        answers: Receiver<Done>,
        wake: Receiver<()>,
    }

    impl Elsewhere {
        fn start() -> Self {
            let (ids, submitted) = unbounded();
            let (answer, answers) = unbounded();
            let (wakes, wake) = bounded(1);
            thread::spawn(move || {
                let mut all = submitted.iter();
                while let Some(first) = all.next() {
                    for id in all.next().into_iter().chain([first]) {
                        let answer_of = Done {
                            id,
                            answer: Ok(vec![0; 80]),
                        };
                        if answer.send(answer_of).is_err() {
                            return;
                        }
                        let _ = wakes.try_send(());
                    }
                }
            });
            Self { ids, answers, wake }
        }
    }

    impl Executor for Elsewhere {
        fn window(&self) -> usize {
            4
        }

        fn prepare(&mut self, _: &Computation) -> Result<(), Unable> {
            Ok(())
        }

        fn submit(
            &mut self,
            id: AttemptId,
            _: &Job<'_>,
            _: &mut Vec<u8>,
        ) -> Poll<Result<(), JobError>> {
            self.ids.send(id).expect("the thread is there");
            Poll::Pending
        }

        fn poll(&mut self, done: &mut Vec<Done>) {
            done.extend(self.answers.try_iter());
        }

        fn cancel(&mut self, _: AttemptId) {}

        fn wake(&self) -> Receiver<()> {
            self.wake.clone()
        }
    }

    /// A work unit of messages with one job each.
    fn unit(jobs: u64) -> WorkUnit {
        let labels = LabelSet::new(["Italy"]);
        let header = JobHeader {
            run_id: "a-run".parse().expect("a run id"),
            generation: 0,
            computation: Computation::named("elsewhere").into(),
        };
        let mut records = RecordBatch::default();
        for index in 0..jobs {
            let job = Job {
                index,
                key: GroupKey {
                    labels: &labels,
                    time: None,
                },
                part: 0,
                weight: 1,
                payload: &[0],
            };
            records.push(Record {
                partition: 0,
                offset: index as i64,
                key: None,
                payload: &job.alone(&header),
            });
        }
        WorkUnit {
            range: 0..records.len(),
            records: Arc::new(records),
            leases: Arc::new(Leases::from([(0, Arc::new(Lease::new(1)))])),
            job: None,
        }
    }

    #[test]
    fn a_thread_ends_when_all_jobs_in_flight_are_answered_and_their_outcomes_sent() {
        let settings = Settings {
            worker: Worker::default(),
            retry: RetryPolicy {
                max_attempts: NonZeroU32::MIN,
                first_pause: Duration::ZERO,
            },
            apart_by_partition: false,
            seconds: SecondsCounter::default(),
            inability: Inability::default(),
            cancellations: SharedCancellations::default(),
            cancelled_jobs: Counter::default(),
        };
        let (hand_out, units) = unbounded();
        let (finished, done) = unbounded();
        let watch = Arc::<Watch>::default();
        let watched = Arc::clone(&watch);
        let compute = thread::spawn(move || {
            run(
                settings,
                Shutdown::new(),
                watched,
                Elsewhere::start(),
                &units,
                finished,
            );
        });
        for jobs in [30, 70] {
            hand_out.send(unit(jobs)).expect("the thread is there");
        }
        let mut settled = 0;
        let mut take = |finished: Finished| {
            settled += finished.settles.iter().map(|own| own.jobs).sum::<u32>();
            settled
        };
        let within = Duration::from_secs(10);
        while take(done.recv_timeout(within).expect("more is to come")) < 100 {}
        drop(hand_out);
        compute.join().expect("it ends");
        assert_eq!(done.iter().count(), 0);
        assert_eq!(watch.at_work(), None);
    }
}

//! A worker for tests whose computation answers late and out of order: a thread of its own takes up to
//! eight jobs and answers the last of them first. It never answers the job whose index stands in
//! `NEVER_ANSWERED`. Everything else is the worker's.

use std::process::ExitCode;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use clap::Parser;
use computations::{JobError, Registry, Unable};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use pipeline::{Computation, Job, JobBatch, JobHeader};
use service::Verbosity;
use worker::executor::{AttemptId, Done, Executor};

/// How many jobs are in flight.
const WINDOW: usize = 8;

fn main() -> ExitCode {
    let args = worker::Args::parse();
    service::process::run(&args.log, Verbosity::Steps, |shutdown| {
        worker::run_with(&args.config()?, &shutdown, Late::start)
    })
}

/// The executor's end of the channels to the thread that computes.
struct Late {
    jobs: Sender<(AttemptId, Vec<u8>)>,
    computation: Computation,
    answers: Receiver<Done>,
    wake: Receiver<()>,
}

impl Late {
    fn start() -> Self {
        let (jobs, submitted) = unbounded();
        let (answer, answers) = unbounded();
        let (wakes, wake) = bounded(1);
        thread::spawn(move || {
            compute_late(&submitted, &answer, &wakes);
        });
        Self {
            jobs,
            computation: Computation::default(),
            answers,
            wake,
        }
    }
}

impl Executor for Late {
    fn window(&self) -> usize {
        WINDOW
    }

    fn prepare(&mut self, computation: &Computation) -> Result<(), Unable> {
        Registry::standard().find(&computation.name)?;
        self.computation.clone_from(computation);
        Ok(())
    }

    fn submit(
        &mut self,
        id: AttemptId,
        job: &Job<'_>,
        _: &mut Vec<u8>,
    ) -> Poll<Result<(), JobError>> {
        // The run does not matter here: a batch of one is a job that owns what it is made of.
        let header = JobHeader {
            run_id: "a-run".parse().expect("a run id"),
            generation: 0,
            computation: self.computation.clone().into(),
        };
        match self.jobs.send((id, job.alone(&header))) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(Err(JobError::Transient("the thread is gone".to_owned()))),
        }
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        done.extend(self.answers.try_iter());
    }

    fn cancel(&mut self, _: AttemptId) {
        // It is computed all the same, and the answer is dropped.
    }

    fn wake(&self) -> Receiver<()> {
        self.wake.clone()
    }
}

/// Answers jobs until no more come: as soon as a window of them is there, or nothing has come for a
/// moment, the last one first.
fn compute_late(
    submitted: &Receiver<(AttemptId, Vec<u8>)>,
    answers: &Sender<Done>,
    wakes: &Sender<()>,
) {
    let never = std::env::var("NEVER_ANSWERED").ok();
    let never: Option<u64> = never.map(|index| index.parse().expect("a job's index"));
    let mut held = Vec::new();
    loop {
        match submitted.recv_timeout(Duration::from_millis(1)) {
            Ok(job) => held.push(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if held.len() < WINDOW && !submitted.is_empty() {
            continue;
        }
        while let Some((id, batch)) = held.pop() {
            let batch = JobBatch::decode(&batch).expect("it was encoded in this process");
            let job = batch.job(0);
            if never == Some(job.index) {
                continue;
            }
            let mut result = Vec::new();
            let computation = &batch.header().computation;
            let mut computation = Registry::standard().compute(computation).expect("prepared");
            let answer = computation.compute(&job, &mut result).map(|()| result);
            if answers.send(Done { id, answer }).is_err() {
                return;
            }
            // Where a message waits already, that wakes the thread for this answer, too.
            let _ = wakes.try_send(());
        }
    }
}

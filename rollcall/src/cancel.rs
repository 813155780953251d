//! `rollcall cancel`: cancels a run, after which workers compute no further job of it, and its
//! dispatchers and aggregators end.

use std::time::Duration;

use clap::Args;
use kafka::{BrokerArgs, Cluster, RunEventWriter, TopicNames, run_history};
use pipeline::{RunCancelled, RunEvent, RunHistory, RunId, WriterId};
use service::{Exit, LogArgs, Shutdown, print, process};

use crate::error::Error;
use crate::runs;

/// The timeout of the cancellation's acknowledgement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The options of `rollcall cancel`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Jobs that are computed already stay so. The run can be gone on with later: dispatcher --resume
publishes each job again that has no outcome.

Examples:
  rollcall cancel tuesday --bootstrap-servers localhost:9092
  rollcall cancel tuesday --reason 'the wrong data set'")]
pub struct CancelArgs {
    /// The run
    #[arg(value_name = "RUN_ID")]
    run_id: RunId,

    /// Why, for those who wait for the run
    #[arg(long, value_name = "TEXT", default_value = "no longer wanted")]
    reason: String,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    topic_prefix: String,

    /// The cluster.
    #[command(flatten)]
    broker: BrokerArgs,

    /// The options of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Cancels the newest generation of a run.
///
/// # Errors
/// When the run is not there or has a verdict, or the cluster cannot be used.
pub fn run(args: &CancelArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let cluster = Cluster::new(&args.broker, "rollcall-cancel")?;
    let names = TopicNames::new(&args.topic_prefix);
    let stopped = || shutdown.is_requested();
    let of_cluster = |error| Error::of_cluster(error, shutdown);
    cluster.wait_until_reachable(&stopped).map_err(of_cluster)?;
    let run_id = &args.run_id;
    let before = runs::history(&cluster, &names, run_id, shutdown)?;
    let generation = before.timeline().number();
    if let Some(text) = outcome(&before, generation)? {
        print(&text).map_err(Error::Print)?;
        return Ok(Exit::Complete);
    }
    let event = RunEvent::Cancelled(RunCancelled {
        run_id: run_id.clone(),
        generation,
        writer: WriterId::fresh(),
        reason: args.reason.clone(),
        cancelled_by: process::on_this_host("cancel"),
    });
    let written = RunEventWriter::new(&cluster, &names.runs)?.write(&event, TIMEOUT);
    // Whether it holds is for the topic to say: a verdict may have come before it, and where the
    // broker's answer was lost, the event may be there all the same.
    let after = run_history(&cluster, &names.runs, run_id, &stopped).map_err(of_cluster)?;
    match outcome(&after, generation)? {
        Some(text) => print(&text).map_err(Error::Print)?,
        None => {
            written?;
            return Err(Error::no_such_run(run_id, &names));
        }
    }
    Ok(Exit::Complete)
}

/// The end of the generation to cancel, as text; `None` while it is under way.
fn outcome(history: &RunHistory, generation: u32) -> Result<Option<String>, Error> {
    let run_id = history.run_id();
    let timeline = history.timeline();
    if timeline.number() != generation {
        return Err(Error::CancelledTooLate {
            run_id: run_id.clone(),
            generation: timeline.number(),
        });
    }
    let newest = timeline.newest();
    if let Some(verdict) = newest.verdict() {
        return Err(Error::HasVerdict {
            run_id: run_id.clone(),
            verdict: verdict.verdict.word(),
            published_by: verdict.published_by.clone(),
        });
    }
    Ok(newest.cancelled().map(|cancelled| {
        format!(
            "run {run_id} is cancelled (generation {generation}, by {}: {})\n\
             rollcall dispatcher --run-id {run_id} --resume goes on with it\n",
            cancelled.cancelled_by, cancelled.reason
        )
    }))
}

//! `rollcall doctor`: checks whether a cluster is fit for runs, without writing to it, and advises
//! what to change. `facts` queries the cluster, `judgement` evaluates the facts, `layout` formats
//! the lines.

mod facts;
mod judgement;
mod layout;
mod rights;
mod topics;

use clap::Args;
use kafka::{BrokerArgs, Cluster, default_group};
use service::{Exit, LogArgs, Shutdown, print};

use crate::error::Error;
use facts::{Facts, Subject};
use judgement::{Verdict, judge};
use layout::{as_json, as_text};
use rights::Program;

/// The options of `rollcall doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Nothing is written to the cluster.

Examples:
  rollcall doctor --bootstrap-servers localhost:9092 --workers 8
  rollcall doctor --program worker --kafka-properties-file worker.properties
  rollcall doctor --json | jq -r 'select(.verdict != \"ok\") | .advice'

Exit codes:
  0    no check failed; there may be warnings
  1    a check failed
  2    wrong usage
  5    broker unreachable
  6    access denied: user, password or certificate")]
pub struct DoctorArgs {
    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    topic_prefix: String,

    /// The workers' consumer group [default: PREFIX.worker]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Expected number of workers [default: the number of members of the group]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Check that this user has the rights on the topics that a program needs; may be given several
    /// times
    #[arg(long, value_name = "PROGRAM", value_enum)]
    program: Vec<Program>,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    /// The cluster.
    #[command(flatten)]
    broker: BrokerArgs,

    /// Log level and format.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Checks a cluster and prints a line for each check.
///
/// # Errors
/// When no broker can be reached, or the options are wrong.
pub fn run(args: &DoctorArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let cluster = Cluster::new(&args.broker, "rollcall-doctor")?;
    cluster
        .wait_until_reachable(&|| shutdown.is_requested())
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    let default_group = default_group(&args.topic_prefix);
    let subject = Subject {
        prefix: &args.topic_prefix,
        group: args.group.as_ref().unwrap_or(&default_group),
        workers: args.workers,
        programs: &args.program,
    };
    let lines = judge(&Facts::ask(&cluster, subject, shutdown)?);
    let text = match args.json {
        true => as_json(&lines)?,
        false => as_text(&lines),
    };
    print(&text).map_err(Error::Print)?;
    let fails = lines.iter().any(|line| line.verdict == Verdict::Fail);
    Ok(if fails { Exit::Failure } else { Exit::Complete })
}

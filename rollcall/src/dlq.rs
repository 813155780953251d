//! `rollcall dlq`: which jobs of a run are dead letters and were not counted since, what one of them
//! holds, and the way back to the jobs topic. What is still dead is for [`DeadLetters`] to say.

use std::fmt::{self, Write as _};

use clap::{Args, Subcommand};
use computations::positivity::{self, NEGATIVE, POSITIVE};
use kafka::{BrokerArgs, Cluster, TopicNames, read_dlq, read_to_end};
use pipeline::dead_letters::{Dead, Letter, LetterHeaders, Unreadable};
use pipeline::{Collection, DeadLetters, Grain, JobBatch, Ledger, OutcomeBatch, RunHistory, RunId};
use serde::Serialize;
use service::table::{Align, table};
use service::text::truncated;
use service::{Exit, LogArgs, Shutdown, print};

use crate::error::Error;
use crate::runs;

mod replay;

/// No message has more, so that what is shown of one is all of it.
const MAX_CHARACTERS: usize = 16 * 1024 * 1024;

/// The options of `rollcall dlq`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall dlq list --run-id tuesday --bootstrap-servers localhost:9092
  rollcall dlq show 4711 --run-id tuesday
  rollcall dlq replay --run-id tuesday      when what made the jobs fail is mended
  rollcall aggregator --run-id tuesday      counts what was replayed: 3 becomes 0")]
pub struct DlqArgs {
    #[command(subcommand)]
    action: Action,
}

/// The commands on dead letters.
#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// List the dead letters of a run that were not counted since
    List(ListArgs),
    /// Show one dead job whole
    Show(ShowArgs),
    /// Publish dead jobs to the jobs topic again, all that are still dead or those that are named
    Replay(ReplayArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    place: Place,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// The job's index
    #[arg(value_name = "INDEX")]
    index: u64,

    #[command(flatten)]
    place: Place,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct ReplayArgs {
    /// Indexes of jobs [default: all that are still dead]
    #[arg(value_name = "INDEX")]
    indexes: Vec<u64>,

    #[command(flatten)]
    place: Place,
}

/// The run, with its cluster and topics.
#[derive(Args, Clone, Debug)]
struct Place {
    /// The run
    #[arg(long, value_name = "ID", env = "RUN_ID")]
    run_id: RunId,

    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    topic_prefix: String,

    /// The cluster.
    #[command(flatten)]
    broker: BrokerArgs,

    /// The options of the log.
    #[command(flatten)]
    log: LogArgs,
}

impl DlqArgs {
    /// The options of the log.
    pub fn log(&self) -> &LogArgs {
        &self.place().log
    }

    fn place(&self) -> &Place {
        match &self.action {
            Action::List(list) => &list.place,
            Action::Show(show) => &show.place,
            Action::Replay(replay) => &replay.place,
        }
    }
}

/// Lists, shows or replays dead letters.
///
/// # Errors
/// When the cluster cannot be asked, the run is not there or not dispatched yet, or a job that is
/// named is not dead.
pub fn run(args: &DlqArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let place = args.place();
    let cluster = Cluster::new(&place.broker, "rollcall-dlq")?;
    let names = TopicNames::new(&place.topic_prefix);
    cluster
        .wait_until_reachable(&|| shutdown.is_requested())
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    let (history, letters, ledger) = look(&cluster, &names, &place.run_id, shutdown)?;
    let dead: Vec<Dead<'_>> = letters.still_dead(&ledger).collect();
    let text = match &args.action {
        Action::List(list) if list.json => {
            let lines = Lines {
                run_id: &place.run_id,
                dead: &dead,
                letters: &letters,
            };
            print(&lines).map_err(Error::Print)?;
            return Ok(Exit::Complete);
        }
        Action::List(_) => as_text(&place.run_id, &dead, &letters),
        Action::Show(show) => {
            let one = find(&dead, show.index, &place.run_id)?;
            let job = WholeJob::new(one);
            match show.json {
                true => serde_json::to_string(&job)? + "\n",
                false => job.as_text(),
            }
        }
        Action::Replay(wanted) => {
            let chosen = replay::choose(&dead, &wanted.indexes, &place.run_id)?;
            let replay = replay::Replay {
                cluster: &cluster,
                names: &names,
                history: &history,
                shutdown,
            };
            let generations = replay.run(&chosen)?;
            replay::report(place, &names, &chosen, dead.len(), generations)
        }
    };
    print(&text).map_err(Error::Print)?;
    Ok(Exit::Complete)
}

/// Reads all that decides which letters are dead. The dead-letter topic comes after the outcomes: a
/// job is there before its outcome is.
fn look(
    cluster: &Cluster,
    names: &TopicNames,
    run_id: &RunId,
    shutdown: &Shutdown,
) -> Result<(RunHistory, DeadLetters, Ledger), Error> {
    let stopped = || shutdown.is_requested();
    let of_cluster = |error| Error::of_cluster(error, shutdown);
    let history = runs::history(cluster, names, run_id, shutdown)?;
    let opened = (history.opened()).ok_or_else(|| Error::no_such_run(run_id, names))?;
    let mut collection = Collection::of(opened.options.results, &history);
    let mut letters = DeadLetters::new(run_id).for_computation(&opened.options.computation);
    let from = &opened.outcomes_start_offsets;
    read_to_end(cluster, &names.outcomes, from, &stopped, &mut |record| {
        let Ok(batch) = OutcomeBatch::decode(record.payload) else {
            return;
        };
        if batch.run_id() == run_id {
            letters.apply_outcomes(&batch);
            let recorded = collection.apply_outcomes_at(record.partition, record.offset, &batch);
            recorded.expect("nothing is spilled without a memory budget");
        }
    })
    .map_err(of_cluster)?;
    let ledger = collection.into_ledger();
    let ledger = ledger.ok_or_else(|| Error::NotDispatched {
        run_id: run_id.clone(),
    })?;
    read_dlq(cluster, &names.dlq, &stopped, &mut |record| {
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
        letters.apply_letter(record.offset, LetterHeaders::read(headers), &record.payload);
    })
    .map_err(of_cluster)?;
    if letters.note_reopened(&ledger) {
        let from = &opened.jobs_start_offsets;
        read_to_end(cluster, &names.jobs, from, &stopped, &mut |record| {
            if let Ok(batch) = JobBatch::decode(record.payload) {
                letters.apply_published(&batch);
            }
        })
        .map_err(of_cluster)?;
    }
    Ok((history, letters, ledger))
}

fn find<'d, 'a>(dead: &'d [Dead<'a>], index: u64, run_id: &RunId) -> Result<&'d Dead<'a>, Error> {
    let found = dead.iter().find(|dead| dead.index == index);
    found.ok_or_else(|| Error::NotDead {
        index,
        run_id: run_id.clone(),
    })
}

/// A dead job as JSON; unknown fields are null.
#[derive(Serialize)]
struct Facts<'a> {
    index: u64,
    labels: Vec<&'a str>,
    time: Option<String>,
    part: u32,
    rows: u32,
    reason: &'a str,
    attempts: u32,
    worker: Option<String>,
}

impl<'a> Facts<'a> {
    fn of(dead: &Dead<'a>) -> Self {
        Self {
            index: dead.index,
            labels: dead.job.labels.values().collect(),
            time: shown_time(dead),
            part: dead.job.part,
            rows: dead.job.weight,
            reason: dead.reason,
            attempts: dead.attempts,
            worker: worker_of(dead),
        }
    }
}

/// A dead letter as a line of JSON.
#[derive(Serialize)]
struct DeadLine<'a> {
    run_id: &'a str,
    #[serde(flatten)]
    facts: Facts<'a>,
    /// The position of its original message, and that of the dead letter.
    source: Option<&'a LetterHeaders>,
    dlq_offset: Option<i64>,
}

/// A message that cannot be decoded, as a line of JSON.
#[derive(Serialize)]
struct UnreadableLine<'a> {
    undecodable: bool,
    bytes: usize,
    source: &'a LetterHeaders,
    dlq_offset: i64,
}

fn worker_of(dead: &Dead<'_>) -> Option<String> {
    let worker = dead.worker?;
    Some(format!("{}/{}", worker.host, worker.id))
}

/// What is dead as lines of JSON, each made when it is written: jobs of one message may share labels
/// and names that are as long as the message.
struct Lines<'a> {
    run_id: &'a RunId,
    dead: &'a [Dead<'a>],
    letters: &'a DeadLetters,
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for dead in self.dead {
            let line = DeadLine {
                run_id: self.run_id.as_str(),
                facts: Facts::of(dead),
                source: dead.letter.map(|letter| &*letter.headers),
                dlq_offset: dead.letter.map(|letter| letter.offset),
            };
            write_line(f, &line)?;
        }
        for unreadable in self.letters.unreadable() {
            let line = UnreadableLine {
                undecodable: true,
                bytes: unreadable.bytes,
                source: &unreadable.headers,
                dlq_offset: unreadable.offset,
            };
            write_line(f, &line)?;
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &impl Serialize) -> fmt::Result {
    let line = serde_json::to_string(line).map_err(|_| fmt::Error)?;
    writeln!(f, "{line}")
}

/// The text of an empty cell.
const NOTHING: &str = "-";

fn place_of(headers: Option<&LetterHeaders>) -> String {
    match headers.map(|headers| (headers.partition, headers.offset)) {
        Some((Some(partition), Some(offset))) => format!("{partition}/{offset}"),
        _ => NOTHING.to_owned(),
    }
}

fn as_text(run_id: &RunId, dead: &[Dead<'_>], letters: &DeadLetters) -> String {
    let mut text = String::new();
    if dead.is_empty() {
        let _ = writeln!(text, "run {run_id} has no dead letters");
    } else {
        let head = [
            ("JOB", Align::Right),
            ("LABELS", Align::Left),
            ("TIME", Align::Left),
            ("PART", Align::Right),
            ("ROWS", Align::Right),
            ("TRIED", Align::Right),
            ("FROM", Align::Left),
            ("WORKER", Align::Left),
            ("REASON", Align::Left),
        ];
        text.push_str(&table(&head, dead.iter().map(cells)));
    }
    unreadable_as_text(&mut text, letters);
    text
}

fn cells(dead: &Dead<'_>) -> Vec<String> {
    let reason = match dead.letter {
        Some(_) => dead.reason.to_owned(),
        None => format!("{} (no longer on the dead-letter topic)", dead.reason),
    };
    vec![
        dead.index.to_string(),
        dead.job.labels.values().collect::<Vec<_>>().join(", "),
        shown_time(dead).unwrap_or_else(|| NOTHING.to_owned()),
        dead.job.part.to_string(),
        dead.job.weight.to_string(),
        dead.attempts.to_string(),
        place_of(dead.letter.map(|letter| &*letter.headers)),
        worker_of(dead).unwrap_or_else(|| NOTHING.to_owned()),
        reason,
    ]
}

fn unreadable_as_text(text: &mut String, letters: &DeadLetters) {
    let count = letters.unreadable_count();
    if count == 0 {
        return;
    }
    let _ = writeln!(
        text,
        "\n{count} messages cannot be decoded, of this run or another; the jobs that they held \
         come back by rollcall dispatcher --run-id ID --resume"
    );
    let head = [
        ("OFFSET", Align::Right),
        ("BYTES", Align::Right),
        ("FROM", Align::Left),
        ("REASON", Align::Left),
    ];
    let rows = letters.unreadable().iter().map(unreadable_cells);
    text.push_str(&table(&head, rows));
}

fn unreadable_cells(unreadable: &Unreadable) -> Vec<String> {
    let reason = unreadable.headers.reason.clone();
    vec![
        unreadable.offset.to_string(),
        unreadable.bytes.to_string(),
        place_of(Some(&unreadable.headers)),
        reason.unwrap_or_else(|| NOTHING.to_owned()),
    ]
}

/// The time of a job, if it has one.
fn shown_time(dead: &Dead<'_>) -> Option<String> {
    let time = dead.job.time?;
    Some(time.display(Grain::Hour).to_string())
}

/// A dead job with all that it holds.
#[derive(Serialize)]
struct WholeJob<'a> {
    #[serde(flatten)]
    facts: Facts<'a>,
    /// What is to be made of it, and how long its payload is; null when the job is no longer on the
    /// dead-letter topic.
    computation: Option<&'a str>,
    payload_bytes: Option<usize>,
    /// Of positivity alone; null likewise.
    results: Option<Results>,
    headers: Option<&'a LetterHeaders>,
    dlq_offset: Option<i64>,
}

/// How many of each result a job of positivity has; others are what no worker can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Results {
    positive: u64,
    negative: u64,
    other: u64,
}

impl Results {
    fn of(results: &[u8]) -> Self {
        let count = |code: u8| results.iter().filter(|&&result| result == code).count() as u64;
        let (positive, negative) = (count(POSITIVE), count(NEGATIVE));
        Self {
            positive,
            negative,
            other: results.len() as u64 - positive - negative,
        }
    }
}

impl<'a> WholeJob<'a> {
    fn new(dead: &'a Dead<'a>) -> Self {
        let computation = dead
            .letter
            .map(|letter| letter.header().computation.name.as_str());
        let is_positivity = computation == Some(positivity::DEFINITION.name);
        let job = dead.letter.map(Letter::job);
        Self {
            facts: Facts::of(dead),
            computation,
            payload_bytes: job.map(|job| job.payload.len()),
            results: job
                .filter(|_| is_positivity)
                .map(|job| Results::of(job.payload)),
            headers: dead.letter.map(|letter| &*letter.headers),
            dlq_offset: dead.letter.map(|letter| letter.offset),
        }
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        let facts = &self.facts;
        let mut line = |name: &str, value: &dyn fmt::Display| {
            let value = truncated(value.to_string().as_bytes(), MAX_CHARACTERS);
            let _ = writeln!(text, "{name:<9} {value}");
        };
        line("job", &facts.index);
        line("labels", &facts.labels.join(", "));
        if let Some(time) = &facts.time {
            line("time", time);
        }
        line("part", &facts.part);
        line("rows", &facts.rows);
        if let (Some(computation), Some(bytes)) = (self.computation, self.payload_bytes) {
            line("payload", &format_args!("{bytes} bytes for {computation}"));
        }
        if let Some(results) = self.results {
            let Results {
                positive,
                negative,
                other,
            } = results;
            line(
                "results",
                &format_args!("{positive} positive, {negative} negative, {other} neither"),
            );
        }
        line("reason", &facts.reason);
        line("tried", &facts.attempts);
        if let Some(worker) = &facts.worker {
            line("worker", worker);
        }
        if let Some(headers) = self.headers {
            line("from", &place_of(Some(headers)));
            line("group", &headers.group.as_deref().unwrap_or(NOTHING));
        }
        if let Some(offset) = self.dlq_offset {
            line("letter", &offset);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_what_they_are() {
        let results = Results::of(&[0, 1, 9, 1]);
        assert_eq!(
            (results.positive, results.negative, results.other),
            (2, 1, 1)
        );
    }
}

//! `rollcall runs`: the list of the runs on a cluster with their states, and the removal of runs that are
//! not needed any more. All of it is read from the runs topic.

use std::collections::HashMap;
use std::time::Duration;

use aggregator::report::GroupingReport;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use kafka::{BrokerArgs, Cluster, TopicNames, all_run_events, remove_runs, run_history, topics};
use pipeline::{
    Computation, Manifest, RunCancelled, RunEvent, RunHistory, RunId, RunOptions, RunReconciled,
};
use serde::Serialize;
use service::progress::grouped;
use service::table::{Align, table};
use service::{Exit, LogArgs, Shutdown, print};

use crate::error::Error;

/// The timeout of a removal's acknowledgement.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The text of an empty cell.
const NOTHING: &str = "-";

/// The options of `rollcall runs`.
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  rollcall runs --bootstrap-servers localhost:9092
  rollcall runs --json | jq -r 'select(.state == \"open\") | .run_id'
  rollcall runs rm 019a9f6e-8c5a-7a10-a4f0-0d3c5a2f7b11 --bootstrap-servers localhost:9092"
)]
pub struct RunsArgs {
    #[command(subcommand)]
    action: Option<Action>,

    #[command(flatten)]
    place: Place,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    /// The options of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The commands besides the list.
#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Remove runs from the runs topic; their jobs and outcomes go with the topics' retention
    Rm(RemoveArgs),
}

/// The options of `rollcall runs rm`.
#[derive(Args, Clone, Debug)]
struct RemoveArgs {
    /// The runs to remove, by their ids
    #[arg(required = true, value_name = "ID")]
    run_ids: Vec<RunId>,

    #[command(flatten)]
    place: Place,
}

/// The cluster and topics of the runs.
#[derive(Args, Clone, Debug)]
struct Place {
    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    topic_prefix: String,

    /// The cluster.
    #[command(flatten)]
    broker: BrokerArgs,
}

/// The state of a run, by the runs topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its dispatcher has begun and not ended, or died.
    Open,
    /// All its jobs are published.
    Dispatched,
    /// Its dispatcher gave it up.
    Aborted,
    /// It was cancelled.
    Cancelled,
}

impl State {
    /// The name of the state.
    fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Dispatched => "dispatched",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A run on the runs topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its name.
    pub run_id: RunId,
    /// When it was opened, in milliseconds since 1970-01-01T00:00:00Z; `None` when it could not be.
    pub opened_at_ms: Option<i64>,
    /// The options of the run.
    pub options: Option<RunOptions>,
    /// The manifest.
    pub manifest: Option<Manifest>,
    /// The reason for which its dispatcher gave up.
    pub aborted: Option<String>,
    /// Its newest generation.
    pub generation: u32,
    /// The verdict that stands on that.
    pub verdict: Option<RunReconciled>,
    /// The cancellation of that, which holds.
    pub cancelled: Option<RunCancelled>,
}

impl From<RunHistory> for Run {
    fn from(history: RunHistory) -> Self {
        let opened = history.opened();
        let timeline = history.timeline();
        let newest = timeline.newest();
        Self {
            run_id: history.run_id().clone(),
            opened_at_ms: opened.map(|opened| opened.opened_at_ms),
            options: opened.map(|opened| opened.options.clone()),
            manifest: history.manifest().cloned(),
            aborted: history.aborted().map(str::to_owned),
            generation: timeline.number(),
            verdict: newest.verdict().cloned(),
            cancelled: newest.cancelled().cloned(),
        }
    }
}

impl Run {
    /// The state. A run that was dispatched after an abort is no longer aborted.
    pub fn state(&self) -> State {
        if self.cancelled.is_some() {
            return State::Cancelled;
        }
        match (&self.manifest, &self.aborted) {
            (Some(_), _) => State::Dispatched,
            (None, Some(_)) => State::Aborted,
            (None, None) => State::Open,
        }
    }

    fn opened_at(&self) -> Option<String> {
        let opened_at = Timestamp::from_millisecond(self.opened_at_ms?).ok()?;
        Some(opened_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    fn cells(&self) -> Vec<String> {
        let manifest = self.manifest.as_ref();
        let verdict = self.verdict.as_ref();
        let number = |count: Option<u64>| count.map_or_else(|| NOTHING.to_owned(), grouped);
        let options = self.options.as_ref();
        let labels = options.map(|options| match options.cut.label_columns.as_slice() {
            [] => "(time alone)".to_owned(),
            columns => columns.join(","),
        });
        let text = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        vec![
            self.run_id.to_string(),
            self.state().word().to_owned(),
            text(self.opened_at()),
            number(manifest.map(|manifest| manifest.jobs)),
            number(manifest.map(|manifest| manifest.rows_read)),
            number(manifest.map(Manifest::rows_rejected)),
            text(labels),
            text(
                options
                    .and_then(|options| options.cut.grain())
                    .map(|grain| grain.to_string()),
            ),
            text(options.map(|options| options.computation.name.clone())),
            self.generation.to_string(),
            text(verdict.map(|known| known.verdict.word().to_owned())),
            text(self.published_by().map(str::to_owned)),
        ]
    }

    /// The process that published the verdict or cancelled the run.
    fn published_by(&self) -> Option<&str> {
        let (verdict, cancelled) = (self.verdict.as_ref(), self.cancelled.as_ref());
        let verdict = verdict.map(|known| known.published_by.as_str());
        verdict.or(cancelled.map(|known| known.cancelled_by.as_str()))
    }

    fn line(&self) -> RunLine<'_> {
        let manifest = self.manifest.as_ref();
        let verdict = self.verdict.as_ref();
        RunLine {
            run_id: self.run_id.as_str(),
            state: self.state(),
            opened_at: self.opened_at(),
            jobs: manifest.map(|manifest| manifest.jobs),
            rows: manifest.map(|manifest| manifest.rows_read),
            rejected: manifest.map(Manifest::rows_rejected),
            grouping: self
                .options
                .as_ref()
                .map(|options| GroupingReport::new(&options.cut)),
            computation: self.options.as_ref().map(|options| &options.computation),
            reason: match &self.cancelled {
                Some(cancelled) => Some(&cancelled.reason),
                None => self.aborted.as_deref(),
            },
            generation: self.generation,
            verdict: verdict.map(|known| known.verdict.word()),
            completed: verdict.map(|known| known.completed),
            dead_lettered: verdict.map(|known| known.dead_lettered),
            differing: verdict.map(|known| known.differing),
            table_digest: verdict.map(|known| known.table_digest.to_string()),
            by: self.published_by(),
        }
    }
}

/// A run as a line of JSON; what is not known is null.
#[derive(Serialize)]
struct RunLine<'a> {
    run_id: &'a str,
    state: State,
    opened_at: Option<String>,
    jobs: Option<u64>,
    rows: Option<u64>,
    rejected: Option<u64>,
    grouping: Option<GroupingReport>,
    computation: Option<&'a Computation>,
    /// The reason of the abort or cancellation.
    reason: Option<&'a str>,
    generation: u32,
    /// Those of the verdict that stands on this generation.
    verdict: Option<&'static str>,
    completed: Option<u64>,
    dead_lettered: Option<u64>,
    differing: Option<u64>,
    table_digest: Option<String>,
    /// The process that published the verdict or cancelled the run.
    by: Option<&'a str>,
}

/// The runs of these events, the one that was opened last first.
pub fn gather(events: impl IntoIterator<Item = RunEvent>) -> Vec<Run> {
    let mut histories: Vec<RunHistory> = Vec::new();
    let mut positions: HashMap<RunId, usize> = HashMap::new();
    for event in events {
        let run_id = event.run_id().clone();
        let position = *positions.entry(run_id.clone()).or_insert_with(|| {
            histories.push(RunHistory::new(run_id));
            histories.len() - 1
        });
        histories[position].apply(event);
    }
    // Runs that were never opened are in the order of their first events on the topic.
    let mut runs: Vec<Run> = histories.into_iter().rev().map(Run::from).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.opened_at_ms));
    runs
}

/// The runs as a table.
fn as_table(runs: &[Run]) -> String {
    let head = [
        ("RUN", Align::Left),
        ("STATE", Align::Left),
        ("OPENED", Align::Left),
        ("JOBS", Align::Right),
        ("ROWS", Align::Right),
        ("REJECTED", Align::Right),
        ("BY", Align::Left),
        ("EVERY", Align::Left),
        ("COMPUTE", Align::Left),
        ("GENERATION", Align::Right),
        ("VERDICT", Align::Left),
        ("SAID BY", Align::Left),
    ];
    table(&head, runs.iter().map(Run::cells))
}

/// The runs that a cluster knows, newest first; none where there is no runs topic.
///
/// # Errors
/// When the topic cannot be read.
pub fn known(
    cluster: &Cluster,
    names: &TopicNames,
    shutdown: &Shutdown,
) -> Result<Vec<Run>, Error> {
    if topics::partition_count(cluster, &names.runs)?.is_none() {
        return Ok(Vec::new());
    }
    let stopped = || shutdown.is_requested();
    let events = all_run_events(cluster, &names.runs, &stopped)
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    Ok(gather(events))
}

/// Lists runs, or removes some.
///
/// # Errors
/// When the cluster cannot be asked, or a run that is to be removed is not there.
pub fn run(args: &RunsArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let place = match &args.action {
        Some(Action::Rm(remove)) => &remove.place,
        None => &args.place,
    };
    let cluster = Cluster::new(&place.broker, "rollcall-runs")?;
    let names = TopicNames::new(&place.topic_prefix);
    cluster
        .wait_until_reachable(&|| shutdown.is_requested())
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    let runs = known(&cluster, &names, shutdown)?;
    match &args.action {
        Some(Action::Rm(remove)) => rm(&cluster, &names, &runs, &remove.run_ids, shutdown),
        None => list(&names, &runs, args.json),
    }
}

fn list(names: &TopicNames, runs: &[Run], json: bool) -> Result<Exit, Error> {
    if json {
        let mut lines = String::new();
        for run in runs {
            lines.push_str(&serde_json::to_string(&run.line())?);
            lines.push('\n');
        }
        print(&lines).map_err(Error::Print)?;
    } else if runs.is_empty() {
        eprintln!(
            "no runs on topic {}; --topic-prefix names other topics",
            names.runs
        );
    } else {
        print(&as_table(runs)).map_err(Error::Print)?;
    }
    Ok(Exit::Complete)
}

/// The history of a run that was opened.
///
/// # Errors
/// [`Error::NoSuchRun`], or when the runs topic cannot be read.
pub fn history(
    cluster: &Cluster,
    names: &TopicNames,
    run_id: &RunId,
    shutdown: &Shutdown,
) -> Result<RunHistory, Error> {
    let no_such_run = || Error::no_such_run(run_id, names);
    if topics::partition_count(cluster, &names.runs)?.is_none() {
        return Err(no_such_run());
    }
    let history = run_history(cluster, &names.runs, run_id, &|| shutdown.is_requested())
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    match history.opened() {
        Some(_) => Ok(history),
        None => Err(no_such_run()),
    }
}

fn rm(
    cluster: &Cluster,
    names: &TopicNames,
    runs: &[Run],
    run_ids: &[RunId],
    shutdown: &Shutdown,
) -> Result<Exit, Error> {
    let mut chosen = Vec::with_capacity(run_ids.len());
    // Nothing is removed when one of them is a mistake.
    for run_id in run_ids {
        let known = runs.iter().find(|run| run.run_id == *run_id);
        chosen.push(known.ok_or_else(|| Error::no_such_run(run_id, names))?);
    }
    let stopped = || shutdown.is_requested();
    remove_runs(cluster, &names.runs, run_ids, REMOVAL_TIMEOUT, &stopped)
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    let mut text = String::new();
    for run in chosen {
        text.push_str(&format!(
            "run {} removed from topic {}\n",
            run.run_id, names.runs
        ));
        if run.state() == State::Open {
            text.push_str(
                "  it was open: a dispatcher of it that still goes on is not stopped by this\n",
            );
        }
    }
    text.push_str(&format!(
        "nothing else is deleted: jobs and outcomes go with the retention of topics {} and {}\n",
        names.jobs, names.outcomes
    ));
    print(&text).map_err(Error::Print)?;
    Ok(Exit::Complete)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipeline::run::NUMBERING_VERSION;
    use pipeline::{
        ContentDigest, Cut, Grain, JobSetHasher, OffsetRange, ResultsPolicy, RunAborted, RunOpened,
        TimeColumn, Verdict, WriterId,
    };

    use super::*;

    fn id(name: &str) -> RunId {
        name.parse().expect("a run id")
    }

    fn opened(name: &str, at_ms: i64) -> RunEvent {
        RunEvent::Opened(RunOpened {
            run_id: id(name),
            options: RunOptions {
                numbering_version: NUMBERING_VERSION,
                cut: Cut {
                    label_columns: vec!["country".to_owned(), "city".to_owned()],
                    time: Some(TimeColumn {
                        name: "test_date".to_owned(),
                        grain: Grain::Day,
                    }),
                    max_rows_per_job: 10,
                },
                computation: Computation::named("count"),
                results: ResultsPolicy::Reproducible,
            },
            opened_at_ms: at_ms,
            jobs_start_offsets: vec![0],
            outcomes_start_offsets: vec![0],
        })
    }

    fn dispatched(name: &str) -> RunEvent {
        RunEvent::Dispatched(Manifest {
            run_id: id(name),
            jobs: 1_200,
            rows_read: 2_000_000,
            rows_accepted: 1_999_993,
            rejected: BTreeMap::from([("unknown_result".to_owned(), 7)]),
            job_set_digest: JobSetHasher::new().finish(),
            messages: 1,
            stages: Vec::new(),
        })
    }

    fn aborted(name: &str) -> RunEvent {
        RunEvent::Aborted(RunAborted {
            run_id: id(name),
            reason: "too many rejects".to_owned(),
        })
    }

    #[test]
    fn runs_are_listed_newest_first_with_the_last_state_of_each() {
        let events = [
            opened("old", 1_000),
            opened("new", 3_000),
            dispatched("old"),
            opened("middle", 2_000),
            aborted("middle"),
            aborted("never-opened"),
        ];
        let runs = gather(events);
        let states: Vec<_> = runs
            .iter()
            .map(|run| (run.run_id.as_str(), run.state()))
            .collect();
        let expected = [
            ("new", State::Open),
            ("middle", State::Aborted),
            ("old", State::Dispatched),
            ("never-opened", State::Aborted),
        ];
        assert_eq!(states, expected);
    }

    #[test]
    fn a_run_that_is_dispatched_after_all_is_no_longer_aborted() {
        let runs = gather([opened("a", 1), aborted("a"), dispatched("a")]);
        assert_eq!(runs[0].state(), State::Dispatched);
    }

    fn cancelled(name: &str) -> RunEvent {
        RunEvent::Cancelled(RunCancelled {
            run_id: id(name),
            generation: 0,
            writer: WriterId::fresh(),
            reason: "the wrong data set".to_owned(),
            cancelled_by: "cancel on a-host".to_owned(),
        })
    }

    fn reconciled(name: &str) -> RunEvent {
        let RunEvent::Dispatched(manifest) = dispatched(name) else {
            panic!("it is a manifest");
        };
        RunEvent::Reconciled(RunReconciled {
            run_id: id(name),
            generation: 0,
            writer: WriterId::fresh(),
            outcomes: vec![OffsetRange { start: 0, end: 9 }],
            manifest_digest: manifest.digest(),
            verdict: Verdict::CompleteWithDeadLetters,
            completed: 1_199,
            dead_lettered: 1,
            differing: 0,
            table_digest: ContentDigest::of(b"a table"),
            published_by: "aggregator on a-host".to_owned(),
        })
    }

    #[test]
    fn a_run_that_is_cancelled_says_by_whom() {
        let runs = gather([
            opened("a", 1),
            cancelled("a"),
            dispatched("a"),
            reconciled("a"),
        ]);
        assert_eq!(runs[0].state(), State::Cancelled);
        let line = serde_json::to_value(runs[0].line()).expect("JSON");
        assert_eq!(line["state"], "cancelled");
        assert_eq!(line["reason"], "the wrong data set");
        assert_eq!(line["by"], "cancel on a-host");
        assert!(line["verdict"].is_null(), "{line}");
    }

    #[test]
    fn the_table_shows_a_dash_for_what_is_not_known() {
        let runs = gather([
            opened("a", 1_594_718_631_000),
            dispatched("a"),
            reconciled("a"),
            aborted("b"),
        ]);
        let expected = "\
RUN  STATE       OPENED                 JOBS       ROWS  REJECTED  BY            EVERY  COMPUTE  GENERATION  VERDICT                     SAID BY
a    dispatched  2020-07-14T09:23:51Z  1,200  2,000,000         7  country,city  day    count             0  complete with dead letters  aggregator on a-host
b    aborted     -                         -          -         -  -             -      -                 0  -                           -
";
        assert_eq!(as_table(&runs), expected);
    }

    #[test]
    fn a_line_of_json_has_null_for_what_is_not_known() {
        let runs = gather([opened("a", 0)]);
        let line = serde_json::to_value(runs[0].line()).expect("JSON");
        assert_eq!(line["state"], "open");
        assert_eq!(line["opened_at"], "1970-01-01T00:00:00Z");
        assert!(line["jobs"].is_null(), "{line}");
        assert_eq!(line["grouping"]["grain"], "day");
        assert_eq!(line["computation"]["name"], "count");
    }
}

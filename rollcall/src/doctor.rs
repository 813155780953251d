//! `rollcall doctor`: looks at a cluster without writing to it and says, line by line, what is good
//! for runs and what is to be done. [`judge`] decides, from [`Facts`] alone; the rest asks and prints.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use kafka::survey::{TopicFacts, TopicSettings};
use kafka::{BrokerArgs, Cluster, Refusal, Survey, TopicNames, survey};
use serde::Serialize;
use service::progress::grouped;
use service::{Exit, LogArgs, Shutdown, say};

use crate::error::Error;
use crate::runs::{self, Run, State};

/// The options of `rollcall doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Nothing is written to the cluster.

Examples:
  rollcall doctor --bootstrap-servers localhost:9092 --workers 8
  rollcall doctor --json | jq -r 'select(.verdict != \"ok\") | .advice'

Exit codes:
  0    all good, or warnings only
  1    something fails
  2    wrong usage
  5    broker unreachable")]
pub struct DoctorArgs {
    /// Prefix of the topics
    #[arg(long, value_name = "PREFIX", default_value = "rollcall")]
    topic_prefix: String,

    /// The workers' consumer group
    #[arg(long, value_name = "GROUP", default_value = "rollcall.worker")]
    group: String,

    /// Workers that you expect [default: as many as the group has]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    /// The cluster.
    #[command(flatten)]
    broker: BrokerArgs,

    /// How much is said.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What is known of a cluster and of who asks.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the brokers were looked for.
    pub bootstrap_servers: String,
    /// This program's version.
    pub rollcall_version: String,
    /// librdkafka's version.
    pub client_version: String,
    /// The topics' names.
    pub names: TopicNames,
    /// The prefix of these names.
    pub prefix: String,
    /// The workers' group.
    pub group: String,
    /// Workers that are expected; `None`: as many as the group has.
    pub workers: Option<usize>,
    /// What the cluster says of itself.
    pub survey: Survey,
    /// The runs that it knows, newest first.
    pub runs: Result<Vec<Run>, Refusal>,
    /// The most bytes that producers send as one batch.
    pub batch_bytes: usize,
    /// This machine's clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: i64,
}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// Nothing is to be done.
    #[serde(rename = "ok")]
    Ok,
    /// Runs work, but not as well or as safely as they could.
    #[serde(rename = "warn")]
    Warn,
    /// Runs fail, or may.
    #[serde(rename = "FAIL")]
    Fail,
}

impl Verdict {
    /// As it stands at the beginning of a line.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How good it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do; `None` when there is nothing to do.
    pub advice: Option<String>,
}

impl Line {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            check,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<Option<String>>,
    ) -> Self {
        Self {
            verdict: Verdict::Warn,
            check,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: String) -> Self {
        Self {
            verdict: Verdict::Fail,
            check,
            found: found.into(),
            advice: Some(advice),
        }
    }
}

/// A line for each thing that was looked at, in the order in which one would mend them.
pub fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![brokers(facts), versions(facts)];
    lines.extend(refused(facts));
    lines.push(topics(facts));
    let there: Vec<(&str, &TopicFacts)> = facts
        .survey
        .topics
        .iter()
        .filter_map(|(name, known)| Some((name.as_str(), known.as_ref().ok()?.as_ref()?)))
        .collect();
    if !there.is_empty() {
        lines.extend(leaders(&there));
        lines.push(replication(facts, &there));
        lines.push(cleanup(facts, &there));
        lines.push(retention(facts, &there));
        lines.push(message_size(facts, &there));
        lines.extend(partitions(facts, &there));
    }
    lines.extend(members(facts));
    lines.push(clock(facts));
    lines
}

fn brokers(facts: &Facts) -> Line {
    let ids: Vec<String> = facts.survey.brokers.iter().map(i32::to_string).collect();
    let controller = facts.survey.controller;
    let controller = controller.map_or_else(|| "not known".to_owned(), |id| id.to_string());
    Line::ok(
        "brokers",
        format!(
            "{} at {}: id {}, controller {controller}",
            counted(ids.len(), "broker"),
            facts.bootstrap_servers,
            ids.join(", "),
        ),
    )
}

fn versions(facts: &Facts) -> Line {
    let (rollcall, client) = (&facts.rollcall_version, &facts.client_version);
    Line::ok(
        "versions",
        format!("rollcall {rollcall}, librdkafka {client}"),
    )
}

/// A line for each answer that the cluster refused.
fn refused(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |what: String, refusal: &Refusal, right: String, needed: bool| {
        let found = format!("{what}: {}", refusal.reason);
        lines.push(match (refusal.denied, needed) {
            (true, true) => Line::fail("access", found, format!("grant {right}")),
            (true, false) => Line::warn(
                "access",
                format!("{found}; its settings are not checked"),
                format!("grant {right}"),
            ),
            (false, true) => Line::fail(
                "access",
                found,
                "ask again; if it stays, look into the brokers' logs".to_owned(),
            ),
            (false, false) => Line::warn(
                "access",
                format!("{found}; its settings are not checked"),
                None,
            ),
        });
    };
    for (name, known) in &facts.survey.topics {
        match known {
            Err(refusal) => {
                let right = format!("Describe, Read and Write on topic {name}");
                add(format!("topic {name}"), refusal, right, true);
            }
            Ok(Some(TopicFacts {
                settings: Err(refusal),
                ..
            })) => {
                let right = format!("DescribeConfigs on topic {name}");
                add(format!("topic {name}"), refusal, right, false);
            }
            Ok(_) => {}
        }
    }
    if let Err(refusal) = &facts.survey.group {
        let right = format!("Describe and Read on group {}", facts.group);
        add(format!("group {}", facts.group), refusal, right, true);
    }
    if let Err(refusal) = &facts.runs {
        let right = format!(
            "Read on topic {} and on group rollcall.reader",
            facts.names.runs
        );
        let what = format!("the runs on topic {}", facts.names.runs);
        add(what, refusal, right, true);
    }
    lines
}

fn topics(facts: &Facts) -> Line {
    let of = |wanted: fn(&Option<TopicFacts>) -> bool| -> Vec<&str> {
        let topics = facts.survey.topics.iter();
        topics
            .filter(|(_, known)| known.as_ref().is_ok_and(wanted))
            .map(|(name, _)| name.as_str())
            .collect()
    };
    let missing = of(Option::is_none);
    let there = of(Option::is_some);
    if missing.is_empty() {
        return Line::ok("topics", format!("{} are there", there.join(", ")));
    }
    let found = format!("{} not there", missing.join(", "));
    let mut advice = "a dispatcher creates them".to_owned();
    if there.is_empty() && !facts.survey.prefixes.is_empty() {
        const SHOWN: usize = 3;
        let mut prefixes: Vec<&str> = facts.survey.prefixes.iter().map(String::as_str).collect();
        let likeness = |prefix: &str| strsim::jaro_winkler(prefix, &facts.prefix);
        prefixes.sort_by(|one, other| likeness(other).total_cmp(&likeness(one)));
        let shown: Vec<&str> = prefixes.iter().copied().take(SHOWN).collect();
        let more = prefixes.len().saturating_sub(SHOWN);
        advice.push_str("; or did you mean --topic-prefix ");
        advice.push_str(&shown.join(" or "));
        if more > 0 {
            advice.push_str(&format!(" (or one of {more} more)"));
        }
        advice.push('?');
    }
    Line::warn("topics", found, advice)
}

/// Partitions that cannot be used, or are a broker's death away from it.
fn leaders(there: &[(&str, &TopicFacts)]) -> Option<Line> {
    let sum = |of: fn(&TopicFacts) -> usize| there.iter().map(|(_, topic)| of(topic)).sum();
    let without_leader: usize = sum(|topic| topic.without_leader);
    let out_of_step: usize = sum(|topic| topic.out_of_step);
    let advice = "a broker is down or behind: start it, or look into its log".to_owned();
    if without_leader > 0 {
        let found = format!("{} without a leader", counted(without_leader, "partition"));
        return Some(Line::fail("leaders", found, advice));
    }
    (out_of_step > 0).then(|| {
        let found = format!(
            "{} with a copy that is not in step",
            counted(out_of_step, "partition")
        );
        Line::warn("leaders", found, advice)
    })
}

fn replication(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "replication";
    let brokers = facts.survey.brokers.len();
    let copies = there.iter().map(|(_, topic)| topic.replication_factor);
    let copies = copies.min().unwrap_or(0);
    let min_insync = settings(there).filter_map(|(_, told)| told.min_insync_replicas);
    let Some(min_insync) = min_insync.max() else {
        let found = format!("replication factor {copies}, min.insync.replicas not told");
        return Line::warn(CHECK, found, None);
    };
    let found = format!(
        "replication factor {copies}, min.insync.replicas {min_insync}, {}",
        counted(brokers, "broker")
    );
    let alter = |to: usize| {
        format!(
            "set it lower: {} TOPIC --add-config min.insync.replicas={to}, for each topic under {}",
            configs(facts),
            facts.prefix
        )
    };
    if min_insync > copies {
        Line::fail(
            CHECK,
            format!("{found}: no write can succeed"),
            alter(copies),
        )
    } else if min_insync > brokers {
        let found = format!("{found}: no write can succeed");
        Line::fail(CHECK, found, "start the brokers that are away".to_owned())
    } else if copies > 1 && min_insync == copies {
        let found = format!("{found}: no broker may be away");
        Line::warn(CHECK, found, alter(copies - 1))
    } else if copies >= 3 && min_insync < 2 {
        let advice = format!(
            "{} TOPIC --add-config min.insync.replicas=2",
            configs(facts)
        );
        let found = format!("{found}: a write that one broker alone has is acknowledged");
        Line::warn(CHECK, found, advice)
    } else if copies < brokers.min(3) {
        let found = format!("{found}: a broker that is lost may take jobs and outcomes with it");
        let advice = "use a new --topic-prefix and leave --replication-factor out (it is 3 then)";
        Line::warn(CHECK, found, advice.to_owned())
    } else {
        Line::ok(CHECK, found)
    }
}

fn cleanup(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "cleanup";
    let policies: Vec<(&str, &str)> = settings(there)
        .filter_map(|(name, told)| Some((name, told.cleanup_policy.as_deref()?)))
        .collect();
    let alter = |name: &str, policy: &str| {
        let configs = configs(facts);
        format!("{configs} {name} --add-config cleanup.policy={policy}")
    };
    let runs = &facts.names.runs;
    for &(name, policy) in &policies {
        let found = format!("topic {name}: cleanup.policy is {policy}");
        if name == runs && policy != "compact" {
            let found = format!("{found}: runs are forgotten with time");
            return Line::fail(CHECK, found, alter(name, "compact"));
        }
        if name != runs && policy.contains("compact") {
            let found = format!("{found}: messages without a key are refused");
            return Line::fail(CHECK, found, alter(name, "delete"));
        }
    }
    if policies.is_empty() {
        return Line::warn(CHECK, "cleanup.policy is not told", None);
    }
    let found = policies.iter().any(|(name, _)| name == runs);
    let found = if found {
        format!("topic {runs} is compacted, the others delete what is old")
    } else {
        "the topics delete what is old".to_owned()
    };
    Line::ok(CHECK, found)
}

/// Whether jobs and outcomes are kept for as long as their run goes on.
fn retention(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "retention";
    /// Less than this is a run that is interrupted once.
    const SHORT: Duration = Duration::from_secs(3_600);
    let names = &facts.names;
    let kept = settings(there)
        .filter(|(name, _)| *name == names.jobs || *name == names.outcomes)
        .filter_map(|(_, told)| told.retention);
    let kept: Vec<Option<Duration>> = kept.collect();
    if kept.is_empty() {
        return Line::warn(CHECK, "retention.ms is not told", None);
    }
    let open = facts.runs.as_ref().map_or(&[][..], Vec::as_slice).iter();
    let open = open
        .filter(|run| run.state() == State::Open)
        .filter_map(|run| Some((run, age(facts.now_ms, run.opened_at_ms?))))
        .max_by_key(|(_, age)| *age);
    let longest_open = open.map_or(String::new(), |(run, age)| {
        format!("; run {} is open for {}", run.run_id, shown(age))
    });
    let Some(least) = kept.into_iter().flatten().min() else {
        return Line::ok(CHECK, format!("for ever{longest_open}"));
    };
    let found = format!("{}{longest_open}", shown(least));
    let longer = format!(
        "{} TOPIC --add-config retention.ms=MILLISECONDS, for {} and {}",
        configs(facts),
        names.jobs,
        names.outcomes
    );
    let gone = |run: &Run| {
        format!(
            "if its dispatcher is gone for good, rollcall runs rm {}; if it goes on, {longer}",
            run.run_id
        )
    };
    match open {
        Some((run, age)) if age > least => {
            let found = format!("{found}: its first messages are deleted");
            Line::fail(CHECK, found, gone(run))
        }
        Some((run, age)) if age > least / 2 => Line::warn(CHECK, found, gone(run)),
        _ if least < SHORT => {
            let found = format!("{found}: a run that takes longer loses its first messages");
            Line::warn(CHECK, found, longer)
        }
        _ => Line::ok(CHECK, found),
    }
}

fn message_size(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "message size";
    let least = settings(there).filter_map(|(name, told)| Some((told.max_message_bytes?, name)));
    let Some((least, name)) = least.min() else {
        return Line::warn(CHECK, "max.message.bytes is not told", None);
    };
    let (least_shown, batch) = (grouped(least as u64), facts.batch_bytes);
    let sent = grouped(batch as u64);
    if least < batch {
        return Line::fail(
            CHECK,
            format!("topic {name} takes {least_shown} bytes, and batches have up to {sent}"),
            format!(
                "{} {name} --add-config max.message.bytes={batch}; or give -X batch.size={least} \
                 -X message.max.bytes={least} to the dispatcher and every worker",
                configs(facts)
            ),
        );
    }
    Line::ok(
        CHECK,
        format!("topics take {least_shown} bytes, batches have up to {sent}"),
    )
}

/// Partitions against workers, and one partition for the runs.
fn partitions(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Vec<Line> {
    const CHECK: &str = "partitions";
    let of = |wanted: &str| {
        let topic = there.iter().find(|(name, _)| *name == wanted);
        topic.map(|(_, topic)| topic.partitions)
    };
    let mut lines = Vec::new();
    if let Some(partitions) = of(&facts.names.runs).filter(|&partitions| partitions != 1) {
        lines.push(Line::fail(
            CHECK,
            format!(
                "topic {} has {partitions} and must have 1",
                facts.names.runs
            ),
            "use another --topic-prefix and let a dispatcher create the topics".to_owned(),
        ));
    }
    let Some(jobs) = of(&facts.names.jobs) else {
        return lines;
    };
    let members = facts.survey.group.as_ref().map_or(0, |group| group.members);
    let workers = facts.workers.unwrap_or(members);
    let for_workers = format!("{jobs} for {}", counted(workers, "worker"));
    let more = |partitions: usize| {
        format!(
            "kafka-topics.sh --bootstrap-server {} --alter --topic {} --partitions {partitions}, \
             while no run is open",
            facts.bootstrap_servers, facts.names.jobs
        )
    };
    lines.push(if workers == 0 {
        let found = format!(
            "{jobs}; good for up to {}",
            counted((jobs / 2).max(1), "worker")
        );
        Line::ok(CHECK, found)
    } else if jobs < workers {
        let found = format!("{for_workers}: {} of them stand idle", workers - jobs);
        Line::warn(CHECK, found, more(workers * 3))
    } else if jobs < workers * 2 && jobs % workers != 0 {
        let found = format!("{for_workers}: some have twice the work of others");
        Line::warn(CHECK, found, more(workers * 3))
    } else {
        Line::ok(CHECK, for_workers)
    });
    lines
}

/// The workers' group: who is in it, and what waits for it.
fn members(facts: &Facts) -> Vec<Line> {
    let Ok(group) = &facts.survey.group else {
        return Vec::new();
    };
    let name = &facts.group;
    let start = || format!("start workers: rollcall worker --group {name}");
    let waiting: i64 = group.lag.iter().sum();
    let most = group.lag.iter().copied().max().unwrap_or(0);
    let state = group.state.as_deref().unwrap_or("not there yet");
    let found = format!("{name} is {state}, {}", counted(group.members, "member"));
    let membership = match (facts.workers, state) {
        (Some(wanted), _) if group.members < wanted => {
            let found = format!("{found} of {wanted} expected");
            Line::warn("group", found, start())
        }
        (_, "PreparingRebalance" | "CompletingRebalance") => {
            let advice = "ask again; if it stays so, a worker comes and goes: look into their logs";
            Line::warn("group", found, advice.to_owned())
        }
        _ => Line::ok("group", found),
    };
    let mut lines = vec![membership];
    if !group.lag.is_empty() {
        let found = format!(
            "{} of {} not worked off, at most {} on one of {}",
            counted(usize::try_from(waiting).unwrap_or(0), "message"),
            facts.names.jobs,
            grouped(u64::try_from(most).unwrap_or(0)),
            counted(group.lag.len(), "partition"),
        );
        lines.push(if waiting > 0 && group.members == 0 {
            Line::warn("lag", found, start())
        } else {
            Line::ok("lag", found)
        });
    }
    lines
}

/// No request tells a broker's time without a write, so it is not asked for; but a run that was
/// opened in the future tells of clocks that disagree.
fn clock(facts: &Facts) -> Line {
    /// Clocks that are set by NTP are nearer than this.
    const TOLERANCE: Duration = Duration::from_secs(2);
    let not_checked = "the brokers' clocks are not checked, for that takes a write";
    let runs = facts.runs.as_ref().map_or(&[][..], Vec::as_slice);
    let Some((run, opened)) = runs.iter().find_map(|run| Some((run, run.opened_at_ms?))) else {
        return Line::ok("clock", not_checked);
    };
    let ahead = age(opened, facts.now_ms);
    if ahead > TOLERANCE {
        return Line::warn(
            "clock",
            format!(
                "run {} was opened {} in the future: this machine's clock is behind, or its \
                 dispatcher's is ahead",
                run.run_id,
                shown(ahead)
            ),
            "set both clocks by NTP: retention goes by them".to_owned(),
        );
    }
    Line::ok(
        "clock",
        format!("no run was opened in the future; {not_checked}"),
    )
}

/// Kafka's own tool that changes the settings of a topic.
fn configs(facts: &Facts) -> String {
    let servers = &facts.bootstrap_servers;
    format!("kafka-configs.sh --bootstrap-server {servers} --alter --topic")
}

/// The settings that were told.
fn settings<'a>(
    there: &[(&'a str, &'a TopicFacts)],
) -> impl Iterator<Item = (&'a str, &'a TopicSettings)> {
    let told = there.iter();
    told.filter_map(|&(name, topic)| Some((name, topic.settings.as_ref().ok()?)))
}

/// From one time to another; nothing when it is the earlier one.
fn age(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}

/// A duration in seconds, for people.
fn shown(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number as u64))
}

/// Looks at a cluster and prints what it is like.
///
/// # Errors
/// When no broker can be reached, or the options are wrong.
pub fn run(args: &DoctorArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    let cluster = Cluster::new(&args.broker, "rollcall-doctor")?;
    cluster
        .wait_until_reachable(&|| shutdown.is_requested())
        .map_err(|error| Error::of_cluster(error, shutdown))?;
    let names = TopicNames::new(&args.topic_prefix);
    let survey = survey(&cluster, &names, &args.group)?;
    let runs = match runs::known(&cluster, &names, shutdown) {
        Ok(runs) => Ok(runs),
        Err(Error::Kafka(error)) => Err(Refusal::from(error)),
        Err(error) => return Err(error),
    };
    let facts = Facts {
        bootstrap_servers: cluster.bootstrap_servers().to_owned(),
        rollcall_version: env!("CARGO_PKG_VERSION").to_owned(),
        client_version: Cluster::client_version(),
        names,
        prefix: args.topic_prefix.clone(),
        group: args.group.clone(),
        workers: args.workers,
        survey,
        runs,
        batch_bytes: cluster.batch_bytes(),
        now_ms: now_ms(),
    };
    let lines = judge(&facts);
    if args.json {
        let mut text = String::new();
        for line in &lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        say(&text).map_err(Error::Say)?;
    } else {
        say(&as_text(&lines)).map_err(Error::Say)?;
    }
    let fails = lines.iter().any(|line| line.verdict == Verdict::Fail);
    Ok(if fails { Exit::Failure } else { Exit::Complete })
}

/// The lines for people: what is to be done stands under what was found.
fn as_text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let word = line.verdict.word();
        text.push_str(&format!("{word:<5} {:<13} {}\n", line.check, line.found));
        if let Some(advice) = &line.advice {
            text.push_str(&format!("{:<20}-> {advice}\n", ""));
        }
    }
    text
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use kafka::survey::GroupFacts;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW_MS: i64 = 1_700_000_000_000;

    fn topic(partitions: usize, cleanup_policy: &str) -> TopicFacts {
        TopicFacts {
            partitions,
            replication_factor: 3,
            without_leader: 0,
            out_of_step: 0,
            settings: Ok(TopicSettings {
                cleanup_policy: Some(cleanup_policy.to_owned()),
                min_insync_replicas: Some(2),
                max_message_bytes: Some(1_048_588),
                retention: Some(Some(HOUR * 24 * 7)),
            }),
        }
    }

    /// A cluster with which nothing is wrong.
    fn healthy() -> Facts {
        let names = TopicNames::new("rollcall");
        let topics = names.all().map(|name| {
            let facts = match name == names.runs {
                true => topic(1, "compact"),
                false => topic(24, "delete"),
            };
            (name.to_owned(), Ok(Some(facts)))
        });
        Facts {
            bootstrap_servers: "kafka:9092".to_owned(),
            rollcall_version: "0.1.0".to_owned(),
            client_version: "2.12.1".to_owned(),
            prefix: "rollcall".to_owned(),
            group: "rollcall.worker".to_owned(),
            workers: Some(8),
            survey: Survey {
                brokers: vec![1, 2, 3],
                controller: Some(2),
                topics: topics.to_vec(),
                prefixes: vec!["rollcall".to_owned()],
                group: Ok(GroupFacts {
                    state: Some("Stable".to_owned()),
                    members: 8,
                    lag: vec![2; 24],
                }),
            },
            runs: Ok(Vec::new()),
            batch_bytes: 1_000_000,
            now_ms: NOW_MS,
            names,
        }
    }

    fn edit(facts: &mut Facts, name: &str, change: impl FnOnce(&mut TopicFacts)) {
        let topics = facts.survey.topics.iter_mut();
        let (_, known) = topics
            .into_iter()
            .find(|(known, _)| known.ends_with(name))
            .expect("one of the four");
        change(known.as_mut().expect("told").as_mut().expect("there"));
    }

    fn settings_of(topic: &mut TopicFacts) -> &mut TopicSettings {
        topic.settings.as_mut().expect("told")
    }

    fn run_opened(age: Duration) -> Run {
        Run {
            run_id: "a-run".parse().expect("a run id"),
            opened_at_ms: Some(NOW_MS - i64::try_from(age.as_millis()).expect("not that long")),
            grouping: None,
            manifest: None,
            aborted: None,
        }
    }

    /// The lines that are not good.
    fn complaints(facts: &Facts) -> Vec<Line> {
        let mut lines = judge(facts);
        lines.retain(|line| line.verdict != Verdict::Ok);
        lines
    }

    #[track_caller]
    fn complaint(facts: &Facts, verdict: Verdict, check: &str) -> Line {
        let lines = complaints(facts);
        let [line] = lines.as_slice() else {
            panic!("not one complaint: {lines:#?}");
        };
        assert_eq!((line.verdict, line.check), (verdict, check), "{line:#?}");
        line.clone()
    }

    #[test]
    fn a_healthy_cluster_is_all_good() {
        assert_eq!(complaints(&healthy()), []);
        let text = as_text(&judge(&healthy()));
        assert!(
            text.contains("ok    partitions    24 for 8 workers\n"),
            "{text}"
        );
    }

    #[test]
    fn topics_that_are_not_there_are_no_failure_and_other_prefixes_are_named() {
        let mut facts = healthy();
        for (_, known) in &mut facts.survey.topics {
            *known = Ok(None);
        }
        facts.survey.prefixes = vec!["tests".to_owned()];
        let line = complaint(&facts, Verdict::Warn, "topics");
        let advice = line.advice.expect("there is one");
        assert!(advice.contains("--topic-prefix tests?"), "{advice}");
    }

    #[test]
    fn fewer_partitions_than_workers_leave_some_idle() {
        let mut facts = healthy();
        facts.workers = Some(30);
        facts.survey.group.as_mut().expect("told").members = 30;
        let line = complaint(&facts, Verdict::Warn, "partitions");
        assert!(line.found.contains("6 of them stand idle"), "{line:?}");
    }

    #[test]
    fn without_a_number_of_workers_the_groups_members_count() {
        let mut facts = healthy();
        facts.workers = None;
        let lines = judge(&facts);
        assert!(lines.iter().any(|line| line.found == "24 for 8 workers"));
    }

    #[test]
    fn more_copies_in_step_than_there_are_fails_every_write() {
        let mut facts = healthy();
        edit(&mut facts, "jobs.v1", |topic| {
            settings_of(topic).min_insync_replicas = Some(4);
        });
        let line = complaint(&facts, Verdict::Fail, "replication");
        assert!(line.found.contains("no write can succeed"), "{line:?}");
    }

    #[test]
    fn one_copy_on_three_brokers_is_a_warning_and_on_one_broker_is_not() {
        let mut facts = healthy();
        for name in ["jobs.v1", "outcomes.v1", "jobs.v1.dlq", "runs.v1"] {
            edit(&mut facts, name, |topic| {
                topic.replication_factor = 1;
                settings_of(topic).min_insync_replicas = Some(1);
            });
        }
        complaint(&facts, Verdict::Warn, "replication");
        facts.survey.brokers = vec![1];
        assert_eq!(complaints(&facts), []);
    }

    #[test]
    fn a_runs_topic_that_forgets_and_a_jobs_topic_that_is_compacted_fail() {
        let mut facts = healthy();
        edit(&mut facts, "runs.v1", |topic| {
            settings_of(topic).cleanup_policy = Some("delete".to_owned());
        });
        complaint(&facts, Verdict::Fail, "cleanup");
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v1", |topic| {
            settings_of(topic).cleanup_policy = Some("compact,delete".to_owned());
        });
        complaint(&facts, Verdict::Fail, "cleanup");
    }

    #[test]
    fn a_run_that_is_open_for_longer_than_its_messages_are_kept_fails() {
        let mut facts = healthy();
        facts.runs = Ok(vec![run_opened(HOUR)]);
        assert_eq!(complaints(&facts), []);
        facts.runs = Ok(vec![run_opened(HOUR), run_opened(HOUR * 24 * 5)]);
        complaint(&facts, Verdict::Warn, "retention");
        facts.runs = Ok(vec![run_opened(HOUR * 24 * 8)]);
        let line = complaint(&facts, Verdict::Fail, "retention");
        let advice = line.advice.expect("there is one");
        assert!(advice.contains("rollcall runs rm a-run"), "{advice}");
        for name in ["jobs.v1", "outcomes.v1"] {
            edit(&mut facts, name, |topic| {
                settings_of(topic).retention = Some(None);
            });
        }
        assert_eq!(complaints(&facts), []);
    }

    #[test]
    fn a_topic_that_takes_less_than_a_batch_fails() {
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v1", |topic| {
            settings_of(topic).max_message_bytes = Some(65_536);
        });
        let line = complaint(&facts, Verdict::Fail, "message size");
        assert!(line.found.contains("65,536"), "{line:?}");
        facts.batch_bytes = 65_536;
        assert_eq!(complaints(&facts), []);
    }

    #[test]
    fn a_partition_without_a_leader_fails_and_one_out_of_step_warns() {
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v1", |topic| topic.out_of_step = 1);
        complaint(&facts, Verdict::Warn, "leaders");
        edit(&mut facts, "outcomes.v1", |topic| topic.without_leader = 1);
        complaint(&facts, Verdict::Fail, "leaders");
    }

    #[test]
    fn jobs_that_nobody_works_off_want_workers() {
        let mut facts = healthy();
        facts.workers = None;
        facts.survey.group = Ok(GroupFacts {
            state: None,
            members: 0,
            lag: vec![5, 7],
        });
        let line = complaint(&facts, Verdict::Warn, "lag");
        assert!(line.found.contains("12 messages"), "{line:?}");
    }

    #[test]
    fn what_is_denied_is_named_with_the_right_to_grant() {
        let denied = Refusal {
            denied: true,
            reason: "Broker: Topic authorization failed".to_owned(),
        };
        let mut facts = healthy();
        facts.survey.topics[1].1 = Err(denied.clone());
        let line = complaint(&facts, Verdict::Fail, "access");
        assert!(line.found.contains("rollcall.outcomes.v1"), "{line:?}");
        let mut facts = healthy();
        facts.survey.group = Err(denied.clone());
        complaint(&facts, Verdict::Fail, "access");
        let mut facts = healthy();
        edit(&mut facts, "jobs.v1.dlq", |topic| {
            topic.settings = Err(denied.clone());
        });
        let line = complaint(&facts, Verdict::Warn, "access");
        let advice = line.advice.expect("there is one");
        assert_eq!(
            advice,
            "grant DescribeConfigs on topic rollcall.jobs.v1.dlq"
        );
    }

    #[test]
    fn a_run_from_the_future_tells_of_clocks_that_disagree() {
        let mut facts = healthy();
        let mut run = run_opened(Duration::ZERO);
        run.opened_at_ms = Some(NOW_MS + 40_000);
        facts.runs = Ok(vec![run]);
        let line = complaint(&facts, Verdict::Warn, "clock");
        assert!(line.found.contains("40s in the future"), "{line:?}");
    }
}

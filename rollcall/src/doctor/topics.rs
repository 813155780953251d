//! The judgement of a run's topics: do they exist, do they keep messages for as long as a run needs
//! them, and do they have enough partitions for the expected workers?

use std::time::Duration;

use kafka::survey::{TopicFacts, TopicSettings};
use service::progress::grouped;

use crate::doctor::facts::Facts;
use crate::doctor::judgement::{Line, age, counted, seconds};
use crate::runs::{Run, State};

/// The lines of all checks of the topics.
pub fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![topics(facts)];
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
    if missing.is_empty() && there.is_empty() {
        return Line::warn("topics", "the state of all of them is unknown", None);
    }
    if missing.is_empty() {
        return Line::ok("topics", format!("{} are there", there.join(", ")));
    }
    let found = format!("{} not there", missing.join(", "));
    let mut advice = "a dispatcher creates them".to_owned();
    if there.is_empty() && !facts.survey.prefixes.is_empty() {
        const MAX_PREFIXES: usize = 3;
        let mut prefixes: Vec<&str> = facts.survey.prefixes.iter().map(String::as_str).collect();
        let similarity = |prefix: &str| strsim::jaro_winkler(prefix, &facts.prefix);
        prefixes.sort_by(|one, other| similarity(other).total_cmp(&similarity(one)));
        let nearest: Vec<&str> = prefixes.iter().copied().take(MAX_PREFIXES).collect();
        let more = prefixes.len().saturating_sub(MAX_PREFIXES);
        advice.push_str("; or did you mean --topic-prefix ");
        advice.push_str(&nearest.join(" or "));
        if more > 0 {
            advice.push_str(&format!(" (or one of {more} more)"));
        }
        advice.push('?');
    }
    Line::warn("topics", found, advice)
}

/// Partitions without a leader, which cannot be used, and partitions with a replica out of sync.
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
            "{} with a replica that is not in sync",
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
    let min_insync = settings(there).filter_map(|(_, settings)| settings.min_insync_replicas);
    let Some(min_insync) = min_insync.max() else {
        let found = format!("replication factor {copies}, min.insync.replicas unknown");
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
        Line::fail(CHECK, found, "start the brokers that are down".to_owned())
    } else if copies > 1 && min_insync == copies {
        let found = format!("{found}: no broker may be down");
        Line::warn(CHECK, found, alter(copies - 1))
    } else if copies >= 3 && min_insync < 2 {
        let advice = format!(
            "{} TOPIC --add-config min.insync.replicas=2",
            configs(facts)
        );
        let found = format!("{found}: a write is acknowledged when one broker has it");
        Line::warn(CHECK, found, advice)
    } else if copies < brokers.min(3) {
        let found = format!("{found}: jobs and outcomes are lost with a broker");
        let advice = "use a new --topic-prefix without --replication-factor (the default is 3)";
        Line::warn(CHECK, found, advice.to_owned())
    } else {
        Line::ok(CHECK, found)
    }
}

fn cleanup(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "cleanup";
    let policies: Vec<(&str, &str)> = settings(there)
        .filter_map(|(name, settings)| Some((name, settings.cleanup_policy.as_deref()?)))
        .collect();
    let alter = |name: &str, policy: &str| {
        let configs = configs(facts);
        format!("{configs} {name} --add-config cleanup.policy={policy}")
    };
    let runs = &facts.names.runs;
    for &(name, policy) in &policies {
        let found = format!("topic {name}: cleanup.policy is {policy}");
        if name == runs && policy != "compact" {
            let found = format!("{found}: events of runs are deleted with time");
            return Line::fail(CHECK, found, alter(name, "compact"));
        }
        if name != runs && policy.contains("compact") {
            let found = format!("{found}: messages without a key are refused");
            return Line::fail(CHECK, found, alter(name, "delete"));
        }
    }
    if policies.is_empty() {
        return Line::warn(CHECK, "cleanup.policy is unknown", None);
    }
    let found = policies.iter().any(|(name, _)| name == runs);
    let found = if found {
        format!("topic {runs} is compacted, the others delete old messages")
    } else {
        "the topics delete old messages".to_owned()
    };
    Line::ok(CHECK, found)
}

/// Whether jobs and outcomes are kept for as long as their run is open.
fn retention(facts: &Facts, there: &[(&str, &TopicFacts)]) -> Line {
    const CHECK: &str = "retention";
    /// A retention below this is too short for a run that is interrupted once.
    const SHORT: Duration = Duration::from_secs(3_600);
    let names = &facts.names;
    let kept = settings(there)
        .filter(|(name, _)| *name == names.jobs || *name == names.outcomes)
        .filter_map(|(_, settings)| settings.retention);
    let kept: Vec<Option<Duration>> = kept.collect();
    if kept.is_empty() {
        return Line::warn(CHECK, "retention.ms is unknown", None);
    }
    let open = facts.runs.as_ref().map_or(&[][..], Vec::as_slice).iter();
    let open = open
        .filter(|run| run.state() == State::Open)
        .filter_map(|run| Some((run, age(facts.now_ms, run.opened_at_ms?))))
        .max_by_key(|(_, age)| *age);
    let longest_open = open.map_or(String::new(), |(run, age)| {
        format!("; run {} is open for {}", run.run_id, seconds(age))
    });
    let Some(least) = kept.into_iter().flatten().min() else {
        return Line::ok(CHECK, format!("for ever{longest_open}"));
    };
    let found = format!("{}{longest_open}", seconds(least));
    let longer = format!(
        "{} TOPIC --add-config retention.ms=MILLISECONDS, for {} and {}",
        configs(facts),
        names.jobs,
        names.outcomes
    );
    let gone = |run: &Run| {
        format!(
            "if its dispatcher is gone for good, rollcall runs rm {}; if it still runs, {longer}",
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
    let least =
        settings(there).filter_map(|(name, settings)| Some((settings.max_message_bytes?, name)));
    let Some((least, name)) = least.min() else {
        return Line::warn(CHECK, "max.message.bytes is unknown", None);
    };
    let (limit, batch) = (grouped(least as u64), facts.batch_bytes);
    let sent = grouped(batch as u64);
    if least < batch {
        return Line::fail(
            CHECK,
            format!(
                "topic {name} takes messages of up to {limit} bytes, batches have up to {sent}"
            ),
            format!(
                "{} {name} --add-config max.message.bytes={batch}; or give -X batch.size={least} \
                 -X message.max.bytes={least} to the dispatcher and every worker",
                configs(facts)
            ),
        );
    }
    Line::ok(
        CHECK,
        format!("topics take messages of up to {limit} bytes, batches have up to {sent}"),
    )
}

/// The number of partitions: enough for the workers, and one for the runs topic.
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
        let found = format!("{for_workers}: {} of them are idle", workers - jobs);
        Line::warn(CHECK, found, more(workers * 3))
    } else if jobs < workers * 2 && jobs % workers != 0 {
        let found = format!("{for_workers}: some have twice the work of others");
        Line::warn(CHECK, found, more(workers * 3))
    } else {
        Line::ok(CHECK, for_workers)
    });
    lines
}

/// The command line of Kafka's tool that changes the settings of a topic, without the topic.
fn configs(facts: &Facts) -> String {
    let servers = &facts.bootstrap_servers;
    format!("kafka-configs.sh --bootstrap-server {servers} --alter --topic")
}

/// The settings of the topics whose settings are known.
fn settings<'a>(
    there: &[(&'a str, &'a TopicFacts)],
) -> impl Iterator<Item = (&'a str, &'a TopicSettings)> {
    let topics = there.iter();
    topics.filter_map(|&(name, topic)| Some((name, topic.settings.as_ref().ok()?)))
}

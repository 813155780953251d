//! The judgement of a cluster from its [`Facts`] alone, one line for each check: brokers, access,
//! group and clock here, the topics in [`topics`].

use std::time::Duration;

use kafka::survey::TopicFacts;
use kafka::{Refusal, default_group};
use serde::Serialize;
use service::progress::grouped;

use crate::doctor::facts::Facts;
use crate::doctor::{rights, topics};

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// Good: nothing to do.
    #[serde(rename = "ok")]
    Ok,
    /// A warning: runs work, but not as fast or as safely as they could.
    #[serde(rename = "warn")]
    Warn,
    /// A failure: runs fail, or may fail.
    #[serde(rename = "FAIL")]
    Fail,
}

impl Verdict {
    /// The verdict as the first word of a line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The verdict.
    pub verdict: Verdict,
    /// The name of the check.
    pub check: &'static str,
    /// The finding.
    pub found: String,
    /// The advice; `None` when there is nothing to do.
    pub advice: Option<String>,
}

impl Line {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            check,
            found: found.into(),
            advice: None,
        }
    }

    pub(super) fn warn(
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

    pub(super) fn fail(check: &'static str, found: impl Into<String>, advice: String) -> Self {
        Self {
            verdict: Verdict::Fail,
            check,
            found: found.into(),
            advice: Some(advice),
        }
    }
}

/// The lines of all checks, in the order in which problems are best solved.
pub fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![brokers(facts), versions(facts)];
    lines.extend(refused(facts));
    lines.extend(rights::judge(facts));
    lines.extend(topics::judge(facts));
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

/// A line for each request that the cluster refused.
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
                "try again; if it persists, look into the brokers' logs".to_owned(),
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
        let right = format!("Read on topic {}", facts.names.runs);
        let what = format!("the runs on topic {}", facts.names.runs);
        add(what, refusal, right, true);
    }
    lines
}

/// The workers' group: its members, and its lag.
fn members(facts: &Facts) -> Vec<Line> {
    let Ok(group) = &facts.survey.group else {
        return Vec::new();
    };
    let name = &facts.group;
    let start = || format!("start workers: {}", worker(facts));
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
            let advice = "try again; if it persists, a worker keeps joining and leaving: look into their logs";
            Line::warn("group", found, advice.to_owned())
        }
        _ => Line::ok("group", found),
    };
    let mut lines = vec![membership];
    if !group.lag.is_empty() {
        let found = format!(
            "{} of {} waiting, at most {} on one of {}",
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

/// The command line of a worker that would join the group.
fn worker(facts: &Facts) -> String {
    let (prefix, group) = (&facts.prefix, &facts.group);
    let mut command = "rollcall worker".to_owned();
    if prefix != "rollcall" {
        command.push_str(&format!(" --topic-prefix {prefix}"));
    }
    if *group != default_group(prefix) {
        command.push_str(&format!(" --group {group}"));
    }
    command
}

/// The clocks: a run that was opened in the future shows that two clocks differ. The brokers'
/// clocks are not checked, because no request returns a broker's time without a write.
fn clock(facts: &Facts) -> Line {
    /// A difference that clocks synchronised by NTP do not exceed.
    const TOLERANCE: Duration = Duration::from_secs(2);
    let not_checked = "the brokers' clocks are not checked, because that needs a write";
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
                seconds(ahead)
            ),
            "synchronise both clocks by NTP: retention depends on them".to_owned(),
        );
    }
    Line::ok(
        "clock",
        format!("no run was opened in the future; {not_checked}"),
    )
}

/// The duration from one time to another; zero when the other is later.
pub(super) fn age(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}

/// A duration in whole seconds, formatted for people.
pub(super) fn seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

pub(super) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number as u64))
}

#[cfg(test)]
pub(super) mod tests {
    use kafka::rights::TopicRights;
    use kafka::survey::{GroupFacts, TopicSettings};
    use kafka::{Survey, TopicNames};

    use super::*;
    use crate::doctor::layout::as_text;
    use crate::runs::Run;

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
    pub(in crate::doctor) fn healthy() -> Facts {
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
            programs: Vec::new(),
            rights: Ok(TopicRights::new()),
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
        change(known.as_mut().expect("known").as_mut().expect("there"));
    }

    fn settings_of(topic: &mut TopicFacts) -> &mut TopicSettings {
        topic.settings.as_mut().expect("known")
    }

    fn run_opened(age: Duration) -> Run {
        Run {
            run_id: "a-run".parse().expect("a run id"),
            opened_at_ms: Some(NOW_MS - i64::try_from(age.as_millis()).expect("not that long")),
            options: None,
            manifest: None,
            aborted: None,
            generation: 0,
            verdict: None,
            cancelled: None,
        }
    }

    /// The lines with a warning or a failure.
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
    fn a_healthy_cluster_passes_all_checks() {
        assert_eq!(complaints(&healthy()), []);
        let text = as_text(&judge(&healthy()));
        assert!(
            text.contains("ok    partitions    24 for 8 workers\n"),
            "{text}"
        );
    }

    #[test]
    fn missing_topics_are_a_warning_with_other_prefixes() {
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
    fn fewer_partitions_than_workers_are_a_warning() {
        let mut facts = healthy();
        facts.workers = Some(30);
        facts.survey.group.as_mut().expect("known").members = 30;
        let line = complaint(&facts, Verdict::Warn, "partitions");
        assert!(line.found.contains("6 of them are idle"), "{line:?}");
    }

    #[test]
    fn the_default_number_of_workers_is_that_of_the_groups_members() {
        let mut facts = healthy();
        facts.workers = None;
        let lines = judge(&facts);
        assert!(lines.iter().any(|line| line.found == "24 for 8 workers"));
    }

    #[test]
    fn more_in_sync_replicas_than_replicas_are_a_failure() {
        let mut facts = healthy();
        edit(&mut facts, "jobs.v2", |topic| {
            settings_of(topic).min_insync_replicas = Some(4);
        });
        let line = complaint(&facts, Verdict::Fail, "replication");
        assert!(line.found.contains("no write can succeed"), "{line:?}");
    }

    #[test]
    fn one_replica_is_a_warning_on_three_brokers_and_not_on_one() {
        let mut facts = healthy();
        for name in ["jobs.v2", "outcomes.v2", "jobs.v2.dlq", "runs.v2"] {
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
    fn a_runs_topic_that_deletes_and_a_jobs_topic_that_is_compacted_fail() {
        let mut facts = healthy();
        edit(&mut facts, "runs.v2", |topic| {
            settings_of(topic).cleanup_policy = Some("delete".to_owned());
        });
        complaint(&facts, Verdict::Fail, "cleanup");
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v2", |topic| {
            settings_of(topic).cleanup_policy = Some("compact,delete".to_owned());
        });
        complaint(&facts, Verdict::Fail, "cleanup");
    }

    #[test]
    fn a_run_that_is_open_for_longer_than_the_retention_fails() {
        let mut facts = healthy();
        facts.runs = Ok(vec![run_opened(HOUR)]);
        assert_eq!(complaints(&facts), []);
        facts.runs = Ok(vec![run_opened(HOUR), run_opened(HOUR * 24 * 5)]);
        complaint(&facts, Verdict::Warn, "retention");
        facts.runs = Ok(vec![run_opened(HOUR * 24 * 8)]);
        let line = complaint(&facts, Verdict::Fail, "retention");
        let advice = line.advice.expect("there is one");
        assert!(advice.contains("rollcall runs rm a-run"), "{advice}");
        for name in ["jobs.v2", "outcomes.v2"] {
            edit(&mut facts, name, |topic| {
                settings_of(topic).retention = Some(None);
            });
        }
        assert_eq!(complaints(&facts), []);
    }

    #[test]
    fn a_message_limit_below_the_batch_size_fails() {
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v2", |topic| {
            settings_of(topic).max_message_bytes = Some(65_536);
        });
        let line = complaint(&facts, Verdict::Fail, "message size");
        assert!(line.found.contains("65,536"), "{line:?}");
        facts.batch_bytes = 65_536;
        assert_eq!(complaints(&facts), []);
    }

    #[test]
    fn a_partition_without_a_leader_fails_and_one_out_of_sync_is_a_warning() {
        let mut facts = healthy();
        edit(&mut facts, "outcomes.v2", |topic| topic.out_of_step = 1);
        complaint(&facts, Verdict::Warn, "leaders");
        edit(&mut facts, "outcomes.v2", |topic| topic.without_leader = 1);
        complaint(&facts, Verdict::Fail, "leaders");
    }

    #[test]
    fn lag_without_workers_is_a_warning() {
        let mut facts = healthy();
        facts.workers = None;
        facts.survey.group = Ok(GroupFacts {
            state: None,
            members: 0,
            lag: vec![5, 7],
        });
        let line = complaint(&facts, Verdict::Warn, "lag");
        assert!(line.found.contains("12 messages"), "{line:?}");
        assert_eq!(
            line.advice.as_deref(),
            Some("start workers: rollcall worker")
        );
        facts.prefix = "tests".to_owned();
        let advice = complaint(&facts, Verdict::Warn, "lag").advice;
        let whole = "start workers: rollcall worker --topic-prefix tests --group rollcall.worker";
        assert_eq!(advice.as_deref(), Some(whole));
    }

    #[test]
    fn a_denied_request_has_the_right_to_grant() {
        let denied = Refusal {
            denied: true,
            reason: "Broker: Topic authorization failed".to_owned(),
        };
        let mut facts = healthy();
        facts.survey.topics[1].1 = Err(denied.clone());
        let line = complaint(&facts, Verdict::Fail, "access");
        assert!(line.found.contains("rollcall.outcomes.v2"), "{line:?}");
        let mut facts = healthy();
        facts.survey.group = Err(denied.clone());
        complaint(&facts, Verdict::Fail, "access");
        let mut facts = healthy();
        edit(&mut facts, "jobs.v2.dlq", |topic| {
            topic.settings = Err(denied.clone());
        });
        let line = complaint(&facts, Verdict::Warn, "access");
        let advice = line.advice.expect("there is one");
        assert_eq!(
            advice,
            "grant DescribeConfigs on topic rollcall.jobs.v2.dlq"
        );
    }

    #[test]
    fn a_run_that_was_opened_in_the_future_is_a_warning_about_clocks() {
        let mut facts = healthy();
        let mut run = run_opened(Duration::ZERO);
        run.opened_at_ms = Some(NOW_MS + 40_000);
        facts.runs = Ok(vec![run]);
        let line = complaint(&facts, Verdict::Warn, "clock");
        assert!(line.found.contains("40s in the future"), "{line:?}");
    }
}

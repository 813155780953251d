//! `rollcall doctor` and `rollcall runs` on a real Apache Kafka, and what a removed run and a stated
//! retention mean for others.

use std::fs;
use std::process::Command;
use std::time::Duration;

use kafka::{all_run_events, survey};
use serde_json::Value;

use crate::cluster::TestCluster;
use crate::processes::{Finished, data_set, finish, report};

/// Few enough rows to be quick.
const ROWS: [&str; 4] = ["--rows", "1000", "--countries", "3"];

/// The lines of JSON that a command prints.
#[track_caller]
fn lines(finished: &Finished) -> Vec<Value> {
    let lines = finished.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// `rollcall runs rm`, whose options stand behind it.
fn remove(test: &TestCluster, run_ids: &[&str]) -> Command {
    test.command(&[&["runs", "rm"][..], run_ids].concat())
}

/// The verdict of each check of `rollcall doctor`.
#[track_caller]
fn doctor(test: &TestCluster, options: &[&str]) -> Vec<(String, String)> {
    let group = test.group();
    let command = with(test.service("doctor"), &["--group", &group, "--json"]);
    let finished = finish(with(command, options)).expect_code(0);
    lines(&finished)
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().expect("text").to_owned();
            (text("check"), text("verdict"))
        })
        .collect()
}

#[track_caller]
fn assert_verdict(checks: &[(String, String)], check: &str, verdict: &str) {
    let expected = (check.to_owned(), verdict.to_owned());
    assert!(checks.contains(&expected), "{expected:?}: {checks:?}");
}

#[test]
fn doctor_says_what_is_missing_before_the_topics_are_there_and_finds_nothing_after() {
    let test = TestCluster::new("doctor");
    let checks = doctor(&test, &[]);
    assert_verdict(&checks, "brokers", "ok");
    assert_verdict(&checks, "topics", "warn");
    assert!(!checks.iter().any(|(check, _)| check == "replication"));

    test.dispatch(&data_set(&ROWS), &["--partitions", "6"]);
    let checks = doctor(&test, &[]);
    for check in [
        "topics",
        "replication",
        "cleanup",
        "retention",
        "message size",
        "partitions",
        "group",
        "clock",
    ] {
        assert_verdict(&checks, check, "ok");
    }
    // Jobs are there, and nobody to work them off.
    assert_verdict(&checks, "lag", "warn");
    let checks = doctor(&test, &["--workers", "8"]);
    assert_verdict(&checks, "partitions", "warn");
    assert_verdict(&checks, "group", "warn");
}

#[test]
fn doctor_fails_where_batches_are_larger_than_a_topic_takes() {
    let test = TestCluster::new("doctor-fails");
    test.dispatch(&data_set(&ROWS), &[]);
    let command = test.service("doctor");
    let finished = finish(with(command, &["-X", "message.max.bytes=2000000"])).expect_code(0);
    assert!(!finished.stdout.contains("FAIL"), "{}", finished.stdout);
    let larger = [
        "-X",
        "message.max.bytes=2000000",
        "-X",
        "batch.size=2000000",
    ];
    let finished = finish(with(test.service("doctor"), &larger)).expect_code(1);
    let line = "FAIL  message size";
    assert!(finished.stdout.contains(line), "{}", finished.stdout);
}

#[test]
fn runs_are_listed_newest_first_and_a_removed_one_is_as_if_it_had_never_been() {
    let test = TestCluster::new("runs");
    let data_set = data_set(&ROWS);
    let _worker = test.worker("a", "0ms");
    let first = test.dispatch(&data_set, &[]);
    let second = test.dispatch(&data_set, &["--every", "day"]);
    let list = || {
        let finished = finish(with(test.service("runs"), &["--json"])).expect_code(0);
        let ids = lines(&finished);
        let ids = ids.iter().map(|line| line["run_id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(list(), [second.run_id.as_str(), first.run_id.as_str()]);
    let table = finish(test.service("runs")).expect_code(0).stdout;
    let row = table.lines().nth(1).expect("a row");
    assert!(row.starts_with(second.run_id.as_str()), "{table}");
    assert!(row.contains("  dispatched  "), "{table}");
    assert!(row.contains("  country  day  "), "{table}");

    // One mistake, and nothing is removed.
    let finished = finish(remove(&test, &[second.run_id.as_str(), "no-such-run"])).expect_code(2);
    let line = "no run no-such-run on topic runs.runs.v2";
    assert!(finished.stderr.contains(line), "{}", finished.stderr);
    assert_eq!(list().len(), 2);

    let finished = finish(remove(&test, &[second.run_id.as_str()])).expect_code(0);
    let line = "nothing else is deleted";
    assert!(finished.stdout.contains(line), "{}", finished.stdout);
    // Nothing is compacted so soon: its records are still there, before its tombstones.
    let events = test.records(&test.topics.runs);
    let opened = format!("{}/opened", second.run_id);
    let own = events
        .iter()
        .filter(|record| record.key == Some(opened.as_bytes()));
    assert_eq!(own.count(), 2);
    assert_eq!(list(), [first.run_id.as_str()]);
    let events = all_run_events(&test.cluster, &test.topics.runs, &|| false).expect("events");
    assert!(events.iter().all(|event| *event.run_id() == first.run_id));

    // Latest is the last of those that are left, and the name is free again.
    let out = test.folder.path().join("latest");
    let mut latest = test.service("aggregator");
    latest.args(["--timeout", "60s", "--out"]).arg(&out);
    finish(latest).expect_code(0);
    assert_eq!(report(&out)["run"]["run_id"], first.run_id.as_str());
    let again = test.dispatch(&data_set, &["--run-id", second.run_id.as_str()]);
    test.aggregate_complete(&again.run_id);
}

#[test]
fn the_retention_that_is_stated_is_set_and_another_one_is_warned_of() {
    let test = TestCluster::new("retention");
    let data_set = data_set(&ROWS);
    test.dispatch(&data_set, &["--retention", "30d"]);
    let found = survey(&test.cluster, &test.topics, &test.group()).expect("a survey");
    for (name, topic) in &found.topics {
        let topic = topic.as_ref().expect("told").as_ref().expect("there");
        let settings = topic.settings.as_ref().expect("told");
        let policy = settings.cleanup_policy.as_deref();
        if *name == test.topics.runs {
            assert_eq!(policy, Some("compact"));
        } else {
            assert_eq!(policy, Some("delete"), "{name}");
            let days = Duration::from_secs(30 * 24 * 3_600);
            assert_eq!(settings.retention, Some(Some(days)), "{name}");
        }
    }
    let same = finish(test.dispatcher(&data_set, &["--retention", "30d"])).expect_code(0);
    assert!(!same.stderr.contains("keeps messages"), "{}", same.stderr);
    let other = finish(test.dispatcher(&data_set, &["--retention", "1d"])).expect_code(0);
    let line = "topic keeps messages 30days, not 1day";
    assert!(other.stderr.contains(line), "{}", other.stderr);
}

#[test]
fn a_file_in_the_current_folder_says_where_the_cluster_is() {
    let test = TestCluster::new("config-file");
    test.dispatch(&data_set(&ROWS), &[]);
    let file = format!(
        "bootstrap-servers = \"{}\"\n[runs]\ntopic-prefix = \"{}\"\njson = true\n",
        test.bootstrap_servers, test.prefix
    );
    fs::write(test.folder.path().join("rollcall.toml"), &file).expect("written");
    let runs = || {
        let mut command = crate::processes::rollcall();
        command.arg("runs").current_dir(test.folder.path());
        command
    };
    assert_eq!(lines(&finish(runs()).expect_code(0)).len(), 1);
    // The environment beats the file.
    let mut elsewhere = runs();
    elsewhere.env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
    elsewhere.args(["--broker-timeout", "1s"]);
    finish(elsewhere).expect_code(5);
    let finished = finish(with(runs(), &["--config", ""])).expect_code(2);
    let line = "no broker named";
    assert!(finished.stderr.contains(line), "{}", finished.stderr);
}

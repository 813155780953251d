//! Runs that are taken up again on a real Apache Kafka: dispatchers and aggregators killed at named
//! points and started again, two dispatchers at once, jobs that were lost, and dead letters.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kafka::{BatchProducer, Outgoing, TopicSpec, publish_run_event, topics};
use pipeline::{JobBatch, RunEvent, RunId};
use serde_json::Value;

use crate::cluster::{TestCluster, id};
use crate::processes::{FEW_JOBS, Running, assert_same, data_set, finish, local, report};

const BY_DAY: [&str; 2] = ["--every", "day"];
const FAULTS: &str = "ROLLCALL_FAULTS";

/// How often each job of a run is on the jobs topic.
fn copies(test: &TestCluster, run_id: &RunId) -> BTreeMap<u64, u32> {
    let mut copies = BTreeMap::new();
    for record in test.records(&test.topics.jobs).iter() {
        let Ok(batch) = JobBatch::decode(record.payload) else {
            continue;
        };
        if batch.run_id() == run_id {
            for job in batch.jobs() {
                *copies.entry(job.index).or_default() += 1;
            }
        }
    }
    copies
}

/// How many events of a kind a run has on the runs topic.
fn events(test: &TestCluster, run_id: &RunId, kind: &str) -> usize {
    let key = format!("{run_id}/{kind}");
    let records = test.records(&test.topics.runs);
    let own = records.iter();
    own.filter(|record| record.key == Some(key.as_bytes()))
        .count()
}

fn dispatcher(test: &TestCluster, data_set: &Path, run_id: &RunId, options: &[&str]) -> Command {
    let mut command = test.dispatcher(data_set, options);
    command.args(["--run-id", run_id.as_str()]);
    command
}

#[test]
fn a_dispatcher_killed_at_any_point_and_started_again_publishes_exactly_what_is_missing() {
    let test = TestCluster::new("killed-dispatcher");
    let data_set = data_set(&FEW_JOBS);
    let options = ["--every", "day", "--jobs-per-message", "7"];
    let reference = local(&data_set, &BY_DAY);
    let points = [
        ("after-opened", 0..=0, 0),
        ("before-produce", 0..=0, 0),
        ("mid-publish", 1..=6_120, 0),
        ("before-manifest", 6_120..=6_120, 0),
        ("after-manifest", 6_120..=6_120, 1),
    ];
    let _worker = test.worker("a", "0ms");
    for (point, published, manifests) in points {
        let run_id = id(point);
        let mut killed = dispatcher(&test, &data_set, &run_id, &options);
        killed.env(FAULTS, format!("dispatcher.{point}=abort"));
        assert_eq!(finish(killed).code, None, "{point}");
        let before = copies(&test, &run_id).len();
        assert!(published.contains(&before), "{point}: {before}");
        assert_eq!(events(&test, &run_id, "dispatched"), manifests, "{point}");

        let again = dispatcher(&test, &data_set, &run_id, &options);
        let again = finish(again).expect_code(0);
        let missing = match 6_120 - before {
            0 => "none of its 6120 jobs was missing".to_owned(),
            missing => format!("{missing} of its 6120 jobs were missing"),
        };
        assert!(again.stdout.contains(&missing), "{point}: {}", again.stdout);
        let all = copies(&test, &run_id);
        assert_eq!(all.len(), 6_120, "{point}");
        assert!(all.values().all(|&copies| copies == 1), "{point}");
        assert_eq!(events(&test, &run_id, "opened"), 1, "{point}");
        assert_eq!(events(&test, &run_id, "dispatched"), 1, "{point}");
        assert_same(&test.aggregate_complete(&run_id), &reference);
    }
}

#[test]
fn two_dispatchers_of_one_run_at_once_end_in_one_manifest() {
    let test = TestCluster::new("two-dispatchers");
    let data_set = data_set(&FEW_JOBS);
    let run_id = id("both");
    let _worker = test.worker("a", "0ms");
    let mut both = ["one", "other"].map(|name| {
        let command = dispatcher(&test, &data_set, &run_id, &BY_DAY);
        Running::start(command, test.folder.path(), name)
    });
    for dispatcher in &mut both {
        assert_eq!(dispatcher.wait().code(), Some(0), "{}", dispatcher.said());
    }
    let history = test.history(&run_id);
    assert!(history.manifest().is_some() && history.disagreeing().is_none());
    assert_eq!(history.contradiction(), None);
    assert_eq!(history.to_be_opened_again(), None);
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set, &BY_DAY),
    );
}

#[test]
fn two_manifests_that_disagree_fail_the_run() {
    let test = TestCluster::new("two-manifests");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let _worker = test.worker("a", "0ms");
    test.aggregate_complete(&run.run_id);
    let mut other = test
        .history(&run.run_id)
        .manifest()
        .cloned()
        .expect("a manifest");
    other.rows_read += 1;
    let mut producer = BatchProducer::new(&test.cluster).expect("a producer");
    let topic = producer.topic(&test.topics.runs).expect("a topic");
    let event = RunEvent::Dispatched(other);
    publish_run_event(&producer, &topic, &event, Duration::from_secs(20)).expect("told");
    test.aggregate(&run.run_id, "60s").expect_code(1);
    assert_eq!(report(&test.out(&run.run_id))["status"], "failed");
    // Nor does a dispatcher call it done.
    let again = dispatcher(&test, &data_set, &run.run_id, &BY_DAY);
    let refused = finish(again).expect_code(2).stderr;
    assert!(refused.contains("rows read"), "{refused}");
}

#[test]
fn other_options_another_data_set_and_standard_input_are_refused_and_change_nothing() {
    let test = TestCluster::new("other-data-set");
    let data_set_one = data_set(&FEW_JOBS);
    let other = data_set(&["--rows", "200000", "--countries", "20", "--seed", "7"]);
    let run_id = id("taken");
    let mut killed = dispatcher(&test, &data_set_one, &run_id, &BY_DAY);
    killed.env(FAULTS, "dispatcher.before-manifest=abort");
    assert_eq!(finish(killed).code, None);
    let before = copies(&test, &run_id);

    let hourly = dispatcher(&test, &data_set_one, &run_id, &["--every", "hour"]);
    let refused = finish(hourly).expect_code(2).stderr;
    let reason = "options differ: --every is hour, but the run was opened with day";
    assert!(refused.contains(reason), "{refused}");

    let refused = finish(dispatcher(&test, &other, &run_id, &BY_DAY)).expect_code(2);
    assert!(
        refused.stderr.contains("data set differs: "),
        "{}",
        refused.stderr
    );

    let mut piped = dispatcher(&test, Path::new("-"), &run_id, &BY_DAY);
    piped.stdin(Stdio::piped()).stdout(Stdio::piped());
    piped.stderr(Stdio::piped());
    let mut piped = piped.spawn().expect("it can be started");
    let rows = fs::read(&data_set_one).expect("it can be read");
    // It may end before it has read all.
    let _ = piped.stdin.take().expect("a pipe").write_all(&rows);
    let piped = piped.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&piped.stderr);
    assert_eq!(piped.status.code(), Some(2), "{said}");
    assert!(
        said.contains("standard input cannot be read again"),
        "{said}"
    );

    assert_eq!(copies(&test, &run_id), before);
    assert_eq!(events(&test, &run_id, "opened"), 1);
    assert_eq!(events(&test, &run_id, "aborted"), 0);
    finish(dispatcher(&test, &data_set_one, &run_id, &BY_DAY)).expect_code(0);
    let _worker = test.worker("a", "0ms");
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set_one, &BY_DAY),
    );
}

#[test]
fn a_run_that_was_aborted_is_taken_up_and_no_longer_is() {
    let test = TestCluster::new("aborted-and-taken-up");
    let data_set = data_set(&FEW_JOBS);
    let run_id = id("after-all");
    let mut failed = dispatcher(&test, &data_set, &run_id, &BY_DAY);
    failed.env(FAULTS, "dispatcher.before-manifest=error");
    finish(failed).expect_code(1);
    assert!(test.history(&run_id).aborted().is_some());
    let _worker = test.worker("a", "0ms");
    let mut killed = dispatcher(&test, &data_set, &run_id, &BY_DAY);
    killed.env(FAULTS, "dispatcher.before-manifest=abort");
    assert_eq!(finish(killed).code, None);
    assert_eq!(test.history(&run_id).aborted(), None);
    finish(dispatcher(&test, &data_set, &run_id, &BY_DAY)).expect_code(0);
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set, &BY_DAY),
    );
}

/// A copy of a run under another prefix, with one message of its jobs overwritten.
fn copy_with_garbage(from: &TestCluster, to: &TestCluster) -> u64 {
    let spec = TopicSpec {
        partitions: 24,
        replication_factor: None,
        retention: Duration::from_secs(3_600),
    };
    topics::create(&to.cluster, &to.topics, &spec, &|| false).expect("topics");
    let mut producer = BatchProducer::new(&to.cluster).expect("a producer");
    let jobs = producer.topic(&to.topics.jobs).expect("a topic");
    let runs = producer.topic(&to.topics.runs).expect("a topic");
    for record in from.records(&from.topics.runs).iter() {
        let message = Outgoing {
            payload: record.payload,
            id: 0,
        };
        let produced = producer.produce_one(&runs, 0, record.key, &[], message);
        assert!(produced.expect("produced"));
    }
    let mut lost = 0;
    for record in from.records(&from.topics.jobs).iter() {
        let mut payload = record.payload;
        if lost == 0 {
            let batch = JobBatch::decode(payload).expect("a batch");
            lost = u64::from(batch.jobs_count());
            payload = b"\xffno message";
        }
        let message = Outgoing { payload, id: 0 };
        let refused = producer.produce(&jobs, record.partition, &[message]);
        assert!(refused.expect("produced").is_empty());
    }
    assert!(producer.drain(Duration::from_secs(20), &mut Vec::new()));
    lost
}

#[test]
fn jobs_of_a_message_that_could_not_be_read_come_back_by_resume() {
    let original = TestCluster::new("whole");
    let data_set = data_set(&FEW_JOBS);
    let run = original.dispatch(&data_set, &BY_DAY);
    let test = TestCluster::new("overwritten");
    let lost = copy_with_garbage(&original, &test);
    assert!(lost > 1, "{lost}");
    let resume = || {
        let command = dispatcher(
            &test,
            &data_set,
            &run.run_id,
            &["--every", "day", "--resume"],
        );
        finish(command).expect_code(0).stdout
    };
    // Nothing was passed yet, so the jobs that are there are left to the workers.
    let early = resume();
    assert!(
        early.contains(&format!("{lost} of its 6120 jobs were missing, ")),
        "{early}"
    );
    let waiting = format!("{} wait for workers", run.jobs - lost);
    assert!(early.contains(&waiting), "{early}");

    let test = TestCluster::new("overwritten-and-passed");
    let lost = copy_with_garbage(&original, &test);
    let _worker = test.worker("a", "0ms");
    test.wait_until_committed();
    test.aggregate(&run.run_id, "2s").expect_code(4);
    assert_eq!(report(&test.out(&run.run_id))["jobs"]["missing"], lost);
    let command = dispatcher(
        &test,
        &data_set,
        &run.run_id,
        &["--every", "day", "--resume"],
    );
    let said = finish(command).expect_code(0).stdout;
    assert!(
        said.contains(&format!("{lost} of its 6120 jobs were missing;")),
        "{said}"
    );
    assert_eq!(events(&test, &run.run_id, "dispatched"), 1);
    assert_same(
        &test.aggregate_complete(&run.run_id),
        &local(&data_set, &BY_DAY),
    );

    // The message itself stands apart, for nobody knows whose it was.
    let listed = finish(dlq(&test, &run.run_id, &["list"])).expect_code(0);
    assert!(
        listed.stdout.contains("1 messages cannot be decoded"),
        "{}",
        listed.stdout
    );
}

fn dlq(test: &TestCluster, run_id: &RunId, arguments: &[&str]) -> Command {
    let mut command = test.command(&[&["dlq"][..], arguments].concat());
    command.args(["--run-id", run_id.as_str()]);
    command
}

#[test]
fn dead_letters_are_listed_shown_and_replayed_until_the_run_is_complete() {
    let test = TestCluster::new("replayed");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let mut poisoned = test.poisoned(&[17, 42, 99]);
    test.aggregate(&run.run_id, "60s").expect_code(3);
    test.wait_until_committed();
    poisoned.end();

    let listed = || -> Vec<u64> {
        let listed = finish(dlq(&test, &run.run_id, &["list", "--json"])).expect_code(0);
        let lines = listed.stdout.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .map(|line| {
                assert_eq!(line["attempts"], 1, "{line}");
                assert!(line["source"]["offset"].is_number(), "{line}");
                let worker = line["worker"].as_str().expect("a worker");
                assert!(worker.ends_with("/poisoned"), "{line}");
                line["index"].as_u64().expect("an index")
            })
            .collect()
    };
    assert_eq!(listed(), [17, 42, 99]);
    let shown = finish(dlq(&test, &run.run_id, &["show", "42"])).expect_code(0);
    assert!(shown.stdout.contains(" positive, "), "{}", shown.stdout);
    let alive = finish(dlq(&test, &run.run_id, &["replay", "17", "41"])).expect_code(2);
    assert!(alive.stderr.contains("job 41 of run"), "{}", alive.stderr);
    assert_eq!(copies(&test, &run.run_id)[&17], 1);

    // What made them fail is gone.
    let _healthy = test.worker("healthy", "0ms");
    let one = finish(dlq(&test, &run.run_id, &["replay", "42"])).expect_code(0);
    assert!(one.stdout.contains("1 of 3 dead letters"), "{}", one.stdout);
    test.wait_until_committed();
    test.aggregate(&run.run_id, "60s").expect_code(3);
    assert_eq!(listed(), [17, 99]);
    let rest = finish(dlq(&test, &run.run_id, &["replay"])).expect_code(0);
    assert!(
        rest.stdout.contains("2 of 2 dead letters"),
        "{}",
        rest.stdout
    );
    assert!(
        rest.stdout.contains("rollcall aggregator"),
        "{}",
        rest.stdout
    );
    test.wait_until_committed();
    assert_same(
        &test.aggregate_complete(&run.run_id),
        &local(&data_set, &BY_DAY),
    );
    assert_eq!(listed(), [0; 0]);
    let none = finish(dlq(&test, &run.run_id, &["replay"])).expect_code(0);
    assert!(
        none.stdout.contains("has no dead letters"),
        "{}",
        none.stdout
    );
}

#[test]
fn an_aggregator_killed_before_any_of_its_files_and_started_again_writes_the_same() {
    let test = TestCluster::new("killed-aggregator");
    let data_set = data_set(&FEW_JOBS);
    let _worker = test.worker("a", "0ms");
    let run = test.dispatch(&data_set, &BY_DAY);
    let reference = test.aggregate_complete(&run.run_id);
    let out = test.out(&run.run_id);
    let series = fs::read(out.join("series.csv")).expect("a series");
    // series.csv, .parquet, .svg, report.md, .html and last report.json.
    for file in 1..=6 {
        let mut killed = test.aggregator(&run.run_id, &out, &[]);
        killed.env(FAULTS, format!("aggregator.before-rename=abort@{file}"));
        assert_eq!(finish(killed).code, None, "{file}");
        assert!(!out.join("report.json").exists(), "{file}");
        let again = test.aggregate_complete(&run.run_id);
        assert_eq!(again["series"], reference["series"]);
        assert_eq!(again["reconciliation"], reference["reconciliation"]);
        assert_eq!(fs::read(out.join("series.csv")).expect("a series"), series);
    }
}

#[test]
fn one_command_that_was_killed_is_taken_up_under_its_name() {
    let test = TestCluster::new("one-command");
    let data_set = data_set(&FEW_JOBS);
    let command = || {
        let mut command = crate::processes::rollcall();
        command.arg("run").arg(&data_set).args(BY_DAY);
        command.args(["--workers", "1", "--run-id", "one-command"]);
        command.args(["--bootstrap-servers", &test.bootstrap_servers, "--out"]);
        command.arg(test.folder.path().join("out"));
        command
    };
    let mut killed = command();
    killed.env(FAULTS, "dispatcher.mid-publish=abort");
    assert_eq!(finish(killed).code, None);
    finish(command()).expect_code(0);
    assert_same(
        &report(&test.folder.path().join("out")),
        &local(&data_set, &BY_DAY),
    );
}

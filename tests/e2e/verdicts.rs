//! Verdicts, generations and cancellations on a real Apache Kafka that compacts the runs topic as
//! often as it can, and deletes what is older than its retention at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use kafka::{
    BatchProducer, TopicNames, TopicSpec, beginning_offsets, end_offsets, open_generation, topics,
};
use pipeline::{
    GroupKey, IndexRanges, Job, LabelSet, Outcome, OutcomeBatch, OutcomeBatchBuilder, RunHistory,
    RunId, TimeBucket, Verdict, Worker,
};
use serde_json::Value;

use crate::apache_kafka::ApacheKafka;
use crate::cluster::{TestCluster, id};
use crate::processes::{
    FEW_JOBS, Running, assert_reconciled, assert_same, data_set, finish, local, report, wait_until,
};
use crate::strangers::{write, write_by};

const BY_DAY: [&str; 2] = ["--every", "day"];
const FAULTS: &str = "ROLLCALL_FAULTS";

fn cluster(test: &str) -> TestCluster {
    static BROKER: OnceLock<ApacheKafka> = OnceLock::new();
    let broker = BROKER.get_or_init(|| {
        ApacheKafka::start(&[
            ("log.initial.task.delay.ms", "200"),
            ("log.retention.check.interval.ms", "500"),
            ("log.roll.ms", "300"),
            ("log.cleaner.backoff.ms", "100"),
            ("log.cleaner.min.cleanable.ratio", "0.001"),
            ("log.cleaner.delete.retention.ms", "100"),
        ])
    });
    TestCluster::on(&broker.bootstrap_servers(), test)
}

/// Keys of a run on the runs topic that begin so, without tombstones.
fn keys(test: &TestCluster, run_id: &RunId, kind: &str) -> usize {
    let begins = format!("{run_id}/{kind}");
    let records = test.records(&test.topics.runs);
    let own = records.iter().filter(|record| {
        let key = record.key.unwrap_or_default();
        key.starts_with(begins.as_bytes()) && !record.payload.is_empty()
    });
    own.count()
}

/// Waits until the broker has compacted all that is on the runs topic now.
fn compact(test: &TestCluster) {
    let key = b"a-stranger/of-another-kind".as_slice();
    let mut producer = BatchProducer::new(&test.cluster).expect("a producer");
    let topic = producer.topic(&test.topics.runs).expect("a topic");
    let mut written = 0;
    wait_until("the runs topic is compacted", || {
        write_by(&producer, &topic, &[(Some(key), b"something")]);
        written += 1;
        let records = test.records(&test.topics.runs);
        let left = records.iter().filter(|record| record.key == Some(key));
        left.count() < written
    });
}

fn dispatcher(test: &TestCluster, data_set: &Path, run_id: &RunId, options: &[&str]) -> Command {
    let mut command = test.dispatcher(data_set, &BY_DAY);
    command.args(["--run-id", run_id.as_str()]).args(options);
    command
}

fn replay(test: &TestCluster, run_id: &RunId) -> Command {
    test.command(&["dlq", "replay", "--run-id", run_id.as_str()])
}

/// The run as `rollcall runs` lists it.
fn listed(test: &TestCluster, run_id: &RunId) -> Value {
    let listed = finish(test.command(&["runs", "--json"])).expect_code(0);
    let mut lines = listed.stdout.lines();
    let own = lines.find(|line| line.contains(&format!("\"run_id\":\"{run_id}\"")));
    serde_json::from_str(own.expect("it is listed")).expect("JSON")
}

#[test]
fn an_aggregator_that_dies_before_it_puts_files_in_place_has_published_what_the_next_one_finds() {
    let test = cluster("dies-before-rename");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let _worker = test.worker("a", "0ms");
    let out = test.out(&run.run_id);
    let mut killed = test.aggregator(&run.run_id, &out, &[]);
    killed.env(FAULTS, "aggregator.before-rename=abort");
    assert_eq!(finish(killed).code, None);
    assert!(!out.join("series.csv").exists() && !out.join("report.json").exists());
    assert_eq!(keys(&test, &run.run_id, "reconciled/0/"), 1);
    compact(&test);
    let verdict = listed(&test, &run.run_id);
    assert_eq!(verdict["verdict"], "complete", "{verdict}");
    assert_eq!(verdict["completed"], run.jobs, "{verdict}");
    // The verdict that stands is not published again.
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &BY_DAY));
    assert_eq!(report["verdict"]["published"], true, "{report}");
    assert_eq!(keys(&test, &run.run_id, "reconciled/0/"), 1);
}

#[test]
fn a_replay_opens_a_generation_in_which_an_old_dead_letter_does_not_count() {
    let test = cluster("replay-races");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let mut worker = test.poisoned(&[17, 42]);
    test.wait_until_committed();
    worker.end();
    // Before any verdict: the replay is first.
    let replayed = finish(replay(&test, &run.run_id)).expect_code(0);
    assert!(
        replayed.stdout.contains("as generation 1"),
        "{}",
        replayed.stdout
    );
    compact(&test);
    test.aggregate(&run.run_id, "2s").expect_code(4);
    let missing = &report(&test.out(&run.run_id))["missing"];
    assert_eq!(*missing, serde_json::json!([17, 42]));
    assert_eq!(keys(&test, &run.run_id, "reconciled"), 0);

    // A dead letter of generation 0 that comes late is none of generation 1.
    publish_outcome(&test, &run.run_id, 17);
    test.aggregate(&run.run_id, "2s").expect_code(4);

    let mut worker = test.poisoned(&[42]);
    test.aggregate(&run.run_id, "60s").expect_code(3);
    test.wait_until_committed();
    worker.end();
    let history_of_run = test.history(&run.run_id);
    let timeline = history_of_run.timeline();
    let verdict = timeline.newest().verdict().expect("it is published");
    assert_eq!(verdict.verdict, Verdict::CompleteWithDeadLetters);
    assert_eq!((verdict.generation, verdict.dead_lettered), (1, 1));

    // After the verdict: the next generation builds on it.
    finish(replay(&test, &run.run_id)).expect_code(0);
    compact(&test);
    let _worker = test.worker("healthy", "0ms");
    assert_same(
        &test.aggregate_complete(&run.run_id),
        &local(&data_set, &BY_DAY),
    );
    let line = listed(&test, &run.run_id);
    assert_eq!(
        (&line["generation"], &line["verdict"]),
        (&2.into(), &"complete".into())
    );
    let none = finish(replay(&test, &run.run_id)).expect_code(0);
    assert!(
        none.stdout.contains("has no dead letters"),
        "{}",
        none.stdout
    );
}

#[test]
fn a_replay_that_died_before_it_published_its_jobs_is_gone_on_with_by_the_next() {
    let test = cluster("replay-dies");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let mut worker = test.poisoned(&[17, 42]);
    test.wait_until_committed();
    worker.end();
    test.aggregate(&run.run_id, "60s").expect_code(3);
    let opened = open_generation(
        &test.cluster,
        &test.topics,
        &run.run_id,
        &IndexRanges::of_ascending([17, 42]),
        "a replay that died",
        Duration::from_secs(20),
        &|| false,
    );
    assert_eq!(opened.expect("nobody else opens one").0, 1);
    let replayed = finish(replay(&test, &run.run_id)).expect_code(0);
    let again = "2 of 2 dead letters";
    assert!(replayed.stdout.contains(again), "{}", replayed.stdout);
    // Now they are under way, and not replayed twice.
    let none = finish(replay(&test, &run.run_id)).expect_code(0);
    assert!(
        none.stdout.contains("has no dead letters"),
        "{}",
        none.stdout
    );
    let _worker = test.worker("healthy", "0ms");
    assert_same(
        &test.aggregate_complete(&run.run_id),
        &local(&data_set, &BY_DAY),
    );
    assert_eq!(listed(&test, &run.run_id)["generation"], 2);
}

#[test]
fn a_cancelled_run_is_not_replayed() {
    let test = cluster("cancelled-replay");
    let run = test.dispatch(&data_set(&FEW_JOBS), &BY_DAY);
    let mut worker = test.poisoned(&[17]);
    test.wait_until_committed();
    worker.end();
    finish(test.command(&["cancel", run.run_id.as_str()])).expect_code(0);
    let refused = finish(replay(&test, &run.run_id)).expect_code(2);
    assert!(
        refused.stderr.contains("was cancelled"),
        "{}",
        refused.stderr
    );
    assert_eq!(listed(&test, &run.run_id)["state"], "cancelled");
}

#[test]
fn an_aggregator_ends_when_its_run_is_removed() {
    let test = cluster("removed-meanwhile");
    let run = test.dispatch(&data_set(&FEW_JOBS), &BY_DAY);
    let out = test.out(&run.run_id);
    let waiting = test.aggregator(&run.run_id, &out, &["--timeout", "120s"]);
    let mut waiting = Running::start(waiting, test.folder.path(), "waiting");
    wait_until("the run is collected", || {
        waiting.said().contains("collecting")
    });
    finish(test.command(&["runs", "rm", run.run_id.as_str()])).expect_code(0);
    // A run of the same name is none that it waits for, and its outcomes are not taken for that one's.
    assert_eq!(waiting.wait().code(), Some(1), "{}", waiting.said());
    assert!(waiting.said().contains("was removed"), "{}", waiting.said());
    assert!(!out.join("report.json").exists());
}

#[test]
fn aggregators_and_a_replay_at_once_leave_one_table_of_each_generation() {
    let test = cluster("replay-and-verdicts");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    let mut worker = test.poisoned(&[17, 42]);
    test.wait_until_committed();
    worker.end();
    let out = |number: usize| test.folder.path().join(format!("out-{number}"));
    let mut aggregators: Vec<Running> = (0..3)
        .map(|number| {
            let options = ["--timeout", "60s"];
            let command = test.aggregator(&run.run_id, &out(number), &options);
            let name = format!("aggregator-{number}");
            Running::start(command, test.folder.path(), &name)
        })
        .collect();
    finish(replay(&test, &run.run_id)).expect_code(0);
    let _worker = test.worker("healthy", "0ms");
    let mut series = BTreeMap::new();
    for (number, aggregator) in aggregators.iter_mut().enumerate() {
        let code = aggregator.wait().code();
        let report = report(&out(number));
        assert_reconciled(&report);
        // Whether it was before the replay or after it, its table is that of its generation.
        let generation = match code {
            Some(3) => 0,
            Some(0) => 1,
            _ => panic!("{}", aggregator.said()),
        };
        assert_eq!(report["verdict"]["generation"], generation);
        assert_eq!(report["verdict"]["published"], true);
        let known = series.entry(generation).or_insert(report["series"].clone());
        assert_eq!(*known, report["series"]);
    }
    let before = test.history(&run.run_id);
    assert_eq!(before.timeline().number(), 1);
    compact(&test);
    assert_eq!(test.history(&run.run_id), before);
    assert_same(
        &test.aggregate_complete(&run.run_id),
        &local(&data_set, &BY_DAY),
    );
}

/// The dead letter of a job, in generation 0, as a worker that was away publishes it.
fn publish_outcome(test: &TestCluster, run_id: &RunId, index: u64) {
    let records = test.records(&test.topics.outcomes);
    let batches = records.iter();
    let batches: Vec<OutcomeBatch> = batches
        .map(|record| OutcomeBatch::decode(record.payload).expect("an outcome batch"))
        .filter(|batch| batch.run_id() == run_id)
        .collect();
    let mut outcomes = batches.iter().flat_map(OutcomeBatch::outcomes);
    let dead = outcomes
        .find(|outcome| outcome.index == index)
        .expect("it has died");
    let (labels, time): (LabelSet, Option<TimeBucket>) = (dead.key.labels.clone(), dead.key.time);
    let job = Job {
        index,
        key: GroupKey {
            labels: &labels,
            time,
        },
        part: dead.part,
        weight: dead.weight,
        payload: &[],
    };
    let mut builder = OutcomeBatchBuilder::new(run_id, 0, &Worker::default());
    builder.push(
        &job,
        dead.payload_digest,
        Outcome::DeadLettered {
            reason: "it was away",
            attempts: 1,
        },
    );
    write(test, &test.topics.outcomes, &[(None, &builder.encode())]);
}

#[test]
fn outcomes_that_were_deleted_leave_a_second_aggregator_without_a_table() {
    let test = cluster("deleted-outcomes");
    let data_set = data_set(&FEW_JOBS);
    let _worker = test.worker("a", "0ms");
    let run_id = id("short-lived");
    let options = ["--retention", "20s", "--partitions", "1"];
    finish(dispatcher(&test, &data_set, &run_id, &options)).expect_code(0);
    test.aggregate_complete(&run_id);
    let topic = &test.topics.outcomes;
    wait_until("outcomes are deleted", || {
        let beginnings = beginning_offsets(&test.cluster, topic, test.partitions(topic));
        beginnings
            .expect("it can be asked")
            .iter()
            .any(|&beginning| beginning > 0)
    });
    let out = test.folder.path().join("second");
    let second = finish(test.aggregator(&run_id, &out, &[])).expect_code(4);
    assert!(
        second.stderr.contains("no table is written"),
        "{}",
        second.stderr
    );
    assert_eq!(fs::read_dir(&out).expect("it is there").count(), 0);
    assert_eq!(listed(&test, &run_id)["verdict"], "complete");
}

#[test]
fn a_verdict_on_a_topic_that_was_made_again_is_not_waited_for() {
    let test = cluster("made-again");
    let run = test.dispatch(&data_set(&FEW_JOBS), &BY_DAY);
    let mut worker = test.worker("a", "0ms");
    test.aggregate_complete(&run.run_id);
    worker.end();
    let outcomes = &test.topics.outcomes;
    let partitions = || topics::partition_count(&test.cluster, outcomes).expect("it can be asked");
    let spec = TopicSpec {
        partitions: test.partitions(outcomes),
        replication_factor: None,
        retention: Duration::from_secs(3_600),
    };
    let nothing = |number| format!("{outcomes}.nothing-{number}");
    let only = TopicNames {
        outcomes: outcomes.clone(),
        jobs: nothing(1),
        dlq: nothing(2),
        runs: nothing(3),
    };
    topics::delete(&test.cluster, &only).expect("deleted");
    wait_until("the topic is there again, and empty", || {
        let made = topics::create(&test.cluster, &test.topics, &spec, &|| false);
        let ends = partitions().map(|partitions| end_offsets(&test.cluster, outcomes, partitions));
        made.is_ok() && matches!(ends, Some(Ok(ends)) if ends.iter().all(|&end| end == 0))
    });
    let out = test.folder.path().join("second");
    let second = finish(test.aggregator(&run.run_id, &out, &[])).expect_code(4);
    assert!(
        second.stderr.contains("no table is written"),
        "{}",
        second.stderr
    );
}

#[test]
fn a_removed_run_leaves_no_key_and_its_name_is_free() {
    let test = cluster("removed");
    let data_set = data_set(&FEW_JOBS);
    let run_id = id("again");
    let mut worker = test.poisoned(&[17]);
    finish(dispatcher(&test, &data_set, &run_id, &[])).expect_code(0);
    test.aggregate(&run_id, "60s").expect_code(3);
    test.wait_until_committed();
    worker.end();
    finish(replay(&test, &run_id)).expect_code(0);
    finish(test.command(&["cancel", run_id.as_str()])).expect_code(0);
    assert!(keys(&test, &run_id, "") >= 5);
    compact(&test);
    finish(test.command(&["runs", "rm", run_id.as_str()])).expect_code(0);
    compact(&test);
    assert_eq!(keys(&test, &run_id, ""), 0);
    assert_eq!(test.history(&run_id), RunHistory::new(run_id.clone()));

    let _worker = test.worker("healthy", "0ms");
    finish(dispatcher(&test, &data_set, &run_id, &[])).expect_code(0);
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set, &BY_DAY),
    );
    let line = listed(&test, &run_id);
    assert_eq!(
        (&line["generation"], &line["state"]),
        (&0.into(), &"dispatched".into())
    );
}

#[test]
fn a_cancelled_run_ends_for_everybody_and_goes_on_by_resume() {
    let test = cluster("cancelled");
    let data_set = data_set(&FEW_JOBS);
    let run_id = id("unwanted");
    let mut killed = dispatcher(&test, &data_set, &run_id, &["--jobs-per-message", "7"]);
    killed.env(FAULTS, "dispatcher.mid-publish=abort");
    assert_eq!(finish(killed).code, None);
    let waiting = test.aggregator(&run_id, &test.out(&run_id), &["--timeout", "120s"]);
    let mut waiting = Running::start(waiting, test.folder.path(), "waiting");
    let reason = ["cancel", run_id.as_str(), "--reason", "the wrong data set"];
    finish(test.command(&reason)).expect_code(0);
    compact(&test);
    assert_eq!(waiting.wait().code(), Some(1), "{}", waiting.said());
    assert!(
        waiting.said().contains("the wrong data set"),
        "{}",
        waiting.said()
    );
    let again = finish(dispatcher(&test, &data_set, &run_id, &[])).expect_code(1);
    assert!(again.stderr.contains("was cancelled"), "{}", again.stderr);
    let refused = finish(replay(&test, &run_id)).expect_code(2);
    assert!(!refused.stderr.is_empty());
    assert_eq!(listed(&test, &run_id)["state"], "cancelled");
    // Once more says the same.
    finish(test.command(&["cancel", run_id.as_str()])).expect_code(0);
    assert_eq!(keys(&test, &run_id, "cancelled"), 1);

    let resumed = finish(dispatcher(&test, &data_set, &run_id, &["--resume"])).expect_code(0);
    let all = "6120 of its 6120 jobs were missing";
    assert!(resumed.stdout.contains(all), "{}", resumed.stdout);
    let _worker = test.worker("a", "0ms");
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set, &BY_DAY),
    );
    let done = finish(test.command(&["cancel", run_id.as_str()])).expect_code(2);
    assert!(
        done.stderr.contains("nothing is left to cancel"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_dispatcher_ends_where_its_run_is_cancelled_while_it_publishes() {
    let test = cluster("cancelled-meanwhile");
    let data_set = data_set(&FEW_JOBS);
    let few = ["--jobs-per-message", "1"];
    for name in ["", "named"] {
        let mut slow = test.dispatcher(&data_set, &[&BY_DAY[..], &few].concat());
        slow.args(["--run-id", name]);
        slow.env(FAULTS, "dispatcher.mid-publish=slow:1s");
        let mut slow = Running::start(slow, test.folder.path(), &format!("slow-{name}"));
        let mut run_id = None;
        wait_until("the run is there", || {
            let listed = finish(test.command(&["runs", "--json"]));
            let lines = listed.stdout.lines();
            let mut runs = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let own = runs.find(|run| run["state"] == "open");
            run_id = own.and_then(|run| run["run_id"].as_str().map(str::to_owned));
            run_id.is_some()
        });
        let run_id = run_id.expect("it is there");
        finish(test.command(&["cancel", &run_id])).expect_code(0);
        assert_eq!(slow.wait().code(), Some(1), "{}", slow.said());
        assert!(slow.said().contains("was cancelled by"), "{}", slow.said());
        let history = test.history(&run_id.parse().expect("a run id"));
        assert_eq!((history.manifest(), history.aborted()), (None, None));
    }
}

#[test]
fn a_worker_passes_over_the_jobs_of_a_cancelled_run() {
    let test = cluster("passed-over");
    let data_set = data_set(&FEW_JOBS);
    let run_id = id("not-computed");
    finish(dispatcher(
        &test,
        &data_set,
        &run_id,
        &["--jobs-per-message", "7"],
    ))
    .expect_code(0);
    finish(test.command(&["cancel", run_id.as_str()])).expect_code(0);
    // It takes a minute to compute all of them.
    let mut slow = test.worker("slow", "10ms");
    test.wait_until_committed();
    slow.end();
    let computed = test.jobs_with_outcome(&run_id);
    assert!(computed < 3_000, "{computed} jobs were computed");

    let _worker = test.worker("fast", "0ms");
    finish(dispatcher(&test, &data_set, &run_id, &["--resume"])).expect_code(0);
    assert_same(
        &test.aggregate_complete(&run_id),
        &local(&data_set, &BY_DAY),
    );
}

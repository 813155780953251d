//! The services as people run them on a cluster: each a process, on a real Apache Kafka.

use std::fs;
use std::time::Duration;

use computations::positivity;
use dispatcher::Grouping;
use kafka::{BatchProducer, Outgoing, TopicSpec, publish_run_event, topics};
use pipeline::{
    Grain, GroupKey, Job, JobBatch, JobBatchEncoder, JobHeader, JobSetHasher, LabelSet, Manifest,
    RunEvent, RunId, RunOpened, TimeBucket,
};

use crate::apache_kafka::ApacheKafka;
use crate::cluster::TestCluster;
use crate::processes::{
    FEW_JOBS, Running, assert_reconciled, assert_same, children, data_set, finish, is_alive, local,
    peak_resident_bytes, report, rollcall, wait_until,
};

const ROWS: [&str; 2] = ["--rows", "200000"];
const BY_DAY: [&str; 2] = ["--every", "day"];

#[test]
fn a_run_with_three_workers_has_the_digest_of_the_local_engine() {
    let test = TestCluster::new("three-workers");
    let data_set = data_set(&ROWS);
    let workers = ["a", "b", "c"].map(|id| test.worker(id, "0ms"));
    let run = test.dispatch(
        &data_set,
        &["--wait-for-workers", "3", "--group", &test.group()],
    );
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &[]));
    assert!(run.jobs > 100_000, "{run:?}");
    assert_eq!(report["workers"].as_array().expect("workers").len(), 3);
    drop(workers);
}

#[test]
fn one_job_a_message_gives_the_same_series() {
    let test = TestCluster::new("one-job-a-message");
    let data_set = data_set(&ROWS);
    let _workers = ["a", "b"].map(|id| test.worker(id, "0ms"));
    let run = test.dispatch(&data_set, &["--jobs-per-message", "1"]);
    assert_eq!(run.messages, run.jobs);
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &[]));
}

#[test]
fn a_worker_killed_mid_run_and_replaced_loses_no_job() {
    let test = TestCluster::new("killed-worker");
    let data_set = data_set(&FEW_JOBS);
    let mut victim = test.worker("victim", "1ms");
    let _survivor = test.worker("survivor", "1ms");
    let run = test.dispatch(
        &data_set,
        &[
            "--every",
            "day",
            "--wait-for-workers",
            "2",
            "--group",
            &test.group(),
        ],
    );
    wait_until("both are at work", || {
        test.workers_with_outcome(&run.run_id).len() == 2
    });
    test.assert_mid_run(&run);
    victim.kill();
    test.assert_mid_run(&run);
    let _replacement = test.worker("replacement", "1ms");
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &BY_DAY));
    let jobs_of = |id: &str| {
        let workers = report["workers"].as_array().expect("workers");
        let own = workers.iter().find(|worker| worker["id"] == id);
        own.map_or(0, |worker| worker["jobs"].as_u64().expect("a number"))
    };
    assert!(
        jobs_of("victim") > 0 && jobs_of("survivor") > 0,
        "{report:#}"
    );
}

#[test]
fn workers_scaled_from_one_to_four_to_two_mid_run_lose_no_job() {
    let test = TestCluster::new("scaled-workers");
    let data_set = data_set(&FEW_JOBS);
    let _first = test.worker("first", "2ms");
    let run = test.dispatch(&data_set, &BY_DAY);
    test.wait_until_mid_run(&run, 300);
    let mut more = ["second", "third", "fourth"].map(|id| test.worker(id, "2ms"));
    wait_until("the new ones are at work", || {
        test.workers_with_outcome(&run.run_id).len() >= 3
    });
    test.assert_mid_run(&run);
    for worker in &mut more[..2] {
        worker.end();
    }
    test.assert_mid_run(&run);
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &BY_DAY));
    assert!(
        report["workers"].as_array().expect("workers").len() >= 3,
        "{report:#}"
    );
}

#[test]
fn a_group_of_many_parts_is_one_row_of_the_series() {
    let test = TestCluster::new("parts");
    let data_set = data_set(&FEW_JOBS);
    let options = ["--every", "month", "--by", "", "--max-rows-per-job", "7"];
    let _workers = ["a", "b"].map(|id| test.worker(id, "0ms"));
    let run = test.dispatch(&data_set, &options);
    let report = test.aggregate_complete(&run.run_id);
    assert_eq!(report["series"]["rows"], 10);
    // Ten months, each with one part that may be short.
    assert!(
        (200_000 / 7..=200_000 / 7 + 10).contains(&run.jobs),
        "{run:?}"
    );
    assert_same(&report, &local(&data_set, &options));
}

/// 2,000,000 rows take some 110 MB to group; half of that has to go to disk and come back.
#[test]
fn rows_beyond_the_memory_budget_are_spilled_and_numbered_the_same() {
    const MIB: u64 = 1024 * 1024;
    let test = TestCluster::new("spill");
    let data_set = data_set(&["--rows", "2000000"]);
    let _workers = ["a", "b"].map(|id| test.worker(id, "0ms"));
    let peak = |budget: &str, run_id: &str| {
        let options = ["--memory-budget", budget, "--run-id", run_id];
        let mut command = test.dispatcher(&data_set, &options);
        command.arg("--spill-folder").arg(test.folder.path());
        let mut dispatcher = Running::start(command, test.folder.path(), run_id);
        let mut peak = 0;
        wait_until("it has dispatched", || {
            peak = peak_resident_bytes(dispatcher.id()).unwrap_or(peak);
            !dispatcher.is_running()
        });
        let said = dispatcher.said();
        assert!(said.contains("run dispatched"), "{said}");
        (peak, said.matches("memory budget used up").count())
    };
    let (spilled_peak, runs) = peak("64MiB", "spilled");
    assert!(runs >= 2, "{runs} runs");
    assert!(spilled_peak < (64 + 48) * MIB, "{} MiB", spilled_peak / MIB);
    let (memory_peak, runs) = peak("1GiB", "in-memory");
    assert_eq!(runs, 0);
    assert!(memory_peak > spilled_peak, "{memory_peak} {spilled_peak}");
    let reference = local(&data_set, &[]);
    for run_id in ["spilled", "in-memory"] {
        let run_id = run_id.parse().expect("a run id");
        assert_same(&test.aggregate_complete(&run_id), &reference);
    }
    // Runs have no names: nothing is left in the folder.
    let left = fs::read_dir(test.folder.path()).expect("it can be read");
    let spilled = left.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains("tmp")
    });
    assert_eq!(spilled.count(), 0);
}

#[test]
fn rejected_rows_are_counted_by_reason_and_kept() {
    let test = TestCluster::new("rejects");
    let data_set = data_set(&["--rows", "100000", "--malformed", "0.02"]);
    let _worker = test.worker("a", "0ms");
    let run = test.dispatch(&data_set, &[]);
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &[]));
    let manifest = &report["manifest"];
    let rejected = manifest["rows_rejected"].as_u64().expect("a number");
    assert!((1_800..2_200).contains(&rejected), "{rejected}");
    assert_eq!(manifest["rows_read"], 100_000);
    let reasons = manifest["rejected"].as_object().expect("reasons");
    for reason in [
        "wrong_field_count",
        "invalid_time",
        "missing_time",
        "unknown_result",
        "invalid_utf8",
    ] {
        assert!(reasons[reason].as_u64() > Some(0), "{reason}: {reasons:?}");
    }
    let kept = fs::read(test.folder.path().join("rejects.csv")).expect("the rejects are kept");
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(kept.as_slice());
    assert_eq!(reader.byte_records().count() as u64, rejected);
}

#[test]
fn more_rejects_than_allowed_abort_the_run_for_whoever_waits_for_it() {
    let test = TestCluster::new("aborted");
    let data_set = data_set(&["--rows", "100000", "--malformed", "0.02"]);
    let run_id: RunId = "a-run-to-abort".parse().expect("a run id");
    let command = test.aggregator(&run_id, &test.out(&run_id), &["--timeout", "60s"]);
    let mut aggregator = Running::start(command, test.folder.path(), "aggregator");
    let dispatcher = test.dispatcher(
        &data_set,
        &["--max-rejects", "3", "--run-id", run_id.as_str()],
    );
    let dispatcher = finish(dispatcher).expect_code(1);
    let line = "more than 3 rows are rejected (4 of ";
    assert!(dispatcher.stderr.contains(line), "{}", dispatcher.stderr);
    assert_eq!(aggregator.wait().code(), Some(1));
    let said = aggregator.said();
    assert!(
        said.contains("was aborted by its dispatcher: more than 3 rows"),
        "{said}"
    );
    // The fields of the rows are for whoever has the data set, and not on the cluster.
    let shown = dispatcher.stderr.split("record ").nth(1).expect("a row");
    let fields = shown.splitn(3, ": ").nth(2).expect("its fields");
    let name = fields.split(',').next().expect("a name");
    assert!(name.len() > 3 && !said.contains(name), "{name}: {said}");
    let events = test.records(&test.topics.runs);
    let events: Vec<u8> = events
        .iter()
        .flat_map(|event| event.payload.to_vec())
        .collect();
    assert_eq!(memchr::memmem::find(&events, name.as_bytes()), None);
}

#[test]
fn two_runs_at_once_on_the_same_topics_and_workers_each_have_their_own_result() {
    let test = TestCluster::new("two-runs");
    let (few, many) = (data_set(&FEW_JOBS), data_set(&ROWS));
    let _workers = ["a", "b"].map(|id| test.worker(id, "1ms"));
    let one = test.dispatch(&few, &BY_DAY);
    test.assert_mid_run(&one);
    let other = test.dispatch(&many, &["--every", "week"]);
    // Both are on the topics and neither is done.
    test.assert_mid_run(&one);
    test.assert_mid_run(&other);
    let reports = std::thread::scope(|scope| {
        let runs = [&one, &other].map(|run| scope.spawn(|| test.aggregate_complete(&run.run_id)));
        runs.map(|run| run.join().expect("it is complete"))
    });
    assert_same(&reports[0], &local(&few, &BY_DAY));
    assert_same(&reports[1], &local(&many, &["--every", "week"]));
}

#[test]
fn an_aggregator_that_comes_after_everything_is_done_reports_the_same_as_a_second_one() {
    let test = TestCluster::new("late-aggregator");
    let data_set = data_set(&ROWS);
    let _workers = ["a", "b"].map(|id| test.worker(id, "0ms"));
    let run = test.dispatch(&data_set, &[]);
    wait_until("all jobs are done", || {
        test.jobs_with_outcome(&run.run_id) == run.jobs
    });
    test.wait_until_committed();
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &[]));

    // The latest run is this one; the file is the same to the byte.
    let again = test.folder.path().join("again");
    let mut command = test.service("aggregator");
    command.args(["--timeout", "60s", "--out"]).arg(&again);
    finish(command).expect_code(0);
    let series = |out| fs::read(std::path::Path::join(out, "series.csv")).expect("a series");
    assert_eq!(series(&test.out(&run.run_id)), series(&again));
}

#[test]
fn an_aggregator_gives_up_on_a_run_without_workers_and_says_what_is_missing() {
    let test = TestCluster::new("no-workers");
    let data_set = data_set(&FEW_JOBS);
    let run = test.dispatch(&data_set, &BY_DAY);
    test.aggregate(&run.run_id, "2s").expect_code(4);
    let report = report(&test.out(&run.run_id));
    assert_eq!(report["status"], "incomplete");
    assert_eq!(report["jobs"]["missing"], run.jobs);
    assert_eq!(report["missing"][0], 0);
}

#[test]
fn an_aggregator_refuses_a_grain_that_the_run_does_not_add_up_to_before_it_waits() {
    let test = TestCluster::new("grain-out");
    test.dispatch(&data_set(&FEW_JOBS), &BY_DAY);
    let mut command = test.service("aggregator");
    command.args(["--grain-out", "hour", "--timeout", "60s", "--out"]);
    command.arg(test.folder.path().join("out"));
    let refused = finish(command).expect_code(2).stderr;
    assert!(
        refused.contains("a run by day adds up to day, week, month"),
        "{refused}"
    );
}

#[test]
fn no_name_city_or_birth_date_is_on_any_topic() {
    let test = TestCluster::new("privacy");
    let data_set = data_set(&FEW_JOBS);
    let _worker = test.worker("a", "0ms");
    let run = test.dispatch(&data_set, &BY_DAY);
    test.aggregate_complete(&run.run_id);
    let topics = test.topics.all().map(|topic| {
        let records = test.records(topic);
        let payloads: Vec<Vec<u8>> = records
            .iter()
            .map(|record| record.payload.to_vec())
            .collect();
        payloads.concat()
    });
    let everything = topics.concat();
    assert!(everything.len() > 200_000, "{} bytes", everything.len());
    let mut reader = csv::Reader::from_path(&data_set).expect("it can be read");
    let mut looked_for = 0;
    for record in reader.records().step_by(997) {
        let record = record.expect("a record");
        for private in [&record[0], &record[1], &record[3]] {
            looked_for += 1;
            // Shorter ones could be there by chance.
            if private.len() >= 6 && private != &record[2] {
                let found = memchr::memmem::find(&everything, private.as_bytes());
                assert_eq!(found, None, "{private} is on a topic");
            }
        }
        // What is needed is there, so the search can find something.
        assert!(memchr::memmem::find(&everything, record[2].as_bytes()).is_some());
    }
    assert!(looked_for > 500);
}

/// A dispatcher that is not ours: three jobs, the second of which has a result that is none, and a
/// message that is none at all.
pub fn dispatch_broken(test: &TestCluster, garbage: bool) -> RunId {
    let run_id = RunId::fresh();
    let spec = TopicSpec {
        partitions: 2,
        replication_factor: None,
        retention: Duration::from_secs(3_600),
    };
    topics::create(&test.cluster, &test.topics, &spec, &|| false).expect("topics");
    let mut producer = BatchProducer::new(&test.cluster).expect("a producer");
    let jobs_topic = producer.topic(&test.topics.jobs).expect("a topic");
    let runs_topic = producer.topic(&test.topics.runs).expect("a topic");
    let grouping = Grouping {
        label_columns: vec!["country".to_owned()],
        time_column: "test_date".to_owned(),
        grain: Grain::Hour,
        computation: positivity::computation("result", "positive", "negative"),
        max_rows_per_job: 10_000,
    };
    let publish = |event| {
        publish_run_event(&producer, &runs_topic, &event, Duration::from_secs(20)).expect("told");
    };
    publish(RunEvent::Opened(RunOpened {
        run_id: run_id.clone(),
        options: grouping.options(),
        opened_at_ms: 0,
        jobs_start_offsets: vec![0; 2],
        outcomes_start_offsets: vec![0; 2],
    }));
    let labels = LabelSet::new(["Italy"]);
    let mut encoder = JobBatchEncoder::new(&JobHeader {
        run_id: run_id.clone(),
        generation: 0,
        computation: grouping.computation.of_jobs().into(),
    });
    let mut hasher = JobSetHasher::new();
    let payloads: [&[u8]; 3] = [&[0, 1], &[1, 9, 0], &[1]];
    for (index, payload) in (0..).zip(payloads) {
        let job = Job {
            index,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(442_000 + index as i64),
            },
            part: 0,
            weight: payload.len() as u32,
            payload,
        };
        hasher.update(&job);
        encoder.push(&job);
    }
    let mut payload = Vec::new();
    encoder.finish(&mut payload);
    let mut producer = producer;
    let mut messages = vec![Outgoing {
        payload: &payload,
        id: 1,
    }];
    if garbage {
        messages.insert(
            0,
            Outgoing {
                payload: b"\xffno message",
                id: 0,
            },
        );
    }
    let refused = producer
        .produce(&jobs_topic, 1, &messages)
        .expect("produced");
    assert!(refused.is_empty());
    assert!(producer.drain(Duration::from_secs(20), &mut Vec::new()));
    let manifest = RunEvent::Dispatched(Manifest {
        run_id: run_id.clone(),
        jobs: 3,
        rows_read: 6,
        rows_accepted: 6,
        rejected: Default::default(),
        job_set_digest: hasher.finish(),
        messages: 1,
        stages: Vec::new(),
    });
    publish_run_event(&producer, &runs_topic, &manifest, Duration::from_secs(20)).expect("told");
    run_id
}

#[test]
fn a_job_that_fails_is_a_dead_letter_and_the_rest_of_its_message_is_counted() {
    let test = TestCluster::new("dead-letter");
    let run_id = dispatch_broken(&test, false);
    let _worker = test.worker("a", "0ms");
    test.aggregate(&run_id, "60s").expect_code(3);
    let report = report(&test.out(&run_id));
    assert_eq!(report["status"], "complete-with-dead-letters");
    assert_reconciled(&report);
    assert_eq!(report["jobs"]["counted"], 2);
    assert_eq!(report["jobs"]["dead_lettered"], 1);
    let letter = &report["dead_letters"][0];
    assert_eq!(
        (&letter["index"], &letter["attempts"]),
        (&1.into(), &3.into())
    );
    assert_eq!(
        letter["reason"]
            .as_str()
            .map(|reason| reason.contains("code 9")),
        Some(true)
    );
    let series = fs::read_to_string(test.out(&run_id).join("series.csv")).expect("a series");
    assert_eq!(
        series,
        "country,date_hour,tests,positive,rate\n\
         Italy,2020-06-03T16:00:00,2,1,0.5\n\
         Italy,2020-06-03T17:00:00,,,\n\
         Italy,2020-06-03T18:00:00,1,1,1\n"
    );
    // The dead job alone is in the queue, and its offset was committed behind it.
    let dlq = test.records(&test.topics.dlq);
    let dead: Vec<_> = dlq.iter().collect();
    assert_eq!(dead.len(), 1);
    let batch = JobBatch::decode(dead[0].payload).expect("a job");
    assert_eq!((batch.first_index(), batch.jobs_count()), (1, 1));
    test.wait_until_committed();
}

#[test]
fn a_message_that_is_none_goes_to_the_dlq_and_holds_nothing_up() {
    let test = TestCluster::new("garbage");
    let run_id = dispatch_broken(&test, true);
    let _worker = test.worker("a", "0ms");
    test.aggregate(&run_id, "60s").expect_code(3);
    test.wait_until_committed();
    let dlq = test.records(&test.topics.dlq);
    assert!(dlq.iter().any(|record| record.payload == b"\xffno message"));
    assert_eq!(dlq.len(), 2);
}

#[test]
fn one_command_runs_on_apache_kafka_and_leaves_no_topics_behind() {
    let broker = ApacheKafka::shared().bootstrap_servers();
    let data_set = data_set(&FEW_JOBS);
    let folder = crate::processes::folder();
    let mut command = rollcall();
    command.arg("run").arg(&data_set).args(BY_DAY);
    command.args(["--workers", "2", "--bootstrap-servers", &broker, "--out"]);
    command.arg(folder.path());
    let finished = finish(command).expect_code(0);
    assert!(finished.stdout.contains("complete"), "{}", finished.stdout);
    let report = report(folder.path());
    assert_same(&report, &local(&data_set, &BY_DAY));
    let run_id = report["run"]["run_id"].as_str().expect("a run id");
    let own = TestCluster::on(&broker, &format!("rollcall.{run_id}"));
    wait_until("the run's topics are gone", || {
        let jobs = topics::partition_count(&own.cluster, &own.topics.jobs);
        jobs.expect("it can be asked").is_none()
    });
}

#[test]
fn workers_end_with_the_process_that_started_them_even_when_it_is_killed() {
    let broker = ApacheKafka::shared().bootstrap_servers();
    let data_set = data_set(&FEW_JOBS);
    let folder = crate::processes::folder();
    let mut command = rollcall();
    command.arg("run").arg(&data_set).args(BY_DAY);
    command.args(["--workers", "2", "--simulate-work", "20ms"]);
    command.args([
        "--topic-prefix",
        "killed-parent",
        "--bootstrap-servers",
        &broker,
        "--out",
    ]);
    command.arg(folder.path());
    let mut parent = Running::start(command, folder.path(), "parent");
    let mut workers = Vec::new();
    wait_until("two workers are there", || {
        workers = children(parent.id());
        workers.len() == 2
    });
    parent.kill();
    wait_until("the workers have ended", || {
        !workers.iter().any(|&worker| is_alive(worker))
    });
}

#[test]
fn a_broker_that_comes_late_is_waited_for_with_a_line_that_says_so() {
    let mut broker = ApacheKafka::start(&[]);
    broker.kill();
    let test = TestCluster::on(&broker.bootstrap_servers(), "late-broker");
    let data_set = data_set(&FEW_JOBS);
    let command = test.dispatcher(&data_set, &BY_DAY);
    let mut dispatcher = Running::start(command, test.folder.path(), "dispatcher");
    let mut worker = test.worker("a", "0ms");
    wait_until("both say that they wait", || {
        let waiting = "waiting for a broker at 127.0.0.1:";
        dispatcher.said().contains(waiting) && worker.said().contains(waiting)
    });
    assert!(dispatcher.is_running() && worker.is_running());
    broker.restart();
    assert_eq!(dispatcher.wait().code(), Some(0), "{}", dispatcher.said());
    let mut command = test.service("aggregator");
    command
        .args(["--timeout", "60s", "--out"])
        .arg(test.folder.path());
    finish(command).expect_code(0);
    assert_same(&report(test.folder.path()), &local(&data_set, &BY_DAY));
}

/// A broker that goes away takes partitions from workers which have made no progress on some of
/// them. Their marks must never make anybody stand still.
#[test]
fn a_broker_that_restarts_again_and_again_leaves_no_worker_standing_still() {
    let mut broker = ApacheKafka::start(&[]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "restarts");
    let data_set = data_set(&FEW_JOBS);
    let _workers = ["a", "b", "c", "d"].map(|id| test.worker(id, "20ms"));
    let run = test.dispatch(&data_set, &["--every", "day", "--jobs-per-message", "20"]);
    for restarts in 1..=3 {
        test.wait_until_mid_run(&run, restarts * 300);
        broker.kill();
        broker.restart();
    }
    let report = test.aggregate_complete(&run.run_id);
    assert_same(&report, &local(&data_set, &BY_DAY));
}

//! Messages of strangers on rollcall's topics, on a real Apache Kafka: whoever may write to a topic can
//! be wrong, or mean harm, and stops nobody else's run by that.

use std::time::Duration;

use kafka::{BatchProducer, Outgoing, Topic, all_run_events};
use pipeline::job::MAX_PAYLOAD_BYTES;
use pipeline::{Computation, GroupKey, Job, JobHeader, LabelSet, TimeBucket};

use crate::cluster::TestCluster;
use crate::processes::{data_set, finish};

/// Few enough rows to be quick.
const ROWS: [&str; 4] = ["--rows", "1000", "--countries", "3"];

/// Writes messages with their keys to partition 0 of a topic.
#[track_caller]
pub fn write(test: &TestCluster, topic: &str, messages: &[(Option<&[u8]>, &[u8])]) {
    let mut producer = BatchProducer::new(&test.cluster).expect("a producer");
    let topic = producer.topic(topic).expect("a topic");
    write_by(&producer, &topic, messages);
}

/// Writes messages with their keys to partition 0 of a topic by a producer that is there already.
#[track_caller]
pub fn write_by(producer: &BatchProducer, topic: &Topic, messages: &[(Option<&[u8]>, &[u8])]) {
    for (key, payload) in messages {
        let message = Outgoing { payload, id: 0 };
        let taken = producer.produce_one(topic, 0, *key, &[], message);
        assert!(taken.expect("it can be produced"), "the queue is full");
    }
    let mut deliveries = Vec::new();
    assert!(producer.drain(Duration::from_secs(30), &mut deliveries));
    let failed = deliveries.iter().find_map(|delivery| delivery.error);
    assert_eq!(failed, None);
}

#[test]
fn what_is_no_event_of_a_run_stands_against_its_own_run_alone() {
    let test = TestCluster::new("strangers-runs");
    let dispatched = test.dispatch(&data_set(&ROWS), &[]);
    let huge = vec![0xff; 900_000];
    // (What has no key is refused by the broker itself, for the topic is compacted.)
    let garbage: [(Option<&[u8]>, &[u8]); 5] = [
        (Some(b"no-run"), b"x"),
        (Some(b"\xff\xff/opened"), b"\xff"),
        (Some(b"other-run/dispatched"), b"\xff\xff"),
        (Some(b"other-run/opened"), &huge),
        (Some(b"../../etc/aborted"), b"x"),
    ];
    write(&test, &test.topics.runs, &garbage);
    let worker = test.worker("worker", "0ms");
    test.aggregate_complete(&dispatched.run_id);
    // Others are listed, dispatched and taken up as if nothing had been.
    let events = all_run_events(&test.cluster, &test.topics.runs, &|| false).expect("events");
    // Its opening, manifest and verdict.
    assert_eq!(events.len(), 3);
    let listed = finish(test.service("runs")).expect_code(0);
    assert!(listed.stdout.contains(dispatched.run_id.as_str()));
    let second = test.dispatch(&data_set(&ROWS), &[]);
    let finished = test.aggregate(&second.run_id, "60s").expect_code(0);
    assert!(
        finished.stderr.contains("no event of a run, skipped"),
        "{}",
        finished.stderr
    );

    // What was told of the run itself and cannot be read may have been its end.
    let key = format!("{}/dispatched", dispatched.run_id);
    write(&test, &test.topics.runs, &[(Some(key.as_bytes()), b"\xff")]);
    let finished = test.aggregate(&dispatched.run_id, "60s").expect_code(1);
    let line = format!(
        "a message about run {} is no event of a run",
        dispatched.run_id
    );
    assert!(finished.stderr.contains(&line), "{}", finished.stderr);
    test.aggregate_complete(&second.run_id);
    drop(worker);
}

#[test]
fn a_job_that_no_message_of_a_worker_could_answer_is_a_dead_letter_and_costs_no_worker() {
    let test = TestCluster::new("strangers-jobs");
    let dispatched = test.dispatch(&data_set(&ROWS), &[]);
    let job = |labels: &LabelSet, payload: &[u8]| {
        let header = JobHeader {
            run_id: "a-stranger".parse().expect("a run id"),
            generation: 0,
            computation: Computation::named("count").into(),
        };
        let key = GroupKey {
            labels,
            time: TimeBucket::from_hours(0),
        };
        let job = Job {
            index: 0,
            key,
            part: 0,
            weight: payload.len() as u32,
            payload,
        };
        job.alone(&header)
    };
    // Their outcomes and letters would be larger than a producer's messages.
    let long_labels = job(&LabelSet::new(["x".repeat(980_000)]), &[0]);
    let many_labels = job(&LabelSet::new(vec![""; 490_000]), &[0]);
    let failing = vec![7; MAX_PAYLOAD_BYTES + 400_000];
    let many_results = job(&LabelSet::new(["x"]), &failing);
    let messages = [&long_labels, &many_labels, &many_results].map(|message| (None, &**message));
    write(&test, &test.topics.jobs, &messages);
    let mut worker = test.worker("worker", "0ms");
    test.aggregate_complete(&dispatched.run_id);
    test.wait_until_committed();
    assert!(worker.is_running(), "{}", worker.said());
    let letters = test.records(&test.topics.dlq);
    assert_eq!(letters.len(), 3);
}

#[test]
fn a_worker_that_does_not_know_a_computation_settles_nothing_of_it_and_leaves() {
    let test = TestCluster::new("strangers-computation");
    let dispatched = test.dispatch(&data_set(&ROWS), &[]);
    let labels = LabelSet::new(["x"]);
    let job = Job {
        index: 0,
        key: GroupKey {
            labels: &labels,
            time: None,
        },
        part: 0,
        weight: 1,
        payload: &[0],
    };
    let message = job.alone(&JobHeader {
        run_id: "a-stranger".parse().expect("a run id"),
        generation: 0,
        computation: Computation::named("of-another-fleet").into(),
    });
    write(&test, &test.topics.jobs, &[(None, &message)]);
    // Both come to the message, and none settles it for the other.
    for id in ["first", "second"] {
        let mut worker = test.worker(id, "0ms");
        assert_eq!(worker.wait().code(), Some(7), "{}", worker.said());
        let line = "computation of-another-fleet is not known here; known: positivity, count";
        assert!(worker.said().contains(line), "{}", worker.said());
    }
    assert!(test.records(&test.topics.dlq).is_empty());
    // What they had in hand beside it may be done, and is not lost.
    assert!(test.jobs_with_outcome(&dispatched.run_id) <= dispatched.jobs);
}

//! Transactions of the `kafka` crate on Apache Kafka: what becomes visible and when, and which error
//! says what. (The in-process broker knows no isolation.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use kafka::{
    Assigned, GroupConsumer, GroupMetadata, GroupOffsets, Membership, Outgoing, RebalanceListener,
    Topic, TopicSpec, TransactionError, TransactionalProducer, read_to_end, topics,
};
use pipeline::offsets::{Commit, Start};

use crate::cluster::TestCluster;
use crate::processes::wait_until;

/// For calls that ought to take milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);

const PARTITIONS: usize = 2;

fn cluster(test: &str) -> TestCluster {
    let test = TestCluster::new(test);
    let spec = TopicSpec {
        partitions: PARTITIONS,
        replication_factor: None,
        retention: Duration::from_secs(3_600),
    };
    topics::create(&test.cluster, &test.topics, &spec, &|| false).expect("topics");
    test
}

/// A producer that may begin, on the outcomes topic.
fn producer(test: &TestCluster, name: &str) -> (TransactionalProducer, Topic) {
    let name = format!("{}-{name}", test.prefix);
    let mut producer = TransactionalProducer::new(&test.cluster, &name).expect("a producer");
    let topic = producer.topic(&test.topics.outcomes).expect("a topic");
    producer.init(TIMEOUT).expect("initialised");
    (producer, topic)
}

fn produce(producer: &mut TransactionalProducer, topic: &Topic, payloads: &[&[u8]]) {
    let messages: Vec<Outgoing<'_>> = payloads
        .iter()
        .enumerate()
        .map(|(id, payload)| Outgoing { payload, id })
        .collect();
    let refused = producer.produce(|batches| batches.produce(topic, 0, &messages));
    let refused = refused.expect("produced");
    assert!(refused.is_empty());
}

fn drain(producer: &TransactionalProducer) {
    let drained = producer.drain(TIMEOUT);
    drained.expect("acknowledged");
}

/// What a reader of committed records finds.
fn read(test: &TestCluster) -> Vec<Vec<u8>> {
    let records = test.records(&test.topics.outcomes);
    let payloads = records.iter().map(|record| record.payload.to_vec());
    payloads.collect()
}

fn commit(partition: i32, offset: i64) -> Commit {
    Commit {
        partition,
        offset,
        metadata: "a mark".to_owned(),
    }
}

/// Notes whether it has partitions.
#[derive(Clone, Default)]
struct Partitions(Arc<AtomicBool>);

impl RebalanceListener for Partitions {
    fn assigned(&self, _: &[Start]) -> Assigned {
        self.0.store(true, Ordering::Relaxed);
        Assigned::default()
    }

    fn revoked(&self, _: &[i32], _: &dyn Fn() -> Option<GroupMetadata>) -> Vec<Commit> {
        Vec::new()
    }

    fn lost(&self, _: &[i32]) {}

    fn committed(&self, _: &[Commit]) {}

    fn commit_failed(&self) {}
}

/// A member of the group that has partitions.
fn member(test: &TestCluster) -> GroupConsumer<Partitions> {
    let membership = Membership {
        group: test.group(),
        instance_id: None,
    };
    let listener = Partitions::default();
    let mut member = GroupConsumer::join(
        &test.cluster,
        &membership,
        &test.topics.jobs,
        listener.clone(),
    )
    .expect("a member");
    wait_until("it has partitions", || {
        member.poll().expect("it goes on");
        listener.0.load(Ordering::Relaxed)
    });
    member
}

fn metadata(member: &GroupConsumer<Partitions>) -> GroupMetadata {
    member.group_metadata().expect("it has joined")
}

fn committed(test: &TestCluster) -> Vec<Commit> {
    let group = GroupOffsets::new(&test.cluster, &test.group(), &test.topics.jobs, PARTITIONS);
    let committed = group.expect("a client").commits();
    committed.expect("it can be asked")
}

#[test]
fn what_is_committed_is_read_and_what_is_aborted_is_not() {
    let test = cluster("committed-and-aborted");
    let (mut producer, topic) = producer(&test, "a");
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"one", b"two"]);
    drain(&producer);
    producer.commit(TIMEOUT).expect("committed");

    // Acknowledged and aborted, on its way and aborted.
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"never"]);
    drain(&producer);
    producer.abort(TIMEOUT).expect("aborted");
    let many = vec![b"nor this".as_slice(); 10_000];
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &many);
    producer.abort(TIMEOUT).expect("aborted");

    // An abort is not the end of its producer.
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"three"]);
    drain(&producer);
    producer.commit(TIMEOUT).expect("committed");
    assert_eq!(read(&test), [b"one".as_slice(), b"two", b"three"]);
}

#[test]
fn whoever_reads_to_the_end_waits_until_transactions_are_decided() {
    let test = cluster("undecided");
    let (mut producer, topic) = producer(&test, "a");
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"one"]);
    drain(&producer);
    let (asks, asked) = mpsc::channel();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // Asked whether it is to stop whenever it has to wait.
            let waits = move || asks.send(()).is_err();
            let mut found = Vec::new();
            let read = read_to_end(
                &test.cluster,
                &test.topics.outcomes,
                &[],
                &waits,
                &mut |record| {
                    found.push(record.payload.to_vec());
                },
            );
            read.map(|()| found)
        });
        asked.recv_timeout(TIMEOUT).expect("it waits");
        producer.commit(TIMEOUT).expect("committed");
        let found = reading.join().expect("no panic");
        assert_eq!(found.expect("it was not stopped"), [b"one"]);
    });
}

#[test]
fn offsets_are_committed_with_their_transaction_or_not_at_all() {
    let test = cluster("offsets-in-transactions");
    let (mut producer, topic) = producer(&test, "a");
    let member = member(&test);
    let send = |producer: &TransactionalProducer, offset| {
        let commits = [commit(0, offset), commit(1, offset + 1)];
        let added = producer.send_offsets(&test.topics.jobs, &commits, metadata(&member), TIMEOUT);
        added.expect("added");
        commits
    };
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"an outcome"]);
    drain(&producer);
    send(&producer, 5);
    producer.abort(TIMEOUT).expect("aborted");
    assert_eq!(committed(&test), []);
    producer.begin().expect("begun");
    let sent = send(&producer, 7);
    // Whoever asks now is told when the transaction has ended, and of nothing older.
    let (asking, is_asking) = mpsc::channel();
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            asking.send(()).expect("somebody listens");
            committed(&test)
        });
        is_asking.recv().expect("it asks");
        producer.commit(TIMEOUT).expect("committed");
        assert_eq!(asked.join().expect("it was told"), sent);
    });
    member.close(TIMEOUT);
}

#[test]
fn a_producer_whose_name_is_taken_is_told_so() {
    let test = cluster("fenced");
    let (mut first, topic) = producer(&test, "a");
    first.begin().expect("begun");
    produce(&mut first, &topic, &[b"of the first"]);
    drain(&first);
    let (mut second, topic) = producer(&test, "a");
    let refused = first.commit(TIMEOUT);
    assert!(
        matches!(refused, Err(TransactionError::Fenced(_))),
        "{refused:?}"
    );
    second.begin().expect("begun");
    produce(&mut second, &topic, &[b"of the second"]);
    drain(&second);
    second.commit(TIMEOUT).expect("committed");
    assert_eq!(read(&test), [b"of the second"]);
    // Renewed, the first one takes its name back.
    first.renew().expect("a new client");
    first.init(TIMEOUT).expect("initialised");
    first.begin().expect("begun");
    produce(&mut first, &topic, &[b"of the first again"]);
    drain(&first);
    first.commit(TIMEOUT).expect("committed");
    assert_eq!(read(&test).len(), 2);
}

#[test]
fn a_zombie_of_an_old_generation_cannot_commit_and_can_go_on() {
    let test = cluster("zombie");
    let (mut producer, topic) = producer(&test, "zombie");
    let former = member(&test);
    let old = metadata(&former);
    former.close(TIMEOUT);
    let successor = member(&test);
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"of a zombie"]);
    drain(&producer);
    let refused = producer.send_offsets(&test.topics.jobs, &[commit(0, 9)], old, TIMEOUT);
    assert!(
        matches!(refused, Err(TransactionError::Abortable(_))),
        "{refused:?}"
    );
    producer.abort(TIMEOUT).expect("aborted");
    assert_eq!(committed(&test), []);
    assert!(read(&test).is_empty());
    producer.begin().expect("begun");
    let now = metadata(&successor);
    let added = producer.send_offsets(&test.topics.jobs, &[commit(0, 9)], now, TIMEOUT);
    added.expect("added");
    producer.commit(TIMEOUT).expect("committed");
    assert_eq!(committed(&test), [commit(0, 9)]);
    successor.close(TIMEOUT);
}

#[test]
fn a_transaction_whose_end_nobody_heard_of_is_ended_by_the_next_producer_of_its_name() {
    let test = cluster("unknown-end");
    let (mut producer, topic) = producer(&test, "a");
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"open"]);
    drain(&producer);
    // No time at all for the answer to arrive.
    let ended = producer.commit(Duration::ZERO);
    assert!(
        matches!(ended, Ok(()) | Err(TransactionError::Unknown(_))),
        "{ended:?}"
    );
    producer.renew().expect("a new client");
    producer.init(TIMEOUT).expect("initialised");
    // It is known now, whichever it is: the partition can be read to its end.
    let before = read(&test).len();
    producer.begin().expect("begun");
    produce(&mut producer, &topic, &[b"next"]);
    drain(&producer);
    producer.commit(TIMEOUT).expect("committed");
    assert_eq!(read(&test).len(), before + 1);
}

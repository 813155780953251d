//! Every path through librdkafka's C API, on the in-process broker: small enough to be run under
//! valgrind as well (docs/reliability.md), which sees what the compiler cannot.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kafka::{
    Assigned, BatchProducer, BrokerArgs, Cluster, GroupConsumer, GroupMetadata, GroupOffsets,
    Header, InProcessBroker, Membership, Outgoing, Reader, RebalanceListener, RecordBatch,
    TopicNames, beginning_offsets, end_offsets, in_process, read_dlq, read_to_end, topics,
};
use pipeline::offsets::{Commit, Start};

const PARTITIONS: usize = 2;

/// Nothing takes so long, under valgrind and on a busy machine either.
const DEADLINE: Duration = Duration::from_secs(120);

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

struct Stage {
    cluster: Cluster,
    names: TopicNames,
    // Dropped last.
    _broker: InProcessBroker,
}

impl Stage {
    fn set() -> Self {
        Self::set_for(1)
    }

    /// For a group that begins with so many members.
    fn set_for(members: usize) -> Self {
        let names = TopicNames::new("test");
        let broker = InProcessBroker::start(&names, PARTITIONS, members).expect("a broker");
        let session = (
            "session.timeout.ms",
            in_process::SESSION_TIMEOUT_MS.to_string(),
        );
        let args = BrokerArgs {
            bootstrap_servers: Some(broker.bootstrap_servers().to_owned()),
            properties: vec![(session.0.to_owned(), session.1)],
            kafka_properties_file: None,
            properties_text: String::new(),
            broker_timeout: DEADLINE,
        };
        let cluster = Cluster::new(&args, "test").expect("a cluster");
        cluster.wait_until_reachable(&|| false).expect("a broker");
        Self {
            cluster,
            names,
            _broker: broker,
        }
    }

    /// Publishes texts to each partition of the jobs topic and waits until they are there.
    fn publish(&self, texts: &[String]) {
        let mut producer = BatchProducer::new(&self.cluster).expect("a producer");
        let topic = producer.topic(&self.names.jobs).expect("a topic");
        let mut deliveries = Vec::new();
        for partition in 0..PARTITIONS as i32 {
            let mut left: Vec<_> = texts
                .iter()
                .enumerate()
                .map(|(id, text)| Outgoing {
                    payload: text.as_bytes(),
                    id,
                })
                .collect();
            while !left.is_empty() {
                left = producer
                    .produce(&topic, partition, &left)
                    .expect("it is taken");
                producer.poll(&mut deliveries);
            }
        }
        assert!(producer.drain(DEADLINE, &mut deliveries));
        assert_eq!(deliveries.len(), texts.len() * PARTITIONS);
        assert!(deliveries.iter().all(|delivery| delivery.error.is_none()));
        let ids: BTreeMap<usize, usize> =
            deliveries
                .iter()
                .fold(BTreeMap::new(), |mut ids, delivery| {
                    *ids.entry(delivery.id).or_default() += 1;
                    ids
                });
        assert!(
            ids.values().all(|&times| times == PARTITIONS),
            "each id comes back"
        );
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("message {number} {}", "x".repeat(number % 50)))
        .collect()
}

#[test]
fn batches_come_back_as_they_were_produced() {
    let stage = Stage::set();
    let texts = texts(3_000);
    stage.publish(&texts);
    let (cluster, jobs) = (&stage.cluster, &stage.names.jobs);
    let end = end_offsets(cluster, jobs, PARTITIONS).expect("it has an end");
    assert_eq!(end, [texts.len() as i64; PARTITIONS]);
    let beginning = beginning_offsets(cluster, jobs, PARTITIONS).expect("a beginning");
    let mut reader = Reader::start(cluster, jobs, &beginning).expect("a reader");
    let mut batch = RecordBatch::default();
    wait_until("all is read", || {
        reader
            .read(Duration::from_millis(5), &mut batch)
            .expect("it can be read");
        reader.has_reached(&end)
    });
    for partition in 0..PARTITIONS as i32 {
        let own = batch.iter().filter(|record| record.partition == partition);
        let payloads: Vec<_> = own.map(|record| record.payload).collect();
        assert!(
            payloads
                .iter()
                .copied()
                .eq(texts.iter().map(|text| text.as_bytes()))
        );
    }
}

#[test]
fn keys_tombstones_and_headers_come_back() {
    let stage = Stage::set();
    let mut producer = BatchProducer::new(&stage.cluster).expect("a producer");
    let runs = producer.topic(&stage.names.runs).expect("a topic");
    let dlq = producer.topic(&stage.names.dlq).expect("a topic");
    let message = Outgoing {
        payload: b"value",
        id: 7,
    };
    let headers = [Header {
        key: "why",
        value: "because",
    }];
    assert!(
        producer
            .produce_one(&runs, 0, Some(b"key"), &[], message)
            .expect("taken")
    );
    assert!(producer.produce_tombstone(&runs, 0, b"key").expect("taken"));
    assert!(
        producer
            .produce_one(&dlq, 0, None, &headers, message)
            .expect("taken")
    );
    let mut deliveries = Vec::new();
    assert!(producer.drain(DEADLINE, &mut deliveries));

    let mut seen = Vec::new();
    read_to_end(
        &stage.cluster,
        &stage.names.runs,
        &[],
        &|| false,
        &mut |record| {
            seen.push((record.key.map(<[u8]>::to_vec), record.payload.to_vec()));
        },
    )
    .expect("it can be read");
    let key = Some(b"key".to_vec());
    assert_eq!(seen, [(key.clone(), b"value".to_vec()), (key, Vec::new())]);

    let mut letters = Vec::new();
    read_dlq(&stage.cluster, &stage.names.dlq, &|| false, &mut |letter| {
        letters.push(letter)
    })
    .expect("it can be read");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].payload, b"value");
    assert_eq!(
        letters[0].headers,
        [("why".to_owned(), "because".to_owned())]
    );
}

/// Has partition 1 read apart, and remembers what it is told.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<Start>>>);

impl Listener {
    fn starts(&self) -> Vec<Start> {
        self.0.lock().expect("no panic").clone()
    }
}

impl RebalanceListener for Listener {
    fn assigned(&self, starts: &[Start]) -> Assigned {
        self.0.lock().expect("no panic").extend_from_slice(starts);
        Assigned {
            commits: Vec::new(),
            apart: vec![1],
        }
    }

    fn revoked(
        &self,
        _partitions: &[i32],
        member: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Vec<Commit> {
        assert!(member().is_some());
        Vec::new()
    }

    fn lost(&self, _partitions: &[i32]) {}
    fn committed(&self, _commits: &[Commit]) {}
    fn commit_failed(&self) {}
}

fn join(stage: &Stage, listener: &Listener) -> GroupConsumer<Listener> {
    let membership = Membership {
        group: "test.worker".to_owned(),
        instance_id: None,
    };
    let jobs = &stage.names.jobs;
    let joined = GroupConsumer::join(&stage.cluster, &membership, jobs, listener.clone());
    let mut member = joined.expect("it joins");
    wait_until("it has both partitions", || {
        member.poll().expect("it goes on");
        listener.starts().len() == PARTITIONS
    });
    member
}

#[test]
fn a_member_reads_together_and_apart_commits_and_leaves() {
    let stage = Stage::set();
    let texts = texts(500);
    stage.publish(&texts);
    let listener = Listener::default();
    let mut member = join(&stage, &listener);
    assert!(member.group_metadata().is_some());
    let (mut together, mut apart) = (RecordBatch::default(), RecordBatch::default());
    wait_until("some of both is read", || {
        member.poll().expect("it goes on");
        member
            .consume(Duration::from_millis(2), &mut together)
            .expect("read");
        member.consume_apart(1, 3, &mut apart).expect("read");
        together.len() == texts.len() && apart.len() >= 3
    });
    assert!(together.iter().all(|record| record.partition == 0));
    assert!(apart.iter().all(|record| record.partition == 1));
    assert_eq!(member.lag([(0, texts.len() as i64)]), 0);
    // From now on the other one comes with the rest, in its order.
    member.join_others(1);
    let rest = texts.len() - apart.len();
    let mut joined = RecordBatch::default();
    wait_until("the rest is read", || {
        member.poll().expect("it goes on");
        member
            .consume_one(Duration::from_millis(2), &mut joined)
            .expect("read");
        joined.len() == rest
    });
    let offsets: Vec<_> = joined.iter().map(|record| record.offset).collect();
    assert!(offsets.is_sorted() && offsets[0] == apart.len() as i64);

    let commit = |partition, offset, metadata: &str| Commit {
        partition,
        offset,
        metadata: metadata.to_owned(),
    };
    assert!(member.commit_now(&[commit(0, 3, "")]));
    member.commit(&[commit(1, 4, "a mark")]);
    let group = GroupOffsets::new(&stage.cluster, "test.worker", &stage.names.jobs, PARTITIONS);
    let group = group.expect("it can be asked");
    wait_until("both are committed", || {
        member.poll().expect("it goes on");
        group.committed().expect("it can be asked") == [3, 4]
    });
    let marks = group.commits().expect("it can be asked");
    assert_eq!(marks, [commit(0, 3, ""), commit(1, 4, "a mark")]);
    member.close(DEADLINE);

    // Whoever comes next is told where it begins, and what stands there.
    let listener = Listener::default();
    let next = join(&stage, &listener);
    let starts = listener.starts();
    let of = |partition| {
        starts
            .iter()
            .find(|start| start.partition == partition)
            .expect("a start")
    };
    assert_eq!(
        (of(0).offset, of(0).metadata.as_str(), of(0).end),
        (3, "", None)
    );
    let end = Some(texts.len() as i64);
    assert_eq!(
        (of(1).offset, of(1).metadata.as_str(), of(1).end),
        (4, "a mark", end)
    );
    next.close(DEADLINE);
}

#[test]
fn members_that_begin_together_share_the_partitions() {
    let stage = Stage::set_for(PARTITIONS);
    let listeners: Vec<_> = (0..PARTITIONS).map(|_| Listener::default()).collect();
    let together = Barrier::new(PARTITIONS);
    thread::scope(|scope| {
        for (number, listener) in listeners.iter().enumerate() {
            let (stage, together) = (&stage, &together);
            scope.spawn(move || {
                let membership = Membership {
                    group: "test.worker".to_owned(),
                    instance_id: Some(format!("worker-{number}")),
                };
                let jobs = &stage.names.jobs;
                let joined =
                    GroupConsumer::join(&stage.cluster, &membership, jobs, listener.clone());
                let mut member = joined.expect("it joins");
                wait_until("it has a partition", || {
                    member.poll().expect("it goes on");
                    !listener.starts().is_empty()
                });
                // None leaves before the other has its own.
                together.wait();
                member.close(DEADLINE);
            });
        }
    });
    // Where one was late, another had its partitions first.
    let starts = listeners.iter().flat_map(Listener::starts);
    let mut given: Vec<_> = starts.map(|start| start.partition).collect();
    given.sort_unstable();
    given.dedup();
    assert!(given.iter().copied().eq(0..PARTITIONS as i32), "{given:?}");
}

#[test]
fn a_topic_that_is_not_there_is_told_and_a_message_for_a_partition_that_is_not_is_refused() {
    let stage = Stage::set();
    let known = |name: &str| topics::partition_count(&stage.cluster, name).expect("asked");
    assert_eq!(known(&stage.names.jobs), Some(PARTITIONS));
    assert_eq!(known("nobody.has.this"), None);
    let mut producer = BatchProducer::new(&stage.cluster).expect("a producer");
    let topic = producer.topic(&stage.names.jobs).expect("a topic");
    let message = Outgoing {
        payload: b"lost",
        id: 1,
    };
    let mut deliveries = Vec::new();
    // Before the topic's metadata are known it is taken, and given up then.
    wait_until("it is refused", || {
        let refused = producer.produce(&topic, 99, &[message]).is_err();
        producer.poll(&mut deliveries);
        refused || deliveries.iter().any(|delivery| delivery.error.is_some())
    });
    assert!(producer.drain(DEADLINE, &mut deliveries));
}

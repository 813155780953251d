//! The brokers that faults strike: one whose clients come through a proxy, and three that replicate to
//! each other. Both are started when the first row asks for them and serve all rows that do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use super::proxy::Proxy;
use crate::apache_kafka::{ApacheKafka, Peculiarities, Ports, free_port};
use crate::processes::{signal, wait_until};

/// Three brokers and what strikes them share a small machine.
fn small<'a>(settings: &'a [(&'a str, &'a str)]) -> Peculiarities<'a> {
    Peculiarities {
        settings,
        jvm_options: &["-Xms128m", "-Xmx256m"],
        ..Peculiarities::default()
    }
}

/// The log cleaner's buffer is 128 MiB by default: half of that heap, and a restart runs out of it.
const SMALL_BUFFER: (&str, &str) = ("log.cleaner.dedupe.buffer.size", "4194304");

/// A broker that is killed is missed after 3 s, not 9: rows are many. Where three of them wait for a
/// core, elections need more than a second, and a start more than the minute that it may take.
const MISSED_SOON: [(&str, &str); 6] = [
    SMALL_BUFFER,
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "300"),
    ("controller.quorum.election.timeout.ms", "2000"),
    ("controller.quorum.fetch.timeout.ms", "4000"),
    ("initial.broker.registration.timeout.ms", "180000"),
];

/// What one broker of a single-node cluster has.
const ALONE: [(&str, &str); 4] = [
    SMALL_BUFFER,
    ("initial.broker.registration.timeout.ms", "180000"),
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "300"),
];

/// Copies of everything, of which two are to be there.
const REPLICATED: [(&str, &str); 8] = [
    ("default.replication.factor", "3"),
    ("min.insync.replicas", "2"),
    ("offsets.topic.replication.factor", "3"),
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.replication.factor", "3"),
    ("transaction.state.log.min.isr", "2"),
    ("transaction.state.log.num.partitions", "1"),
    ("controlled.shutdown.retry.backoff.ms", "500"),
];

/// One node, with a second listener that clients reach through a proxy only.
#[derive(Debug)]
pub struct OneBroker {
    pub broker: ApacheKafka,
    pub proxy: Proxy,
}

impl OneBroker {
    /// Starts it, with `more` settings.
    #[track_caller]
    pub fn start(more: &[(&str, &str)]) -> Self {
        let ports = Ports::free().expect("free ports");
        let (behind, held) = free_port().expect("a free port");
        let (proxied, held_too) = free_port().expect("a free port");
        drop((held, held_too));
        let proxy = Proxy::start(proxied, behind);
        let at = |port: u16| format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let (direct, controller) = (at(ports.broker), at(ports.controller));
        let listeners = format!(
            "PLAINTEXT://{direct},PROXIED://{},CONTROLLER://{controller}",
            at(behind)
        );
        let advertised = format!("PLAINTEXT://{direct},PROXIED://{}", at(proxied));
        let own = [
            ("listeners", listeners.as_str()),
            ("advertised.listeners", &advertised),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            ),
            ("inter.broker.listener.name", "PLAINTEXT"),
        ];
        let settings = [own.as_slice(), &ALONE, more].concat();
        let broker = ApacheKafka::launch(ports, small(&settings));
        Self {
            broker: broker.unwrap_or_else(|reason| panic!("{reason}")),
            proxy,
        }
    }

    /// Where clients go that are to meet the proxy.
    pub fn through_the_proxy(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.proxy.port)
    }
}

/// Three nodes, each broker and controller: one of them may be away.
#[derive(Debug)]
pub struct ThreeBrokers {
    pub brokers: Vec<ApacheKafka>,
}

impl ThreeBrokers {
    #[track_caller]
    pub fn start() -> Self {
        let ports: Vec<Ports> = (0..3).map(|_| Ports::free().expect("free ports")).collect();
        let voters: Vec<String> = (1..)
            .zip(&ports)
            .map(|(id, ports)| format!("{id}@{}:{}", Ipv4Addr::LOCALHOST, ports.controller))
            .collect();
        let voters = voters.join(",");
        // None of them answers before two of them are there.
        let brokers = thread::scope(|scope| {
            let starting: Vec<_> = (1..)
                .zip(ports)
                .map(|(id, ports): (i32, _)| {
                    let voters = &voters;
                    scope.spawn(move || {
                        let id = id.to_string();
                        let own = [
                            ("node.id", id.as_str()),
                            ("controller.quorum.voters", voters),
                        ];
                        let settings = [own.as_slice(), &MISSED_SOON, &REPLICATED].concat();
                        ApacheKafka::launch(ports, small(&settings))
                    })
                })
                .collect();
            let started = starting.into_iter().map(|node| node.join());
            started
                .map(|node| match node.expect("no panic") {
                    Ok(broker) => broker,
                    Err(reason) => panic!("{reason}"),
                })
                .collect()
        });
        Self { brokers }
    }

    pub fn bootstrap_servers(&self) -> String {
        let addresses: Vec<String> = self
            .brokers
            .iter()
            .map(ApacheKafka::bootstrap_servers)
            .collect();
        addresses.join(",")
    }

    /// The leader of a partition, as a position among the brokers, by whoever answers.
    #[track_caller]
    pub fn leader(&self, topic: &str, partition: i32) -> usize {
        let mut leader = None;
        wait_until("the partition has a leader", || {
            let partitions = self.partitions(topic);
            let own = partitions.iter().find(|own| own.partition == partition);
            leader = own.and_then(|own| usize::try_from(own.leader - 1).ok());
            leader.is_some()
        });
        leader.expect("waited for")
    }

    /// Waits until every partition of these topics is in sync on all three.
    #[track_caller]
    pub fn wait_until_in_sync(&self, topics: &[&str]) {
        for topic in topics {
            wait_until("all replicas are in sync", || {
                let partitions = self.partitions(topic);
                let mut in_sync = partitions.iter().map(|partition| partition.in_sync);
                !partitions.is_empty() && in_sync.all(|copies| copies == self.brokers.len())
            });
        }
    }

    fn partitions(&self, topic: &str) -> Vec<Partition> {
        let living = self
            .brokers
            .iter()
            .filter(|broker| broker.process_id().is_some());
        let mut answers = living.filter_map(|broker| {
            let address = broker.bootstrap_servers();
            ask_for_metadata(&address, topic).ok()
        });
        answers.next().unwrap_or_default()
    }
}

/// Ends a broker as its operator would, with its partitions handed to others first.
#[track_caller]
pub fn stop(broker: &mut ApacheKafka) {
    let id = broker.process_id().expect("it runs");
    signal(id, "TERM");
    wait_until("the broker has ended", || !crate::processes::is_alive(id));
    broker.kill(); // buries it
}

/// What a broker tells of a partition.
#[derive(Debug)]
struct Partition {
    partition: i32,
    leader: i32,
    in_sync: usize,
}

/// Sends a `Metadata` request for one topic. The layout of version 0:
/// <https://kafka.apache.org/protocol#The_Messages_Metadata>.
fn ask_for_metadata(address: &str, topic: &str) -> io::Result<Vec<Partition>> {
    let mut request = vec![
        0, 3, 0, 0, // Metadata, version 0
        0, 0, 0, 1, // correlation id
        0xff, 0xff, // no client id
        0, 0, 0, 1, // one topic
    ];
    let length = u16::try_from(topic.len()).map_err(io::Error::other)?;
    request.extend(length.to_be_bytes());
    request.extend(topic.as_bytes());
    let mut broker = TcpStream::connect(address)?;
    broker.set_read_timeout(Some(Duration::from_secs(2)))?;
    broker.write_all(&(request.len() as u32).to_be_bytes())?;
    broker.write_all(&request)?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer)?;
    let mut answer = Answer(&answer[4..]);
    for _ in 0..answer.int()? {
        answer.int()?; // id
        answer.text()?; // host
        answer.int()?; // port
    }
    let mut partitions = Vec::new();
    for _ in 0..answer.int()? {
        answer.short()?; // error
        answer.text()?; // name
        for _ in 0..answer.int()? {
            answer.short()?; // error
            let partition = answer.int()?;
            let leader = answer.int()?;
            for _ in 0..answer.int()? {
                answer.int()?; // replica
            }
            let in_sync = answer.int()?;
            for _ in 0..in_sync {
                answer.int()?;
            }
            partitions.push(Partition {
                partition,
                leader,
                in_sync: usize::try_from(in_sync).unwrap_or(0),
            });
        }
    }
    Ok(partitions)
}

/// What is left to be read of an answer.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut taken = [0; N];
        self.0.read_exact(&mut taken)?;
        Ok(taken)
    }

    fn short(&mut self) -> io::Result<i16> {
        self.take().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> io::Result<i32> {
        self.take().map(i32::from_be_bytes)
    }

    fn text(&mut self) -> io::Result<()> {
        for _ in 0..self.short()? {
            self.take::<1>()?;
        }
        Ok(())
    }
}

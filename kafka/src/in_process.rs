//! The in-process broker: librdkafka's own mock cluster, spoken to over TCP on loopback with the
//! real protocol, so that one command runs the pipeline with nothing installed.
//!
//! It lives in memory for the length of one run and keeps at most [`RETAINED_BYTES`] a partition,
//! the oldest of which it drops without a word. Whoever uses it bounds what is not yet committed.

use std::ffi::{CStr, CString};
use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka_sys as sys;

use crate::error::Error;
use crate::topics::TopicNames;

/// What the broker keeps of each partition, in bytes of record batches.
pub const RETAINED_BYTES: usize = 5 * 1024 * 1024;

/// The group's session time-out to use with this broker, and only with it: each later join or
/// leave waits for it, less one second. Shorter ones risk that a member which is starved of CPU for
/// so long joins again while its first request still waits, at which the mock cluster aborts.
pub const SESSION_TIMEOUT_MS: u32 = 2_000;

/// How long the first member waits for the others: a base, and so much more for each of them. One
/// that comes later waits for [`SESSION_TIMEOUT_MS`] less one second, and all others with it; as
/// many processes as there are members start at the same time, while the data set is read by all
/// cores. The default is 3 s.
const INITIAL_REBALANCE_DELAY_MS: i32 = 100;
const REBALANCE_DELAY_FOR_EACH_MS: i32 = 50;

/// More members than this are not waited for longer.
const MAX_MEMBERS_WAITED_FOR: usize = 20;

/// A broker that lives as long as this value.
pub struct InProcessBroker {
    cluster: *mut sys::rd_kafka_mock_cluster_t,
    /// The client that the cluster runs on; dropped after it.
    _client: BaseProducer,
    bootstrap_servers: String,
}

// SAFETY: the mock cluster's functions lock for themselves.
unsafe impl Send for InProcessBroker {}
// SAFETY: as above.
unsafe impl Sync for InProcessBroker {}

impl InProcessBroker {
    /// Starts a broker on a free port of 127.0.0.1 and makes the topics on it, for a group that
    /// begins with so many members.
    ///
    /// # Errors
    /// When the port or a topic cannot be had.
    pub fn start(names: &TopicNames, partitions: usize, members: usize) -> Result<Self, Error> {
        let client: BaseProducer = ClientConfig::new()
            .create()
            .map_err(Error::client("start the in-process broker"))?;
        // SAFETY: the client's handle is valid as long as `client`, which outlives the cluster.
        let cluster = unsafe { sys::rd_kafka_mock_cluster_new(client.client().native_ptr(), 1) };
        if cluster.is_null() {
            return Err(Error::InProcess { action: "start" });
        }
        // SAFETY: the cluster was just made; the string belongs to it and is copied.
        let bootstrap_servers = unsafe {
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, rebalance_delay(members));
            CStr::from_ptr(sys::rd_kafka_mock_cluster_bootstraps(cluster))
                .to_string_lossy()
                .into_owned()
        };
        let broker = Self {
            cluster,
            _client: client,
            bootstrap_servers,
        };
        broker.create_topics(names, partitions)?;
        Ok(broker)
    }

    /// Makes the topics while somebody knocks at the broker's door. Its thread serves requests such
    /// as these, and then throws away what it was woken by: of one that comes in between (the next
    /// topic, as a rule) it learns when it wakes by itself, after a second, or when somebody connects.
    fn create_topics(&self, names: &TopicNames, partitions: usize) -> Result<(), Error> {
        const KNOCK_EVERY: Duration = Duration::from_millis(5);
        let (done, knock_on) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while knock_on.recv_timeout(KNOCK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    // Whether it opens does not matter.
                    let _ = TcpStream::connect(&self.bootstrap_servers);
                }
            });
            let created = names.all().into_iter().try_for_each(|name| {
                let single = name == names.runs || name == names.dlq;
                self.create_topic(name, if single { 1 } else { partitions })
            });
            drop(done);
            created
        })
    }

    fn create_topic(&self, name: &str, partitions: usize) -> Result<(), Error> {
        let failed = Error::InProcess {
            action: "create a topic",
        };
        let (Ok(name), Ok(partitions)) = (CString::new(name), i32::try_from(partitions)) else {
            return Err(failed);
        };
        // SAFETY: cluster and name are valid for the call.
        let code =
            unsafe { sys::rd_kafka_mock_topic_create(self.cluster, name.as_ptr(), partitions, 1) };
        if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            Ok(())
        } else {
            Err(failed)
        }
    }

    /// Where it listens.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }
}

fn rebalance_delay(members: usize) -> i32 {
    match members {
        // There is nobody to wait for.
        0 | 1 => 1,
        more => {
            let members = more.min(MAX_MEMBERS_WAITED_FOR) as i32;
            INITIAL_REBALANCE_DELAY_MS + REBALANCE_DELAY_FOR_EACH_MS * members
        }
    }
}

impl Drop for InProcessBroker {
    fn drop(&mut self) {
        // SAFETY: made by `start`, destroyed once, before its client.
        unsafe { sys::rd_kafka_mock_cluster_destroy(self.cluster) };
    }
}

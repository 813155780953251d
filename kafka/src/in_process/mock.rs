//! librdkafka's mock cluster of one broker, as a value.

use std::ffi::{CStr, CString};
use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka_sys as sys;

use crate::error::Error;

/// What the cluster calls its only broker.
const BROKER_ID: i32 = 1;

/// Requests of consumers that form a group, of those that were received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupRequests {
    /// To join it.
    pub joins: usize,
    /// To learn who has which partitions.
    pub syncs: usize,
}

/// A cluster that lives as long as this value.
pub struct MockCluster {
    cluster: *mut sys::rd_kafka_mock_cluster_t,
    /// The client that the cluster runs on; dropped after it.
    _client: BaseProducer,
    bootstrap_servers: String,
}

// SAFETY: the mock cluster's functions lock for themselves.
unsafe impl Send for MockCluster {}
// SAFETY: as above.
unsafe impl Sync for MockCluster {}

impl MockCluster {
    /// Starts one on a free port of 127.0.0.1. The first member of a group waits so long for others.
    pub fn start(initial_rebalance_delay: Duration) -> Result<Self, Error> {
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
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(
                cluster,
                milliseconds(initial_rebalance_delay),
            );
            CStr::from_ptr(sys::rd_kafka_mock_cluster_bootstraps(cluster))
                .to_string_lossy()
                .into_owned()
        };
        Ok(Self {
            cluster,
            _client: client,
            bootstrap_servers,
        })
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Makes calls while somebody knocks at the broker's door. Its thread serves calls that are to
    /// change the cluster, and then throws away what it was woken by: of one that comes in between
    /// (the next call, as a rule) it learns when it wakes by itself, after a second, or when somebody
    /// connects.
    pub fn while_knocking<T>(&self, calls: impl FnOnce() -> T) -> T {
        const KNOCK_EVERY: Duration = Duration::from_millis(5);
        let (done, knock_on) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while knock_on.recv_timeout(KNOCK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    // Whether it opens does not matter.
                    let _ = TcpStream::connect(&self.bootstrap_servers);
                }
            });
            let answer = calls();
            drop(done);
            answer
        })
    }

    /// Makes a topic. To be called while somebody knocks.
    pub fn create_topic(&self, name: &str, partitions: usize) -> Result<(), Error> {
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

    /// Holds every answer back for so long from now on; what waits already goes out when it was to. To be
    /// called while somebody knocks.
    pub fn set_round_trip(&self, time: Duration) {
        // SAFETY: the cluster is valid. It fails for a broker that is not there, and this one is.
        unsafe { sys::rd_kafka_mock_broker_set_rtt(self.cluster, BROKER_ID, milliseconds(time)) };
    }

    /// Has each request noted that comes from now on.
    pub fn note_requests(&self) {
        // SAFETY: the cluster is valid.
        unsafe { sys::rd_kafka_mock_start_request_tracking(self.cluster) };
    }

    /// Notes no more, and forgets.
    pub fn forget_requests(&self) {
        // SAFETY: the cluster is valid.
        unsafe {
            sys::rd_kafka_mock_stop_request_tracking(self.cluster);
            sys::rd_kafka_mock_clear_requests(self.cluster);
        }
    }

    /// How many of the requests that were noted are those of groups.
    pub fn group_requests(&self) -> GroupRequests {
        const JOIN_GROUP: i16 = 11;
        const SYNC_GROUP: i16 = 14;
        let mut of_groups = GroupRequests::default();
        let mut number = 0;
        // SAFETY: the cluster is valid; it gives a list of its own, of so many valid requests, which is
        // destroyed once, with them, and not used after. Without any it may be null.
        unsafe {
            let requests = sys::rd_kafka_mock_get_requests(self.cluster, &raw mut number);
            if requests.is_null() {
                return of_groups;
            }
            for position in 0..number {
                match sys::rd_kafka_mock_request_api_key(*requests.add(position)) {
                    JOIN_GROUP => of_groups.joins += 1,
                    SYNC_GROUP => of_groups.syncs += 1,
                    _ => {}
                }
            }
            sys::rd_kafka_mock_request_destroy_array(requests, number);
        }
        of_groups
    }
}

fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

impl Drop for MockCluster {
    fn drop(&mut self) {
        // SAFETY: made by `start`, destroyed once, before its client.
        unsafe { sys::rd_kafka_mock_cluster_destroy(self.cluster) };
    }
}

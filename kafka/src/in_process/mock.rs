//! A safe wrapper of librdkafka's mock cluster, with one broker.

use std::ffi::{CStr, CString};
use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka_sys as sys;

use crate::error::Error;

/// The id of the only broker.
const BROKER_ID: i32 = 1;

/// The number of requests of group members among the tracked requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupRequests {
    /// JoinGroup requests.
    pub joins: usize,
    /// SyncGroup requests.
    pub syncs: usize,
}

/// A cluster that runs as long as this value exists.
pub struct MockCluster {
    cluster: *mut sys::rd_kafka_mock_cluster_t,
    /// The client that owns the cluster; dropped after it.
    _client: BaseProducer,
    bootstrap_servers: String,
}

// SAFETY: the mock cluster's functions take its lock themselves.
unsafe impl Send for MockCluster {}
// SAFETY: as above.
unsafe impl Sync for MockCluster {}

impl MockCluster {
    /// Starts a cluster on a free port of 127.0.0.1. The first member of a group waits for others for
    /// `initial_rebalance_delay`.
    pub fn start(initial_rebalance_delay: Duration) -> Result<Self, Error> {
        let client: BaseProducer = ClientConfig::new()
            .create()
            .map_err(Error::client("start the in-process broker"))?;
        // SAFETY: the client's handle is valid as long as `client`, which outlives the cluster.
        let cluster = unsafe { sys::rd_kafka_mock_cluster_new(client.client().native_ptr(), 1) };
        if cluster.is_null() {
            return Err(Error::InProcess { action: "start" });
        }
        // SAFETY: the cluster was just created; the string belongs to it and is copied.
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

    /// Its address, as `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Runs calls that change the cluster, and meanwhile wakes the cluster's thread every few
    /// milliseconds by connecting to it. After that thread has served such a call it drops the wake-up
    /// of a call that arrived meanwhile (usually the next one), and would serve that one only when it
    /// wakes by itself, after a second.
    pub fn with_wakeups<T>(&self, calls: impl FnOnce() -> T) -> T {
        const WAKE_INTERVAL: Duration = Duration::from_millis(5);
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while is_done.recv_timeout(WAKE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    // The attempt wakes the thread, whether it succeeds or not.
                    let _ = TcpStream::connect(&self.bootstrap_servers);
                }
            });
            let result = calls();
            drop(done);
            result
        })
    }

    /// Creates a topic. To be called inside [`with_wakeups`](Self::with_wakeups).
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

    /// Delays each response by this time from now on; those that already wait are not affected. To be
    /// called inside [`with_wakeups`](Self::with_wakeups).
    pub fn set_response_delay(&self, delay: Duration) {
        // SAFETY: the cluster is valid. The call fails only for a broker that does not exist; this one
        // does.
        unsafe { sys::rd_kafka_mock_broker_set_rtt(self.cluster, BROKER_ID, milliseconds(delay)) };
    }

    /// Tracks each request that arrives from now on.
    pub fn start_request_tracking(&self) {
        // SAFETY: the cluster is valid.
        unsafe { sys::rd_kafka_mock_start_request_tracking(self.cluster) };
    }

    /// Ends the tracking, and frees the tracked requests.
    pub fn stop_request_tracking(&self) {
        // SAFETY: the cluster is valid.
        unsafe {
            sys::rd_kafka_mock_stop_request_tracking(self.cluster);
            sys::rd_kafka_mock_clear_requests(self.cluster);
        }
    }

    /// The number of requests of group members among the tracked requests.
    pub fn group_requests(&self) -> GroupRequests {
        const JOIN_GROUP: i16 = 11;
        const SYNC_GROUP: i16 = 14;
        let mut of_groups = GroupRequests::default();
        let mut number = 0;
        // SAFETY: the cluster is valid; it returns a list of `number` valid requests, owned by the
        // caller, which is destroyed once, with the requests, and not used after. Without requests it
        // may be null.
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

/// A duration in milliseconds, at most `i32::MAX`.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

impl Drop for MockCluster {
    fn drop(&mut self) {
        // SAFETY: created by `start`, destroyed once, before its client.
        unsafe { sys::rd_kafka_mock_cluster_destroy(self.cluster) };
    }
}

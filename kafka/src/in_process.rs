//! The in-process broker: librdkafka's own mock cluster. Clients connect to it by TCP on loopback with
//! the real protocol, so one command runs the whole pipeline with nothing installed.
//!
//! It keeps everything in memory, for one run, and at most [`RETAINED_BYTES`] of each partition: it
//! deletes the oldest records without an error. So its users bound what is published and not yet
//! consumed.

use std::sync::Arc;
use std::time::Duration;

use join_barrier::JoinBarrier;
use mock::MockCluster;

use crate::error::Error;
use crate::topics::TopicNames;

mod join_barrier;
mod mock;

/// The bytes of record batches that the broker keeps of each partition.
pub const RETAINED_BYTES: usize = 5 * 1024 * 1024;

/// The session timeout for groups on this broker, in milliseconds; for no other broker. On the mock
/// cluster each join or leave after the first takes the session timeout less one second. With a shorter
/// timeout, a member that gets no CPU for as long may join again while its first request still waits,
/// which aborts the mock cluster.
pub const SESSION_TIMEOUT_MS: u32 = 2_000;

/// The constant part of the time that the first member of a group waits for the others. A member that
/// joins later waits for [`SESSION_TIMEOUT_MS`] less one second, and all others with it. The delay has
/// to cover the start of all worker processes at once, while the data set is read by all cores. The
/// mock cluster's default is 3 s.
const INITIAL_REBALANCE_DELAY: Duration = Duration::from_millis(100);

/// The part of that time for each member.
const REBALANCE_DELAY_FOR_EACH: Duration = Duration::from_millis(50);

/// The number of members from which on the delay does not grow any more.
const MAX_MEMBERS_WAITED_FOR: usize = 20;

/// A broker that runs as long as this value exists.
pub struct InProcessBroker {
    /// Dropped before the cluster that it controls.
    _join_barrier: Option<JoinBarrier>,
    cluster: Arc<MockCluster>,
}

impl InProcessBroker {
    /// Starts a broker on a free port of 127.0.0.1 and creates the topics. `members` is the number of
    /// consumers that are going to form the group.
    ///
    /// # Errors
    /// When the broker cannot start or a topic cannot be created.
    pub fn start(names: &TopicNames, partitions: usize, members: usize) -> Result<Self, Error> {
        let delay = rebalance_delay(members);
        let cluster = Arc::new(MockCluster::start(delay)?);
        cluster.with_wakeups(|| {
            names.all().into_iter().try_for_each(|name| {
                let single = name == names.runs || name == names.dlq;
                cluster.create_topic(name, if single { 1 } else { partitions })
            })
        })?;
        Ok(Self {
            _join_barrier: (members > 1).then(|| JoinBarrier::new(&cluster, members, delay)),
            cluster,
        })
    }

    /// Its address, as `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        self.cluster.bootstrap_servers()
    }
}

fn rebalance_delay(members: usize) -> Duration {
    match members {
        // There are no others to wait for.
        0 | 1 => Duration::from_millis(1),
        more => {
            let members = more.min(MAX_MEMBERS_WAITED_FOR) as u32;
            INITIAL_REBALANCE_DELAY + REBALANCE_DELAY_FOR_EACH * members
        }
    }
}

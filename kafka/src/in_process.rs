//! The in-process broker: librdkafka's own mock cluster, spoken to over TCP on loopback with the
//! real protocol, so that one command runs the pipeline with nothing installed.
//!
//! It lives in memory for the length of one run and keeps at most [`RETAINED_BYTES`] a partition,
//! the oldest of which it drops without a word. Whoever uses it bounds what is not yet committed.

use std::sync::Arc;
use std::time::Duration;

use head_start::HeadStart;
use mock::MockCluster;

use crate::error::Error;
use crate::topics::TopicNames;

mod head_start;
mod mock;

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
const INITIAL_REBALANCE_DELAY: Duration = Duration::from_millis(100);
const REBALANCE_DELAY_FOR_EACH: Duration = Duration::from_millis(50);

/// More members than this are not waited for longer.
const MAX_MEMBERS_WAITED_FOR: usize = 20;

/// A broker that lives as long as this value.
pub struct InProcessBroker {
    /// Dropped before the cluster that it looks at.
    _head_start: Option<HeadStart>,
    cluster: Arc<MockCluster>,
}

impl InProcessBroker {
    /// Starts a broker on a free port of 127.0.0.1 and makes the topics on it, for a group that
    /// begins with so many members.
    ///
    /// # Errors
    /// When the port or a topic cannot be had.
    pub fn start(names: &TopicNames, partitions: usize, members: usize) -> Result<Self, Error> {
        let delay = rebalance_delay(members);
        let cluster = Arc::new(MockCluster::start(delay)?);
        cluster.while_knocking(|| {
            names.all().into_iter().try_for_each(|name| {
                let single = name == names.runs || name == names.dlq;
                cluster.create_topic(name, if single { 1 } else { partitions })
            })
        })?;
        Ok(Self {
            _head_start: (members > 1).then(|| HeadStart::of_group(&cluster, members, delay)),
            cluster,
        })
    }

    /// Where it listens.
    pub fn bootstrap_servers(&self) -> &str {
        self.cluster.bootstrap_servers()
    }
}

fn rebalance_delay(members: usize) -> Duration {
    match members {
        // There is nobody to wait for.
        0 | 1 => Duration::from_millis(1),
        more => {
            let members = more.min(MAX_MEMBERS_WAITED_FOR) as u32;
            INITIAL_REBALANCE_DELAY + REBALANCE_DELAY_FOR_EACH * members
        }
    }
}

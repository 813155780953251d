//! A delay of the mock cluster's responses while a group forms, so that followers send their SyncGroup
//! request before the leader.
//!
//! Each member that forms a group sends two requests: JoinGroup, and SyncGroup to get its partitions.
//! The leader's SyncGroup carries the assignment. A real broker answers a follower's SyncGroup that
//! arrives after it; the mock cluster treats it as an error and makes all members join again, which
//! takes seconds. All members may send SyncGroup as soon as all have joined, but the leader first
//! requests the metadata of the topic. So each response is delayed while the group forms: the leader
//! waits for one response more than the followers, who are ahead by that delay.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::mock::{GroupRequests, MockCluster};

/// The delay of each response, by which followers are ahead of their leader. They need a millisecond
/// where each has a core, and a few time slices where a data set is read by all cores at the same time.
const RESPONSE_DELAY: Duration = Duration::from_millis(20);

/// The time between two counts of the requests.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The time after which responses are no longer delayed, even if the group has not formed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long before the end of the rebalance delay responses are delayed, even if members are missing.
const LEAD_TIME: Duration = Duration::from_millis(20);

/// What to do with the responses of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Send them at once: members are missing, and the group does not form yet.
    Send,
    /// Delay them: the group forms, and SyncGroup requests of followers are missing.
    Delay,
    /// All followers have sent SyncGroup.
    Done,
}

/// The group that is expected to form.
#[derive(Clone, Copy, Debug)]
struct ExpectedGroup {
    members: usize,
    /// How long the first member waits for the others.
    rebalance_delay: Duration,
}

impl ExpectedGroup {
    /// What to do after these requests. A member that joins after the rebalance delay makes the others
    /// join again; then they send both requests twice.
    fn next(self, since_first_join: Option<Duration>, requests: GroupRequests) -> Next {
        let GroupRequests { joins, syncs } = requests;
        let is_whole = joins >= self.members;
        let forms = since_first_join.is_some_and(|since| since + LEAD_TIME >= self.rebalance_delay);
        match (is_whole, forms) {
            (true, _) if syncs + 1 >= joins => Next::Done,
            (false, false) => Next::Send,
            _ => Next::Delay,
        }
    }
}

/// A thread that delays responses while the first group forms; it ends when this value is dropped.
pub struct JoinBarrier {
    /// Dropped first, which ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl JoinBarrier {
    /// Starts the thread for a group of `members`, before the first of them joins. That one waits for
    /// the others for `rebalance_delay`.
    pub fn new(cluster: &Arc<MockCluster>, members: usize, rebalance_delay: Duration) -> Self {
        let group = ExpectedGroup {
            members,
            rebalance_delay,
        };
        let (stop, stopped) = mpsc::channel();
        let cluster = Arc::clone(cluster);
        cluster.start_request_tracking();
        let thread = thread::Builder::new().name("join barrier".to_owned());
        let thread = thread.spawn(move || watch_group(&cluster, group, &stopped));
        Self {
            stop: Some(stop),
            // Without the thread responses are not delayed; the group may then form more slowly.
            thread: thread.ok(),
        }
    }
}

fn watch_group(cluster: &MockCluster, group: ExpectedGroup, stopped: &mpsc::Receiver<()>) {
    let started = Instant::now();
    let mut first_join = None;
    let mut is_delaying = false;
    while stopped.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout)
        && started.elapsed() < TIMEOUT
    {
        let requests = cluster.group_requests();
        if requests.joins > 0 {
            first_join.get_or_insert_with(Instant::now);
        }
        let since = first_join.map(|first: Instant| first.elapsed());
        match group.next(since, requests) {
            Next::Delay if !is_delaying => {
                cluster.with_wakeups(|| cluster.set_response_delay(RESPONSE_DELAY));
                is_delaying = true;
            }
            Next::Done => break,
            Next::Send | Next::Delay => {}
        }
    }
    if is_delaying {
        cluster.with_wakeups(|| cluster.set_response_delay(Duration::ZERO));
    }
    cluster.stop_request_tracking();
}

impl Drop for JoinBarrier {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is on standard error already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: ExpectedGroup = ExpectedGroup {
        members: 3,
        rebalance_delay: Duration::from_millis(250),
    };

    #[test]
    fn responses_are_delayed_from_the_last_join_to_the_last_followers_sync_group() {
        let early = Some(Duration::from_millis(50));
        let after = |joins, syncs| GROUP.next(early, GroupRequests { joins, syncs });
        assert_eq!(GROUP.next(None, GroupRequests::default()), Next::Send);
        assert_eq!(after(2, 0), Next::Send);
        assert_eq!(after(3, 0), Next::Delay);
        assert_eq!(after(3, 1), Next::Delay);
        assert_eq!(after(3, 2), Next::Done);
    }

    #[test]
    fn responses_are_delayed_until_a_late_member_and_the_rejoined_others_have_sent_sync_group() {
        let late = Some(Duration::from_millis(240));
        let after = |joins, syncs| GROUP.next(late, GroupRequests { joins, syncs });
        assert_eq!(after(2, 0), Next::Delay);
        assert_eq!(after(2, 2), Next::Delay);
        // The late member has joined, and the others have joined again.
        assert_eq!(after(5, 3), Next::Delay);
        assert_eq!(after(5, 4), Next::Done);
    }

    #[test]
    fn the_thread_of_a_group_that_never_forms_ends_when_its_barrier_is_dropped() {
        let cluster = Arc::new(MockCluster::start(Duration::ZERO).expect("a broker"));
        let barrier = JoinBarrier::new(&cluster, 2, Duration::ZERO);
        drop(barrier);
        assert_eq!(Arc::strong_count(&cluster), 1);
        assert_eq!(cluster.group_requests(), GroupRequests::default());
    }
}

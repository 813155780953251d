//! The bounds and timeouts of a worker's event loop, in one table.

use std::time::Duration;

/// The bounds and timeouts of a worker's event loop.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Finished work that the broker has not confirmed, at most. Beyond it no more messages are taken.
    /// Nor is finished work, unless it is for transactions: there it may be what the rest waits for.
    pub max_unconfirmed_bytes: usize,
    /// Pause between two looks at the queue of messages while there is work in hand.
    pub busy_wait: Duration,
    /// Pause between two looks while there is nothing to do.
    pub idle_wait: Duration,
    /// A partition that is read alone and of which nothing comes for this long has nothing that kills,
    /// unless some jobs of its next message have outcomes: that one is waited for.
    pub idle_timeout: Duration,
    /// How long messages may be on their way without a single acknowledgement. A broker that is away
    /// for longer is rare; a client that has lost sight of one that is there, after restarts in a row,
    /// was seen to stand still for good (librdkafka 2.12), and a new process is the cure.
    pub acknowledge_timeout: Duration,
    /// How long a rebalance waits for outcomes that are on their way to be acknowledged.
    pub revoke_timeout: Duration,
    /// How long a transaction is waited for before polling goes on.
    pub commit_timeout: Duration,
    /// How long winding down waits for the jobs in hand.
    pub jobs_timeout: Duration,
    /// How long it then takes at most to have them acknowledged, commit them and leave the group.
    pub leave_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_unconfirmed_bytes: 8 * 1024 * 1024,
            busy_wait: Duration::from_millis(2),
            idle_wait: Duration::from_millis(10),
            idle_timeout: Duration::from_secs(10),
            acknowledge_timeout: Duration::from_secs(120),
            revoke_timeout: Duration::from_millis(500),
            commit_timeout: Duration::from_millis(100),
            jobs_timeout: Duration::from_secs(20),
            leave_timeout: Duration::from_secs(5),
        }
    }
}

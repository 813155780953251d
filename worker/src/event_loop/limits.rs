//! The bounds and timeouts of a worker's event loop, in one table.

use std::time::Duration;

/// The bounds and timeouts of a worker's event loop.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest number of bytes of finished work that the broker has not acknowledged. At this
    /// number no more messages are taken, and, without transactions, no more finished work. With
    /// transactions finished work is still taken, because the open transaction may wait for it.
    pub max_unconfirmed_bytes: usize,
    /// The pause between two polls of the message queue while messages are in flight.
    pub busy_wait: Duration,
    /// The pause between two polls of the message queue while no message is in flight.
    pub idle_wait: Duration,
    /// The time after which the isolation of a partition ends when it has no message. It does not end
    /// where some jobs of the partition's next message have outcomes: that message is waited for.
    pub idle_timeout: Duration,
    /// The longest time for which messages may be in flight to the broker without a single
    /// acknowledgement. A broker is rarely away for longer, but after several restarts of a broker a
    /// client was seen that did not find it any more (librdkafka 2.12), which only a new process mends.
    pub acknowledge_timeout: Duration,
    /// The longest time for which a revocation waits for the acknowledgement of outcomes.
    pub revoke_timeout: Duration,
    /// The longest time for which a transaction is waited for before the group is polled again.
    pub commit_timeout: Duration,
    /// The longest time for which winding down waits for the jobs in flight.
    pub jobs_timeout: Duration,
    /// The longest time that it then takes to have their outcomes acknowledged and committed, and to
    /// leave the group.
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

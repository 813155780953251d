//! The policy by which an aggregator goes on to wait where nothing new comes. It gives up by what the
//! workers have before them and not by silence alone, for a slow job has no outcome until it is done.

use std::fmt;
use std::time::{Duration, Instant};

use super::idle_timer::IdleTimer;

/// The state of the workers of a run, as the cluster reports it; offsets are by partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersSeen {
    /// Members of the workers' group, those among them that have just died included.
    pub members: usize,
    /// The first message that the jobs topic keeps.
    pub jobs_kept: Vec<i64>,
    /// The committed offsets of the group on the jobs topic; 0 without one.
    pub jobs_committed: Vec<i64>,
    /// The end offsets of the jobs topic.
    pub jobs_end: Vec<i64>,
    /// Where the outcomes topic ends. It was asked for after what is committed, so the outcomes of all
    /// jobs that are committed are before it.
    pub outcomes_end: Vec<i64>,
}

/// The workers and messages that an aggregator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Members of the workers' group.
    pub members: usize,
    /// Messages of the jobs topic that they have not worked off.
    pub messages: u64,
}

/// The reason for which an aggregator gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Jobs are left, and the workers' group has no member that would do them.
    NoWorker {
        /// Messages of the jobs topic that are not worked off.
        messages: u64,
    },
    /// The workers have worked off all messages, and their outcomes were read.
    NothingLeft,
    /// The cluster could not be asked what the workers have before them.
    NotKnown,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorker { messages } => write!(
                f,
                "{messages} messages of jobs are left, and no worker is there to take them"
            ),
            Self::NothingLeft => f.write_str("the workers have no message of its jobs before them"),
            Self::NotKnown => f.write_str("what the workers have before them is not known"),
        }
    }
}

#[derive(Debug)]
enum State {
    /// Until the timer is over.
    Waits,
    /// The timer is over, and the cluster is to be asked.
    Asks,
    /// Outcomes are read up to these offsets, where those of all committed jobs are.
    ReadsOut(GaveUp, Vec<i64>),
}

/// The policy of one aggregator for one run.
#[derive(Debug)]
pub(super) struct IdlePolicy {
    timer: IdleTimer,
    state: State,
    /// Where the jobs of the run end, at the latest: where the jobs topic did when it was asked first
    /// in this silence, with the manifest there. The jobs behind it are of others.
    run_end: Option<Vec<i64>>,
}

impl IdlePolicy {
    /// Counts from `now`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self {
            timer: IdleTimer::new(limit, now),
            state: State::Waits,
            run_end: None,
        }
    }

    /// Restarts the wait, because there was progress.
    pub(super) fn restart(&mut self, now: Instant) {
        self.timer.restart(now);
        self.state = State::Waits;
        self.run_end = None;
    }

    /// Whether there was no progress within the limit.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.timer.is_over(now)
    }

    /// Whether the cluster is to be asked what the workers have before them.
    pub(super) fn asks(&self) -> bool {
        matches!(self.state, State::Asks)
    }

    /// Why nothing more is waited for, where outcomes were read up to before these offsets.
    pub(super) fn gives_up(&mut self, read: &[i64], now: Instant) -> Option<GaveUp> {
        match &self.state {
            State::Waits if self.is_over(now) => {
                self.state = State::Asks;
                None
            }
            State::ReadsOut(why, until)
                if read.iter().zip(until).all(|(read, end)| read >= end) =>
            {
                Some(*why)
            }
            State::Waits | State::Asks | State::ReadsOut(..) => None,
        }
    }

    /// The state of the workers; `None` where the cluster cannot be asked. The jobs of the run begin at
    /// `run_start`; `is_dispatched`: its manifest is there. Returns what is waited on, if anything.
    pub(super) fn apply(
        &mut self,
        seen: Option<WorkersSeen>,
        run_start: &[i64],
        is_dispatched: bool,
        now: Instant,
    ) -> Option<Backlog> {
        let Some(seen) = seen else {
            self.state = State::ReadsOut(GaveUp::NotKnown, Vec::new());
            return None;
        };
        if is_dispatched && self.run_end.is_none() {
            self.run_end = Some(seen.jobs_end.clone());
        }
        let end = self.run_end.as_ref().unwrap_or(&seen.jobs_end);
        let messages = left(&seen, run_start, end);
        let why = match (messages, seen.members) {
            (0, _) => GaveUp::NothingLeft,
            (messages, 0) => GaveUp::NoWorker { messages },
            (messages, members) => {
                self.state = State::Waits;
                self.timer.restart(now);
                return Some(Backlog { members, messages });
            }
        };
        self.state = State::ReadsOut(why, seen.outcomes_end);
        None
    }
}

/// Messages of a run, from `start` to `end`, that the group has not committed. What retention has
/// taken is waited for by nobody.
fn left(seen: &WorkersSeen, start: &[i64], end: &[i64]) -> u64 {
    let partitions = 0..seen.jobs_end.len();
    // Of partitions that were added since, everything is newer.
    let at = |offsets: &[i64], partition: usize| offsets.get(partition).copied().unwrap_or(0);
    let left = partitions.map(|own| {
        let done = [start, &seen.jobs_committed, &seen.jobs_kept].map(|known| at(known, own));
        let done = done.into_iter().max().unwrap_or(0);
        let end = at(end, own).min(at(&seen.jobs_end, own));
        u64::try_from(end - done).unwrap_or(0)
    });
    left.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A group of this many members that has committed this much of a topic of two partitions, of
    /// which the run has everything from 5 and 0 on.
    fn seen(members: usize, committed: [i64; 2], end: [i64; 2]) -> WorkersSeen {
        WorkersSeen {
            members,
            jobs_kept: vec![0, 0],
            jobs_committed: committed.to_vec(),
            jobs_end: end.to_vec(),
            outcomes_end: vec![9],
        }
    }

    struct Play {
        idle_policy: IdlePolicy,
        now: Instant,
    }

    impl Play {
        /// Nothing has come for the limit.
        fn silent() -> Self {
            let now = Instant::now();
            let mut own = Self {
                idle_policy: IdlePolicy::new(LIMIT, now),
                now,
            };
            own.pass();
            own
        }

        /// The limit passes once more.
        fn pass(&mut self) {
            assert_eq!(self.idle_policy.gives_up(&[0], self.now), None);
            assert!(!self.idle_policy.asks(), "before its time");
            self.now += LIMIT;
            assert_eq!(self.idle_policy.gives_up(&[0], self.now), None);
            assert!(self.idle_policy.asks());
        }

        fn apply(&mut self, seen: Option<WorkersSeen>, is_dispatched: bool) -> Option<Backlog> {
            let backlog = self
                .idle_policy
                .apply(seen, &[5, 0], is_dispatched, self.now);
            assert!(!self.idle_policy.asks());
            backlog
        }
    }

    #[test]
    fn a_member_with_messages_before_it_is_waited_for_however_long_it_takes() {
        let mut play = Play::silent();
        for _ in 0..100 {
            let backlog = play.apply(Some(seen(2, [0, 3], [6, 4])), true);
            let expected = Backlog {
                members: 2,
                messages: 2,
            };
            assert_eq!(backlog, Some(expected));
            play.pass();
        }
    }

    #[test]
    fn what_nobody_is_there_to_do_is_given_up_and_so_is_what_is_done() {
        let left = GaveUp::NoWorker { messages: 2 };
        let cases = [
            (Some(seen(0, [0, 3], [6, 4])), left),
            (Some(seen(2, [6, 4], [6, 4])), GaveUp::NothingLeft),
            // What is before the run is not its own.
            (Some(seen(2, [0, 0], [5, 0])), GaveUp::NothingLeft),
        ];
        for (seen, why) in cases {
            let mut play = Play::silent();
            assert_eq!(play.apply(seen, true), None);
            // The outcomes of what is committed are read first.
            assert_eq!(play.idle_policy.gives_up(&[8], play.now), None);
            assert_eq!(play.idle_policy.gives_up(&[9], play.now), Some(why));
        }
        let mut play = Play::silent();
        assert_eq!(play.apply(None, true), None);
        assert_eq!(
            play.idle_policy.gives_up(&[0], play.now),
            Some(GaveUp::NotKnown)
        );
    }

    #[test]
    fn what_comes_while_outcomes_are_read_out_begins_a_new_wait() {
        let mut play = Play::silent();
        assert_eq!(play.apply(Some(seen(0, [5, 0], [6, 4])), true), None);
        play.idle_policy.restart(play.now);
        assert_eq!(play.idle_policy.gives_up(&[9], play.now), None);
        play.pass();
    }

    #[test]
    fn jobs_that_others_publish_later_are_not_waited_for_once_the_run_is_dispatched() {
        let mut play = Play::silent();
        assert!(play.apply(Some(seen(1, [5, 0], [6, 0])), true).is_some());
        play.pass();
        assert_eq!(play.apply(Some(seen(1, [6, 0], [9, 9])), true), None);
        assert_eq!(
            play.idle_policy.gives_up(&[9], play.now),
            Some(GaveUp::NothingLeft)
        );
        // Without a manifest they may be its own.
        let mut play = Play::silent();
        assert!(play.apply(Some(seen(1, [5, 0], [6, 0])), false).is_some());
        play.pass();
        let backlog = play.apply(Some(seen(1, [6, 0], [9, 9])), false);
        assert_eq!(backlog.map(|backlog| backlog.messages), Some(12));
    }

    #[test]
    fn messages_that_retention_has_taken_are_not_waited_for() {
        let mut seen = seen(1, [0, 0], [6, 4]);
        seen.jobs_kept = vec![6, 4];
        assert_eq!(Play::silent().apply(Some(seen), true), None);
    }
}

//! Who forms a group on the mock cluster asks it twice: to join, and who has which partitions. The
//! second time the group's leader brings the answer. The mock cluster takes a follower that asks after
//! that for a mistake, and both for members that have to join again, which takes seconds; a broker
//! would answer it. Leader and followers may ask as soon as all have joined; but the leader has to know
//! the topic's partitions first, and asks for them. So while the group forms, each answer is held back
//! for some time: what the leader waits for, followers are ahead by.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::mock::{GroupRequests, MockCluster};

/// How far ahead of their leader followers are. It takes them a millisecond where they have a core, and
/// a time slice of the system's or a few where a data set is read by all cores at the time.
const HEAD_START: Duration = Duration::from_millis(20);

/// How often requests are counted.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A group that has not formed by then is left to itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do with the answers of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Members are still to join.
    LetThrough,
    /// All have joined, and followers still have to ask.
    HoldBack,
    /// All followers have asked.
    Done,
}

fn next(members: usize, requests: GroupRequests) -> Next {
    match requests {
        GroupRequests { joins, .. } if joins < members => Next::LetThrough,
        GroupRequests { syncs, .. } if syncs + 1 < members => Next::HoldBack,
        _ => Next::Done,
    }
}

/// Looks after the first group that forms, until this value is dropped.
pub struct HeadStart {
    /// Dropped first, at which the thread ends.
    until: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HeadStart {
    /// Gives a head start to the followers of a group of so many members, which nobody has asked to
    /// join yet.
    pub fn of_group(cluster: &Arc<MockCluster>, members: usize) -> Self {
        let (until, dropped) = mpsc::channel();
        let cluster = Arc::clone(cluster);
        cluster.note_requests();
        let thread = thread::Builder::new().name("head start".to_owned());
        let thread = thread.spawn(move || look_after(&cluster, members, &dropped));
        Self {
            until: Some(until),
            // Without a thread there is no head start, and all works as it would.
            thread: thread.ok(),
        }
    }
}

fn look_after(cluster: &MockCluster, members: usize, dropped: &mpsc::Receiver<()>) {
    let started = Instant::now();
    let mut held_back = false;
    while dropped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout)
        && started.elapsed() < PATIENCE
    {
        match next(members, cluster.group_requests()) {
            Next::HoldBack if !held_back => {
                cluster.while_knocking(|| cluster.set_round_trip(HEAD_START));
                held_back = true;
            }
            Next::Done => break,
            Next::LetThrough | Next::HoldBack => {}
        }
    }
    if held_back {
        cluster.while_knocking(|| cluster.set_round_trip(Duration::ZERO));
    }
    cluster.forget_requests();
}

impl Drop for HeadStart {
    fn drop(&mut self) {
        self.until = None;
        if let Some(thread) = self.thread.take() {
            // A panic of its was told on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_held_back_from_the_last_join_to_the_last_followers_request() {
        let after = |joins, syncs| next(3, GroupRequests { joins, syncs });
        assert_eq!(after(0, 0), Next::LetThrough);
        assert_eq!(after(2, 0), Next::LetThrough);
        assert_eq!(after(3, 0), Next::HoldBack);
        assert_eq!(after(3, 1), Next::HoldBack);
        assert_eq!(after(3, 2), Next::Done);
        assert_eq!(after(4, 3), Next::Done);
    }

    #[test]
    fn one_that_looks_after_a_group_which_never_forms_ends_with_its_value() {
        let cluster = Arc::new(MockCluster::start(1).expect("a broker"));
        let head_start = HeadStart::of_group(&cluster, 2);
        drop(head_start);
        assert_eq!(Arc::strong_count(&cluster), 1);
        assert_eq!(cluster.group_requests(), GroupRequests::default());
    }
}

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

/// So long before the group is to form answers are held back, whoever has joined by then.
const BEFORE: Duration = Duration::from_millis(20);

/// What to do with the answers of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Members are still to join, and have time.
    LetThrough,
    /// The group forms, or is about to, and followers still have to ask.
    HoldBack,
    /// All followers have asked.
    Done,
}

/// How a group is to form.
#[derive(Clone, Copy, Debug)]
struct Forming {
    members: usize,
    /// How long the first that joins waits for the others.
    delay: Duration,
}

impl Forming {
    /// A member that comes too late makes the others join again: then each of them asks twice.
    fn next(self, since_first_join: Option<Duration>, requests: GroupRequests) -> Next {
        let GroupRequests { joins, syncs } = requests;
        let is_whole = joins >= self.members;
        let forms = since_first_join.is_some_and(|since| since + BEFORE >= self.delay);
        match (is_whole, forms) {
            (true, _) if syncs + 1 >= joins => Next::Done,
            (false, false) => Next::LetThrough,
            _ => Next::HoldBack,
        }
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
    /// join yet, and whose first member waits for the others for so long.
    pub fn of_group(cluster: &Arc<MockCluster>, members: usize, delay: Duration) -> Self {
        let forming = Forming { members, delay };
        let (until, dropped) = mpsc::channel();
        let cluster = Arc::clone(cluster);
        cluster.note_requests();
        let thread = thread::Builder::new().name("head start".to_owned());
        let thread = thread.spawn(move || look_after(&cluster, forming, &dropped));
        Self {
            until: Some(until),
            // Without a thread there is no head start, and all works as it would.
            thread: thread.ok(),
        }
    }
}

fn look_after(cluster: &MockCluster, forming: Forming, dropped: &mpsc::Receiver<()>) {
    let started = Instant::now();
    let mut first_join = None;
    let mut held_back = false;
    while dropped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout)
        && started.elapsed() < PATIENCE
    {
        let requests = cluster.group_requests();
        if requests.joins > 0 {
            first_join.get_or_insert_with(Instant::now);
        }
        let since = first_join.map(|first: Instant| first.elapsed());
        match forming.next(since, requests) {
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

    const FORMING: Forming = Forming {
        members: 3,
        delay: Duration::from_millis(250),
    };

    #[test]
    fn answers_are_held_back_from_the_last_join_to_the_last_followers_request() {
        let early = Some(Duration::from_millis(50));
        let after = |joins, syncs| FORMING.next(early, GroupRequests { joins, syncs });
        assert_eq!(
            FORMING.next(None, GroupRequests::default()),
            Next::LetThrough
        );
        assert_eq!(after(2, 0), Next::LetThrough);
        assert_eq!(after(3, 0), Next::HoldBack);
        assert_eq!(after(3, 1), Next::HoldBack);
        assert_eq!(after(3, 2), Next::Done);
    }

    #[test]
    fn a_group_that_forms_without_the_last_member_has_its_head_start_twice() {
        let late = Some(Duration::from_millis(240));
        let after = |joins, syncs| FORMING.next(late, GroupRequests { joins, syncs });
        assert_eq!(after(2, 0), Next::HoldBack);
        assert_eq!(after(2, 2), Next::HoldBack);
        // The last one, and the others again.
        assert_eq!(after(5, 3), Next::HoldBack);
        assert_eq!(after(5, 4), Next::Done);
    }

    #[test]
    fn one_that_looks_after_a_group_which_never_forms_ends_with_its_value() {
        let cluster = Arc::new(MockCluster::start(Duration::ZERO).expect("a broker"));
        let head_start = HeadStart::of_group(&cluster, 2, Duration::ZERO);
        drop(head_start);
        assert_eq!(Arc::strong_count(&cluster), 1);
        assert_eq!(cluster.group_requests(), GroupRequests::default());
    }
}

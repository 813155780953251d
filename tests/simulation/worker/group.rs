//! What the group makes of a worker process: partitions that come and go, and what is then expected
//! of it.

use pipeline::mark::Reading;
use pipeline::offsets::{Commit, Start};
use worker::rebalance::RevocationAction;

use super::computing::Thread;
use super::connection::TOO_LONG;
use super::{Committer, Flow, WorkerProcess};
use crate::broker::Mail;
use crate::history::Shared;
use crate::mutants::Mutation;
use crate::seen::Seen;

impl WorkerProcess {
    /// Serves the group; false while a transaction holds the offset of a partition that comes.
    pub(super) fn poll(&mut self, shared: &mut Shared) -> Flow<bool> {
        if std::mem::take(&mut self.commit_has_failed) {
            self.event_loop.state_mut().apply_commit_failed();
        }
        if !shared.broker.group.knows(self.member) {
            shared.tell(|| format!("{} was taken for dead, and joins again", self.name.id));
            shared.saw(Seen::ZombieBack);
            let all: Vec<_> = self.fetch.keys().copied().collect();
            self.event_loop.lost(&all);
            self.stop_fetching(&all);
            self.member = shared.broker.group.join();
        }
        self.generation = shared.broker.group.generation();
        while let Some(mail) = shared.broker.group.next_mail(self.member) {
            if let Mail::Assign(partition) = *mail
                && shared.broker.has_pending_offset(partition)
                && shared.mutation != Some(Mutation::UndecidedOffsetsRead)
            {
                shared.saw(Seen::OffsetHeld);
                return Ok(false);
            }
            let Some(mail) = shared.broker.group.mail(self.member) else {
                break;
            };
            match mail {
                Mail::Assign(partition) => self.assigned(partition, shared)?,
                Mail::Revoke(partition) => self.revoked(&[partition], shared)?,
            }
        }
        Ok(true)
    }

    fn assigned(&mut self, partition: i32, shared: &mut Shared) -> Flow<()> {
        let log = &shared.broker.jobs[partition as usize];
        let committed = shared.broker.group.committed(partition);
        let (offset, metadata) = committed.cloned().unwrap_or((log.start(), String::new()));
        let end = (!metadata.is_empty()).then_some(log.end());
        if committed.is_none() {
            // What retention took before anybody committed is passed over; reconciliation misses it.
            shared.oracle.begins_at(partition, offset);
        }
        let metadata = match shared.mutation {
            Some(Mutation::DeathsNotCounted) => forget_deaths(&metadata),
            _ => metadata,
        };
        let start = Start {
            partition,
            offset,
            metadata,
            end,
        };
        let assignment = self.event_loop.assigned(std::slice::from_ref(&start));
        let reading = self.event_loop.state().in_flight().isolation(partition);
        let reading = reading.unwrap_or(Reading::Freely);
        shared.tell(|| {
            let name = &self.name.id;
            format!(
                "{name} gets partition {partition} at {offset} '{}': {reading:?}",
                start.metadata
            )
        });
        shared.oracle.read_like(partition, reading)?;
        match reading {
            Reading::Freely => {}
            Reading::Narrowly => shared.saw(Seen::Narrow),
            Reading::Warily => shared.saw(Seen::Wary),
            Reading::Carefully => shared.saw(Seen::Careful),
        }
        if assignment.isolated.contains(&partition)
            && shared.mutation != Some(Mutation::IsolatedReadWithOthers)
        {
            self.isolated.insert(partition);
        }
        self.fetch.insert(partition, offset);
        // What a job of an earlier assignment does is not put down to this one.
        let had_it = self.taken_over.contains_key(&partition);
        match had_it && !(self.slices.is_empty() && self.threads.iter().all(Thread::is_at_rest)) {
            true => self.helped.insert(partition),
            false => self.helped.remove(&partition),
        };
        self.taken_over.insert(partition, (offset, reading));
        self.commit_and_wait(&assignment.commits, shared)?;
        Ok(())
    }

    pub(super) fn revoked(&mut self, partitions: &[i32], shared: &mut Shared) -> Flow<()> {
        shared.saw(Seen::Revoked);
        if shared.mutation == Some(Mutation::CommittedBeforeAcknowledged) {
            let on_the_way = self.on_the_way.iter().map(|own| own.id());
            self.acknowledged.extend(on_the_way);
        }
        self.event_loop.begin_revocation(partitions);
        let mut settled;
        let mut now = self.now;
        let commits = loop {
            settled = self.event_loop.state().delivery().is_settled();
            match self.event_loop.next_of_revocation(now.max(self.now)) {
                RevocationAction::Collect
                    if shared.mutation == Some(Mutation::RevokedWithoutCollecting) => {}
                RevocationAction::Collect => {
                    self.collect(shared);
                    if shared.mutation == Some(Mutation::RevokedWithoutDrain) {
                        now = self.now + TOO_LONG;
                    }
                }
                RevocationAction::Deliver(step) => self.deliver_step(step, shared)?,
                RevocationAction::Commit(commits) => break commits,
            }
        };
        let delivery = self.event_loop.state().delivery();
        if delivery.is_under_way() {
            shared.saw(Seen::RevokedInTransaction);
        }
        self.is_drained("what is finished is acknowledged before a partition is given back")?;
        // Before the partitions were forgotten, everything was committed.
        settled &= !self.committer.as_ref().is_some_and(Committer::is_closed);
        self.stop_fetching(partitions);
        if shared.mutation == Some(Mutation::GivenBackBeforeCommit) {
            for &partition in partitions {
                shared.oracle.given_back(partition);
                shared.broker.group.given_back(self.member, partition);
            }
        }
        let committed = self.commit_and_wait(&commits, shared)? && settled;
        if shared.mutation == Some(Mutation::HangReleased) {
            self.release_hanging(shared);
        }
        for &partition in partitions {
            shared.tell(|| format!("{} gives partition {partition} back", self.name.id));
            if committed {
                shared.oracle.given_back(partition);
                if self.given_up_for.is_some_and(|(own, _)| own == partition) {
                    shared.oracle.hangs(partition);
                }
            } else if let Some((_, metadata)) = shared.broker.group.committed(partition).cloned() {
                // For the next owner, that is a death.
                let cause = self.given_up_for.filter(|(own, _)| *own == partition);
                let cause = cause.map(|(_, index)| index);
                let member = self.member;
                shared
                    .oracle
                    .owner_lost(member, partition, &metadata, cause)?;
                // It is counted once, also where this very member gets the partition again.
                shared.oracle.given_back(partition);
            }
            shared.broker.group.given_back(self.member, partition);
        }
        Ok(())
    }

    /// Takes the hold off the mark of a partition of which a job hangs.
    fn release_hanging(&self, shared: &mut Shared) {
        let group = &mut shared.broker.group;
        if let Some((partition, _)) = self.given_up_for
            && group.accepts(self.member, partition)
            && let Some((offset, metadata)) = group.committed(partition).cloned()
        {
            group.keep(&Commit {
                partition,
                offset,
                metadata: metadata.replace(" held", ""),
            });
        }
    }

    fn stop_fetching(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.fetch.remove(partition);
            self.isolated.remove(partition);
        }
    }

    /// Leaves the group, unless that has forgotten this process.
    pub(super) fn leave(&mut self, shared: &mut Shared) -> Flow<()> {
        let all: Vec<_> = self.fetch.keys().copied().collect();
        if shared.broker.group.knows(self.member) {
            self.revoked(&all, shared)?;
        }
        Ok(())
    }
}

fn forget_deaths(metadata: &str) -> String {
    let words = metadata.split(' ');
    let words = words.map(|word| match word.split_once('=') {
        Some(("deaths", _)) => "deaths=0",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

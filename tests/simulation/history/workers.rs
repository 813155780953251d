//! The workers of a history: what each of their steps comes to, how they end, and how they are started
//! again.

use super::History;
use crate::broker::MemberId;
use crate::history::Shared;
use crate::invariants::Violation;
use crate::seen::Seen;
use crate::worker::{Committer, Start, Stop, WorkerProcess};

impl History {
    pub(super) fn with_worker(
        &mut self,
        slot: usize,
        step: impl FnOnce(&mut WorkerProcess, &mut Shared) -> Result<(), Stop>,
    ) -> Result<(), Violation> {
        let Some(process) = &mut self.slots[slot].process else {
            return Ok(());
        };
        match step(process, &mut self.shared) {
            Ok(()) => Ok(()),
            Err(Stop::Violated(violation)) => Err(violation),
            Err(Stop::Dies(cause)) => self.die(slot, cause),
            Err(Stop::GivesUp) => {
                if let Some((partition, index)) = process.given_up_for {
                    let owns = self.shared.broker.group.accepts(process.member, partition);
                    let is_plain = owns && process.is_plain_death(partition);
                    self.shared.oracle.has_cost_a_worker(index, is_plain);
                }
                self.wind_down(slot)
            }
        }
    }

    /// A worker ends in good order.
    pub(super) fn wind_down(&mut self, slot: usize) -> Result<(), Violation> {
        let Some(mut process) = self.slots[slot].process.take() else {
            return Ok(());
        };
        let ended = process.wind_down(&mut self.shared);
        let member = process.member;
        self.slots[slot].process = Some(process);
        match ended {
            Ok(()) | Err(Stop::GivesUp) => {
                self.slots[slot].process = None;
                self.shared.broker.group.drop_member(member);
                Ok(())
            }
            Err(Stop::Violated(violation)) => Err(violation),
            Err(Stop::Dies(cause)) => self.die(slot, cause),
        }
    }

    /// A worker is gone from one moment to the next. What it has sent may arrive yet, or never.
    pub(super) fn die(&mut self, slot: usize, cause: Option<u64>) -> Result<(), Violation> {
        let Some(mut process) = self.slots[slot].process.take() else {
            return Ok(());
        };
        self.shared.tell(|| match cause {
            Some(index) => format!("the worker of slot {slot} dies of job {index}"),
            None => format!("the worker of slot {slot} is killed"),
        });
        while !process.commits.is_empty() && self.shared.rng.chance(1, 2) {
            match process.commit_answered(&mut self.shared) {
                Err(Stop::Violated(violation)) => return Err(violation),
                _ => continue,
            }
        }
        if let Err(Stop::Violated(violation)) = process.die_within_transaction(&mut self.shared) {
            return Err(violation);
        }
        for message in std::mem::take(&mut process.on_the_way) {
            if self.shared.rng.chance(1, 2) {
                self.on_the_way.push(message);
            }
        }
        let member = process.member;
        if let Some(index) = cause {
            self.shared.saw(Seen::KilledByJob);
            let place = self.shared.oracle.partitions_of(index);
            let mut owned = place
                .into_iter()
                .filter(|&partition| self.shared.broker.group.accepts(member, partition));
            let is_plain = owned.next().is_some_and(|own| process.is_plain_death(own));
            self.shared.oracle.has_cost_a_worker(index, is_plain);
        }
        self.lose_owner(member, cause)?;
        if self.shared.broker.group.knows(member) {
            self.slots[slot].dead.push(member);
        }
        Ok(())
    }

    pub(super) fn lose_owner(
        &mut self,
        member: MemberId,
        cause: Option<u64>,
    ) -> Result<(), Violation> {
        let shared = &mut self.shared;
        for partition in shared.broker.group.owned(member) {
            if let Some((_, metadata)) = shared.broker.group.committed(partition) {
                shared
                    .oracle
                    .owner_lost(member, partition, metadata, cause)?;
            }
        }
        Ok(())
    }

    pub(super) fn restart(&mut self, slot: usize) -> Result<(), Violation> {
        self.started += 1;
        // What the one before has left open is ended before the partitions come.
        let committer = self.exactly_once.then(|| {
            let name = match self.static_members {
                true => slot as u64,
                false => self.slots.len() as u64 + self.started,
            };
            Committer::start(name, &mut self.shared)
        });
        let group = &mut self.shared.broker.group;
        let member = match self.slots[slot].dead.pop() {
            Some(dead) if self.static_members => {
                let back = group.come_back(dead);
                self.shared.saw(Seen::StaticBack);
                back
            }
            dead => {
                self.slots[slot].dead.extend(dead);
                group.join()
            }
        };
        let is_able = self.strangers.unable_left == 0 || self.shared.extra.chance(1, 2);
        self.strangers.unable_left -= usize::from(!is_able);
        // Where transactions are used, no broker keeps little.
        let is_limited = self.shared.flow_control && !self.exactly_once;
        let own_partition = slot % self.shared.broker.outcomes.len();
        let start = Start {
            number: self.started,
            threads: self.threads,
            member,
            committer,
            window: self.window,
            is_able,
            limited_partition: is_limited.then_some(own_partition as i32),
        };
        let process = WorkerProcess::start(start, &self.shared);
        let started = self.started;
        self.shared
            .tell(|| format!("worker-{started} starts in slot {slot}"));
        self.slots[slot].process = Some(process);
        // A group that has one more member shares anew.
        for partition in 0..self.shared.broker.jobs.len() {
            if self.shared.rng.chance(1, 4) {
                self.shared.broker.group.ask_back(partition as i32);
            }
        }
        Ok(())
    }
}

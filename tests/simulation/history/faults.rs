//! What goes wrong in a history: one fault each time, drawn among all that may happen to a process,
//! the group, or what the broker keeps.

use super::History;
use crate::dispatcher::DispatcherProcess;
use crate::invariants::Violation;
use crate::seen::Seen;
use crate::topics::arrive;

impl History {
    pub(super) fn go_wrong(&mut self) -> Result<(), Violation> {
        self.shared.faults_left -= 1;
        let slot = self.shared.rng.below(self.slots.len());
        let partition = self.shared.rng.below(self.shared.broker.jobs.len());
        match self.shared.rng.below(18) {
            0..=2 => {
                if self.slots[slot].process.is_some() {
                    self.shared.saw(Seen::Killed);
                    self.die(slot, None)?;
                }
            }
            3 => {
                if self.slots[slot]
                    .process
                    .as_ref()
                    .is_some_and(|own| !own.sleeps)
                {
                    self.shared.saw(Seen::Stopped);
                    self.shared
                        .tell(|| format!("the worker of slot {slot} is to end"));
                    self.wind_down(slot)?;
                }
            }
            4 => {
                if let Some(process) = &mut self.slots[slot].process {
                    process.sleeps = true;
                    self.shared.saw(Seen::Slept);
                    self.shared
                        .tell(|| format!("the worker of slot {slot} sleeps"));
                }
            }
            5 => {
                let process = self.slots[slot].process.as_ref();
                if let Some(member) = process.map(|own| own.member)
                    && self.shared.broker.group.knows(member)
                {
                    self.shared.saw(Seen::Evicted);
                    self.shared
                        .tell(|| format!("the worker of slot {slot} is taken for dead"));
                    self.lose_owner(member, None)?;
                    self.shared.broker.group.drop_member(member);
                }
            }
            6..=7 => self.shared.broker.group.ask_back(partition as i32),
            8 => {
                for partition in 0..self.shared.broker.jobs.len() {
                    self.shared.broker.group.ask_back(partition as i32);
                }
            }
            9..=10 => self.end_dispatcher()?,
            11 => {
                if self.dispatchers.len() == 1 {
                    self.shared.saw(Seen::DispatcherDoubled);
                    let second = DispatcherProcess::start(&self.shared, false);
                    self.dispatchers.push(second);
                }
            }
            12 => {
                self.shared.saw(Seen::Compacted);
                self.shared.broker.compact_runs();
            }
            13 => {
                if self.aggregator.is_some() && self.verdict.is_none() {
                    self.shared.saw(Seen::AggregatorKilled);
                    self.aggregator = None;
                }
            }
            14 => self.retention_takes_jobs(partition),
            15 => self.retention_takes_outcomes(partition),
            16 => {
                if let Some(process) = &mut self.slots[slot].process {
                    process.lost_sight = true;
                    self.shared.saw(Seen::LostSight);
                    self.shared
                        .tell(|| format!("the worker of slot {slot} loses sight of the broker"));
                }
            }
            _ => {
                let open = self.shared.broker.transactions.len();
                if open > 0 {
                    let number = self.shared.rng.below(open);
                    self.time_out(number);
                }
            }
        }
        Ok(())
    }

    /// A dispatcher is killed, or is asked to end, and started again.
    fn end_dispatcher(&mut self) -> Result<(), Violation> {
        let number = self.shared.rng.below(self.dispatchers.len());
        if self.dispatchers[number].is_done() {
            return Ok(());
        }
        if self.shared.rng.chance(1, 2) {
            self.shared.saw(Seen::DispatcherStopped);
            self.shared.tell(|| "a dispatcher is stopped".to_owned());
            self.dispatchers[number].stop(&mut self.shared)?;
        } else {
            self.shared.saw(Seen::DispatcherKilled);
            self.shared.tell(|| "a dispatcher is killed".to_owned());
        }
        // What it has sent arrives, or not.
        for (partition, payload) in std::mem::take(&mut self.dispatchers[number].on_the_way) {
            if self.shared.rng.chance(1, 2) {
                arrive(partition, payload, &mut self.shared);
            }
        }
        self.dispatchers[number] = DispatcherProcess::start(&self.shared, false);
        Ok(())
    }

    fn retention_takes_jobs(&mut self, partition: usize) {
        let committed = self.shared.broker.group.committed_offsets()[partition];
        let log = &mut self.shared.broker.jobs[partition];
        let beyond = i64::from(self.shared.rng.chance(1, 4));
        let before = (committed + beyond).min(log.end());
        if before <= log.start() {
            return;
        }
        log.eat(before);
        self.shared
            .tell(|| format!("retention takes jobs of {partition} before {before}"));
        if before > committed {
            self.shared.saw(Seen::PendingJobsEaten);
        } else {
            self.shared.saw(Seen::JobsEaten);
        }
    }

    fn retention_takes_outcomes(&mut self, partition: usize) {
        let log = &mut self.shared.broker.outcomes[partition];
        let records = (log.end() - log.start()) as usize;
        if records == 0 {
            return;
        }
        let before = log.start() + 1 + self.shared.rng.below(records) as i64;
        log.eat(before);
        self.shared.oracle.are_outcomes_eaten = true;
        self.shared.saw(Seen::OutcomesEaten);
        self.shared
            .tell(|| format!("retention takes outcomes of {partition} before {before}"));
    }
}

//! A run that is collected: its outcomes are recorded as they are read, in any order, up to where the
//! one who reads them stops.

use std::time::{Duration, Instant};

use pipeline::ledger::SpillError;
use pipeline::ledger::counting::CountingRules;
use pipeline::{Collection, DecodeError, OutcomeBatch, RunEvent, RunHistory, RunOpened};

use crate::outcomes_read::OutcomesRead;

/// A run while it is collected.
#[derive(Debug)]
pub struct Collecting {
    run: RunHistory,
    opened: RunOpened,
    collection: Collection,
    /// The offsets that outcomes are read from, and were read up to.
    pub outcomes_read: OutcomesRead,
    undecodable: u64,
    first_outcome_at: Option<Instant>,
    last_outcome_at: Option<Instant>,
}

/// The error for which a record of the outcomes topic was dropped.
#[derive(Debug, thiserror::Error)]
pub enum Unrecorded {
    /// The record cannot be decoded.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// Results beyond the memory budget cannot be written or read back.
    #[error(transparent)]
    Spill(#[from] SpillError),
}

/// A collected run.
#[derive(Debug)]
pub struct Collected {
    /// The run.
    pub opened: RunOpened,
    /// The run as the runs topic had it last.
    pub run: RunHistory,
    /// Everything that was read of it.
    pub collection: Collection,
    /// The offsets that outcomes were read from and up to.
    pub outcomes_read: OutcomesRead,
    /// Messages on the outcomes topic that could not be decoded.
    pub undecodable: u64,
    /// The time from the first outcome to the last.
    pub duration: Duration,
}

impl Collecting {
    /// Nothing was recorded yet of a run that was opened like this. `collection` makes the empty one
    /// that outcomes are recorded in, by the rules that it is given.
    pub fn new(
        run: RunHistory,
        opened: RunOpened,
        outcomes_read: OutcomesRead,
        collection: impl FnOnce(CountingRules) -> Collection,
    ) -> Self {
        let rules = CountingRules::of(opened.options.results, &run.timeline());
        let mut own = Self {
            run,
            opened,
            collection: collection(rules),
            outcomes_read,
            undecodable: 0,
            first_outcome_at: None,
            last_outcome_at: None,
        };
        own.apply_manifests();
        own
    }

    /// The opening of the run.
    pub fn opened(&self) -> &RunOpened {
        &self.opened
    }

    /// The run as the runs topic has it.
    pub fn run(&self) -> &RunHistory {
        &self.run
    }

    /// The collection so far.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// Events of the runs topic. Returns whether one was of this run.
    pub fn apply_run_events(&mut self, events: Vec<RunEvent>) -> bool {
        let is_own = |event: &RunEvent| *event.run_id() == self.opened.run_id;
        let has_own = events.iter().any(is_own);
        events.into_iter().for_each(|event| self.run.apply(event));
        if has_own {
            self.apply_manifests();
        }
        has_own
    }

    /// Applies events again; those that were applied before change nothing.
    fn apply_manifests(&mut self) {
        for manifest in self.run.manifests() {
            self.collection.apply_manifest(manifest.clone());
        }
    }

    /// A record of the outcomes topic, at this place of it. Returns whether there was anything new.
    ///
    /// # Errors
    /// When it cannot be decoded, in which case it is counted and dropped, or when results cannot be
    /// spilled.
    pub fn apply_outcomes(
        &mut self,
        partition: i32,
        offset: i64,
        payload: &[u8],
        now: Instant,
    ) -> Result<bool, Unrecorded> {
        let batch = OutcomeBatch::decode(payload).inspect_err(|_| self.undecodable += 1)?;
        if *batch.run_id() != self.opened.run_id {
            return Ok(false);
        }
        self.first_outcome_at.get_or_insert(now);
        self.last_outcome_at = Some(now);
        Ok((self.collection).apply_outcomes_at(partition, offset, &batch)?)
    }

    /// The run and how it was opened, to be collected from the first outcome again.
    pub fn into_run(self) -> (RunHistory, RunOpened) {
        (self.run, self.opened)
    }

    /// The collected run, when no more is read.
    pub fn into_collected(self) -> Collected {
        let between = self.first_outcome_at.zip(self.last_outcome_at);
        Collected {
            opened: self.opened,
            run: self.run,
            collection: self.collection,
            outcomes_read: self.outcomes_read,
            undecodable: self.undecodable,
            duration: between.map_or(Duration::ZERO, |(first, last)| last - first),
        }
    }
}

//! A replay of dead letters: what `rollcall dlq replay` does, in the same order.

use std::iter::repeat;

use pipeline::dead_letters::{Letter, LetterHeaders};
use pipeline::{
    DeadLetters, GenerationOpened, IndexRanges, JobBatch, OffsetRange, RunEvent, RunHistory,
};

use super::{History, Shared};
use crate::broker::Payload;
use crate::invariants::Violation;
use crate::seen::Seen;
use crate::topics::{arrive, collected, history, lacks_frozen, records, tell};

/// Dead jobs on their way to the jobs topic.
#[derive(Debug)]
pub(super) struct Replay {
    /// The generation that is opened for them.
    opened: GenerationOpened,
    letters: Vec<Letter>,
}

impl Replay {
    /// A replay of all that is dead now, as the topics tell; `None` where there is nothing to do, or
    /// nothing can be done.
    pub(super) fn of_dead(shared: &Shared) -> Option<Self> {
        let runs = history(shared);
        let timeline = runs.timeline();
        let newest = timeline.newest();
        let options = &runs.opened()?.options;
        let all = OffsetRange {
            start: 0,
            end: i64::MAX,
        };
        let collection = collected(options.results, &runs, repeat(all), shared);
        let ledger = collection.ledger()?;
        let mut letters = DeadLetters::new(runs.run_id()).for_computation(&options.computation);
        for (offset, payload) in records(&shared.broker.dlq, 0) {
            letters.apply_letter(offset, LetterHeaders::default(), payload);
        }
        if letters.note_reopened(ledger) {
            let published = shared.broker.jobs.iter().flat_map(|log| records(log, 0));
            let batches = published.filter_map(|(_, payload)| JobBatch::decode(payload).ok());
            batches.for_each(|batch| letters.apply_published(&batch));
        }
        let dead = letters.still_dead(ledger);
        let letters: Vec<Letter> = dead.filter_map(|dead| dead.letter.cloned()).collect();
        let is_outdated = newest.verdict().is_some_and(|own| own.dead_lettered > 0);
        if newest.cancelled().is_some() || (letters.is_empty() && !is_outdated) {
            return None;
        }
        let indexes = letters.iter().map(|letter| letter.job().index);
        let reopened = IndexRanges::of_ascending(indexes);
        let opened = next_generation(&runs, reopened, shared)?;
        Some(Self { opened, letters })
    }

    /// Writes its event. Where another one came before it, the next attempt is returned.
    fn open(mut self, shared: &mut Shared) -> Result<Option<Self>, Violation> {
        tell(shared, &RunEvent::Generation(self.opened.clone()))?;
        let runs = history(shared);
        let own = &self.opened;
        if !runs.timeline().is_opened_by(own.generation, &own.writer) {
            let next = next_generation(&runs, own.reopened.clone(), shared);
            return Ok(next.map(|opened| Self { opened, ..self }));
        }
        if shared.extra.chance(1, 12) {
            shared.saw(Seen::ReplayInterrupted);
            let published = shared.extra.below(self.letters.len() + 1);
            self.letters.truncate(published);
        }
        for letter in std::mem::take(&mut self.letters) {
            let payload = Payload::from(letter.payload(own.generation).as_slice());
            let partition = shared.rng.below(shared.broker.jobs.len());
            arrive(partition, payload, shared);
        }
        Ok(None)
    }
}

/// The event that opens the next generation, unless the run must not have one.
fn next_generation(
    runs: &RunHistory,
    reopened: IndexRanges,
    shared: &Shared,
) -> Option<GenerationOpened> {
    let timeline = runs.timeline();
    let next = timeline.next_generation(runs.run_id(), reopened, "a replay");
    let is_cancelled = timeline.newest().cancelled().is_some();
    next.ok()
        .filter(|_| !is_cancelled && !lacks_frozen(runs, shared))
}

impl History {
    /// The cause is gone, and those still dead are published again.
    pub(super) fn replay(&mut self) -> Result<(), Violation> {
        self.replays += 1;
        self.shared.saw(Seen::Replayed);
        self.shared.tell(|| "dead letters are replayed".to_owned());
        self.shared.is_cured = true;
        let Some(replay) = Replay::of_dead(&self.shared) else {
            self.close();
            return Ok(());
        };
        self.strangers.early_replay = replay.open(&mut self.shared)?;
        self.verdict = None;
        self.aggregator = None;
        Ok(())
    }

    /// Somebody replays what is dead while the run goes on. A verdict or another generation may come
    /// before the one that is opened for it.
    pub(super) fn replay_early(&mut self) -> Result<(), Violation> {
        if self.strangers.early_replay.is_some() {
            if self.shared.extra.chance(1, 8)
                && let Some(replay) = self.strangers.early_replay.take()
            {
                self.shared.saw(Seen::ReplayedEarly);
                self.strangers.early_replay = replay.open(&mut self.shared)?;
            }
            return Ok(());
        }
        let has_dead = self.shared.broker.dlq.end() > 0;
        if self.strangers.early_replays_left > 0 && has_dead && self.shared.extra.chance(1, 40) {
            self.strangers.early_replay = Replay::of_dead(&self.shared);
            self.strangers.early_replays_left -= usize::from(self.strangers.early_replay.is_some());
        }
        Ok(())
    }
}

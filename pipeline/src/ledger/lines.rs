//! The lines of a ledger, one for each job index. Only lines that were written take memory: the number
//! of jobs is read from a topic, and must not size an allocation.

use std::collections::BTreeMap;

use super::counting::Tier;
use super::results::Stored;

/// The number of lines in a block, which is allocated with the first of them that is written. It is
/// small enough that made-up outcomes at far apart indexes take at most some hundred bytes of memory
/// for each of their own, and large enough that the outcomes of a message, whose indexes follow one
/// another, look up their block rarely.
const BLOCK: u64 = 32;

/// The state of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Missing,
    /// Its dead letter no longer counts, so it has no outcome; the rest of the line is known.
    Reopened,
    DeadLettered,
    Completed,
    /// Completed by several results that differ, one of which counts.
    Differing,
}

impl State {
    /// Whether the job has an outcome that counts.
    #[inline]
    pub fn has_outcome(self) -> bool {
        matches!(self, Self::DeadLettered | Self::Completed | Self::Differing)
    }

    /// Whether the job has a result.
    #[inline]
    pub fn is_completed(self) -> bool {
        matches!(self, Self::Completed | Self::Differing)
    }
}

/// The time of a line whose job has none; it is no bucket's.
pub const NO_TIME: i64 = i64::MIN;

/// One job's line in the ledger. All zero while its outcome is missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    pub state: State,
    /// Of the result that counts.
    pub tier: Tier,
    pub label_set: u32,
    /// Seconds, as [`crate::TimeBucket::seconds`], or [`NO_TIME`].
    pub time: i64,
    pub part: u32,
    pub weight: u32,
    pub payload_digest: u64,
    /// Of a completed job.
    pub result: Stored,
}

impl Line {
    /// Whether both lines describe the same job, whatever became of it.
    #[inline]
    pub fn is_of_same_job(&self, other: &Self) -> bool {
        self.payload_digest == other.payload_digest
            && self.label_set == other.label_set
            && self.time == other.time
            && self.part == other.part
            && self.weight == other.weight
    }
}

#[derive(Debug)]
pub struct Lines {
    jobs: u64,
    /// The blocks, in the order in which they were first written to.
    blocks: Vec<[Line; BLOCK as usize]>,
    /// Where in `blocks` the lines of index `number * BLOCK` and after are, by `number`.
    places: BTreeMap<u64, usize>,
    /// The number and the place of the block that was written last, or [`NO_BLOCK`].
    last: (u64, usize),
}

/// Stands for the number of a block and its place. An index has fewer blocks before it.
const NO_BLOCK: (u64, usize) = (u64::MAX, 0);

impl Lines {
    /// This number of lines, all unwritten.
    pub fn new(jobs: u64) -> Self {
        Self {
            jobs,
            blocks: Vec::new(),
            places: BTreeMap::new(),
            last: NO_BLOCK,
        }
    }

    /// The number of lines, written or not.
    pub fn len(&self) -> u64 {
        self.jobs
    }

    /// A line to be written; `None` beyond the last.
    // It is done for each outcome, most of which follow one another.
    #[inline]
    pub fn get_mut(&mut self, index: u64) -> Option<&mut Line> {
        if index >= self.jobs {
            return None;
        }
        let number = index / BLOCK;
        let place = match self.last {
            (last, place) if last == number => place,
            _ => self.look_for(number),
        };
        Some(&mut self.blocks[place][(index % BLOCK) as usize])
    }

    #[inline(never)]
    fn look_for(&mut self, number: u64) -> usize {
        let place = *self.places.entry(number).or_insert_with(|| {
            self.blocks.push([Line::default(); BLOCK as usize]);
            self.blocks.len() - 1
        });
        self.last = (number, place);
        place
    }

    /// Makes it this many lines. Returns those behind the last that were written.
    pub fn truncate(&mut self, jobs: u64) -> Vec<(u64, Line)> {
        let written = self.known_from(jobs).map(|(index, line)| (index, *line));
        let dropped = written.collect();
        self.jobs = jobs;
        self.last = NO_BLOCK;
        let first = jobs / BLOCK;
        if let Some(&place) = self.places.get(&first) {
            self.blocks[place][(jobs % BLOCK) as usize..].fill(Line::default());
        }
        self.places.split_off(&jobs.div_ceil(BLOCK));
        dropped
    }

    /// The memory that the lines take, in bytes.
    pub fn held_bytes(&self) -> u64 {
        /// The memory that a block takes in the tree of places, in bytes.
        const PLACE_BYTES: usize = 24;
        (size_of_val(&self.blocks[..]) + self.places.len() * PLACE_BYTES) as u64
    }

    /// The line of a job that has an outcome.
    pub fn get(&self, index: u64) -> Option<&Line> {
        let &place = self.places.get(&(index / BLOCK))?;
        let line = &self.blocks[place][(index % BLOCK) as usize];
        line.state.has_outcome().then_some(line)
    }

    /// Hands over the lines of all jobs that have an outcome, in index order, until `visit` fails.
    // A walk from inside takes a few instructions a line; that of `known` takes as many as most visits.
    #[inline]
    pub fn for_each<'a, E>(
        &'a self,
        mut visit: impl FnMut(u64, &'a Line) -> Result<(), E>,
    ) -> Result<(), E> {
        for (number, &place) in &self.places {
            let first = number * BLOCK;
            for (nth, line) in self.blocks[place].iter().enumerate() {
                if line.state.has_outcome() {
                    visit(first + nth as u64, line)?;
                }
            }
        }
        Ok(())
    }

    /// The lines of all jobs that have an outcome, in index order.
    pub fn known(&self) -> impl Iterator<Item = (u64, &Line)> + Clone {
        self.lines_in(self.places.iter(), State::has_outcome)
    }

    /// The lines of jobs whose dead letter no longer counts, in index order.
    pub fn reopened(&self) -> impl Iterator<Item = (u64, &Line)> {
        self.lines_in(self.places.iter(), |state| state == State::Reopened)
    }

    fn known_from(&self, index: u64) -> impl Iterator<Item = (u64, &Line)> {
        let places = self.places.range(index / BLOCK..);
        let known = self.lines_in(places, State::has_outcome);
        known.skip_while(move |&(known, _)| known < index)
    }

    /// The lines of these blocks whose state is asked for, in index order.
    fn lines_in<'a>(
        &'a self,
        places: impl Iterator<Item = (&'a u64, &'a usize)> + Clone,
        is_asked_for: impl Fn(State) -> bool + Copy,
    ) -> impl Iterator<Item = (u64, &'a Line)> + Clone {
        places.flat_map(move |(number, &place)| {
            let first = number * BLOCK;
            let lines = self.blocks[place].iter().enumerate();
            let asked_for = lines.filter(move |(_, line)| is_asked_for(line.state));
            asked_for.map(move |(nth, line)| (first + nth as u64, line))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Both walks are the same.
    fn known(lines: &Lines) -> Vec<u64> {
        let mut walked = Vec::new();
        let Ok(()) = lines.for_each(|index, line| {
            walked.push((index, line.part));
            Ok::<_, Infallible>(())
        });
        let known = lines.known().map(|(index, line)| (index, line.part));
        assert_eq!(known.collect::<Vec<_>>(), walked);
        walked.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn lines_are_found_where_they_were_written_and_told_in_index_order() {
        let written = [700, 64, 63, 0, 65, 699, 128];
        let mut lines = Lines::new(701);
        for index in written {
            let line = lines.get_mut(index).expect("within");
            *line = Line {
                state: State::Completed,
                part: index as u32,
                ..Line::default()
            };
        }
        assert_eq!(known(&lines), [0, 63, 64, 65, 128, 699, 700]);
        assert!(
            lines
                .known()
                .all(|(index, line)| u64::from(line.part) == index)
        );
        assert_eq!(lines.get(699).map(|line| line.part), Some(699));
        assert!(lines.get(1).is_none() && lines.get(300).is_none() && lines.get(701).is_none());
        assert!(lines.get_mut(701).is_none());
    }

    #[test]
    fn a_number_of_jobs_takes_no_memory_but_for_the_lines_that_are_written() {
        let mut lines = Lines::new(u64::MAX);
        for index in [0, u64::MAX / 2, u64::MAX - 1] {
            lines.get_mut(index).expect("within").state = State::DeadLettered;
        }
        assert!(lines.get_mut(u64::MAX).is_none());
        assert_eq!(known(&lines), [0, u64::MAX / 2, u64::MAX - 1]);
        assert_eq!(lines.blocks.len(), 3);
    }

    #[test]
    fn lines_behind_the_last_are_dropped_and_handed_over() {
        let written = [0, 31, 32, 40, 63, 64, 700];
        for jobs in [0, 31, 32, 33, 41, 64, 65, 701, u64::MAX] {
            let mut lines = Lines::new(u64::MAX);
            for index in written {
                lines.get_mut(index).expect("within").state = State::Completed;
            }
            let dropped = lines.truncate(jobs);
            let (behind, within): (Vec<u64>, Vec<u64>) =
                written.into_iter().partition(|&index| index >= jobs);
            assert_eq!(
                dropped.iter().map(|&(index, _)| index).collect::<Vec<_>>(),
                behind
            );
            assert_eq!(known(&lines), within);
            assert!(
                behind
                    .into_iter()
                    .all(|index| lines.get_mut(index).is_none())
            );
            assert_eq!(lines.len(), jobs);
        }
    }

    #[test]
    fn a_line_takes_forty_bytes() {
        assert_eq!(size_of::<Line>(), 40);
    }
}

//! The poison marker of a partition: what a worker writes into the metadata of the partition's
//! committed offset, so that a job which kills its worker is found. Nothing is stored elsewhere.
//!
//! A worker that is assigned a partition commits its offset again with a marker that is *held*.
//! Progress clears the marker, and a clean revoke releases it. A worker that is assigned a partition
//! whose marker is still held, while messages wait in it, concludes that the previous owner died
//! before it finished a message: an *unclean take-over*. After three of them in a row the message at
//! the committed offset is processed one job at a time. Before each job the marker is committed with
//! the job's *position* in the message and the number of workers that died of it. A job of which
//! three workers died becomes a dead letter.
//!
//! Take-overs are counted only while a partition makes no progress: each message that is finished
//! clears the count, however many workers join, leave and die.
//!
//! From the first death on, less and less is in flight. After one take-over a few messages of the
//! partition are in flight at a time. After two, each of these is processed alone, with nothing in
//! flight beside it, so that a death is attributed to the message at the committed offset and not to
//! another partition of the worker that died. Within these few messages progress keeps the count,
//! because the previous owner may have died of a later one of them.

use std::fmt;

/// The number of unclean take-overs in a row from which on a partition is read job by job.
const JOB_BY_JOB_FROM: u32 = 3;

/// The number of unclean take-overs in a row from which on a partition is read message by message,
/// with nothing else in flight.
const MESSAGE_BY_MESSAGE_FROM: u32 = 2;

/// The number of deaths that makes a job a dead letter.
pub const MAX_DEATHS: u32 = 3;

/// The number of deaths that makes the whole message a dead letter: after the first [`MAX_DEATHS`]
/// the workers died although they only wrote the job's dead letter. The limit is not
/// `MAX_DEATHS + 1`, because a worker may be killed from outside while it writes the dead letter, and
/// then the other jobs of the message would get no outcome.
pub const MAX_DEATHS_OF_MESSAGE: u32 = 2 * MAX_DEATHS;

/// The first word of the metadata, with the version of the format.
const PREFIX: &str = "rollcall/1";

/// The isolation level at which a partition is read, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// Any number of messages is in flight.
    Freely,
    /// At most [`NARROW_MESSAGES`](crate::offsets::NARROW_MESSAGES) messages are in flight.
    Narrowly,
    /// One message is in flight, and the worker does nothing else meanwhile.
    Warily,
    /// One job of the message at the committed offset is in flight, and the worker does nothing else
    /// meanwhile.
    Carefully,
}

/// The job that is being computed, where a message is processed one job at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// The job's position in the message at the committed offset, from 0. The outcomes of the jobs
    /// before it are acknowledged.
    pub position: u32,
    /// The number of workers that died while they computed it.
    pub deaths: u32,
}

/// The poison marker of a partition. [`Default`] is no marker, whose text is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    held: bool,
    take_overs: u32,
    suspect: Option<Suspect>,
}

impl Mark {
    /// The marker in the metadata of a committed offset. Text that is not a marker of this version
    /// counts as no marker, because another program may have committed the offset.
    pub fn parse(metadata: &str) -> Self {
        Self::parse_fields(metadata).unwrap_or_default()
    }

    fn parse_fields(metadata: &str) -> Option<Self> {
        let mut words = metadata.split(' ');
        if words.next()? != PREFIX {
            return None;
        }
        let mut mark = Self::default();
        for word in words {
            match word.split_once('=') {
                None if word == "held" => mark.held = true,
                Some(("take-overs", number)) => mark.take_overs = number.parse().ok()?,
                Some(("position", number)) => {
                    mark.suspect.get_or_insert_default().position = number.parse().ok()?;
                }
                Some(("deaths", number)) => {
                    mark.suspect.get_or_insert_default().deaths = number.parse().ok()?;
                }
                _ => return None,
            }
        }
        Some(mark)
    }

    /// The marker that a worker commits when it is assigned a partition with this one. `pending`:
    /// whether messages wait at or after the committed offset. Where none wait, no worker can have died
    /// of one, and the counts are cleared.
    pub fn taken_over(self, pending: bool) -> Self {
        if !pending {
            return Self {
                held: true,
                ..Self::default()
            };
        }
        let died = u32::from(self.held);
        Self {
            held: true,
            take_overs: self.take_overs.saturating_add(died),
            suspect: self.suspect.map(|suspect| Suspect {
                deaths: suspect.deaths.saturating_add(died),
                ..suspect
            }),
        }
    }

    /// The marker that a worker commits when a partition is revoked cleanly before it made progress.
    /// It is not held, so no death is counted, and the earlier counts are kept.
    pub fn released(self) -> Self {
        Self {
            held: false,
            ..self
        }
    }

    /// The marker that is committed before the job at this position is computed alone.
    pub fn trying(self, position: u32) -> Self {
        Self {
            suspect: Some(Suspect {
                position,
                deaths: self.deaths_of(position),
            }),
            ..self
        }
    }

    /// The marker of a worker in which a message hangs. It stays held, so that the next owner counts a
    /// take-over. Where the message was alone in flight, it is the one at the committed offset, and the
    /// next owner reads it job by job. Otherwise it may be any message in flight, because a thread that
    /// hangs does not report the work that it did before: the next owner reads these one by one.
    pub fn hanging(self) -> Self {
        Self {
            held: true,
            take_overs: self.take_overs.max(MESSAGE_BY_MESSAGE_FROM - 1),
            ..self
        }
    }

    /// The number of workers that died of the job at this position.
    pub fn deaths_of(self, position: u32) -> u32 {
        let suspect = self.suspect.filter(|suspect| suspect.position == position);
        suspect.map_or(0, |suspect| suspect.deaths)
    }

    /// The position of the first job to compute. The jobs before it have acknowledged outcomes.
    pub fn position(self) -> u32 {
        self.suspect.map_or(0, |suspect| suspect.position)
    }

    /// The isolation level at which a partition with this marker is read.
    pub fn reading(self) -> Reading {
        match self.take_overs {
            JOB_BY_JOB_FROM.. => Reading::Carefully,
            MESSAGE_BY_MESSAGE_FROM.. => Reading::Warily,
            1.. => Reading::Narrowly,
            0 => Reading::Freely,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return Ok(());
        }
        f.write_str(PREFIX)?;
        if self.held {
            f.write_str(" held")?;
        }
        if self.take_overs > 0 {
            write!(f, " take-overs={}", self.take_overs)?;
        }
        if let Some(Suspect { position, deaths }) = self.suspect {
            write!(f, " position={position} deaths={deaths}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The marker of the worker that follows this number of owners, which all died of one message.
    fn after_deaths(count: usize) -> Mark {
        (0..=count).fold(Mark::default(), |mark, _| mark.taken_over(true))
    }

    #[test]
    fn after_three_deaths_without_progress_a_partition_is_read_job_by_job() {
        let readings: Vec<_> = (0..5)
            .map(|deaths| after_deaths(deaths).reading())
            .collect();
        use Reading::{Carefully, Freely, Narrowly, Warily};
        assert_eq!(readings, [Freely, Narrowly, Warily, Carefully, Carefully]);
    }

    #[test]
    fn a_partition_without_messages_counts_no_take_over() {
        let mark = (0..10).fold(Mark::default(), |mark, _| mark.taken_over(false));
        assert_eq!(mark, Mark::default().taken_over(true));
        assert_eq!(after_deaths(2).taken_over(false).reading(), Reading::Freely);
    }

    #[test]
    fn a_clean_revoke_counts_no_death_and_keeps_the_earlier_ones() {
        let mark = after_deaths(2);
        let next = mark.released().taken_over(true);
        assert_eq!(next, mark);
        let endless = (0..100).fold(Mark::default(), |mark, _| mark.taken_over(true).released());
        assert_eq!(endless, Mark::default());
    }

    #[test]
    fn a_death_is_counted_for_the_job_that_was_being_computed() {
        let mark = after_deaths(3).trying(0);
        assert_eq!(mark.deaths_of(0), 0);
        let mark = mark.taken_over(true);
        assert_eq!((mark.position(), mark.deaths_of(0)), (0, 1));
        // The next job starts at no deaths, and the one before has its outcome.
        let mark = mark.trying(0).trying(1).taken_over(true).taken_over(true);
        assert_eq!((mark.position(), mark.deaths_of(1)), (1, 2));
        assert_eq!(mark.deaths_of(0), 0);
        assert_eq!(mark.trying(1).taken_over(true).deaths_of(1), MAX_DEATHS);
    }

    #[test]
    fn a_message_that_hangs_is_read_message_by_message_and_then_job_by_job() {
        let mark = Mark::default().taken_over(true).hanging().taken_over(true);
        assert_eq!(mark.reading(), Reading::Warily);
        let mark = mark.hanging().taken_over(true);
        assert_eq!(mark.reading(), Reading::Carefully);
    }

    #[test]
    fn metadata_of_another_program_is_no_marker() {
        for text in [
            "",
            "held",
            "rollcall/2 held",
            "rollcall/1 held=1",
            "rollcall/1 take-overs=x",
            "rollcall/1 take-overs=99999999999",
            "rollcall/1  held",
            "{\"a\": 1}",
        ] {
            assert_eq!(Mark::parse(text), Mark::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_marker_is_equal_after_printing_and_parsing(
            held: bool,
            take_overs: u32,
            suspect in prop::option::of((any::<u32>(), any::<u32>())),
        ) {
            let suspect = suspect.map(|(position, deaths)| Suspect { position, deaths });
            let mark = Mark { held, take_overs, suspect };
            prop_assert_eq!(Mark::parse(&mark.to_string()), mark);
            // A broker accepts 4,096 bytes of metadata by default (`offset.metadata.max.bytes`).
            prop_assert!(mark.to_string().len() < 100);
        }
    }
}

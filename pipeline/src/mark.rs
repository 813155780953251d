//! What a worker leaves in the metadata of a partition's committed offset, so that a job which makes
//! its worker die is found without any memory but the broker's.
//!
//! A worker that gets a partition marks the committed offset as *held*. Progress clears the mark, and
//! a clean revoke takes the hold off it. So whoever gets a partition whose mark is still held, with
//! messages waiting, knows that the one before died there without having finished a single message:
//! an *unclean take-over*. After three of them in a row the message at the committed offset is worked
//! on one job at a time, and before each job the mark says which one is next (its *position* in the
//! message) and how many workers have died of it. A job with three deaths is a dead letter.
//!
//! A partition on which work goes on never collects take-overs, however often workers come, go and
//! die: each message that is finished clears the count.
//!
//! Between the first death and the third, the mark narrows down what may have killed. After one
//! take-over few messages of the partition are in hand at a time; after two, these are worked on one
//! by one and alone, so that a death is put down to the message at the committed offset and to no
//! other partition that the dead worker had. Within these few messages progress keeps the count,
//! for the last owner may have died of a later one of them.

use std::fmt;

/// The unclean take-over from which on a partition is read job by job.
pub const CAREFUL_FROM: u32 = 3;

/// The unclean take-over from which on a partition is read message by message, alone.
pub const WARY_FROM: u32 = 2;

/// So many deaths make a job a dead letter.
pub const MAX_DEATHS: u32 = 3;

/// So many deaths make the whole message one: as many again have died of nothing but burying the job.
/// One more than [`MAX_DEATHS`] would not do, for a worker may be killed while it buries a job, and
/// the other jobs of the message would have no outcome for that.
pub const MAX_DEATHS_OF_MESSAGE: u32 = 2 * MAX_DEATHS;

/// How the metadata begins, with the version of what follows.
const PREFIX: &str = "rollcall/1";

/// How a partition is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// As many messages at once as there are.
    Freely,
    /// Few messages at once.
    Narrowly,
    /// One message at a time, and nothing else beside it.
    Warily,
    /// The message at the committed offset one job at a time, and nothing else beside it.
    Carefully,
}

/// The job that is being tried, where a message is worked on one job at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// Its position in the message at the committed offset. The outcomes of the jobs before it are
    /// acknowledged.
    pub position: u32,
    /// Workers that died while they computed it.
    pub deaths: u32,
}

/// The mark of a partition. [`Default`] is no mark, whose text is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    held: bool,
    take_overs: u32,
    suspect: Option<Suspect>,
}

impl Mark {
    /// The mark in a text that a broker kept. What is no mark of this version is none: a stranger
    /// may have written it.
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

    /// The mark of a worker that gets the partition now and found this one. `pending`: whether
    /// messages wait behind the committed offset; where none do, nobody can have died of one.
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

    /// The mark that a worker leaves when it gives the partition away in good order and without
    /// progress: nobody has died, and what is known of earlier deaths stays.
    pub fn released(self) -> Self {
        Self {
            held: false,
            ..self
        }
    }

    /// The mark before a job is tried alone.
    pub fn trying(self, position: u32) -> Self {
        Self {
            suspect: Some(Suspect {
                position,
                deaths: self.deaths_of(position),
            }),
            ..self
        }
    }

    /// The mark of a worker that knows that a message hangs. Where it was read alone, it is the one at
    /// the committed offset, and whoever comes next looks at it job by job. Else it may be any of
    /// those in hand, for a thread that hangs has told of nothing that it did before: whoever comes
    /// next reads them one by one.
    pub fn hanging(self) -> Self {
        Self {
            held: true,
            take_overs: self.take_overs.max(WARY_FROM - 1),
            ..self
        }
    }

    /// How many workers have died of the job at this position.
    pub fn deaths_of(self, position: u32) -> u32 {
        let suspect = self.suspect.filter(|suspect| suspect.position == position);
        suspect.map_or(0, |suspect| suspect.deaths)
    }

    /// The position of the job to be tried first; those before it have their outcomes.
    pub fn position(self) -> u32 {
        self.suspect.map_or(0, |suspect| suspect.position)
    }

    /// How a partition with this mark is to be read.
    pub fn reading(self) -> Reading {
        match self.take_overs {
            CAREFUL_FROM.. => Reading::Carefully,
            WARY_FROM.. => Reading::Warily,
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

    /// The marks of a chain of workers that all die of the same message.
    fn after_deaths(count: usize) -> Mark {
        (0..=count).fold(Mark::default(), |mark, _| mark.taken_over(true))
    }

    #[test]
    fn the_third_death_in_a_row_without_progress_makes_reading_careful() {
        let readings: Vec<_> = (0..5)
            .map(|deaths| after_deaths(deaths).reading())
            .collect();
        use Reading::{Carefully, Freely, Narrowly, Warily};
        assert_eq!(readings, [Freely, Narrowly, Warily, Carefully, Carefully]);
    }

    #[test]
    fn a_partition_without_messages_collects_nothing() {
        let mark = (0..10).fold(Mark::default(), |mark, _| mark.taken_over(false));
        assert_eq!(mark, Mark::default().taken_over(true));
        assert_eq!(after_deaths(2).taken_over(false).reading(), Reading::Freely);
    }

    #[test]
    fn a_clean_revoke_is_no_death_and_forgets_none() {
        let mark = after_deaths(2);
        let next = mark.released().taken_over(true);
        assert_eq!(next, mark);
        let endless = (0..100).fold(Mark::default(), |mark, _| mark.taken_over(true).released());
        assert_eq!(endless, Mark::default());
    }

    #[test]
    fn deaths_are_those_of_the_job_that_was_being_tried() {
        let mark = after_deaths(3).trying(0);
        assert_eq!(mark.deaths_of(0), 0);
        let mark = mark.taken_over(true);
        assert_eq!((mark.position(), mark.deaths_of(0)), (0, 1));
        // The next one is tried with a clean record, and the one before has its outcome.
        let mark = mark.trying(0).trying(1).taken_over(true).taken_over(true);
        assert_eq!((mark.position(), mark.deaths_of(1)), (1, 2));
        assert_eq!(mark.deaths_of(0), 0);
        assert_eq!(mark.trying(1).taken_over(true).deaths_of(1), MAX_DEATHS);
    }

    #[test]
    fn a_message_that_hangs_is_found_message_by_message_and_then_looked_at_job_by_job() {
        let mark = Mark::default().taken_over(true).hanging().taken_over(true);
        assert_eq!(mark.reading(), Reading::Warily);
        let mark = mark.hanging().taken_over(true);
        assert_eq!(mark.reading(), Reading::Carefully);
    }

    #[test]
    fn what_a_stranger_wrote_is_no_mark() {
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
        fn a_mark_survives_its_text(
            held: bool,
            take_overs: u32,
            suspect in prop::option::of((any::<u32>(), any::<u32>())),
        ) {
            let suspect = suspect.map(|(position, deaths)| Suspect { position, deaths });
            let mark = Mark { held, take_overs, suspect };
            prop_assert_eq!(Mark::parse(&mark.to_string()), mark);
            // Brokers keep 4,096 bytes.
            prop_assert!(mark.to_string().len() < 100);
        }
    }
}

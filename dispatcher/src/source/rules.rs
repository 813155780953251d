//! Which rows can be counted: the needed fields of a row in, an accepted row or the reason out. All
//! kinds of files are judged here and nowhere else.

use computations::positivity::{NEGATIVE, POSITIVE};
use pipeline::LabelSet;

use crate::grouping::Grouping;
use crate::rejects::Reason;
use crate::source::labels::Labels;
use crate::timestamp::TimeFormat;

/// The time of a row, as its file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When<'v> {
    /// As text; empty when it is missing.
    Text(&'v [u8]),
    /// As seconds since 1970-01-01T00:00:00Z, by a file that knows dates.
    Seconds(i64),
}

/// A row that can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The number of its label set.
    pub label_set: u32,
    /// Its time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: i64,
    /// Its result, as [`computations::positivity`] codes it.
    pub result: u8,
}

/// The rules by which rows are judged, and the label sets of those that were accepted.
#[derive(Debug)]
pub struct Rules<'a> {
    grouping: &'a Grouping,
    time: &'a TimeFormat,
    labels: Labels,
}

impl<'a> Rules<'a> {
    /// The rules of a grouping; times that are text are read as `time` says.
    pub fn new(grouping: &'a Grouping, time: &'a TimeFormat) -> Self {
        Self {
            grouping,
            time,
            labels: Labels::default(),
        }
    }

    /// Judges a row by its fields: labels in the order of the grouping, time, result.
    ///
    /// # Errors
    /// The first reason, in the order of [`Reason`], for which it cannot be counted.
    #[inline]
    pub fn judge<'v>(
        &mut self,
        labels: impl Iterator<Item = &'v [u8]> + Clone,
        time: When<'_>,
        result: &[u8],
    ) -> Result<Accepted, Reason> {
        let seconds = match time {
            When::Text(text) => self.time.parse(text),
            When::Seconds(seconds) => Some(seconds),
        };
        let seconds = match seconds {
            // What no bucket can hold is no time either.
            Some(seconds) if self.grouping.grain.truncate(seconds).is_some() => seconds,
            _ if time == When::Text(b"") => return Err(Reason::MissingTime),
            _ => return Err(Reason::InvalidTime),
        };
        let result = if result == self.grouping.positive.as_bytes() {
            POSITIVE
        } else if result == self.grouping.negative.as_bytes() {
            NEGATIVE
        } else if result.is_empty() {
            return Err(Reason::MissingResult);
        } else {
            return Err(Reason::UnknownResult);
        };
        let label_set = self.labels.number(labels)?;
        Ok(Accepted {
            label_set,
            seconds,
            result,
        })
    }

    /// The grouping.
    pub fn grouping(&self) -> &'a Grouping {
        self.grouping
    }

    /// How times that are text are read.
    pub fn time(&self) -> &'a TimeFormat {
        self.time
    }

    /// Takes label sets that were accepted elsewhere by the same rules. Returns the number of each.
    pub fn take_label_sets(&mut self, sets: &[LabelSet]) -> Vec<u32> {
        sets.iter().map(|set| self.labels.take(set)).collect()
    }

    /// The label sets of the rows so far, by number.
    pub fn label_sets(&self) -> &[LabelSet] {
        self.labels.sets()
    }

    /// The label sets of the accepted rows, by number.
    pub fn into_label_sets(self) -> Vec<LabelSet> {
        self.labels.into_sets()
    }
}

#[cfg(test)]
mod tests {
    use pipeline::group_key::MAX_LABEL_BYTES;

    use super::*;
    use crate::columns::tests::grouping;

    #[test]
    fn the_first_reason_that_applies_is_given() {
        let (grouping, time) = (grouping(&["country"]), TimeFormat::default());
        let mut rules = Rules::new(&grouping, &time);
        let mut judge =
            |label: &[u8], time, result: &[u8]| rules.judge([label].into_iter(), time, result);
        let noon = When::Text(b"2020-07-14T12:00:00");
        assert_eq!(
            judge(b"\xe7", When::Text(b""), b""),
            Err(Reason::MissingTime)
        );
        assert_eq!(
            judge(b"\xe7", When::Text(b"?"), b""),
            Err(Reason::InvalidTime)
        );
        assert_eq!(judge(b"\xe7", noon, b""), Err(Reason::MissingResult));
        assert_eq!(
            judge(b"\xe7", noon, b"Positive"),
            Err(Reason::UnknownResult)
        );
        assert_eq!(judge(b"\xe7", noon, b"positive"), Err(Reason::InvalidUtf8));
        let long = [b'x'; MAX_LABEL_BYTES + 1];
        assert_eq!(judge(&long, noon, b"?"), Err(Reason::UnknownResult));
        assert_eq!(judge(&long, noon, b"positive"), Err(Reason::LabelTooLong));
    }

    #[test]
    fn a_time_that_is_known_is_taken_as_it_is_unless_no_bucket_holds_it() {
        let (grouping, time) = (grouping(&["country"]), TimeFormat::default());
        let mut rules = Rules::new(&grouping, &time);
        let accepted = rules.judge(
            [b"Italy".as_slice()].into_iter(),
            When::Seconds(-1),
            b"negative",
        );
        assert_eq!(
            accepted,
            Ok(Accepted {
                label_set: 0,
                seconds: -1,
                result: NEGATIVE
            })
        );
        let never = rules.judge(
            [b"Italy".as_slice()].into_iter(),
            When::Seconds(i64::MAX),
            b"negative",
        );
        assert_eq!(never, Err(Reason::InvalidTime));
        assert_eq!(rules.into_label_sets(), [LabelSet::new(["Italy"])]);
    }
}

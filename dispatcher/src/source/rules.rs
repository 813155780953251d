//! Which rows can be counted: the needed fields of a row in, an accepted row or the reason out. All
//! kinds of files are judged here and nowhere else.

use pipeline::LabelSet;

use crate::columns::Selection;
use crate::records::Records;
use crate::rejects::Reason;
use crate::source::coding::encode;
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

/// The key of a row that can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The number of its label set.
    pub label_set: u32,
    /// Its time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: i64,
}

/// The rules by which rows are judged, and the label sets of those that were accepted.
#[derive(Debug)]
pub struct Rules<'a> {
    selection: Selection<'a>,
    time: &'a TimeFormat,
    labels: Labels,
}

impl<'a> Rules<'a> {
    /// The rules for rows of these columns; times that are text are read as `time` says.
    pub fn new(selection: Selection<'a>, time: &'a TimeFormat) -> Self {
        Self {
            selection,
            time,
            labels: Labels::default(),
        }
    }

    /// Judges a row by its fields: labels, time, and the values of its record, in the order of the
    /// selection. The record of one that can be counted is added to `records`.
    ///
    /// # Errors
    /// The first reason, in the order that [`Reason`] has, for which it cannot be counted.
    #[inline]
    pub fn judge<'v>(
        &mut self,
        labels: impl Iterator<Item = &'v [u8]> + Clone,
        time: When<'_>,
        values: impl Iterator<Item = &'v [u8]>,
        records: &mut Records,
    ) -> Result<Accepted, Reason> {
        let seconds = match time {
            When::Text(text) => self.time.parse(text),
            When::Seconds(seconds) => Some(seconds),
        };
        let Selection { grouping, payload } = self.selection;
        let seconds = match seconds {
            // What no bucket can hold is no time either.
            Some(seconds) if grouping.grain.truncate(seconds).is_some() => seconds,
            _ if time == When::Text(b"") => return Err(Reason::MissingTime),
            _ => return Err(Reason::InvalidTime),
        };
        let label_set = records.push_with(|record| {
            encode(payload.columns(), values, record)?;
            self.labels.number(labels)
        })?;
        Ok(Accepted { label_set, seconds })
    }

    /// The columns that are read.
    pub fn selection(&self) -> Selection<'a> {
        self.selection
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
    use crate::columns::tests::{result, selected, text};
    use crate::records::{MAX_PAYLOAD_BYTES, Width};

    #[test]
    fn the_first_reason_that_applies_is_given() {
        let (selected, time) = (selected(&["country"], result()), TimeFormat::default());
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Fixed(1));
        let mut judge = |label: &[u8], time, result: &[u8]| {
            rules.judge(
                [label].into_iter(),
                time,
                [result].into_iter(),
                &mut records,
            )
        };
        let noon = When::Text(b"2020-07-14T12:00:00");
        let reasons = [
            (judge(b"\xe7", When::Text(b""), b""), "missing_time"),
            (judge(b"\xe7", When::Text(b"?"), b""), "invalid_time"),
            (judge(b"\xe7", noon, b""), "missing_result"),
            (judge(b"\xe7", noon, b"Yes"), "unknown_result"),
            (judge(b"\xe7", noon, b"yes"), "invalid_utf8"),
            (
                judge(&[b'x'; MAX_LABEL_BYTES + 1], noon, b"?"),
                "unknown_result",
            ),
            (
                judge(&[b'x'; MAX_LABEL_BYTES + 1], noon, b"yes"),
                "label_too_long",
            ),
        ];
        for (judged, expected) in reasons {
            assert_eq!(judged.map_err(Reason::name), Err(expected));
        }
        assert!(judge(b"Italy", noon, b"yes").is_ok());
        // A row that was rejected has left nothing.
        assert_eq!((records.len(), records.bytes()), (1, [1].as_slice()));
    }

    #[test]
    fn a_row_whose_record_is_too_long_leaves_no_record_and_no_label() {
        let selected = selected(&["country"], vec![text("note")]);
        let time = TimeFormat::default();
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Variable);
        let mut judge = |label: &'static [u8], note: &[u8]| {
            let time = When::Seconds(0);
            rules.judge([label].into_iter(), time, [note].into_iter(), &mut records)
        };
        let long = vec![b'x'; MAX_PAYLOAD_BYTES];
        assert_eq!(judge(b"France", &long), Err(Reason::RecordTooLong));
        assert_eq!(judge(b"France", b"\xe7"), Err(Reason::InvalidUtf8));
        assert!(judge(b"Italy", &long[3..]).is_ok());
        assert!(judge(b"Italy", b"").is_ok());
        let lengths: Vec<_> = records.as_slice().iter().map(<[u8]>::len).collect();
        assert_eq!(lengths, [MAX_PAYLOAD_BYTES, 1]);
        assert_eq!(rules.label_sets(), [LabelSet::new(["Italy"])]);
    }

    #[test]
    fn a_time_that_is_known_is_taken_as_it_is_unless_no_bucket_holds_it() {
        let (selected, time) = (selected(&["country"], result()), TimeFormat::default());
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Fixed(1));
        let mut judge = |seconds| {
            let (labels, values) = ([b"Italy".as_slice()], [b"no".as_slice()]);
            let time = When::Seconds(seconds);
            rules.judge(labels.into_iter(), time, values.into_iter(), &mut records)
        };
        let expected = Accepted {
            label_set: 0,
            seconds: -1,
        };
        assert_eq!(judge(-1), Ok(expected));
        assert_eq!(judge(i64::MAX), Err(Reason::InvalidTime));
        assert_eq!(rules.into_label_sets(), [LabelSet::new(["Italy"])]);
    }
}

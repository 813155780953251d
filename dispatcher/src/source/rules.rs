//! The validation of rows: from the needed fields of a row, it makes an accepted row or the reason to
//! reject it. The rows of all kinds of files are validated here, and nowhere else.

use pipeline::LabelSet;

use crate::columns::Selection;
use crate::records::Records;
use crate::rejects::Reason;
use crate::source::coding::encode;
use crate::source::labels::Labels;
use crate::timestamp::TimeFormat;

/// The time of a row, as it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowTime<'v> {
    /// As text; empty when it is missing.
    Text(&'v [u8]),
    /// As seconds since 1970-01-01T00:00:00Z, from a file with typed times.
    Seconds(i64),
}

/// The labels and the time of an accepted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedRow {
    /// The number of its label set.
    pub label_set: u32,
    /// Its time in seconds since 1970-01-01T00:00:00Z, not truncated.
    pub seconds: i64,
}

/// The rules for rows, and the label sets of the accepted rows.
#[derive(Debug)]
pub struct Rules<'a> {
    selection: Selection<'a>,
    time: &'a TimeFormat,
    labels: Labels,
}

impl<'a> Rules<'a> {
    /// The rules for rows of these columns; `time` is the format of times that are text.
    pub fn new(selection: Selection<'a>, time: &'a TimeFormat) -> Self {
        Self {
            selection,
            time,
            labels: Labels::default(),
        }
    }

    /// Validates a row by its fields: labels, time, and the values of its record, in the order of the
    /// selection. The record of an accepted row is appended to `records`.
    ///
    /// # Errors
    /// The first reason to reject the row, in the order of [`Reason`].
    #[inline]
    pub fn validate<'v>(
        &mut self,
        labels: impl Iterator<Item = &'v [u8]> + Clone,
        time: RowTime<'_>,
        values: impl Iterator<Item = &'v [u8]>,
        records: &mut Records,
    ) -> Result<AcceptedRow, Reason> {
        let seconds = match time {
            RowTime::Text(text) => self.time.parse(text),
            RowTime::Seconds(seconds) => Some(seconds),
        };
        let Selection { grouping, payload } = self.selection;
        let seconds = match seconds {
            // A time out of the range of time buckets is invalid, too.
            Some(seconds) if grouping.grain.truncate(seconds).is_some() => seconds,
            _ if time == RowTime::Text(b"") => return Err(Reason::MissingTime),
            _ => return Err(Reason::InvalidTime),
        };
        let label_set = records.push_with(|record| {
            encode(payload.columns(), values, record)?;
            self.labels.number(labels)
        })?;
        Ok(AcceptedRow { label_set, seconds })
    }

    /// The columns that are read.
    pub fn selection(&self) -> Selection<'a> {
        self.selection
    }

    /// The format of times that are text.
    pub fn time(&self) -> &'a TimeFormat {
        self.time
    }

    /// The numbers of label sets that were accepted in a block, by the same rules.
    pub fn label_set_numbers(&mut self, sets: &[LabelSet]) -> Vec<u32> {
        let numbers = sets.iter().map(|set| self.labels.number_of_accepted(set));
        numbers.collect()
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
    fn a_row_is_rejected_with_the_first_reason_that_applies() {
        let (selected, time) = (selected(&["country"], result()), TimeFormat::default());
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Fixed(1));
        let mut validate = |label: &[u8], time, result: &[u8]| {
            rules.validate(
                [label].into_iter(),
                time,
                [result].into_iter(),
                &mut records,
            )
        };
        let noon = RowTime::Text(b"2020-07-14T12:00:00");
        let reasons = [
            (validate(b"\xe7", RowTime::Text(b""), b""), "missing_time"),
            (validate(b"\xe7", RowTime::Text(b"?"), b""), "invalid_time"),
            (validate(b"\xe7", noon, b""), "missing_result"),
            (validate(b"\xe7", noon, b"Yes"), "unknown_result"),
            (validate(b"\xe7", noon, b"yes"), "invalid_utf8"),
            (
                validate(&[b'x'; MAX_LABEL_BYTES + 1], noon, b"?"),
                "unknown_result",
            ),
            (
                validate(&[b'x'; MAX_LABEL_BYTES + 1], noon, b"yes"),
                "label_too_long",
            ),
        ];
        for (result, expected) in reasons {
            assert_eq!(result.map_err(Reason::name), Err(expected));
        }
        assert!(validate(b"Italy", noon, b"yes").is_ok());
        // Rejected rows have left no record.
        assert_eq!((records.len(), records.bytes()), (1, [1].as_slice()));
    }

    #[test]
    fn a_row_whose_record_is_too_long_leaves_no_record_and_no_label() {
        let selected = selected(&["country"], vec![text("note")]);
        let time = TimeFormat::default();
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Variable);
        let mut validate = |label: &'static [u8], note: &[u8]| {
            let time = RowTime::Seconds(0);
            rules.validate([label].into_iter(), time, [note].into_iter(), &mut records)
        };
        let long = vec![b'x'; MAX_PAYLOAD_BYTES];
        assert_eq!(validate(b"France", &long), Err(Reason::RecordTooLong));
        assert_eq!(validate(b"France", b"\xe7"), Err(Reason::InvalidUtf8));
        assert!(validate(b"Italy", &long[3..]).is_ok());
        assert!(validate(b"Italy", b"").is_ok());
        let lengths: Vec<_> = records.as_slice().iter().map(<[u8]>::len).collect();
        assert_eq!(lengths, [MAX_PAYLOAD_BYTES, 1]);
        assert_eq!(rules.label_sets(), [LabelSet::new(["Italy"])]);
    }

    #[test]
    fn a_time_in_seconds_is_accepted_unless_it_is_out_of_the_range_of_buckets() {
        let (selected, time) = (selected(&["country"], result()), TimeFormat::default());
        let mut rules = Rules::new(selected.as_selection(), &time);
        let mut records = Records::new(Width::Fixed(1));
        let mut validate = |seconds| {
            let (labels, values) = ([b"Italy".as_slice()], [b"no".as_slice()]);
            let time = RowTime::Seconds(seconds);
            rules.validate(labels.into_iter(), time, values.into_iter(), &mut records)
        };
        let expected = AcceptedRow {
            label_set: 0,
            seconds: -1,
        };
        assert_eq!(validate(-1), Ok(expected));
        assert_eq!(validate(i64::MAX), Err(Reason::InvalidTime));
        assert_eq!(rules.into_label_sets(), [LabelSet::new(["Italy"])]);
    }
}

//! The columns of a Parquet file: the types that are read as labels, times and values, and their
//! conversion. A value is read as it would be in CSV; a type whose values could be written in CSV in
//! two ways is refused.

use std::borrow::Cow;

use computations::Coding;
use jiff::Timestamp;
use polars::prelude::*;

use crate::error::Error;
use crate::source::rules::RowTime;
use crate::timestamp::TimeFormat;

const SECONDS_PER_DAY: i64 = 86_400;

/// The types that are accepted for a purpose.
#[derive(Clone, Copy)]
pub struct AcceptedTypes {
    is_accepted: fn(Type) -> bool,
    /// The types as a sentence, for messages.
    expected: &'static str,
}

/// The types of labels. Fractions and timestamps are refused, because there are several ways to write
/// them.
pub fn label_types() -> AcceptedTypes {
    AcceptedTypes {
        is_accepted: |found| {
            matches!(
                found,
                Type::Text | Type::Integer | Type::Boolean | Type::Date
            )
        },
        expected: "labels are text (plain, binary or categories), integers (unsigned ones of 32 bits \
                   or more), booleans or dates",
    }
}

/// The types of times, given the format of times that are text. An integer is a time only with a
/// format: 20200714 may be a day or a second in August 1970.
pub fn time_types(format: &TimeFormat) -> AcceptedTypes {
    match format {
        TimeFormat::Iso => AcceptedTypes {
            is_accepted: |found| matches!(found, Type::Text | Type::Date | Type::Time),
            expected: "times are timestamps, dates or text; integers only with --time-format, \
                       such as %s for seconds since 1970",
        },
        TimeFormat::Directives(_) => AcceptedTypes {
            is_accepted: |found| {
                matches!(found, Type::Text | Type::Date | Type::Time | Type::Integer)
            },
            expected: "times are timestamps, dates, text or integers",
        },
    }
}

/// The types of values with this coding.
pub fn value_types(coding: &Coding) -> AcceptedTypes {
    match coding {
        Coding::Code { .. } => AcceptedTypes {
            is_accepted: |found| matches!(found, Type::Text | Type::Integer | Type::Boolean),
            expected: "values are text (plain, binary or categories), integers (unsigned ones of 32 \
                       bits or more) or booleans",
        },
        // The types of labels are those whose values can be written in one way only.
        Coding::Text => AcceptedTypes {
            expected: "texts are text (plain, binary or categories), integers (unsigned ones of 32 \
                       bits or more), booleans or dates",
            ..label_types()
        },
    }
}

/// The class of a column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Text or bytes, possibly as categories; also the type of a column without any value.
    Text,
    Integer,
    Boolean,
    Date,
    /// A point in time, with a zone or without.
    Time,
    Other,
}

impl Type {
    fn of(found: &ArrowDataType) -> Self {
        use ArrowDataType as Arrow;
        match found {
            Arrow::Utf8 | Arrow::LargeUtf8 | Arrow::Utf8View => Self::Text,
            Arrow::Binary | Arrow::LargeBinary | Arrow::BinaryView => Self::Text,
            Arrow::FixedSizeBinary(_) | Arrow::Null => Self::Text,
            Arrow::Dictionary(_, values, _) => Self::of(values),
            Arrow::Int8 | Arrow::Int16 | Arrow::Int32 | Arrow::Int64 => Self::Integer,
            // polars is built without the smaller unsigned integers.
            Arrow::UInt32 | Arrow::UInt64 => Self::Integer,
            Arrow::Boolean => Self::Boolean,
            Arrow::Date32 => Self::Date,
            Arrow::Timestamp(..) | Arrow::Date64 => Self::Time,
            _ => Self::Other,
        }
    }
}

/// Checks that the column at a position has an accepted type.
///
/// # Errors
/// When it has another type; the error names file, column, type and the accepted types.
pub fn check_type(
    input: &str,
    option: &'static str,
    schema: &ArrowSchema,
    column: usize,
    accepted: AcceptedTypes,
) -> Result<(), Error> {
    let Some((name, field)) = schema.get_at_index(column) else {
        return Ok(());
    };
    if (accepted.is_accepted)(Type::of(&field.dtype)) {
        return Ok(());
    }
    Err(Error::ColumnType {
        input: input.to_owned(),
        option,
        name: name.to_string(),
        found: type_name(&field.dtype),
        expected: accepted.expected,
    })
}

/// The name of a type for messages, without the item type of a nested type and without the layout in
/// memory.
fn type_name(found: &ArrowDataType) -> String {
    let text = format!("{found:?}").to_lowercase();
    let end = text.find(['(', '{', ' ']).unwrap_or(text.len());
    text[..end].trim_start_matches("large").to_owned()
}

/// A column as text. A missing value is an empty text, as in CSV.
pub enum Texts {
    /// Text.
    Utf8(StringChunked),
    /// Bytes, which need not be UTF-8.
    Bytes(BinaryChunked),
}

impl Texts {
    /// Converts a column to text: categories to their names, integers to decimal numbers, booleans to
    /// `true` and `false`.
    ///
    /// # Errors
    /// When polars cannot convert it.
    pub fn new(column: &Column) -> PolarsResult<Self> {
        Ok(match column.dtype() {
            DataType::Binary => Self::Bytes(column.binary()?.clone()),
            _ => Self::Utf8(column.cast(&DataType::String)?.str()?.clone()),
        })
    }

    /// The value of a row.
    #[inline]
    pub fn get(&self, row: usize) -> &[u8] {
        match self {
            Self::Utf8(values) => values.get(row).map(str::as_bytes),
            Self::Bytes(values) => values.get(row),
        }
        .unwrap_or_default()
    }
}

/// A column of times.
pub enum Times {
    /// As text.
    Texts(Texts),
    /// Dates, and timestamps with a zone or without, as numbers since 1970-01-01T00:00:00Z.
    Ticks {
        /// The numbers.
        ticks: Int64Chunked,
        /// Their unit.
        unit: Unit,
    },
}

/// The unit of times that are numbers.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Days.
    Days,
    /// A part of a second: the number of units in a second.
    PerSecond(i64),
}

impl Times {
    /// Converts a column whose type was checked.
    ///
    /// # Errors
    /// When polars cannot convert it.
    pub fn new(column: &Column) -> PolarsResult<Self> {
        let unit = match column.dtype() {
            DataType::Date => Unit::Days,
            DataType::Datetime(TimeUnit::Milliseconds, _) => Unit::PerSecond(1_000),
            DataType::Datetime(TimeUnit::Microseconds, _) => Unit::PerSecond(1_000_000),
            DataType::Datetime(TimeUnit::Nanoseconds, _) => Unit::PerSecond(1_000_000_000),
            _ => return Texts::new(column).map(Self::Texts),
        };
        let ticks = column.to_physical_repr().cast(&DataType::Int64)?;
        Ok(Self::Ticks {
            ticks: ticks.i64()?.clone(),
            unit,
        })
    }

    /// The time of a row.
    #[inline]
    pub fn get(&self, row: usize) -> RowTime<'_> {
        match self {
            Self::Texts(values) => RowTime::Text(values.get(row)),
            Self::Ticks { ticks, unit } => match (ticks.get(row), unit) {
                (None, _) => RowTime::Text(b""),
                (Some(days), Unit::Days) => RowTime::Seconds(days * SECONDS_PER_DAY),
                (Some(ticks), Unit::PerSecond(ticks_per_second)) => {
                    RowTime::Seconds(ticks.div_euclid(*ticks_per_second))
                }
            },
        }
    }

    /// The time of a row as text, for the rejects.
    pub fn text(&self, row: usize) -> Cow<'_, [u8]> {
        match self.get(row) {
            RowTime::Text(text) => Cow::Borrowed(text),
            RowTime::Seconds(seconds) => {
                let text = Timestamp::from_second(seconds)
                    .map_or_else(|_| seconds.to_string(), |time| time.to_string());
                Cow::Owned(text.into_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use computations::Column;
    use pipeline::{Grain, LabelSet};
    use service::{Progress, Shutdown};

    use super::*;
    use crate::columns::tests::{code, selected, text};
    use crate::input::Input;
    use crate::rejects::Rejects;
    use crate::source::{DataSet, Rows, Source};
    use crate::spill::Spill;

    /// Reads a label, a time and a payload column of the file that has a column of every type.
    fn read(label: &str, time: &str, value: Column, format: &str) -> Result<DataSet, Error> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/every_type.parquet");
        let mut input = Input::of(Path::new(file));
        if !format.is_empty() {
            input.time = format.parse().expect("a format");
        }
        let mut selected = selected(&[label], vec![value]);
        selected.grouping.time_column = time.to_owned();
        let folder = tempfile::tempdir().expect("a folder");
        let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
        let no_spill = Spill::new(Path::new(""), Grain::Hour, u64::MAX);
        let progress = Progress::new();
        Source::open(
            &input,
            selected.as_selection(),
            &progress.read,
            &Shutdown::new(),
        )?
        .read(rejects, no_spill, &Shutdown::new())
    }

    /// A column of 1, 0, 1 and 0.
    fn number() -> Column {
        code("result_int", &["0", "1"])
    }

    /// The texts of records that have one each, all shorter than 128 bytes.
    fn texts(rows: &Rows) -> Vec<String> {
        let text = |record: &[u8]| {
            assert_eq!(usize::from(record[0]), record.len() - 1);
            String::from_utf8(record[1..].to_vec()).expect("a text")
        };
        rows.records.as_slice().iter().map(text).collect()
    }

    #[test]
    fn labels_of_every_accepted_type_are_read_as_in_csv() {
        for (column, expected) in [
            ("label_text", ["Italy", "", "Zaire", ""]),
            ("label_category", ["Italy", "", "Zaire", ""]),
            ("label_binary", ["Italy", "", "Zaire", ""]),
            ("label_int", ["1", "-2", "3", ""]),
            ("label_int_category", ["1", "-2", "3", ""]),
            ("label_uint64", ["1", "2", "3", ""]),
            ("label_bool", ["true", "false", "true", ""]),
            (
                "label_date",
                ["2020-07-14", "1969-12-31", "1970-01-01", "2020-02-29"],
            ),
            ("label_nothing", ["", "", "", ""]),
        ] {
            let data_set = read(column, "time_text", number(), "").expect("it is read");
            let rows = data_set.rows;
            let labels = rows.label_set.iter();
            let labels: Vec<_> = labels.map(|&set| &rows.label_sets[set as usize]).collect();
            let expected = expected.map(|label| LabelSet::new([label]));
            assert_eq!(labels, expected.iter().collect::<Vec<_>>(), "{column}");
            assert_eq!(data_set.rejects.by_reason["missing_time"], 1, "{column}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_rejected_as_in_csv() {
        let data_set = read("label_binary", "label_date", number(), "").expect("it is read");
        assert_eq!(data_set.rejects.total, 1);
        let rows = read("label_binary", "time_ms_utc", number(), "").expect("it is read");
        // Its time is missing, which is the first reason that applies.
        assert_eq!(rows.rejects.by_reason["missing_time"], 1);
        let latin = read(
            "label_text",
            "time_ms_utc",
            code("label_binary", &["Zaire", "Italy"]),
            "",
        );
        let latin = latin.expect("two values are known");
        assert_eq!(latin.rejects.by_reason["missing_result"], 2);
    }

    #[test]
    fn times_of_every_unit_and_zone_are_the_same_seconds_and_a_date_is_its_midnight() {
        let seconds = [1_594_718_631, -2, 0, 1_583_020_799];
        for unit in ["ms", "us", "ns"] {
            for zone in ["naive", "utc", "rome"] {
                let column = format!("time_{unit}_{zone}");
                let data_set = read("label_text", &column, number(), "").expect("it is read");
                assert_eq!(data_set.rows.seconds, seconds, "{column}");
                assert_eq!(data_set.rejects.by_reason["missing_time"], 1, "{column}");
            }
        }
        let rows = read("label_text", "time_text", number(), "")
            .expect("it is read")
            .rows;
        assert_eq!(rows.seconds, seconds);
        let rows = read("label_text", "time_date", number(), "")
            .expect("it is read")
            .rows;
        assert_eq!(
            rows.seconds,
            seconds.map(|time: i64| time - time.rem_euclid(SECONDS_PER_DAY))
        );
    }

    #[test]
    fn an_integer_is_a_time_only_with_a_format() {
        let rows = read("label_text", "time_int", number(), "%s")
            .expect("it is read")
            .rows;
        assert_eq!(rows.seconds, [1_594_718_631, -2, 0, 1_583_020_799]);
        let error = read("label_text", "time_int", number(), "")
            .expect_err("which unit?")
            .to_string();
        assert!(
            error.contains("integers only with --time-format"),
            "{error}"
        );
    }

    #[test]
    fn values_of_every_accepted_type_are_compared_as_text() {
        let read_all = |column| read("label_text", "time_ms_utc", column, "").expect("it is read");
        let known = texts(&read_all(text("result_text")).rows);
        let known = [known[1].as_str(), known[0].as_str()];
        for value in [
            number(),
            code("result_text", &known),
            code("result_category", &known),
            code("result_binary", &known),
            code("result_bool", &["false", "true"]),
        ] {
            let rows = read_all(value.clone()).rows;
            assert_eq!(rows.records.bytes(), [1, 0, 1, 0], "{value:?}");
        }
    }

    #[test]
    fn texts_of_every_accepted_type_are_those_of_labels() {
        for column in [
            "label_text",
            "label_category",
            "label_int",
            "label_int_category",
            "label_uint64",
            "label_bool",
            "label_date",
            "label_nothing",
            "result_text",
            "result_category",
            "result_binary",
        ] {
            let rows = read(column, "time_text", text(column), "")
                .expect("it is read")
                .rows;
            let labels = rows.label_set.iter();
            let labels = labels.map(|&set| rows.label_sets[set as usize].values[0].clone());
            assert_eq!(texts(&rows), labels.collect::<Vec<_>>(), "{column}");
        }
        let latin = read("label_text", "label_int", text("label_binary"), "%s");
        assert_eq!(
            latin.expect("it is read").rejects.by_reason["invalid_utf8"],
            1
        );
    }

    #[test]
    fn a_type_that_is_not_accepted_is_an_error_with_column_type_and_accepted_types() {
        let label = |column| read(column, "time_text", number(), "");
        let time = |column| read("label_text", column, number(), "");
        let value = |column| read("label_text", "time_text", code(column, &["0", "1"]), "");
        let text = |column| read("label_text", "time_text", text(column), "");
        for (read, option, column, found) in [
            (label("label_uint8"), "--by", "label_uint8", "uint8"),
            (label("label_float"), "--by", "label_float", "float64"),
            (
                label("label_timestamp"),
                "--by",
                "label_timestamp",
                "timestamp",
            ),
            (label("label_list"), "--by", "label_list", "list"),
            (label("label_struct"), "--by", "label_struct", "struct"),
            (label("label_decimal"), "--by", "label_decimal", "decimal"),
            (time("time_float"), "--time", "time_float", "float64"),
            (time("time_of_day"), "--time", "time_of_day", "time64"),
            (time("time_bool"), "--time", "time_bool", "boolean"),
            (value("result_float"), "--result", "result_float", "float32"),
            (value("result_date"), "--result", "result_date", "date32"),
            (text("label_float"), "--result", "label_float", "float64"),
            (text("label_list"), "--result", "label_list", "list"),
        ] {
            let text = read.expect_err(column).to_string();
            let start = format!("{option} {column}: ");
            assert!(text.starts_with(&start), "{text}");
            let middle = format!("every_type.parquet has this column as {found}; ");
            assert!(text.contains(&middle), "{text}");
            assert!(text.contains(" are "), "{text}");
        }
    }
}

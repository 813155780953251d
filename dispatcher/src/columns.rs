//! The columns of a data set that are needed, and their positions. A missing column is an error that
//! names the existing columns, and the one with the most similar name.

use computations::Column;
use csv::ByteRecord;
use service::text::{nearest, truncated};

use crate::error::Error;
use crate::grouping::Grouping;
use crate::records::Width;

/// The most columns in an error; the first line of a file that is not a data set may be long.
const MAX_COLUMNS: usize = 40;

/// The most characters of each column's name in an error.
const MAX_CHARACTERS: usize = 60;

/// The columns whose values are the payload of a job, for a computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadColumns {
    columns: Vec<Column>,
    /// The option that names the columns on a command line.
    option: &'static str,
}

impl PayloadColumns {
    /// The columns that a computation needs, and the option that names them on a command line.
    pub fn new(columns: Vec<Column>, option: &'static str) -> Self {
        Self { columns, option }
    }

    /// The columns, in the order of their values in a row record.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The option that names the columns on a command line.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// The width of row records of these columns.
    pub fn width(&self) -> Width {
        Width::of(&self.columns)
    }
}

/// The columns of a data set that are read.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// The columns by which rows are grouped: labels and time.
    pub grouping: &'a Grouping,
    /// The columns of the payload.
    pub payload: &'a PayloadColumns,
}

/// The positions of the needed columns in the records of a file, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The number of columns of the file: every record must have as many fields.
    pub count: usize,
    /// The label columns, in the order of the grouping.
    pub labels: Vec<usize>,
    /// The time column.
    pub time: usize,
    /// The payload columns, in the order of the payload.
    pub payload: Vec<usize>,
}

impl Columns {
    /// Finds the selected columns in a header; `input` is the name of the file in messages.
    ///
    /// # Errors
    /// When a column is missing, or occurs twice.
    pub fn find(input: &str, header: &ByteRecord, selection: Selection<'_>) -> Result<Self, Error> {
        let Selection { grouping, payload } = selection;
        let find = |option, name| find(input, header, option, name);
        Ok(Self {
            count: header.len(),
            labels: grouping
                .label_columns
                .iter()
                .map(|name| find("--by", name))
                .collect::<Result<_, _>>()?,
            time: find("--time", &grouping.time_column)?,
            payload: payload
                .columns
                .iter()
                .map(|column| find(payload.option, &column.name))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The position of a column by its name; `option` is the option that names it.
fn find(
    input: &str,
    header: &ByteRecord,
    option: &'static str,
    name: &str,
) -> Result<usize, Error> {
    let mut found = header
        .iter()
        .enumerate()
        .filter(|(_, column)| *column == name.as_bytes());
    match (found.next(), found.next()) {
        (Some((position, _)), None) => Ok(position),
        (Some(_), Some(_)) => Err(Error::AmbiguousColumn {
            input: input.to_owned(),
            option,
            name: name.to_owned(),
        }),
        (None, _) => {
            let names: Vec<String> = header
                .iter()
                .map(|column| String::from_utf8_lossy(column).into_owned())
                .collect();
            let truncate = |name: &String| truncated(name.as_bytes(), MAX_CHARACTERS);
            let nearest = nearest(name, &names).map(truncate);
            let mut columns: Vec<String> = names.iter().take(MAX_COLUMNS).map(truncate).collect();
            let others = names.len() - columns.len();
            if others > 0 {
                columns.push(format!("… ({others} more)"));
            }
            Err(Error::MissingColumn {
                input: input.to_owned(),
                option,
                name: name.to_owned(),
                nearest,
                columns,
            })
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use computations::Coding;

    use super::*;
    use crate::args;

    /// A column whose values are codes, from 0.
    pub(crate) fn code(name: &str, values: &[&str]) -> Column {
        let values = values.iter().zip(0..);
        Column {
            name: name.to_owned(),
            coding: Coding::Code {
                values: values
                    .map(|(&value, code)| (value.to_owned(), code))
                    .collect(),
                missing: "missing_result",
                unlisted: "unknown_result",
            },
        }
    }

    /// A column of texts.
    pub(crate) fn text(name: &str) -> Column {
        Column {
            name: name.to_owned(),
            coding: Coding::Text,
        }
    }

    /// The column `result`: `no` is 0, `yes` is 1.
    pub(crate) fn result() -> Vec<Column> {
        vec![code("result", &["no", "yes"])]
    }

    /// A selection that owns what it is made of.
    pub(crate) struct Selected {
        pub(crate) grouping: Grouping,
        pub(crate) payload: PayloadColumns,
    }

    impl Selected {
        pub(crate) fn as_selection(&self) -> Selection<'_> {
            Selection {
                grouping: &self.grouping,
                payload: &self.payload,
            }
        }
    }

    /// A selection of these labels, the time column `test_date`, and a payload.
    pub(crate) fn selected(labels: &[&str], payload: Vec<Column>) -> Selected {
        Selected {
            grouping: grouping(labels),
            payload: PayloadColumns::new(payload, "--result"),
        }
    }

    /// A grouping by these labels and by hours of the time column `test_date`.
    pub(crate) fn grouping(labels: &[&str]) -> Grouping {
        Grouping {
            label_columns: labels.iter().map(|&name| name.to_owned()).collect(),
            max_rows_per_job: 10,
            ..args::tests::grouping()
        }
    }

    fn find_all(
        header: &ByteRecord,
        labels: &[&str],
        payload: Vec<Column>,
    ) -> Result<Columns, Error> {
        Columns::find(
            "tests.csv",
            header,
            selected(labels, payload).as_selection(),
        )
    }

    #[test]
    fn columns_are_found_at_any_position() {
        let header = ByteRecord::from(vec!["result", "x", "test_date", "country"]);
        let payload = vec![text("x"), code("result", &["yes"])];
        let columns = find_all(&header, &["country", "x"], payload).expect("all are there");
        assert_eq!((columns.count, columns.time), (4, 2));
        assert_eq!((columns.labels, columns.payload), (vec![3, 1], vec![1, 0]));
    }

    #[test]
    fn a_missing_column_is_an_error_with_the_existing_columns_and_the_most_similar_one() {
        let header = ByteRecord::from(vec!["Country", "test_date", "result"]);
        let error = find_all(&header, &["country"], result()).expect_err("case differs");
        assert_eq!(
            error.to_string(),
            "--by country: tests.csv has no such column, did you mean Country? \
             It has Country, test_date, result"
        );
    }

    #[test]
    fn a_line_that_is_not_a_header_is_printed_in_one_bounded_line_without_control_characters() {
        let mut header = ByteRecord::from(vec!["\x1b[2Jcoun\0try\n", &"x".repeat(1 << 20)]);
        (0..100_000).for_each(|_| header.push_field(b""));
        let error = find_all(&header, &["country"], result());
        let text = error.expect_err("it has no such column").to_string();
        assert!(text.contains("\\u{1b}[2Jcoun\\u{0}try\\n"), "{text}");
        assert!(text.ends_with("… (99962 more)"), "{text}");
        assert!(
            text.len() < 500 && !text.contains(char::is_control),
            "{text}"
        );
    }

    #[test]
    fn a_column_that_occurs_twice_is_ambiguous() {
        let header = ByteRecord::from(vec!["result", "test_date", "result"]);
        let error = find_all(&header, &[], result()).expect_err("result occurs twice");
        assert!(error.to_string().contains("--result result"), "{error}");
    }
}

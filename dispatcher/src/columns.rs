//! Which columns of a data set are needed, and where they are. A name that is not there is an error
//! that names those which are, the nearest first.

use computations::Column;
use csv::ByteRecord;

use crate::error::Error;
use crate::grouping::Grouping;
use crate::records::Width;
use crate::shown::shown;

/// Names this much alike are taken for a slip of the pen.
const LIKELY: f64 = 0.7;

/// So many columns are shown, and so many characters of each: the first line of a file that is no
/// data set at all may be anything.
const SHOWN_COLUMNS: usize = 40;
const SHOWN_CHARACTERS: usize = 60;

/// The columns of which a computation makes the payload of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadColumns {
    columns: Vec<Column>,
    option: &'static str,
}

impl PayloadColumns {
    /// The columns that a computation wants; `option` is the one that names them on a command line.
    pub fn new(columns: Vec<Column>, option: &'static str) -> Self {
        Self { columns, option }
    }

    /// The columns, in the order of their codes in a row record.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The option that names them on a command line.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// The width of their row records.
    pub fn width(&self) -> Width {
        Width::of(&self.columns)
    }
}

/// Which columns of a data set are read.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Those by which rows are grouped: labels and time.
    pub grouping: &'a Grouping,
    /// Those that travel with each row.
    pub payload: &'a PayloadColumns,
}

/// Where the needed columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Number of columns of the data set: every record must have as many fields.
    pub count: usize,
    /// The label columns, in order.
    pub labels: Vec<usize>,
    /// The time column.
    pub time: usize,
    /// The columns of the payload, in order.
    pub payload: Vec<usize>,
}

impl Columns {
    /// Finds the selected columns in a header; `input` is the file for people.
    ///
    /// # Errors
    /// When a column is not there, or there twice.
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
            let shown = |name: &String| shown(name.as_bytes(), SHOWN_CHARACTERS);
            let nearest = nearest(name, &names).as_ref().map(shown);
            let mut columns: Vec<String> = names.iter().take(SHOWN_COLUMNS).map(shown).collect();
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

/// The candidate that is most like a name, if any is much like it.
fn nearest(name: &str, candidates: &[String]) -> Option<String> {
    let name = name.to_lowercase();
    let likeness = |candidate: &String| strsim::jaro_winkler(&name, &candidate.to_lowercase());
    candidates
        .iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKELY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.clone())
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

    /// These labels, the time in the column `test_date`, and what travels.
    pub(crate) fn selected(labels: &[&str], payload: Vec<Column>) -> Selected {
        Selected {
            grouping: grouping(labels),
            payload: PayloadColumns::new(payload, "--result"),
        }
    }

    /// By these labels, and the time in the column `test_date`, by the hour.
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
    fn columns_are_found_wherever_they_are() {
        let header = ByteRecord::from(vec!["result", "x", "test_date", "country"]);
        let payload = vec![text("x"), code("result", &["yes"])];
        let columns = find_all(&header, &["country", "x"], payload).expect("all are there");
        assert_eq!((columns.count, columns.time), (4, 2));
        assert_eq!((columns.labels, columns.payload), (vec![3, 1], vec![1, 0]));
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_exist_and_the_nearest() {
        let header = ByteRecord::from(vec!["Country", "test_date", "result"]);
        let error = find_all(&header, &["country"], result()).expect_err("case differs");
        assert_eq!(
            error.to_string(),
            "--by country: tests.csv has no such column, did you mean Country? \
             It has Country, test_date, result"
        );
    }

    #[test]
    fn a_header_that_is_none_is_shown_in_one_bounded_line_that_steers_no_terminal() {
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
    fn a_column_that_is_there_twice_is_ambiguous() {
        let header = ByteRecord::from(vec!["result", "test_date", "result"]);
        let error = find_all(&header, &[], result()).expect_err("result is there twice");
        assert!(error.to_string().contains("--result result"), "{error}");
    }
}

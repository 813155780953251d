//! Which columns of a data set are needed, and where they are. A name that is not there is an error
//! that names those which are, the nearest first.

use csv::ByteRecord;

use crate::error::Error;
use crate::grouping::Grouping;
use crate::shown::shown;

/// Names this much alike are taken for a slip of the pen.
const LIKELY: f64 = 0.7;

/// So many columns are shown, and so many characters of each: the first line of a file that is no
/// data set at all may be anything.
const SHOWN_COLUMNS: usize = 40;
const SHOWN_CHARACTERS: usize = 60;

/// Where the needed columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Number of columns of the data set: every record must have as many fields.
    pub count: usize,
    /// The label columns, in order.
    pub labels: Vec<usize>,
    /// The time column.
    pub time: usize,
    /// The result column.
    pub result: usize,
}

impl Columns {
    /// Finds the columns that a grouping needs in a header; `input` is the file for people.
    ///
    /// # Errors
    /// When a column is not there, or there twice.
    pub fn find(input: &str, header: &ByteRecord, grouping: &Grouping) -> Result<Self, Error> {
        let find = |option, name| find(input, header, option, name);
        Ok(Self {
            count: header.len(),
            labels: grouping
                .label_columns
                .iter()
                .map(|name| find("--by", name))
                .collect::<Result<_, _>>()?,
            time: find("--time", &grouping.time_column)?,
            result: find("--result", &grouping.result_column)?,
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
    use pipeline::Grain;

    use super::*;

    /// By these labels, time and result in the columns `test_date` and `result`.
    pub(crate) fn grouping(labels: &[&str]) -> Grouping {
        Grouping {
            label_columns: labels.iter().map(|&name| name.to_owned()).collect(),
            time_column: "test_date".to_owned(),
            grain: Grain::Hour,
            result_column: "result".to_owned(),
            positive: "positive".to_owned(),
            negative: "negative".to_owned(),
            max_rows_per_job: 10,
        }
    }

    #[test]
    fn columns_are_found_wherever_they_are() {
        let header = ByteRecord::from(vec!["result", "x", "test_date", "country"]);
        let columns = Columns::find("tests.csv", &header, &grouping(&["country", "x"]))
            .expect("all are there");
        assert_eq!((columns.count, columns.time, columns.result), (4, 2, 0));
        assert_eq!(columns.labels, [3, 1]);
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_exist_and_the_nearest() {
        let header = ByteRecord::from(vec!["Country", "test_date", "result"]);
        let error =
            Columns::find("tests.csv", &header, &grouping(&["country"])).expect_err("case differs");
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
        let error = Columns::find("tests.csv", &header, &grouping(&["country"]));
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
        let error =
            Columns::find("tests.csv", &header, &grouping(&[])).expect_err("result is there twice");
        assert!(error.to_string().contains("--result result"), "{error}");
    }
}

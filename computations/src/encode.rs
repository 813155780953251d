//! The columns of a data set that a computation wants, and how their values are coded.
//!
//! A computation only names its columns: the dispatcher reads and codes them while it reads the data
//! set, with no call per row into the computation. The codes of a row's columns, one after the other,
//! are its *row record*; the payload of a job is the row records of its rows, in record order.

/// A column of the data set that travels with each row, and how its values are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in the header of the data set.
    pub name: String,
    /// How its values are coded.
    pub coding: Coding,
}

impl Column {
    /// A column of texts.
    pub fn text(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            coding: Coding::Text,
        }
    }
}

/// How the values of a column are coded in a row record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coding {
    /// One byte a row: the code of the value among those listed. An empty value is listed, or missing.
    Code {
        /// Each value with its code; the first one counts where a value is listed twice.
        values: Vec<(String, u8)>,
        /// The reason to reject a row without a value.
        missing: &'static str,
        /// The reason to reject a row with a value that is not listed.
        unlisted: &'static str,
    },
    /// The value's bytes: an unsigned LEB128 length, then UTF-8. A missing value is an empty one.
    Text,
}

/// A computation as the dispatcher sees it.
pub trait Encode: Send + Sync {
    /// The columns that travel with each row, in the order of their codes in a row record.
    fn columns(&self) -> &[Column];
}

impl Encode for Vec<Column> {
    fn columns(&self) -> &[Column] {
        self
    }
}

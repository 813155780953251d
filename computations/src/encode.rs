//! The columns of a data set that a computation reads, and the coding of their values.
//!
//! A computation only declares its columns: the dispatcher codes their values while it reads the data
//! set, without a call per row into the computation. The codes of a row's columns, one after the other,
//! are its *row record*. The payload of a job is the row records of its rows, in record order.

/// A column of the data set that is part of each row record, and the coding of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name of the column in the header of the data set.
    pub name: String,
    /// The coding of its values.
    pub coding: Coding,
}

impl Column {
    /// A column with the coding [`Coding::Text`].
    pub fn text(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            coding: Coding::Text,
        }
    }
}

/// The coding of a column's values in a row record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coding {
    /// One byte: the code of a listed value. An empty value that is not listed is a missing one.
    Code {
        /// The listed values with their codes. Where a value is listed twice, the first code is used.
        values: Vec<(String, u8)>,
        /// The reason to reject a row without a value.
        missing: &'static str,
        /// The reason to reject a row with a value that is not listed.
        unlisted: &'static str,
    },
    /// An unsigned LEB128 length in bytes, then the value in UTF-8. A missing value is an empty text.
    Text,
}

/// The part of a computation that the dispatcher calls: it declares the columns of a row record.
pub trait Encode: Send + Sync {
    /// The columns of a row record, in the order of their codes.
    fn columns(&self) -> &[Column];
}

impl Encode for Vec<Column> {
    fn columns(&self) -> &[Column] {
        self
    }
}

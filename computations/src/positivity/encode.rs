//! The row record of positivity: one byte, the code of the result.

use super::{NEGATIVE, POSITIVE};
use crate::{Coding, Column, Encode};

/// The column that positivity wants: the result of a test, as [the payload](super) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    columns: [Column; 1],
}

impl Encoding {
    /// The column of this name, whose values are `positive` and `negative`.
    pub fn new(result_column: &str, positive: &str, negative: &str) -> Self {
        Self {
            columns: [Column {
                name: result_column.to_owned(),
                coding: Coding::Code {
                    values: vec![
                        (positive.to_owned(), POSITIVE),
                        (negative.to_owned(), NEGATIVE),
                    ],
                    missing: "missing_result",
                    unlisted: "unknown_result",
                },
            }],
        }
    }
}

impl Encode for Encoding {
    fn columns(&self) -> &[Column] {
        &self.columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_byte_by_which_it_is_rejected_too() {
        let encoding = Encoding::new("outcome", "yes", "no");
        let [column] = encoding.columns() else {
            panic!("one column");
        };
        assert_eq!(column.name, "outcome");
        let Coding::Code {
            values,
            missing,
            unlisted,
        } = &column.coding
        else {
            panic!("a code");
        };
        assert_eq!(values, &[("yes".to_owned(), 1), ("no".to_owned(), 0)]);
        assert_eq!((*missing, *unlisted), ("missing_result", "unknown_result"));
    }
}

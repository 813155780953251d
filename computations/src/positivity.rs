//! Positivity: how many tests a job has, and how many of them are positive. A payload has one byte a
//! test; a result has two small integers; the table is a [`Series`].

mod encode;
mod series;
mod tabulate;
mod tally;

use pipeline::{Computation, Job};

use crate::{Compute, Definition, JobError, Parameter, varint};

pub use series::{Series, SeriesRow};
pub use tally::tally;

/// The code of a negative test in a payload.
pub const NEGATIVE: u8 = 0;
/// The code of a positive test in a payload.
pub const POSITIVE: u8 = 1;

pub use encode::Encoding;

/// Counts the tests of a job and the positive ones among them.
///
/// The result is two numbers in LEB128: tests, then positive tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Positivity;

/// Positivity, as programs know it.
pub const DEFINITION: Definition = Definition {
    name: "positivity",
    parameters: &[
        Parameter::required(RESULT).of_encoding(),
        Parameter::required(POSITIVE_VALUE).of_encoding(),
        Parameter::required(NEGATIVE_VALUE).of_encoding(),
    ],
    encode: |of| {
        // Required, so they are there.
        let parameter = |name| of.parameter(name).unwrap_or_default();
        Ok(Box::new(Encoding::new(
            parameter(RESULT),
            parameter(POSITIVE_VALUE),
            parameter(NEGATIVE_VALUE),
        )))
    },
    compute: |_| Ok(Box::new(Positivity)),
    tabulate: |_| Ok(Box::new(Positivity)),
};

/// The parameter with the column that holds the result of a test.
pub const RESULT: &str = "result";
/// The parameter with the value of a positive result.
pub const POSITIVE_VALUE: &str = "positive";
/// The parameter with the value of a negative result.
pub const NEGATIVE_VALUE: &str = "negative";

/// The computation of a column with the result of a test and its two values.
pub fn computation(result: &str, positive: &str, negative: &str) -> Computation {
    Computation::named(DEFINITION.name)
        .with_encoding(RESULT, result)
        .with_encoding(POSITIVE_VALUE, positive)
        .with_encoding(NEGATIVE_VALUE, negative)
}

/// Tests and positive tests. The rate is not divided here: integers add up without loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many tests there were.
    pub tests: u32,
    /// How many of them were positive.
    pub positive: u32,
}

impl Tally {
    /// Appends the tally as a result.
    #[inline]
    pub fn write(self, result: &mut Vec<u8>) {
        // Most jobs are small, and room is asked for once.
        if let (tests @ 0..0x80, positive @ 0..0x80) = (self.tests, self.positive) {
            return result.extend_from_slice(&[tests as u8, positive as u8]);
        }
        varint::write(u64::from(self.tests), result);
        varint::write(u64::from(self.positive), result);
    }

    /// Reads a result; `None` when it is malformed.
    #[inline]
    pub fn read(result: &[u8]) -> Option<Self> {
        // Most jobs are small.
        if let &[tests @ 0..0x80, positive @ 0..0x80] = result {
            return Some(Self {
                tests: tests.into(),
                positive: positive.into(),
            });
        }
        Self::read_large(result)
    }

    #[cold]
    fn read_large(mut result: &[u8]) -> Option<Self> {
        let mut next = || varint::read(&mut result).and_then(|number| number.try_into().ok());
        let (tests, positive) = (next()?, next()?);
        result.is_empty().then_some(Self { tests, positive })
    }
}

impl Compute for Positivity {
    #[inline(always)]
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        tally(job)?.write(result);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::compute;

    #[test]
    fn tests_and_positive_ones_are_the_result() {
        let result = compute(&mut Positivity, 5, &[0, 1, 1, 0, 0]);
        assert_eq!(result, Ok(vec![5, 2]));
        let result = compute(&mut Positivity, 200, &[1; 200]);
        assert_eq!(result, Ok(vec![0xc8, 1, 0xc8, 1]));
    }

    #[test]
    fn a_test_with_another_result_fails_the_job() {
        let error = compute(&mut Positivity, 3, &[0, 1, 7]).expect_err("an unknown result");
        assert!(error.is_transient());
        let reason = "test 2 has the result code 7, which is neither negative nor positive";
        assert_eq!(error.into_reason(), reason);
    }

    proptest! {
        #[test]
        fn a_tally_is_read_as_it_was_written(tests: u32, positive: u32, shift in 0u32..32) {
            let tally = Tally { tests: tests >> shift, positive: positive >> shift };
            let mut result = Vec::new();
            tally.write(&mut result);
            prop_assert_eq!(Tally::read(&result), Some(tally));
            prop_assert_eq!(Tally::read(&result[..result.len() - 1]), None);
            result.push(0);
            prop_assert_eq!(Tally::read(&result), None);
        }
    }
}

//! Count: how many rows a group has. It wants no column, so that a payload is empty and the weight
//! of a job is its result.

use pipeline::ledger::SpillError;
use pipeline::reconciliation::Check;
use pipeline::{Job, Ledger};

use crate::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows, readable};
use crate::{Column, Compute, Definition, Encode, JobError, Tabulate, varint};

/// Counts the rows of a job; the result is their number, in LEB128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count;

/// Count, as programs know it.
pub const DEFINITION: Definition = Definition {
    name: "count",
    parameters: &[],
    encode: |_| Ok(Box::new(Count)),
    compute: |_| Ok(Box::new(Count)),
    tabulate: |_| Ok(Box::new(Count)),
};

impl Encode for Count {
    fn columns(&self) -> &[Column] {
        &[]
    }
}

impl Compute for Count {
    #[inline]
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        varint::write(u64::from(job.weight), result);
        Ok(())
    }
}

/// The rows of a job by its result.
fn rows_of(mut result: &[u8]) -> Result<u64, MalformedResult> {
    let rows = varint::read(&mut result).ok_or(MalformedResult)?;
    match result {
        [] => Ok(rows),
        _ => Err(MalformedResult),
    }
}

impl Tabulate for Count {
    fn columns(&self) -> &'static [ResultColumn] {
        &[ResultColumn {
            name: "rows",
            kind: Kind::Integer,
        }]
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let mut sum = 0u64;
        for part in parts {
            sum = sum.saturating_add(rows_of(part)?);
        }
        let sum = i64::try_from(sum).map_err(|_| MalformedResult)?;
        out.push([Cell::Integer(sum)]);
        Ok(())
    }

    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        let mut rows = 0u64;
        ledger.for_each_completed(|_, result| {
            rows = rows.saturating_add(rows_of(result).unwrap_or(0));
        })?;
        Ok(vec![
            readable(self, ledger)?,
            Check::numbers(
                "rows counted = rows in completed jobs",
                ledger.totals().weight_completed,
                rows,
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{compute, ledger_of};

    #[test]
    fn a_group_has_the_rows_of_its_parts() {
        let results = [300, 5].map(|weight| compute(&mut Count, weight, &[]).expect("computed"));
        let parts = results.each_ref().map(Vec::as_slice);
        let mut rows = ResultRows::default();
        assert_eq!(Count.rows(&parts, &mut rows), Ok(()));
        assert_eq!(rows.rows(1).collect::<Vec<_>>(), [[Cell::Integer(305)]]);
    }

    #[test]
    fn results_of_something_else_fail_a_check() {
        let failing = |results: &[&[u8]]| {
            let checks = Count.checks(&ledger_of(2, results));
            let checks = checks.expect("all is in memory");
            let failing = checks.into_iter().filter(|check| !check.holds);
            failing.map(|check| check.name).collect::<Vec<_>>()
        };
        let (malformed, wrong) = (
            "groups with malformed results",
            "rows counted = rows in completed jobs",
        );
        assert_eq!(failing(&[&[2], &[2]]), [""; 0]);
        assert_eq!(failing(&[&[2], &[3]]), [wrong]);
        assert_eq!(failing(&[&[2], &[]]), [malformed, wrong]);
        assert_eq!(failing(&[&[2], &[2, 0]]), [malformed, wrong]);
    }
}

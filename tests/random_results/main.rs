//! `rollcall` for tests, with a computation that is random on purpose: `--compute random` makes another
//! result of each attempt at a job, which the table shows as a number.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::process::ExitCode;

use computations::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows, readable};
use computations::{Compute, Count, Definition, JobError, Registry, Tabulate};
use pipeline::ledger::SpillError;
use pipeline::reconciliation::Check;
use pipeline::{Job, Ledger};

/// Longer than what stands in a line of the ledger.
const RESULT_BYTES: usize = 16;

fn main() -> ExitCode {
    rollcall::program(&Registry::standard().with(Definition {
        name: "random",
        parameters: &[],
        // A payload is empty, as for count.
        encode: |_| Ok(Box::new(Count)),
        compute: |_| Ok(Box::new(Random)),
        tabulate: |_| Ok(Box::new(Random)),
    }))
}

struct Random;

impl Compute for Random {
    fn compute(&mut self, _: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        // Keys that the standard library draws anew each time.
        let drawn = RandomState::new().build_hasher().finish();
        result.resize(RESULT_BYTES - size_of::<u64>(), 0);
        result.extend(drawn.to_be_bytes());
        Ok(())
    }
}

impl Tabulate for Random {
    fn columns(&self) -> &'static [ResultColumn] {
        const DRAWN: ResultColumn = ResultColumn::new("drawn", Kind::Integer);
        &[DRAWN]
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let mut sum = 0i64;
        for part in parts {
            let (_, drawn) = part.split_last_chunk().ok_or(MalformedResult)?;
            sum = sum.wrapping_add(i64::from_be_bytes(*drawn));
        }
        out.push([Cell::Integer(sum)]);
        Ok(())
    }

    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        Ok(vec![readable(self, ledger)?])
    }
}

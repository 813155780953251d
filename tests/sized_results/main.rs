//! `rollcall` for tests, with a computation whose results are as large as the column `bytes` says,
//! whatever the size of the job: `--compute sized`. The table has their size and the sum of their bytes.

use std::process::ExitCode;

use computations::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows, readable};
use computations::{Column, Compute, Definition, JobError, Registry, Tabulate, varint};
use pipeline::ledger::SpillError;
use pipeline::reconciliation::Check;
use pipeline::{Job, Ledger};

fn main() -> ExitCode {
    rollcall::program(&Registry::standard().with(Definition {
        name: "sized",
        parameters: &[],
        encode: |_| Ok(Box::new(vec![Column::text("bytes")])),
        compute: |_| Ok(Box::new(Sized)),
        tabulate: |_| Ok(Box::new(Sized)),
    }))
}

struct Sized;

impl Compute for Sized {
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        let bytes = varint::read_text(&mut &*job.payload).and_then(|text| text.parse().ok());
        let bytes: usize = bytes.ok_or_else(|| JobError::Permanent("no number".to_owned()))?;
        result.extend((0..bytes).map(|position| (position * 31 + bytes) as u8));
        Ok(())
    }
}

impl Tabulate for Sized {
    fn columns(&self) -> &'static [ResultColumn] {
        const SIZE: ResultColumn = ResultColumn::new("size", Kind::Integer);
        const SUM: ResultColumn = ResultColumn::new("sum", Kind::Integer);
        &[SIZE, SUM]
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let bytes = parts.concat();
        let sum = bytes.iter().map(|&byte| i64::from(byte)).sum();
        out.push([Cell::Integer(bytes.len() as i64), Cell::Integer(sum)]);
        Ok(())
    }

    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        Ok(vec![readable(self, ledger)?])
    }
}

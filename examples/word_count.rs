//! A computation of one's own: how often each word is in the column `text`, in several rows a group.
//! The program is `rollcall` with one more name for `--compute`:
//! `cargo run --example word_count -- run comments.csv --compute word-count --param min_length=3`

use std::{collections::BTreeMap, process::ExitCode};

use computations::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows, readable};
use computations::{Column, Compute, Definition, JobError, Parameter, ParameterError};
use computations::{Registry, Tabulate, varint};
use pipeline::{Computation, Job, Ledger, ledger::SpillError, reconciliation::Check};

fn main() -> ExitCode {
    rollcall::program(&Registry::standard().with(Definition {
        name: "word-count",
        parameters: const { &[Parameter::optional("min_length")] },
        encode: |_| Ok(Box::new(vec![Column::text("text")])),
        compute: |of| Ok(Box::new(WordCount::new(of)?)),
        tabulate: |of| Ok(Box::new(WordCount::new(of)?)),
    }))
}

/// A result is the words of a job of at least this length, in order, each with how often it was there.
struct WordCount(usize);

impl WordCount {
    fn new(of: &Computation) -> Result<Self, ParameterError> {
        let invalid = |_| ParameterError::new(of, "min_length", "it is no number");
        let least = of.parameter("min_length").unwrap_or("1");
        least.parse().map(Self).map_err(invalid)
    }
}

impl Compute for WordCount {
    fn compute(&mut self, job: &Job<'_>, result: &mut Vec<u8>) -> Result<(), JobError> {
        let (mut counts, mut texts) = (BTreeMap::<String, u64>::new(), job.payload);
        while !texts.is_empty() {
            // What stands for a character that was lost makes other words than were written.
            let text = varint::read_text(&mut texts).filter(|text| !text.contains('\u{fffd}'));
            let broken = || JobError::Permanent("a text has lost characters".to_owned());
            let text = text.ok_or_else(broken)?.to_lowercase();
            for word in text.split(|c: char| !c.is_alphanumeric()) {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        counts.retain(|word, _| word.chars().count() >= self.0.max(1));
        for (word, count) in counts {
            varint::write_text(&word, result);
            varint::write(count, result);
        }
        Ok(())
    }
}

impl Tabulate for WordCount {
    fn columns(&self) -> &'static [ResultColumn] {
        const WORD: ResultColumn = ResultColumn::new("word", Kind::Text);
        const COUNT: ResultColumn = ResultColumn::new("count", Kind::Integer);
        &[WORD, COUNT]
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let mut counts = BTreeMap::<&str, i64>::new();
        for mut part in parts.iter().copied() {
            while !part.is_empty() {
                let word = varint::read_text(&mut part).ok_or(MalformedResult)?;
                let count = varint::read(&mut part).and_then(|count| i64::try_from(count).ok());
                let sum = counts.entry(word).or_default();
                *sum = sum.saturating_add(count.ok_or(MalformedResult)?);
            }
        }
        for (word, count) in counts {
            out.push([Cell::Text(word.to_owned()), Cell::Integer(count)]);
        }
        Ok(())
    }

    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        Ok(vec![readable(self, ledger)?])
    }
}

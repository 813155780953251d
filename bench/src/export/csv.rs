//! `bench.csv`: one line for each run of each row, for spreadsheets and data frames. An unknown
//! figure is an empty cell.

use std::io::{self, Write};

use aggregator::export::Exporter;

use crate::benchmark::{Benchmark, Row, Sample};

const COLUMNS: [&str; 10] = [
    "row",
    "engine",
    "workers",
    "job_cost_seconds",
    "round",
    "wall_seconds",
    "cpu_seconds",
    "cpu_seconds_of_workers",
    "peak_resident_bytes",
    "messages",
];

/// An exporter of a benchmark's samples as CSV.
#[derive(Clone, Copy, Debug)]
pub struct BenchCsv<'a>(pub &'a Benchmark);

impl Exporter for BenchCsv<'_> {
    fn file_name(&self) -> String {
        "bench.csv".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(COLUMNS)?;
        let swept = self.0.break_even.iter().flat_map(|swept| &swept.rows);
        for row in self.0.rows.iter().chain(swept) {
            for sample in &row.samples {
                writer.write_record(cells(row, sample))?;
            }
        }
        writer.flush()
    }
}

fn cells(row: &Row, sample: &Sample) -> [String; 10] {
    fn known<T: ToString>(value: Option<T>) -> String {
        value.map_or(String::new(), |value| value.to_string())
    }
    let workers = sample
        .processes
        .iter()
        .filter(|process| process.name != "rollcall");
    let of_workers: Option<f64> = workers.map(|process| process.cpu_seconds).sum();
    [
        row.name.clone(),
        row.engine.name().to_owned(),
        known(row.workers),
        row.job_cost_seconds.to_string(),
        sample.round.to_string(),
        sample.wall_seconds.to_string(),
        known(sample.cpu_seconds),
        known(of_workers.filter(|_| row.workers.is_some())),
        known(sample.peak_resident_bytes),
        known(sample.messages),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::BenchEngine;
    use crate::benchmark::tests::benchmark;

    #[test]
    fn every_run_is_a_line_and_the_unknown_is_empty() {
        let mut benchmark = benchmark(&[
            (BenchEngine::Loop, None, &[1.25]),
            (BenchEngine::Packed, Some(4), &[2.0, 2.5]),
        ]);
        benchmark.rows[0].samples[0].messages = None;
        benchmark.rows[1].samples[1].cpu_seconds = None;
        benchmark.rows[1].samples[1].processes[1].cpu_seconds = None;
        let mut text = Vec::new();
        BenchCsv(&benchmark).export(&mut text).expect("written");
        let expected = "\
row,engine,workers,job_cost_seconds,round,wall_seconds,cpu_seconds,cpu_seconds_of_workers,\
peak_resident_bytes,messages
loop,loop,,0,1,1.25,1.5,,314572800,
packed-4,packed,4,0,1,2,1.5,0.5,314572800,386
packed-4,packed,4,0,2,2.5,,,314572800,386
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}

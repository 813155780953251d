//! The files of a benchmark, one module for each format, by the same trait as a run's outputs:
//! [`Exporter`](aggregator::export::Exporter).

mod charts;
pub mod comparison;
pub mod csv;
pub mod html;
pub mod json;
pub mod markdown;

pub use self::comparison::ComparisonMd;
pub use self::csv::BenchCsv;
pub use self::html::BenchHtml;
pub use self::json::BenchJson;
pub use self::markdown::BenchMd;

use service::table::{self, Align};

use crate::benchmark::{Benchmark, Row};
use crate::break_even::Pays;
use crate::figures;

/// The columns of every table of rows.
const COLUMNS: [&str; 10] = [
    "row",
    "wall s",
    "± MAD",
    "min … max",
    "jobs/s",
    "× loop",
    "speed-up",
    "CPU s",
    "peak",
    "CPU s/M jobs",
];

/// The cells of a row, one for each of [`COLUMNS`].
fn cells(row: &Row) -> Vec<String> {
    let wall = &row.wall_seconds;
    let speed_up = row.speed_up.zip(row.ideal_speed_up);
    vec![
        row.name.clone(),
        figures::plain_seconds(wall.median),
        figures::plain_seconds(wall.mad),
        format!(
            "{} … {}",
            figures::plain_seconds(wall.min),
            figures::plain_seconds(wall.max)
        ),
        figures::known(row.jobs_per_second, figures::whole),
        figures::known(row.times_the_loop, figures::ratio),
        figures::known(speed_up, |(own, ideal)| format!("{own:.2} of {ideal:.0}")),
        figures::known(row.cpu_seconds, |cpu| figures::plain_seconds(cpu.median)),
        figures::known(row.peak_resident_bytes, |peak| {
            figures::mebibytes(peak.median)
        }),
        figures::known(row.cpu_seconds_per_million_jobs, figures::plain_seconds),
    ]
}

/// The rows of a benchmark as a table for a terminal.
pub fn table(benchmark: &Benchmark) -> String {
    let mut head = COLUMNS.map(|name| (name, Align::Right));
    head[0].1 = Align::Left;
    let mut text = table::table(&head, benchmark.rows.iter().map(cells));
    for note in notes(benchmark) {
        text.push_str(&format!("note: {note}\n"));
    }
    for line in break_even(benchmark) {
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// Warnings about the figures: a debug build, other load, outliers, an implausible speed-up.
fn notes(benchmark: &Benchmark) -> Vec<String> {
    let mut notes = Vec::new();
    if benchmark.is_of_a_debug_build() {
        notes.push("a debug build was measured: the figures mean nothing".to_owned());
    }
    if let Some(load) = benchmark.load.before.filter(|&load| load >= 0.5) {
        notes.push(format!(
            "other processes used {load:.1} cores at the start: measure again on an idle machine"
        ));
    }
    let outliers: usize = benchmark.rows.iter().map(|row| row.outliers).sum();
    if outliers > 0 {
        let runs: usize = benchmark.rows.iter().map(|row| row.samples.len()).sum();
        notes.push(format!(
            "{outliers} of {runs} runs are outliers in their row"
        ));
    }
    let above: Vec<_> = benchmark
        .rows
        .iter()
        .filter(|row| is_above_ideal(row))
        .map(|row| row.name.as_str())
        .collect();
    if !above.is_empty() {
        notes.push(format!(
            "the speed-up of {} is above the ideal: one worker took longer than its work explains, \
             because of noise or of waiting for other processes",
            above.join(", ")
        ));
    }
    notes
}

/// Whether a row's speed-up is above the ideal when both have two decimals.
fn is_above_ideal(row: &Row) -> bool {
    let speed_up = row.speed_up.zip(row.ideal_speed_up);
    speed_up.is_some_and(|(own, ideal)| own >= ideal + 0.005)
}

/// The break-even, as a sentence for each of the dispatcher's rows.
fn break_even(benchmark: &Benchmark) -> Vec<String> {
    let Some(break_even) = &benchmark.break_even else {
        return Vec::new();
    };
    let sentences = break_even.crossings.iter().map(|crossing| {
        let name = &crossing.name;
        match crossing.pays {
            Pays::Always => format!("{name} is faster than the loop at any cost of a job"),
            Pays::From { job_cost_seconds } => format!(
                "{name} is faster than the loop from {} per job",
                figures::seconds(job_cost_seconds)
            ),
            Pays::Unclear => format!(
                "the break-even of {name} is within the noise: give more --runs, on an idle machine"
            ),
            Pays::NotYet => format!("{name} is not faster than the loop at any measured cost"),
        }
    });
    sentences.collect()
}

/// The size of the data set, in a line.
fn title(benchmark: &Benchmark) -> String {
    let agreed = &benchmark.agreed;
    let jobs = agreed.jobs.map_or(String::new(), |jobs| {
        format!(" in {} jobs", figures::whole(jobs as f64))
    });
    format!("{} rows{jobs}", figures::whole(agreed.rows_accepted as f64))
}

/// Host, settings and versions as names and values, without those that are unknown.
fn facts(benchmark: &Benchmark) -> Vec<(&'static str, String)> {
    let (host, settings) = (&benchmark.host, &benchmark.settings);
    let version = |name: &str| benchmark.versions.get(name).cloned();
    let cores = match host.cores {
        1 => "1 core".to_owned(),
        cores => format!("{cores} cores"),
    };
    let cpu = host.cpu.as_deref().unwrap_or("unknown processor");
    let memory = host.memory_bytes.map_or(String::new(), |bytes| {
        format!(", {:.1} GiB of memory", bytes as f64 / f64::from(1 << 30))
    });
    let system = [&host.os, &host.kernel].into_iter().flatten();
    let system: Vec<_> = system.map(String::as_str).chain([&*host.arch]).collect();
    let load = |load: Option<f64>| figures::known(load, |load| format!("{load:.2}"));
    let data_set = match settings.rows {
        Some(rows) => format!("{} generated rows", figures::whole(rows as f64)),
        None => settings.data_set.join(" "),
    };
    let facts = [
        (
            "host",
            Some(format!("{}: {cores}, {cpu}{memory}", host.name)),
        ),
        ("system", Some(system.join(", "))),
        (
            "load",
            Some(format!(
                "{} before, {} after",
                load(benchmark.load.before),
                load(benchmark.load.after)
            )),
        ),
        ("begun", Some(benchmark.started_at.clone())),
        ("data set", Some(data_set)),
        ("broker", Some(settings.broker.clone())),
        (
            "rounds",
            Some(format!(
                "{} measured after {} to warm up, interleaved",
                settings.runs, settings.warm_up
            )),
        ),
        (
            "options of run",
            Some(settings.run_options.join(" ")).filter(|options| !options.is_empty()),
        ),
        ("rollcall", version("rollcall")),
        ("commit", version("commit")),
        ("profile", version("profile")),
        ("librdkafka", version("librdkafka")),
        ("series", Some(benchmark.agreed.series_sha256.clone())),
        ("job set", benchmark.agreed.job_set_digest.clone()),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::BenchEngine;
    use crate::benchmark::tests::benchmark;

    #[test]
    fn a_speed_up_above_the_ideal_has_a_note() {
        let notes_of = |two: &[f64]| {
            let benchmark = benchmark(&[
                (BenchEngine::Packed, Some(1), &[2.0, 2.0]),
                (BenchEngine::Packed, Some(2), two),
            ]);
            notes(&benchmark)
        };
        assert_eq!(notes_of(&[1.0, 1.0]), Vec::<String>::new());
        let above = notes_of(&[0.9, 0.9]).join("");
        assert!(
            above.starts_with("the speed-up of packed-2 is above the ideal"),
            "{above}"
        );
    }
}

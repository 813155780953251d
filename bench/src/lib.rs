//! `rollcall bench`: the cost and the benefit of the dispatcher, measured by doing the same work
//! with and without it. Each run is `rollcall run` in a process of its own, and its figures are
//! those of its `report.json`. A benchmark whose engines differ in their results is refused.
//!
//! [`plan`] lists the runs and their order, [`measure`] performs one, [`agreement`] compares their
//! results, [`benchmark`] holds all that was measured, and [`mod@export`] writes it to files.
//! [`break_even`] and [`compare`] evaluate it, by [`statistics`].

pub mod agreement;
pub mod args;
pub mod benchmark;
pub mod break_even;
pub mod compare;
mod error;
pub mod export;
pub mod figures;
pub mod host;
pub mod measure;
pub mod plan;
pub mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aggregator::export::Exporter;
use aggregator::outputs::Outputs;
use service::progress::grouped;
use service::{Exit, Shutdown, print};

use agreement::Agreement;
use benchmark::{Benchmark, Load, Measured, Settings};
use break_even::BreakEven;
use compare::{Comparison, Refusal};
use export::{BenchCsv, BenchHtml, BenchJson, BenchMd, ComparisonMd, table};
use host::Host;
use measure::Runner;
use plan::{Case, Round, Side};

pub use args::BenchArgs;
pub use error::Error;

/// The file name of the generated data set.
const DATA_SET: &str = "covid-tests.csv";

/// The file name of the generated data set of the break-even, in which each row is a job.
const BREAK_EVEN_DATA_SET: &str = "covid-tests-break-even.csv";

/// The file name of the base's figures in a benchmark of two programs.
const BASE_JSON: &str = "base.json";

/// Measures this program, writes the files, and compares with a base if one is named. The caller
/// has checked that no output replaces the data set.
///
/// # Errors
/// When a run fails, results differ, or the base is of another host or other settings.
pub fn run(args: &BenchArgs, shutdown: &Shutdown) -> Result<Exit, Error> {
    // Checked before the runs, which take long.
    check_limit(args)?;
    let base = args.compare.as_deref().map(Benchmark::read).transpose()?;
    let out = Outputs::new(&args.out)?;
    let (head, interleaved) = match &args.from {
        Some(path) => (Benchmark::read(path)?, None),
        None => measure_sides(args, base.as_ref(), shutdown)?,
    };
    if let Some(base) = &interleaved {
        export(&out, &mut BenchJson::named(base, BASE_JSON))?;
    }
    let base = base.or(interleaved);
    let comparison = base.as_ref().map(|base| Comparison::new(base, &head));
    let comparison = comparison.transpose()?;
    if let (Some(_), Some(comparison)) = (args.fail_above, &comparison) {
        comparison.can_fail()?;
    }

    match &args.from {
        None => export(&out, &mut BenchJson::new(&head))?,
        // Copied: a number that is parsed and formatted again may differ in its last digit.
        Some(path) => {
            let text = read(path)?;
            out.write(export::json::NAME, |file| file.write_all(text.as_bytes()))?;
            out.place()?;
        }
    }
    export(&out, &mut BenchCsv(&head))?;
    export(&out, &mut BenchMd(&head))?;
    export(&out, &mut BenchHtml(&head))?;
    if let (Some(base), Some(comparison)) = (&base, &comparison) {
        let mut md = ComparisonMd {
            base,
            head: &head,
            comparison,
            limit: args.fail_above,
        };
        export(&out, &mut md)?;
    }
    let slower = match (&comparison, args.fail_above) {
        (Some(comparison), Some(limit)) => comparison.slower_than(limit.0),
        _ => Vec::new(),
    };
    if !args.log.quiet {
        let mut text = table(&head);
        if let Some(comparison) = &comparison {
            text.push_str(&format!("\n{comparison}"));
        }
        text.push_str(&format!("\n  {}\n", args.out.display()));
        print(&text).map_err(Error::Print)?;
    }
    for row in &slower {
        eprintln!(
            "{} takes {} of the base's time, which is more than --fail-above allows",
            row.name,
            figures::ratio(row.ratio)
        );
    }
    Ok(match slower.is_empty() {
        true => Exit::Complete,
        false => Exit::Failure,
    })
}

/// Refuses a limit that no row could exceed.
fn check_limit(args: &BenchArgs) -> Result<(), Refusal> {
    let runs = args.runs.get();
    match args.fail_above {
        Some(_) if args.compare.is_none() && args.base.is_none() => Err(Refusal::NothingToCompare),
        Some(_) if args.from.is_none() && runs < compare::MIN_RUNS => {
            let row = "each row".to_owned();
            Err(Refusal::TooFewRuns { row, runs })
        }
        _ => Ok(()),
    }
}

fn export(out: &Outputs, exporter: &mut dyn Exporter) -> Result<(), Error> {
    out.export(exporter)?;
    out.place()?;
    Ok(())
}

/// Measures this program, and the base program interleaved with it where one is named.
fn measure_sides(
    args: &BenchArgs,
    base: Option<&Benchmark>,
    shutdown: &Shutdown,
) -> Result<(Benchmark, Option<Benchmark>), Error> {
    let host = Host::of_this_machine();
    let settings = Settings::new(args);
    if let Some(base) = base {
        compare::check(&base.host, &host, &base.settings, &settings)?;
    }
    let mut programs = vec![std::env::current_exe().map_err(Error::OwnPath)?];
    programs.extend(args.base.clone());
    let data_sets = match args.data_sets.as_slice() {
        [] => vec![generate(args, DATA_SET, args.rows, shutdown)?],
        given => given.to_vec(),
    };
    let load_before = host::load();
    let started_at = jiff::Timestamp::now().to_string();

    let cases = plan::cases(&args.engines(), &args.workers());
    let runner = Runner::new(args, programs, data_sets)?;
    let mut sides = measure_rounds(args, &runner, &cases, shutdown)?;
    let sweep = match args.break_even {
        false => None,
        true => Some(sweep(args, shutdown)?),
    };
    let load = Load {
        before: load_before,
        after: host::load(),
    };

    let cores = host.cores;
    let assemble = |measured: Measured, break_even: Option<BreakEven>| {
        let started_at = started_at.clone();
        let (host, settings) = (host.clone(), settings.clone());
        Benchmark::new(host, settings, load, started_at, measured, break_even)
    };
    let interleaved = (sides.len() > 1).then(|| sides.pop()).flatten();
    let interleaved = interleaved.map(|measured| assemble(measured, None));
    let measured = sides.remove(0);
    let break_even = sweep.map(|measured| BreakEven::new(&measured, cores));
    Ok((assemble(measured, break_even), interleaved))
}

/// Performs all rounds. Returns the measurements by program.
fn measure_rounds(
    args: &BenchArgs,
    runner: &Runner,
    cases: &[Case],
    shutdown: &Shutdown,
) -> Result<Vec<Measured>, Error> {
    let mut agreement = Agreement::default();
    let mut sides: Vec<Measured> = runner
        .programs()
        .iter()
        .map(|_| Measured::new(cases))
        .collect();
    let rounds = plan::rounds(args.warm_up, args.runs.get());
    for round in rounds {
        for step in plan::steps(cases.len(), sides.len(), round) {
            let case = &cases[step.case];
            let side = match (step.side, sides.len()) {
                (_, 1) => "",
                (Side(0), _) => "head ",
                _ => "base ",
            };
            let name = format!("{side}{case}");
            let (sample, found) = runner.run(case, step.side, round, &name, shutdown)?;
            if !args.log.quiet {
                let wall = figures::seconds(sample.wall_seconds);
                eprintln!("{round:<10} {name:<34} {wall:>8}");
            }
            agreement.check(&name, found)?;
            if let Round::Measured(_) = round {
                sides[step.side.0].samples[step.case].push(sample);
            }
        }
    }
    for side in &mut sides {
        side.agreed = agreement.agreed();
    }
    for (side, versions) in sides.iter_mut().zip(runner.versions()) {
        side.versions = versions;
    }
    Ok(sides)
}

/// Measures jobs of increasing cost, on a data set of its own.
fn sweep(args: &BenchArgs, shutdown: &Shutdown) -> Result<Measured, Error> {
    let jobs = args.break_even_jobs;
    let data_set = generate(args, BREAK_EVEN_DATA_SET, jobs, shutdown)?;
    let program = std::env::current_exe().map_err(Error::OwnPath)?;
    let runner = Runner::with_one_row_per_job(args, program, data_set)?;
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cases = plan::break_even_cases(&args.workers(), cores, &break_even::COSTS);
    let mut sides = measure_rounds(args, &runner, &cases, shutdown)?;
    Ok(sides.remove(0))
}

fn generate(
    args: &BenchArgs,
    name: &str,
    rows: u64,
    shutdown: &Shutdown,
) -> Result<PathBuf, Error> {
    let path = args.out.join(name);
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = datagen::Config {
        rows,
        threads: cores,
        ..datagen::Config::default()
    };
    if !args.log.quiet {
        eprintln!("generating {} rows in {}", grouped(rows), path.display());
    }
    datagen::write_file(&config, datagen::Format::Csv, &path, shutdown, &|_| {})?;
    Ok(path)
}

/// Reads a whole file as text.
fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// A duration as the value of an option.
fn duration_value(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

//! The run of the `datagen` process, from its arguments to a data set and a summary.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use service::{Exit, Shutdown};

use crate::args::Args;
use crate::blocks::Generated;
use crate::error::Error;
use crate::output::{write_file, write_stdout};

/// Writes the data set of these arguments and prints a summary on standard error, unless `--quiet`
/// is given.
///
/// # Errors
/// The errors of [`write_file`] and [`write_stdout`].
pub fn run(args: &Args, shutdown: &Shutdown) -> Result<Exit, Error> {
    let config = args.config()?;
    // Rows and a progress bar on the same terminal would overwrite each other.
    let hidden = args.log.quiet || (args.to_stdout() && io::stdout().is_terminal());
    let bar = bar(config.rows, hidden);
    let progress = |rows| bar.inc(rows);
    let started = Instant::now();
    let generated = if args.to_stdout() {
        write_stdout(&config, args.format(), shutdown, &progress)
    } else {
        write_file(&config, args.format(), &args.out, shutdown, &progress).map(Some)
    };
    bar.finish_and_clear();
    if let Some(generated) = generated?
        && !args.log.quiet
    {
        let line = summary(&generated, started.elapsed());
        if args.to_stdout() {
            eprintln!("standard output: {line}");
        } else {
            eprintln!("{}: {line}", args.out.display());
        }
    }
    Ok(Exit::Complete)
}

/// A progress bar on standard error, which is drawn on terminals only.
fn bar(rows: u64, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "     rows {wide_bar} {human_pos:>10}/{human_len:10} {per_sec:>12} {eta:>4}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(rows).with_style(style)
}

fn summary(generated: &Generated, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let mut line = format!(
        "{} rows, {} in {seconds:.2} s ({} rows/s)",
        HumanCount(generated.rows),
        HumanBytes(generated.bytes),
        HumanCount((generated.rows as f64 / seconds) as u64),
    );
    if generated.spoiled.total() > 0 {
        let defects: Vec<String> = generated
            .spoiled
            .iter()
            .filter(|&(_, rows)| rows > 0)
            .map(|(defect, rows)| format!("{defect} {}", HumanCount(rows)))
            .collect();
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            ", {} of them spoiled ({})",
            HumanCount(generated.spoiled.total()),
            defects.join(", ")
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_rows_bytes_and_rate() {
        let generated = Generated {
            rows: 2_000_000,
            bytes: 150 << 20,
            ..Generated::default()
        };
        assert_eq!(
            summary(&generated, Duration::from_millis(500)),
            "2,000,000 rows, 150.00 MiB in 0.50 s (4,000,000 rows/s)"
        );
    }
}

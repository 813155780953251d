//! `aggregator`: outcomes to ledger to time series.

use std::process::ExitCode;

use clap::Parser;
use service::{Progress, Talk};

fn main() -> ExitCode {
    let args = aggregator::Args::parse();
    service::process::run(&args.log, Talk::Steps, |shutdown| {
        let config = args.config()?;
        let progress = Progress::new();
        let shown = progress.show(args.log.quiet);
        let report = aggregator::run(&config, &shutdown, &progress)?;
        drop(shown);
        if !args.log.quiet {
            println!("{report}");
        }
        Ok::<_, aggregator::Error>(report.exit())
    })
}

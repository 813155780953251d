//! `aggregator`: outcomes to ledger to time series.

use std::process::ExitCode;

use clap::Parser;
use computations::Registry;
use service::Verbosity;

fn main() -> ExitCode {
    let args = aggregator::Args::parse();
    service::process::run(&args.log, Verbosity::Steps, |shutdown| {
        aggregator::serve(&args, &shutdown, &Registry::standard())
    })
}

//! `aggregator`: outcomes to ledger to time series.

use std::process::ExitCode;

use clap::Parser;
use computations::Registry;
use service::Talk;

fn main() -> ExitCode {
    let args = aggregator::Args::parse();
    service::process::run(&args.log, Talk::Steps, |shutdown| {
        aggregator::serve(&args, &shutdown, &Registry::standard())
    })
}

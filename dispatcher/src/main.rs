//! `dispatcher`: data set to jobs to topic, then the manifest.

use std::process::ExitCode;

use clap::Parser;
use computations::Registry;
use service::Verbosity;

fn main() -> ExitCode {
    let args = dispatcher::Args::parse();
    service::process::run(&args.log, Verbosity::Steps, |shutdown| {
        dispatcher::serve(&args, &shutdown, &Registry::standard())
    })
}

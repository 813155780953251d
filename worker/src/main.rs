//! The program `worker`: it reads jobs, computes their results and publishes them.

use std::process::ExitCode;

use clap::Parser;
use service::Verbosity;

fn main() -> ExitCode {
    let args = worker::Args::parse();
    service::process::run(&args.log, Verbosity::Steps, |shutdown| {
        worker::run(
            &args.config()?,
            &shutdown,
            &computations::Registry::standard(),
        )
    })
}

//! `dispatcher`: data set to jobs to topic, then the manifest.

use std::process::ExitCode;

use clap::Parser;
use computations::Registry;
use service::Talk;

fn main() -> ExitCode {
    let args = dispatcher::Args::parse();
    service::process::run(&args.log, Talk::Steps, |shutdown| {
        dispatcher::serve(&args, &shutdown, &Registry::standard())
    })
}

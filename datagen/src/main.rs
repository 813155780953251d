//! The `datagen` binary: parses the arguments and calls the library.

use std::process::ExitCode;

use clap::Parser;
use service::Verbosity;

fn main() -> ExitCode {
    let args = datagen::Args::parse();
    service::process::run(&args.log, Verbosity::Warnings, |shutdown| {
        datagen::run(&args, &shutdown)
    })
}

//! `rollcall`: all of it on one machine in one command, and each service by its name.

use std::process::ExitCode;

use clap::Parser;
use rollcall::{Cli, Command};
use service::{Talk, process};

fn main() -> ExitCode {
    match Cli::parse().command() {
        Command::Run(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::run::run(&args, &shutdown)
        }),
        Command::Datagen(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            datagen::run(&args, &shutdown)
        }),
        Command::Dispatcher(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            dispatcher::serve(&args, &shutdown)
        }),
        Command::Worker(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            worker::run(&args.config()?, &shutdown)
        }),
        Command::Aggregator(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            aggregator::serve(&args, &shutdown)
        }),
    }
}

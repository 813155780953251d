//! `rollcall`: all of it on one machine in one command, and each service by its name.

use std::process::ExitCode;

use clap::Parser;
use rollcall::{Cli, Command};
use service::process;
use service::{Exit, Progress, Talk};

fn main() -> ExitCode {
    match Cli::parse().command() {
        Command::Run(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::run::run(&args, &shutdown)
        }),
        Command::Datagen(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            datagen::run(&args, &shutdown)
        }),
        Command::Dispatcher(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            let config = args.config()?;
            let progress = Progress::new();
            let shown = progress.show(args.log.quiet);
            let dispatched = dispatcher::run(&config, &shutdown, &progress)?;
            drop(shown);
            if !args.log.quiet {
                println!("{dispatched}");
            }
            Ok::<_, dispatcher::Error>(Exit::Complete)
        }),
        Command::Worker(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            worker::run(&args.config()?, &shutdown)
        }),
        Command::Aggregator(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            let config = args.config()?;
            let progress = Progress::new();
            let shown = progress.show(args.log.quiet);
            let report = aggregator::run(&config, &shutdown, &progress)?;
            drop(shown);
            if !args.log.quiet {
                println!("{report}");
            }
            Ok::<_, aggregator::Error>(report.exit())
        }),
    }
}

//! `rollcall`: all of it on one machine in one command, and each service by its name.

use computations::Registry;
use std::process::ExitCode;

use rollcall::{Command, config_file};
use service::{Exit, LogArgs, Talk, Usage, process};

fn main() -> ExitCode {
    let cli = match config_file::parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    };
    match cli.command() {
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
            let exit = worker::run(&args.config()?, &shutdown, &Registry::standard());
            // Whoever holds the other end of its standard input reads its output, too.
            if args.exit_with_stdin && exit.is_ok() {
                Usage::of_this_process().say();
            }
            exit
        }),
        Command::Aggregator(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            aggregator::serve(&args, &shutdown)
        }),
        Command::Report(args) => {
            process::run(&args.log, Talk::Warnings, |_| rollcall::report::run(&args))
        }
        Command::Bench(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::bench::run(&args, &shutdown)
        }),
        Command::Doctor(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::doctor::run(&args, &shutdown)
        }),
        Command::Runs(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::runs::run(&args, &shutdown)
        }),
        Command::Cancel(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            rollcall::cancel::run(&args, &shutdown)
        }),
        Command::Dlq(args) => process::run(args.log(), Talk::Warnings, |shutdown| {
            rollcall::dlq::run(&args, &shutdown)
        }),
        Command::Completions(args) => {
            process::run(&LogArgs::default(), Talk::Warnings, |_| args.write())
        }
        Command::Man(args) => process::run(&LogArgs::default(), Talk::Warnings, |_| args.write()),
    }
}

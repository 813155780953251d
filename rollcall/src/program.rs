//! The program `rollcall`, as a function: a program with computations of one's own is the same with
//! another registry.

use std::process::ExitCode;

use computations::Registry;
use service::{Exit, LogArgs, Talk, Usage, process};

use crate::{Command, config_file};

/// Does what the command line of this process asks for, with these computations. Worker processes of
/// a run are started as the same program, so that they know them as well.
pub fn program(computations: &Registry) -> ExitCode {
    let cli = match config_file::parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    };
    match cli.command() {
        Command::Run(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            crate::run::run(&args, &shutdown, computations)
        }),
        Command::Datagen(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            datagen::run(&args, &shutdown)
        }),
        Command::Dispatcher(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            dispatcher::serve(&args, &shutdown, computations)
        }),
        Command::Worker(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            let exit = worker::run(&args.config()?, &shutdown, computations);
            // Whoever holds the other end of its standard input reads its output, too.
            if args.exit_with_stdin && exit.is_ok() {
                Usage::of_this_process().print();
            }
            exit
        }),
        Command::Aggregator(args) => process::run(&args.log, Talk::Steps, |shutdown| {
            aggregator::serve(&args, &shutdown, computations)
        }),
        Command::Report(args) => {
            process::run(&args.log, Talk::Warnings, |_| crate::report::run(&args))
        }
        Command::Bench(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            crate::bench::run(&args, &shutdown)
        }),
        Command::Doctor(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            crate::doctor::run(&args, &shutdown)
        }),
        Command::Cancel(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            crate::cancel::run(&args, &shutdown)
        }),
        Command::Runs(args) => process::run(&args.log, Talk::Warnings, |shutdown| {
            crate::runs::run(&args, &shutdown)
        }),
        Command::Dlq(args) => process::run(args.log(), Talk::Warnings, |shutdown| {
            crate::dlq::run(&args, &shutdown)
        }),
        Command::Completions(args) => {
            process::run(&LogArgs::default(), Talk::Warnings, |_| args.write())
        }
        Command::Man(args) => process::run(&LogArgs::default(), Talk::Warnings, |_| args.write()),
    }
}

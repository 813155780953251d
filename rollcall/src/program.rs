//! The program `rollcall` as a function, for programs with computations of their own: they call it
//! with another registry.

use std::process::ExitCode;

use computations::Registry;
use service::{Exit, LogArgs, Usage, Verbosity, process};

use crate::{Command, Error, config_file};

/// Runs the command of this process's command line, with these computations. Worker processes of a
/// run are started as the same program, so they have the same computations.
pub fn program(computations: &Registry) -> ExitCode {
    let cli = match config_file::parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    };
    match cli.command() {
        Command::Run(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            crate::run::run(&args, &shutdown, computations)
        }),
        Command::Datagen(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            datagen::run(&args, &shutdown)
        }),
        Command::Dispatcher(args) => process::run(&args.log, Verbosity::Steps, |shutdown| {
            dispatcher::serve(&args, &shutdown, computations)
        }),
        Command::Worker(args) => process::run(&args.log, Verbosity::Steps, |shutdown| {
            let exit = worker::run(&args.config()?, &shutdown, computations);
            // Read by the process that has the other end of its standard input.
            if args.exit_with_stdin && exit.is_ok() {
                Usage::of_this_process().print();
            }
            exit
        }),
        Command::Aggregator(args) => process::run(&args.log, Verbosity::Steps, |shutdown| {
            aggregator::serve(&args, &shutdown, computations)
        }),
        Command::Report(args) => process::run(&args.log, Verbosity::Warnings, |_| {
            crate::report::run(&args)
        }),
        Command::Bench(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            crate::run::refuse_data_set_among_outputs(&args.data_sets, &args.out)?;
            Ok::<_, Error>(bench::run(&args, &shutdown)?)
        }),
        Command::Doctor(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            crate::doctor::run(&args, &shutdown)
        }),
        Command::Cancel(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            crate::cancel::run(&args, &shutdown)
        }),
        Command::Runs(args) => process::run(&args.log, Verbosity::Warnings, |shutdown| {
            crate::runs::run(&args, &shutdown)
        }),
        Command::Dlq(args) => process::run(args.log(), Verbosity::Warnings, |shutdown| {
            crate::dlq::run(&args, &shutdown)
        }),
        Command::Completions(args) => {
            process::run(&LogArgs::default(), Verbosity::Warnings, |_| args.write())
        }
        Command::Man(args) => {
            process::run(&LogArgs::default(), Verbosity::Warnings, |_| args.write())
        }
    }
}

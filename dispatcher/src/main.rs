//! `dispatcher`: data set to jobs to topic, then the manifest.

use std::process::ExitCode;

use clap::Parser;
use service::{Exit, Progress, Talk};

fn main() -> ExitCode {
    let args = dispatcher::Args::parse();
    service::process::run(&args.log, Talk::Steps, |shutdown| {
        let config = args.config()?;
        let progress = Progress::new();
        let shown = progress.show(args.log.quiet);
        let dispatched = dispatcher::run(&config, &shutdown, &progress)?;
        drop(shown);
        if !args.log.quiet {
            println!("{dispatched}");
        }
        Ok::<_, dispatcher::Error>(Exit::Complete)
    })
}

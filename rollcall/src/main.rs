//! `rollcall`: all of it on one machine in one command, and each service by its name.

use std::process::ExitCode;

use computations::Registry;

fn main() -> ExitCode {
    rollcall::program(&Registry::standard())
}

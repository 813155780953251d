//! The program `rollcall`, with the standard computations.

use std::process::ExitCode;

use computations::Registry;

fn main() -> ExitCode {
    rollcall::program(&Registry::standard())
}

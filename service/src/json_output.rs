//! The output of `--json`: one JSON object per line on standard output, and nothing else there. The
//! last line is the result, also of a run that failed.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use crate::exit::Ending;
use crate::logging;
use crate::process::one_line;

/// The option for output in JSON.
#[derive(Args, Clone, Debug, Default)]
pub struct JsonArgs {
    /// Print progress and result on standard output, one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// One line, with the kind of event as its first key.
#[derive(Serialize)]
struct Line<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    fields: &'a T,
}

/// The result of a process that failed.
#[derive(Serialize)]
struct Failure {
    verdict: &'static str,
    exit_code: u8,
    run_id: Option<String>,
    error: String,
}

/// Prints the result, which is the last line.
pub fn print_result(result: &impl Serialize) {
    print("result", result);
}

/// Prints an error as the result, with the verdict `error`; it is the last line.
pub fn print_failure(error: &impl Ending) {
    let failure = Failure {
        verdict: "error",
        exit_code: error.exit().code(),
        run_id: logging::run_id(),
        error: one_line(error),
    };
    print("result", &failure);
}

/// Prints one line.
pub(crate) fn print(event: &'static str, fields: &impl Serialize) {
    let mut line = line(event, fields);
    line.push('\n');
    let mut out = io::stdout().lock();
    // The reader is gone, so there is nobody to report an error to; the exit code has the outcome.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn line(event: &'static str, fields: &impl Serialize) -> String {
    // Serializing structs of numbers and strings does not fail.
    serde_json::to_string(&Line { event, fields }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_with_its_kind_first() {
        #[derive(Serialize)]
        struct Fields {
            jobs: u64,
            path: &'static str,
        }
        let fields = Fields {
            jobs: 3,
            path: "a\nb",
        };
        assert_eq!(
            line("result", &fields),
            r#"{"event":"result","jobs":3,"path":"a\nb"}"#
        );
    }
}

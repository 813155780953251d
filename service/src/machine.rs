//! What a process says to machines with `--json`: one JSON object a line on standard output, and
//! nothing else there. The last one is the result, also of a run that failed.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use crate::exit::Ending;
use crate::logging;
use crate::process::one_line;

/// Whether the process speaks to a machine.
#[derive(Args, Clone, Debug, Default)]
pub struct JsonArgs {
    /// Progress and result on standard output for machines, one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// One line, its kind first.
#[derive(Serialize)]
struct Line<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    fields: &'a T,
}

/// Why there is no result.
#[derive(Serialize)]
struct Failure {
    verdict: &'static str,
    exit_code: u8,
    run_id: Option<String>,
    error: String,
}

/// Says the result: the last line.
pub fn say_result(result: &impl Serialize) {
    say("result", result);
}

/// Says that there is no result, and why: the last line. Its verdict is `error`.
pub fn say_failure(error: &impl Ending) {
    let failure = Failure {
        verdict: "error",
        exit_code: error.exit().code(),
        run_id: logging::run_id(),
        error: one_line(error),
    };
    say("result", &failure);
}

/// Says one line.
pub(crate) fn say(event: &'static str, fields: &impl Serialize) {
    let mut line = line(event, fields);
    line.push('\n');
    let mut out = io::stdout().lock();
    // Whoever read it is gone; the exit code still tells how it ended.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn line(event: &'static str, fields: &impl Serialize) -> String {
    // What is said are structs of numbers and words, which are never refused.
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

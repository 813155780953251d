//! Logs go to standard error, one line an event, so that standard output stays free for results.
//!
//! Every line carries who says it: the worker's id, the run's id, as far as the process has them.
//! They belong to the process and not to a span, because half of its threads are librdkafka's and
//! would be in no span of ours.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::{PoisonError, RwLock};

use clap::{Args, ValueEnum};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How much is said, and in which form.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Say nothing but errors
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more (-v: what is done; -vv: every detail, librdkafka's log lines too)
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log lines for people, or one JSON object a line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word by which the option names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What a process says that was asked for neither more nor less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Each step: a service whose log is all that one sees of it.
    Steps,
    /// Warnings: a tool that shows progress and a result.
    Warnings,
}

impl LogArgs {
    fn filter(&self, talk: Talk) -> &'static str {
        match (self.quiet, self.verbose, talk) {
            (true, _, _) => "error",
            (false, 0, Talk::Warnings) => "warn,librdkafka=error",
            (false, 0, Talk::Steps) | (false, 1, Talk::Warnings) => "info,librdkafka=error",
            (false, 1, Talk::Steps) | (false, 2, Talk::Warnings) => "debug,librdkafka=warn",
            (false, _, _) => "trace",
        }
    }

    /// Starts logging for the process. `RUST_LOG`, where it is set, is heeded instead of the
    /// options; so is `NO_COLOR`.
    pub fn start(&self, talk: Talk) {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(self.filter(talk)));
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal() && !no_color())
            .with_target(false);
        // A second start in one process (tests do that) keeps the first one's settings.
        let _ = match self.log_format {
            LogFormat::Text => lines.map_event_format(SaidBy::text).try_init(),
            LogFormat::Json => lines
                .json()
                .with_target(true)
                .map_event_format(SaidBy::json)
                .try_init(),
        };
    }
}

/// Whether the user wants no colours: <https://no-color.org>. (The progress bars have none.)
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Who the process is, as its log lines say.
#[derive(Clone, Debug, Default)]
struct Identity {
    worker: Option<String>,
    run_id: Option<String>,
}

impl Identity {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let worker = self.worker.as_deref().map(|id| ("worker", id));
        let run_id = self.run_id.as_deref().map(|id| ("run_id", id));
        worker.into_iter().chain(run_id)
    }
}

static IDENTITY: RwLock<Identity> = RwLock::new(Identity {
    worker: None,
    run_id: None,
});

/// From now on the process's log lines carry this worker's id.
pub fn set_worker(id: &str) {
    let mut identity = IDENTITY.write().unwrap_or_else(PoisonError::into_inner);
    identity.worker = Some(id.to_owned());
}

/// From now on the process's log lines carry this run's id.
pub fn set_run_id(id: &str) {
    let mut identity = IDENTITY.write().unwrap_or_else(PoisonError::into_inner);
    identity.run_id = Some(id.to_owned());
}

/// The run that the process works on, if it has said so.
pub(crate) fn run_id() -> Option<String> {
    let identity = IDENTITY.read().unwrap_or_else(PoisonError::into_inner);
    identity.run_id.clone()
}

/// A format whose lines end with who says them.
struct SaidBy<F> {
    format: F,
    append: fn(&mut String, &Identity),
}

impl<F> SaidBy<F> {
    fn text(format: F) -> Self {
        Self {
            format,
            append: append_to_text,
        }
    }

    fn json(format: F) -> Self {
        Self {
            format,
            append: append_to_json,
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for SaidBy<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        line.truncate(line.trim_end().len());
        let identity = IDENTITY.read().unwrap_or_else(PoisonError::into_inner);
        (self.append)(&mut line, &identity);
        writeln!(writer, "{line}")
    }
}

fn append_to_text(line: &mut String, identity: &Identity) {
    for (name, id) in identity.fields() {
        // Writing to a string cannot fail.
        let _ = write!(line, " {name}={id}");
    }
}

/// An event's own fields are in an object of their own, so that no name is there twice.
fn append_to_json(line: &mut String, identity: &Identity) {
    if line.pop() != Some('}') {
        return;
    }
    for (name, id) in identity.fields() {
        let id = serde_json::Value::from(id);
        let _ = write!(line, ",\"{name}\":{id}");
    }
    line.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            worker: Some("a \"worker\"".to_owned()),
            run_id: Some("a-run".to_owned()),
        }
    }

    #[test]
    fn a_json_line_stays_json_and_says_who_says_it() {
        let mut line = r#"{"level":"INFO","fields":{"message":"up","run_id":"other"}}"#.to_owned();
        append_to_json(&mut line, &identity());
        let value: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(value["worker"], "a \"worker\"");
        assert_eq!(value["run_id"], "a-run");
        assert_eq!(value["fields"]["run_id"], "other");
    }

    #[test]
    fn a_text_line_ends_with_who_says_it_as_far_as_that_is_known() {
        let mut line = "INFO worker is up".to_owned();
        append_to_text(&mut line, &Identity::default());
        assert_eq!(line, "INFO worker is up");
        append_to_text(&mut line, &identity());
        assert_eq!(line, "INFO worker is up worker=a \"worker\" run_id=a-run");
    }
}

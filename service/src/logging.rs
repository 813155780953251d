//! Logging to standard error, one line per event; standard output is for results.
//!
//! Every line ends with the worker's id and the run's id, as far as the process has them. They are
//! set for the process and not in a span, because half of its threads are librdkafka's and are in
//! no span of this program.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::{PoisonError, RwLock};

use clap::{Args, ValueEnum};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The options of the log: level and format.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// Log errors only
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Log more (-v: each step; -vv: every detail, librdkafka's own log lines too)
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log as text for people, or as one JSON object per line
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The value of the option.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The log level of a process without `--quiet` and `--verbose`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Info: a service, of which nothing but the log is visible.
    Steps,
    /// Warnings: a tool with a progress display and a result.
    Warnings,
}

impl LogArgs {
    fn filter(&self, verbosity: Verbosity) -> &'static str {
        match (self.quiet, self.verbose, verbosity) {
            (true, _, _) => "error",
            (false, 0, Verbosity::Warnings) => "warn,librdkafka=error",
            (false, 0, Verbosity::Steps) | (false, 1, Verbosity::Warnings) => {
                "info,librdkafka=error"
            }
            (false, 1, Verbosity::Steps) | (false, 2, Verbosity::Warnings) => {
                "debug,librdkafka=warn"
            }
            (false, _, _) => "trace",
        }
    }

    /// Starts logging for the process. `RUST_LOG`, when set, overrides the level that the options
    /// ask for; `NO_COLOR` turns colours off.
    pub fn start(&self, verbosity: Verbosity) {
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(self.filter(verbosity)));
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal() && !no_color())
            .with_target(false);
        // A second start in one process (tests do that) keeps the first one's settings.
        let _ = match self.log_format {
            LogFormat::Text => lines.map_event_format(WithIdentity::text).try_init(),
            LogFormat::Json => lines
                .json()
                .with_target(true)
                .map_event_format(WithIdentity::json)
                .try_init(),
        };
    }
}

/// Whether `NO_COLOR` is set: <https://no-color.org>. (Progress bars have no colours.)
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The identity of the process in its log lines.
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

/// Sets the worker's id that all log lines of the process carry from now on.
pub fn set_worker(id: &str) {
    let mut identity = IDENTITY.write().unwrap_or_else(PoisonError::into_inner);
    identity.worker = Some(id.to_owned());
}

/// Sets the run's id that all log lines of the process carry from now on.
pub fn set_run_id(id: &str) {
    let mut identity = IDENTITY.write().unwrap_or_else(PoisonError::into_inner);
    identity.run_id = Some(id.to_owned());
}

/// The run's id that log lines carry, if one was set.
pub(crate) fn run_id() -> Option<String> {
    let identity = IDENTITY.read().unwrap_or_else(PoisonError::into_inner);
    identity.run_id.clone()
}

/// A log format that appends the process's identity to each line.
struct WithIdentity<F> {
    format: F,
    append: fn(&mut String, &Identity),
}

impl<F> WithIdentity<F> {
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

impl<S, N, F> FormatEvent<S, N> for WithIdentity<F>
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

/// Appends the identity at the top level of the object. The event's own fields are in an object
/// inside, so no key appears twice.
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
    fn a_json_line_stays_json_and_has_the_identity() {
        let mut line = r#"{"level":"INFO","fields":{"message":"up","run_id":"other"}}"#.to_owned();
        append_to_json(&mut line, &identity());
        let value: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(value["worker"], "a \"worker\"");
        assert_eq!(value["run_id"], "a-run");
        assert_eq!(value["fields"]["run_id"], "other");
    }

    #[test]
    fn a_text_line_ends_with_the_identity_as_far_as_it_is_set() {
        let mut line = "INFO worker is up".to_owned();
        append_to_text(&mut line, &Identity::default());
        assert_eq!(line, "INFO worker is up");
        append_to_text(&mut line, &identity());
        assert_eq!(line, "INFO worker is up worker=a \"worker\" run_id=a-run");
    }
}

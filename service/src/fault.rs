//! Fault points: named places in the binaries where a test can make a process abort, fail, hang or
//! be slow. They do nothing unless the environment variable [`VARIABLE`] arms them; a point that is
//! not armed costs one comparison.
//!
//! The variable holds faults separated by `;`, each `POINT=KIND` with optional conditions after it:
//!
//! | part | meaning |
//! | --- | --- |
//! | `POINT=abort` | the process aborts, as after a crash in native code |
//! | `POINT=error` | the point returns an error, which is handled as a real one |
//! | `POINT=hang` | the thread that reaches the point blocks for ever |
//! | `POINT=slow:DURATION` | the thread sleeps for that time, as in `slow:200ms` |
//! | `…@NUMBER` | only for this number: the job's index where a point is about a job, else the count of passes in this process, from 1 |
//! | `…!FILE` | once, in all processes together: the process that creates FILE is the one that fails |
//!
//! With `worker.before-compute=abort@17;dispatcher.before-manifest=abort!/tmp/once`, job 17 aborts
//! each worker that tries it, and one dispatcher aborts before it publishes its manifest.

use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The environment variable that arms fault points.
pub const VARIABLE: &str = "ROLLCALL_FAULTS";

static ARMED: OnceLock<Vec<Fault>> = OnceLock::new();

/// What an armed fault point does to the thread that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Abort,
    Error,
    Hang,
    Slow(Duration),
}

/// One fault of the variable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    point: String,
    kind: Kind,
    number: Option<u64>,
    once: Option<PathBuf>,
}

/// The error that an armed fault point returns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault injected at {point}")]
pub struct Injected {
    /// The point's name.
    pub point: &'static str,
}

/// The error of a fault in the variable that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: cannot read \"{fault}\"; expected POINT=abort|error|hang|slow:DURATION[@NUMBER][!FILE]"
)]
pub struct NotAFault {
    fault: String,
}

/// Arms the faults of the environment variable. Called once in a process, before the first
/// [`FaultPoint::new`]. Returns the number of faults.
///
/// # Errors
/// When the variable cannot be parsed: a test whose faults were ignored would prove nothing.
pub(crate) fn arm() -> Result<usize, NotAFault> {
    let faults = match std::env::var(VARIABLE) {
        Ok(text) => parse(&text)?,
        Err(_) => Vec::new(),
    };
    Ok(ARMED.get_or_init(|| faults).len())
}

fn parse(text: &str) -> Result<Vec<Fault>, NotAFault> {
    let faults = text.split(';').map(str::trim);
    faults
        .filter(|fault| !fault.is_empty())
        .map(|fault| {
            parse_one(fault).ok_or_else(|| NotAFault {
                fault: fault.to_owned(),
            })
        })
        .collect()
}

fn parse_one(fault: &str) -> Option<Fault> {
    let (point, rest) = fault.split_once('=')?;
    let (rest, once) = match rest.split_once('!') {
        Some((rest, file)) => (rest, Some(PathBuf::from(file))),
        None => (rest, None),
    };
    let (kind, number) = match rest.split_once('@') {
        Some((kind, number)) => (kind, Some(number.parse().ok()?)),
        None => (rest, None),
    };
    let kind = match kind.split_once(':') {
        None => match kind {
            "abort" => Kind::Abort,
            "error" => Kind::Error,
            "hang" => Kind::Hang,
            _ => return None,
        },
        Some(("slow", duration)) => Kind::Slow(humantime::parse_duration(duration).ok()?),
        Some(_) => return None,
    };
    Some(Fault {
        point: point.to_owned(),
        kind,
        number,
        once,
    })
}

/// A fault point: created once, passed many times.
#[derive(Debug)]
pub struct FaultPoint {
    name: &'static str,
    faults: Vec<Fault>,
    passed: AtomicU64,
}

impl FaultPoint {
    /// A point with the faults that are armed for its name.
    pub fn new(name: &'static str) -> Self {
        let armed = ARMED.get().into_iter().flatten();
        Self {
            name,
            faults: armed.filter(|fault| fault.point == name).cloned().collect(),
            passed: AtomicU64::new(0),
        }
    }

    /// Passes a point whose number is the count of its passes.
    ///
    /// # Errors
    /// When an error is injected.
    pub fn pass(&self) -> Result<(), Injected> {
        if self.faults.is_empty() {
            return Ok(());
        }
        self.inject(1 + self.passed.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes a point that is about something with a number of its own, such as a job's index.
    ///
    /// # Errors
    /// When an error is injected.
    #[inline]
    pub fn pass_with(&self, number: u64) -> Result<(), Injected> {
        if self.faults.is_empty() {
            return Ok(());
        }
        self.inject(number)
    }

    #[cold]
    fn inject(&self, number: u64) -> Result<(), Injected> {
        for fault in &self.faults {
            if fault.number.is_some_and(|wanted| wanted != number) || !fault.is_claimed() {
                continue;
            }
            tracing::warn!(point = self.name, number, kind = ?fault.kind, "fault injected");
            match fault.kind {
                Kind::Abort => std::process::abort(),
                Kind::Error => return Err(Injected { point: self.name }),
                Kind::Hang => loop {
                    thread::park();
                },
                Kind::Slow(duration) => thread::sleep(duration),
            }
        }
        Ok(())
    }
}

impl Fault {
    /// Whether the fault is this process's to inject: always, or if this call creates its file.
    fn is_claimed(&self) -> bool {
        let file = self.once.as_ref();
        file.is_none_or(|file| File::create_new(file).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> FaultPoint {
        FaultPoint {
            name: "worker.before-compute",
            faults: parse(text).expect("it can be parsed"),
            passed: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_point_that_is_not_armed_does_nothing() {
        let point = FaultPoint::new("worker.before-compute");
        assert_eq!(point.pass(), Ok(()));
        assert_eq!(point.pass_with(17), Ok(()));
    }

    #[test]
    fn a_fault_is_injected_at_its_number_only() {
        let point = point("worker.before-compute=error@2");
        assert_eq!(point.pass(), Ok(()));
        assert!(point.pass().is_err());
        assert_eq!(point.pass(), Ok(()));
        assert!(point.pass_with(2).is_err());
    }

    #[test]
    fn a_fault_with_a_file_is_injected_once() {
        let file = std::env::temp_dir().join(format!("rollcall-fault-{}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let point = point(&format!("worker.before-compute=error!{}", file.display()));
        assert!(point.pass().is_err());
        assert_eq!(point.pass(), Ok(()));
        std::fs::remove_file(&file).expect("it was created");
    }

    #[test]
    fn a_fault_that_cannot_be_parsed_is_an_error_that_quotes_it() {
        let faults = parse(" a=abort ; b=slow:200ms@7!/tmp/x ;").expect("two faults");
        assert_eq!(faults.len(), 2);
        assert_eq!(faults[1].kind, Kind::Slow(Duration::from_millis(200)));
        assert_eq!((faults[1].number, faults[0].number), (Some(7), None));
        for wrong in ["a", "a=die", "a=slow", "a=slow:x", "a=abort@x", "a=hang:3s"] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}

//! The CPU time and the peak memory of a process. Each process prints its own at its end, because
//! its parent cannot measure the memory: what the operating system reports for a child includes the
//! memory of the parent that it was forked from.

use std::fs;

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

use crate::json_output;

/// The kind of event of the printed line.
const EVENT: &str = "usage";

/// The CPU time and the peak memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds, user and system, of all threads; without children.
    pub cpu_seconds: f64,
    /// The peak of the resident memory; `None` on systems other than Linux.
    pub peak_resident_bytes: Option<u64>,
}

impl Usage {
    /// The usage of this process so far.
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").ok();
        Self {
            cpu_seconds: ProcessTime::now().as_duration().as_secs_f64(),
            peak_resident_bytes: status.as_deref().and_then(peak_resident_bytes),
        }
    }

    /// Prints the usage on standard output, as one line of JSON.
    pub fn print(&self) {
        json_output::print(EVENT, self);
    }

    /// The usage in the last such line of `text`; `None` without one.
    pub fn parse_last(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line {
            event: String,
            #[serde(flatten)]
            usage: Usage,
        }
        let lines = text.lines().rev();
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok());
        lines
            .find(|line| line.event == EVENT)
            .map(|line| line.usage)
    }
}

/// `VmHWM` ("high water mark") of proc_pid_status(5), which starts again with each `execve`.
fn peak_resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_in_bytes_and_none_where_the_system_has_no_figure() {
        let status = "Name:\trollcall\nVmPeak:\t  9 kB\nVmHWM:\t   1536 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(peak_resident_bytes(status), Some(1_572_864));
        assert_eq!(peak_resident_bytes("Name:\tzombie\n"), None);
    }

    #[test]
    fn the_last_line_counts_and_lines_of_other_events_are_ignored() {
        let text = r#"{"event":"usage","cpu_seconds":1.0,"peak_resident_bytes":5}
{"event":"usage","cpu_seconds":1.5,"peak_resident_bytes":null}
{"event":"result","cpu_seconds":9.0}
nonsense
"#;
        let expected = Usage {
            cpu_seconds: 1.5,
            peak_resident_bytes: None,
        };
        assert_eq!(Usage::parse_last(text), Some(expected));
        assert_eq!(Usage::parse_last("nonsense\n"), None);
    }

    #[test]
    fn a_process_that_computes_uses_cpu_time() {
        let before = Usage::of_this_process().cpu_seconds;
        let mut sum = 0u64;
        while Usage::of_this_process().cpu_seconds <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}

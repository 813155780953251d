//! What a process has used of the machine: time of its cores, and memory at its peak. Each process
//! tells it of itself at its end, for nobody else knows both: the usage that the operating system
//! reports of a child counts the memory of the parent that it was forked from.

use std::fs;

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};

use crate::machine;

/// The event of the line that tells it.
const EVENT: &str = "usage";

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds of cores, in user and in system mode, of all its threads; without its children's.
    pub cpu_seconds: f64,
    /// The most memory that was resident at a time; `None` where the system does not say, which is
    /// everywhere but on Linux.
    pub peak_resident_bytes: Option<u64>,
}

impl Usage {
    /// Of this process.
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").ok();
        Self {
            cpu_seconds: ProcessTime::now().as_duration().as_secs_f64(),
            peak_resident_bytes: status.as_deref().and_then(peak_resident_bytes),
        }
    }

    /// Tells it on standard output, as one JSON object in one line.
    pub fn say(&self) {
        machine::say(EVENT, self);
    }

    /// What the last line of this kind in `text` tells; `None` when there is none.
    pub fn said_in(text: &str) -> Option<Self> {
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

/// The "high water mark" of proc_pid_status(5), which begins anew when a program does.
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
    fn the_peak_is_read_in_bytes_and_unknown_where_it_is_not_told() {
        let status = "Name:\trollcall\nVmPeak:\t  9 kB\nVmHWM:\t   1536 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(peak_resident_bytes(status), Some(1_572_864));
        assert_eq!(peak_resident_bytes("Name:\tzombie\n"), None);
    }

    #[test]
    fn what_a_process_tells_last_is_understood_and_other_lines_are_not_taken_for_it() {
        let text = r#"{"event":"usage","cpu_seconds":1.0,"peak_resident_bytes":5}
{"event":"usage","cpu_seconds":1.5,"peak_resident_bytes":null}
{"event":"result","cpu_seconds":9.0}
nonsense
"#;
        let expected = Usage {
            cpu_seconds: 1.5,
            peak_resident_bytes: None,
        };
        assert_eq!(Usage::said_in(text), Some(expected));
        assert_eq!(Usage::said_in("nonsense\n"), None);
    }

    #[test]
    fn a_process_that_computes_has_used_more_of_a_core() {
        let before = Usage::of_this_process().cpu_seconds;
        let mut sum = 0u64;
        while Usage::of_this_process().cpu_seconds <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}

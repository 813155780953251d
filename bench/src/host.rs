//! The machine of a benchmark, as far as figures depend on it.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// A machine. A property that the system does not report is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The host name.
    pub name: String,
    /// The operating system with its version.
    pub os: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The processors' architecture.
    pub arch: String,
    /// The processors' model.
    pub cpu: Option<String>,
    /// The number of cores that a process may use.
    pub cores: usize,
    /// The size of the memory.
    pub memory_bytes: Option<u64>,
}

impl Host {
    /// The machine that this process runs on.
    pub fn of_this_machine() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let os = read("/etc/os-release");
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        Self {
            name: service::process::host_name(),
            os: os
                .and_then(|text| value(&text, "PRETTY_NAME", '='))
                .map(|name| name.trim_matches('"').to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: cpu.and_then(|text| value(&text, "model name", ':')),
            cores: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory.and_then(|text| {
                let total = value(&text, "MemTotal", ':')?;
                let kib: u64 = total.strip_suffix("kB")?.trim().parse().ok()?;
                Some(kib * 1024)
            }),
        }
    }

    /// The properties that differ and may change figures, each with both values. The kernel's
    /// release is not compared: with a patch of the kernel it is still the same machine.
    pub fn mismatches(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let known = |value: &Option<String>| value.clone().unwrap_or("unknown".to_owned());
        let pairs = [
            ("host", self.name.clone(), other.name.clone()),
            ("operating system", known(&self.os), known(&other.os)),
            ("architecture", self.arch.clone(), other.arch.clone()),
            ("processor", known(&self.cpu), known(&other.cpu)),
            ("cores", self.cores.to_string(), other.cores.to_string()),
        ];
        let mismatches = pairs.into_iter().filter(|(_, own, others)| own != others);
        mismatches.collect()
    }
}

/// The value in the first line with this key.
fn value(text: &str, key: &str, separator: char) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The load average of the last minute; `None` on systems without `/proc/loadavg`.
pub fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2.00GHz\nmodel name\t: another\n";
        assert_eq!(
            value(text, "model name", ':').as_deref(),
            Some("A CPU @ 2.00GHz")
        );
        assert_eq!(value(text, "MemTotal", ':'), None);
    }

    #[test]
    fn another_number_of_cores_is_another_machine_and_another_kernel_is_not() {
        let host = Host::of_this_machine();
        let newer = Host {
            kernel: Some("99.0".to_owned()),
            ..host.clone()
        };
        assert_eq!(host.mismatches(&newer), []);
        let larger = Host {
            cores: host.cores + 1,
            ..host.clone()
        };
        let mismatches = host.mismatches(&larger);
        assert_eq!(mismatches.len(), 1);
        assert_eq!(mismatches[0].0, "cores");
    }
}

//! What listens for connections: nothing beyond this machine, unless somebody says so.

use std::collections::BTreeSet;
use std::fs;

use crate::cluster::TestCluster;
use crate::processes::{Running, children, data_set, folder, rollcall, wait_until};

const ROWS: [&str; 4] = ["--rows", "20000", "--countries", "5"];

/// The addresses, as the kernel writes them in hexadecimal, on which a process listens for TCP.
fn listening(id: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).expect("it is alive");
    let own: BTreeSet<String> = descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?;
            Some(link.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut addresses = Vec::new();
    for table in ["tcp", "tcp6"] {
        let lines = fs::read_to_string(format!("/proc/{id}/net/{table}")).unwrap_or_default();
        for line in lines.lines().skip(1) {
            // <https://docs.kernel.org/networking/proc_net_tcp.html>: 0A is LISTEN.
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[3] == "0A" && own.contains(fields[9]) {
                let (address, _) = fields[1].split_once(':').expect("an address and a port");
                addresses.push(address.to_owned());
            }
        }
    }
    addresses
}

const LOOPBACK: &str = "0100007F";
const EVERYWHERE: &str = "00000000";

#[test]
fn a_run_with_its_own_broker_listens_on_loopback_alone() {
    let folder = folder();
    let mut command = rollcall();
    command
        .arg("run")
        .arg(data_set(&ROWS))
        .args(["--every", "day"]);
    command.args(["--workers", "2", "--simulate-work", "20ms", "--out"]);
    command.arg(folder.path().join("out"));
    let run = Running::start(command, folder.path(), "run");
    wait_until("its workers are there", || children(run.id()).len() == 2);
    wait_until("its broker listens", || !listening(run.id()).is_empty());
    for id in children(run.id()).into_iter().chain([run.id()]) {
        for address in listening(id) {
            assert_eq!(address, LOOPBACK);
        }
    }
}

#[test]
fn health_and_metrics_are_on_loopback_unless_another_address_is_named() {
    let test = TestCluster::new("listeners");
    for (named, expected) in [("0", LOOPBACK), ("0.0.0.0:0", EVERYWHERE)] {
        let mut command = test.service("worker");
        command.args(["--listen", named]);
        let worker = Running::start(command, test.folder.path(), "worker");
        wait_until("it listens", || !listening(worker.id()).is_empty());
        assert_eq!(listening(worker.id()), [expected], "--listen {named}");
    }
    let silent = Running::start(test.service("worker"), test.folder.path(), "silent");
    wait_until("it waits for its topics", || {
        silent.said().contains("waiting for a dispatcher")
    });
    assert_eq!(listening(silent.id()), Vec::<String>::new());
}

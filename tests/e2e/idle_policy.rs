//! An aggregator waits for workers that have jobs of its run before them, however slow these are, and
//! gives up where nobody is left to do them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::TestCluster;
use crate::processes::{Running, finish, folder, report, rollcall};

/// A data set of three jobs.
fn data_set(folder: &Path) -> PathBuf {
    let path = folder.join("tests.csv");
    let rows = [
        "country,test_date,result",
        "Italy,2024-03-01T08:00:00,positive",
        "Spain,2024-03-01T08:00:00,negative",
        "Spain,2024-03-01T09:00:00,negative",
    ];
    fs::write(&path, rows.join("\n") + "\n").expect("the data set can be written");
    path
}

fn worker(test: &TestCluster, faults: &str) -> Running {
    let mut worker = test.service("worker");
    worker.args(["--group", &test.group(), "--worker-id", "a"]);
    worker.env("ROLLCALL_FAULTS", faults);
    Running::start(worker, test.folder.path(), "worker")
}

#[test]
fn a_job_slower_than_the_timeout_is_waited_for() {
    let test = TestCluster::new("idle-policy-slow");
    let run_id = test.dispatch(&data_set(test.folder.path()), &[]).run_id;
    let _worker = worker(&test, "worker.before-compute=slow:12s@1");
    let said = test.aggregate(&run_id, "3s").expect_code(0).stderr;
    assert_eq!(report(&test.out(&run_id))["status"], "complete");
    assert!(
        said.contains("waiting for workers that have jobs"),
        "{said}"
    );
}

#[test]
fn jobs_of_workers_that_died_are_given_up() {
    let test = TestCluster::new("idle-policy-nobody");
    let run_id = test.dispatch(&data_set(test.folder.path()), &[]).run_id;
    let mut worker = worker(&test, "worker.before-compute=abort");
    assert_eq!(worker.wait().code(), None);
    let said = test.aggregate(&run_id, "3s").expect_code(4).stderr;
    assert_eq!(report(&test.out(&run_id))["status"], "incomplete");
    assert!(said.contains("no worker is there to take them"), "{said}");
}

#[test]
fn a_run_on_the_in_process_broker_waits_for_its_slow_workers() {
    let folder = folder();
    let mut command = rollcall();
    command.arg("run").arg(data_set(folder.path()));
    command.args(["--workers", "1", "--timeout", "1s"]);
    command.args(["--simulate-work", "4s"]);
    let out = folder.path().join("out");
    command.arg("--out").arg(&out);
    finish(command).expect_code(0);
    assert_eq!(report(&out)["status"], "complete");
}

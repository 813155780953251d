//! A computation that has a window of jobs in flight and answers late, out of order, or one job never
//! ([`tests/late_worker`](../late_worker/main.rs)), on Apache Kafka.

use std::path::Path;
use std::process::Command;

use crate::cluster::TestCluster;
use crate::processes::{
    FEW_JOBS, Running, assert_reconciled, assert_same, data_set, local, report, rollcall,
    wait_until,
};

const BY_DAY: [&str; 2] = ["--every", "day"];

/// The worker for tests, which is built beside the binaries.
fn late_worker(test: &TestCluster, id: &str, options: &[&str]) -> Command {
    let rollcall = rollcall();
    let folder = Path::new(rollcall.get_program())
        .parent()
        .expect("a folder");
    let program = folder.join("examples").join("late_worker");
    assert!(
        program.exists(),
        "cargo test builds {} unless it is asked for one target; cargo build --example late_worker does",
        program.display()
    );
    let mut command = Command::new(program);
    for (name, value) in rollcall.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(["--bootstrap-servers", &test.bootstrap_servers]);
    command.args(["--topic-prefix", &test.prefix, "--group", &test.group()]);
    command.args(["--worker-id", id]).args(options);
    command
}

#[test]
fn answers_that_come_late_and_out_of_order_make_the_same_series() {
    for delivery in ["at-least-once", "exactly-once"] {
        let test = TestCluster::new(&format!("late-answers-{delivery}"));
        let data_set = data_set(&FEW_JOBS);
        let options = ["--delivery", delivery, "--threads", "2"];
        let mut workers = ["a", "b"].map(|id| {
            let command = late_worker(&test, id, &options);
            Running::start(command, test.folder.path(), id)
        });
        let run = test.dispatch(&data_set, &BY_DAY);
        test.aggregate_complete(&run.run_id);
        let report = report(&test.out(&run.run_id));
        assert_same(&report, &local(&data_set, &BY_DAY));
        test.wait_until_committed();
        for worker in &mut workers {
            worker.end();
        }
    }
}

#[test]
fn a_job_that_is_never_answered_is_buried_and_the_others_are_counted() {
    let test = TestCluster::new("never-answered");
    let data_set = data_set(&FEW_JOBS);
    let start = |life: usize| {
        let mut command = late_worker(&test, "late", &["--job-timeout", "300ms"]);
        command.env("NEVER_ANSWERED", "777");
        Running::start(command, test.folder.path(), &format!("late-{life}"))
    };
    let mut lives = vec![start(0)];
    let run = test.dispatch(&data_set, &BY_DAY);
    wait_until("each job has an outcome", || {
        let last = lives.last_mut().expect("one has started");
        if !last.is_running() {
            let said = last.said();
            assert!(said.contains("has not ended within 300ms"), "{said}");
            let next = start(lives.len());
            lives.push(next);
        }
        test.jobs_with_outcome(&run.run_id) == run.jobs
    });
    test.aggregate(&run.run_id, "60s").expect_code(3);
    let report = report(&test.out(&run.run_id));
    assert_reconciled(&report);
    let dead = report["dead_letters"].as_array().expect("a list");
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (&dead[0]["index"], &dead[0]["attempts"]),
        (&777.into(), &3.into())
    );
    assert_eq!(dead[0]["reason"], "3 workers died of it");
    // One that hangs among many, one that hangs alone, three to find the job; and a few more while it
    // was not among the next 64 messages.
    assert!((4..=15).contains(&lives.len()), "{} workers", lives.len());
}

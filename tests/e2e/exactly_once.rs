//! Workers that commit outcomes and offsets together: whoever reads the outcomes with
//! `read_committed` sees each job once, whatever happens to workers and broker.

use std::fs;
use std::process::Command;

use kafka::GroupOffsets;
use pipeline::offsets::Commit;

use crate::apache_kafka::ApacheKafka;
use crate::cluster::{Dispatched, TestCluster};
use crate::processes::{
    FEW_JOBS, Running, assert_reconciled, assert_same, data_set, finish, folder, local, report,
    rollcall, wait_until,
};

const BY_DAY: [&str; 2] = ["--every", "day"];

/// A dispatcher whose retries write nothing twice.
const DISPATCH: [&str; 4] = ["--every", "day", "-X", "enable.idempotence=true"];

fn worker(test: &TestCluster, id: &str, work: &str) -> Command {
    let mut command = test.service("worker");
    command.args(["--delivery", "exactly-once", "--group", &test.group()]);
    command.args(["--worker-id", id, "--simulate-work", work]);
    command
}

fn start(test: &TestCluster, command: Command, id: &str) -> Running {
    Running::start(command, test.folder.path(), id)
}

/// A worker that has its partitions back at once when it is started again.
fn start_static(test: &TestCluster, id: &str, work: &str) -> Running {
    let mut command = worker(test, id, work);
    command.args(["--group-instance-id", &format!("{}-{id}", test.prefix)]);
    start(test, command, id)
}

#[track_caller]
fn assert_each_once(test: &TestCluster, run: &Dispatched) {
    let report = test.aggregate_complete(&run.run_id);
    assert_eq!(report["jobs"]["duplicates_dropped"], 0);
    let counts = test.outcomes_by_job(&run.run_id);
    assert_eq!(counts.len() as u64, run.jobs);
    let double: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(double.is_empty(), "{double:?}");
}

#[test]
fn each_job_has_one_committed_outcome() {
    let test = TestCluster::new("exactly-once");
    let data_set = data_set(&FEW_JOBS);
    let mut workers = ["a", "b"].map(|id| start(&test, worker(&test, id, "0ms"), id));
    let run = test.dispatch(&data_set, &DISPATCH);
    assert_each_once(&test, &run);
    let report = report(&test.out(&run.run_id));
    assert_same(&report, &local(&data_set, &BY_DAY));
    test.wait_until_committed();
    for worker in &mut workers {
        worker.end();
    }
}

#[test]
fn workers_killed_again_and_again_leave_one_committed_outcome_of_each_job() {
    let test = TestCluster::new("exactly-once-kills");
    let data_set = data_set(&FEW_JOBS);
    let mut workers = ["a", "b"].map(|id| (id, start_static(&test, id, "1ms")));
    let run = test.dispatch(&data_set, &DISPATCH);
    for kill in 0..6 {
        let done = test.jobs_with_outcome(&run.run_id);
        test.wait_until_mid_run(&run, done + 300);
        let (id, worker) = &mut workers[kill % 2];
        worker.kill();
        *worker = start_static(&test, id, "1ms");
    }
    test.assert_mid_run(&run);
    assert_each_once(&test, &run);
}

#[test]
fn a_worker_that_dies_within_a_transaction_leaves_nothing_of_it() {
    let data_set = data_set(&FEW_JOBS);
    for point in ["before-produce", "before-commit"] {
        let test = TestCluster::new(&format!("exactly-once-{point}"));
        let once = test.folder.path().join("once");
        let faults = format!("worker.{point}=abort@3!{}", once.display());
        // Its successor has another name, so that it is for the broker to end the transaction.
        let mut command = worker(&test, "victim", "1ms");
        command.env("ROLLCALL_FAULTS", faults);
        let mut victim = start(&test, command, "victim");
        let run = test.dispatch(&data_set, &DISPATCH);
        victim.wait();
        assert!(once.exists(), "{point} was never passed");
        let _successor = start(&test, worker(&test, "successor", "0ms"), "successor");
        assert_each_once(&test, &run);
    }
}

#[test]
fn workers_that_come_and_go_in_order_leave_one_committed_outcome_of_each_job() {
    let test = TestCluster::new("exactly-once-scaled");
    let data_set = data_set(&FEW_JOBS);
    let _first = start(&test, worker(&test, "first", "1ms"), "first");
    let run = test.dispatch(&data_set, &DISPATCH);
    test.wait_until_mid_run(&run, 300);
    let mut second = start(&test, worker(&test, "second", "1ms"), "second");
    let done = test.jobs_with_outcome(&run.run_id);
    test.wait_until_mid_run(&run, done + 1_000);
    second.end();
    test.assert_mid_run(&run);
    assert_each_once(&test, &run);
}

#[test]
fn a_worker_that_stood_still_commits_nothing_that_others_have_done_meanwhile() {
    let test = TestCluster::new("exactly-once-zombie");
    let data_set = data_set(&FEW_JOBS);
    let zombie = start(&test, worker(&test, "zombie", "1ms"), "zombie");
    let run = test.dispatch(&data_set, &DISPATCH);
    test.wait_until_mid_run(&run, 300);
    zombie.signal("STOP");
    test.assert_mid_run(&run);
    let _survivor = start(&test, worker(&test, "survivor", "0ms"), "survivor");
    wait_until("the other one has done the rest", || {
        test.jobs_with_outcome(&run.run_id) == run.jobs
    });
    zombie.signal("CONT");
    wait_until("it knows that it was away", || {
        zombie.said().contains("partitions lost")
    });
    assert_each_once(&test, &run);
}

#[test]
fn a_broker_that_is_killed_and_comes_back_shows_one_committed_outcome_of_each_job() {
    let mut broker = ApacheKafka::start(&[]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "exactly-once-broker");
    let data_set = data_set(&FEW_JOBS);
    let _workers = ["a", "b"].map(|id| start_static(&test, id, "1ms"));
    let run = test.dispatch(&data_set, &DISPATCH);
    test.wait_until_mid_run(&run, 300);
    broker.restart();
    assert_each_once(&test, &run);
}

#[test]
fn a_transaction_that_takes_too_long_is_ended_by_the_broker_and_done_again_by_a_new_producer() {
    let looks_often = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let broker = ApacheKafka::start(&[(looks_often, "200")]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "exactly-once-slow");
    let data_set = data_set(&FEW_JOBS);
    let mut command = worker(&test, "slow", "1ms");
    command.args(["-X", "transaction.timeout.ms=2000"]);
    command.env("ROLLCALL_FAULTS", "worker.before-commit=slow:5s@3");
    let slow = start(&test, command, "slow");
    let run = test.dispatch(&data_set, &DISPATCH);
    assert_each_once(&test, &run);
    let said = slow.said();
    for line in [
        "a new producer takes over",
        "found out how the transaction has ended committed=false",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn jobs_that_kill_are_buried_with_one_committed_outcome_each() {
    let broker = ApacheKafka::shared().bootstrap_servers();
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let mut command = rollcall();
    command.env(
        "ROLLCALL_FAULTS",
        "worker.before-compute=abort@1234;worker.after-compute=abort@4321",
    );
    command.arg("run").arg(&data_set).args(BY_DAY);
    command.args(["--delivery", "exactly-once", "--workers", "3", "--out"]);
    command.arg(folder.path());
    command.args(["--bootstrap-servers", &broker, "--timeout", "60s"]);
    finish(command).expect_code(3);
    let report = report(folder.path());
    assert_reconciled(&report);
    assert_eq!(report["status"], "complete-with-dead-letters");
    let dead = report["dead_letters"].as_array().expect("a list");
    let dead: Vec<_> = dead.iter().map(|dead| dead["index"].as_u64()).collect();
    assert_eq!(dead, [Some(1_234), Some(4_321)]);
    // A run that is not complete keeps its topics.
    let run_id = report["run"]["run_id"].as_str().expect("a run id");
    let test = TestCluster::on(&broker, &format!("rollcall.{run_id}"));
    let counts = test.outcomes_by_job(&run_id.parse().expect("a run id"));
    assert_eq!(counts.len() as u64, report["manifest"]["jobs"]);
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
}

#[test]
fn the_in_process_broker_is_refused_with_a_line_that_says_what_to_do() {
    let mut command = rollcall();
    command.args(["run", "none.csv", "--delivery", "exactly-once", "--out"]);
    let folder = folder();
    command.arg(folder.path());
    let refused = finish(command).expect_code(2).stderr;
    assert!(refused.contains("--bootstrap-servers"), "{refused}");
}

#[test]
fn a_worker_whose_outcomes_are_given_up_each_time_ends_and_nobody_takes_that_for_a_death() {
    // A label of 300 letters has room in a message, and the outcomes of a hundred jobs have not.
    let broker = ApacheKafka::start(&[("message.max.bytes", "5000")]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "given-up");
    let mut rows = "country,test_date,result\n".to_owned();
    for country in 100..200 {
        rows += &format!("{}{country},2024-03-01,positive\n", "x".repeat(300));
    }
    let data_set = test.folder.path().join("long.csv");
    fs::write(&data_set, rows).expect("the data set can be written");
    let options = ["--partitions", "1", "--jobs-per-message", "1"];
    test.dispatch(
        &data_set,
        &[&options[..], &["-X", "batch.size=4000"]].concat(),
    );
    let mut worker = start(&test, worker(&test, "a", "0ms"), "a");
    assert_eq!(worker.wait().code(), Some(1), "{}", worker.said());
    let said = worker.said();
    assert!(
        said.contains("transactions in a row were given up"),
        "{said}"
    );
    let group = GroupOffsets::new(&test.cluster, &test.group(), &test.topics.jobs, 1);
    let commits = group.expect("a client").commits().expect("the group's");
    let expected = Commit {
        partition: 0,
        offset: 0,
        metadata: String::new(),
    };
    assert_eq!(commits, [expected]);
}

//! Jobs that make their worker die or hang: each is found, buried and costs nobody else anything.

use std::fs;
use std::path::Path;
use std::process::Command;

use pipeline::JobBatch;
use serde_json::Value;

use crate::apache_kafka::ApacheKafka;
use crate::cluster::TestCluster;
use crate::processes::{
    FEW_JOBS, Running, assert_reconciled, assert_same, children, data_set, finish, folder, local,
    report, rollcall, signal, wait_until,
};

const BY_DAY: [&str; 2] = ["--every", "day"];

fn run(out: &Path, data_set: &Path, options: &[&str], faults: &str) -> Command {
    let mut command = rollcall();
    command.env("ROLLCALL_FAULTS", faults);
    command.arg("run").arg(data_set).args(BY_DAY).args(options);
    command.args(["--timeout", "60s", "--out"]).arg(out);
    command
}

/// The dead letters of a run, as (index, reason, attempts).
fn dead_letters(report: &Value) -> Vec<(u64, String, u64)> {
    let letters = report["dead_letters"].as_array().expect("a list");
    let letter = |letter: &Value| {
        let reason = letter["reason"].as_str().expect("a reason").to_owned();
        let number = |name: &str| letter[name].as_u64().expect("a number");
        (number("index"), reason, number("attempts"))
    };
    letters.iter().map(letter).collect()
}

/// Everything but these jobs was counted.
#[track_caller]
fn assert_only_dead(report: &Value, dead: &[(u64, &str)]) {
    assert_eq!(report["status"], "complete-with-dead-letters");
    assert_reconciled(report);
    let buried = dead_letters(report);
    let buried: Vec<_> = buried
        .iter()
        .map(|(index, reason, attempts)| (*index, reason.as_str(), *attempts))
        .collect();
    let expected: Vec<_> = dead
        .iter()
        .map(|&(index, reason)| (index, reason, 3))
        .collect();
    assert_eq!(buried, expected);
    assert_eq!(report["jobs"]["missing"], 0);
}

#[test]
fn jobs_that_kill_their_worker_are_buried_and_the_run_goes_on() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let faults = "worker.before-compute=abort@1234;worker.after-compute=abort@4321";
    let command = run(folder.path(), &data_set, &["--workers", "3"], faults);
    finish(command).expect_code(3);
    let killed = "3 workers died of it";
    assert_only_dead(&report(folder.path()), &[(1_234, killed), (4_321, killed)]);
}

#[test]
fn a_job_that_kills_is_found_with_one_job_a_message_too() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = ["--workers", "2", "--jobs-per-message", "1"];
    let faults = "worker.before-compute=abort@2000";
    finish(run(folder.path(), &data_set, &options, faults)).expect_code(3);
    assert_only_dead(&report(folder.path()), &[(2_000, "3 workers died of it")]);
}

#[test]
fn a_job_that_hangs_is_buried_after_its_worker_was_replaced_three_times() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = ["--workers", "2", "--job-timeout", "300ms"];
    let command = run(
        folder.path(),
        &data_set,
        &options,
        "worker.before-compute=hang@777",
    );
    let said = finish(command).expect_code(3).stderr;
    assert!(said.contains("has not ended within 300ms"), "{said}");
    assert_only_dead(&report(folder.path()), &[(777, "3 workers died of it")]);
}

#[test]
fn a_job_that_hangs_among_many_messages_is_found_in_a_few_steps() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = [
        "--workers",
        "2",
        "--jobs-per-message",
        "1",
        "--job-timeout",
        "300ms",
    ];
    let faults = "worker.before-compute=hang@2000";
    let said = finish(run(folder.path(), &data_set, &options, faults)).expect_code(3);
    assert_only_dead(&report(folder.path()), &[(2_000, "3 workers died of it")]);
    // One that hangs among many, one that hangs alone, three to find the job; and again as long as
    // it is not among the next 64.
    let replaced = said.stderr.matches("has not ended within 300ms").count();
    assert!((5..=15).contains(&replaced), "{replaced} workers");
}

#[test]
fn a_job_that_fails_by_an_injected_error_takes_the_way_of_a_real_one() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let faults = "worker.before-compute=error@55";
    let options = ["--workers", "2", "--quiet"];
    let said = finish(run(folder.path(), &data_set, &options, faults)).expect_code(3);
    // With --quiet, it is still reported.
    let line = said.stderr.lines().last().unwrap_or_default();
    assert!(line.contains("complete with dead letters, see "), "{line}");
    let reason = "fault injected at worker.before-compute";
    assert_only_dead(&report(folder.path()), &[(55, reason)]);
}

#[test]
fn a_worker_that_dies_between_outcome_and_commit_costs_a_duplicate_and_no_job() {
    let data_set = data_set(&FEW_JOBS);
    for point in ["worker.before-produce", "worker.before-commit"] {
        let folder = folder();
        let once = folder.path().join("once");
        let faults = format!("{point}=abort@1!{}", once.display());
        finish(run(folder.path(), &data_set, &["--workers", "2"], &faults)).expect_code(0);
        assert!(once.exists(), "{point} was never passed");
        let report = report(folder.path());
        assert_reconciled(&report);
        assert_same(&report, &local(&data_set, &BY_DAY));
    }
}

#[test]
fn a_fault_that_cannot_be_read_stops_the_process_at_once() {
    let folder = folder();
    let command = run(
        folder.path(),
        Path::new("none.csv"),
        &[],
        "worker.before-compute=explode",
    );
    let said = finish(command).expect_code(2).stderr;
    assert!(said.contains("ROLLCALL_FAULTS: cannot read"), "{said}");
}

/// Restarts, as a supervisor would, those of three workers that have died.
struct Supervised<'a> {
    test: &'a TestCluster,
    faults: &'a str,
    workers: Vec<Running>,
    deaths: u32,
}

impl<'a> Supervised<'a> {
    fn start(test: &'a TestCluster, faults: &'a str, workers: usize) -> Self {
        let mut own = Self {
            test,
            faults,
            workers: Vec::new(),
            deaths: 0,
        };
        own.workers = (0..workers).map(|number| own.worker(number)).collect();
        own
    }

    fn worker(&self, number: usize) -> Running {
        let id = format!("worker-{number}-{}", self.deaths);
        let mut command = self.test.service("worker");
        command.env("ROLLCALL_FAULTS", self.faults);
        command.args(["--group", &self.test.group(), "--worker-id", &id]);
        // A static member that is started again has its partitions back at once.
        let instance = format!("{}-{number}", self.test.prefix);
        command.args(["--group-instance-id", &instance]);
        Running::start(command, self.test.folder.path(), &id)
    }

    fn restart_dead(&mut self) {
        for number in 0..self.workers.len() {
            if !self.workers[number].is_running() {
                self.deaths += 1;
                self.workers[number] = self.worker(number);
            }
        }
    }
}

#[test]
fn on_apache_kafka_a_job_that_kills_costs_a_bounded_number_of_workers() {
    let test = TestCluster::new("poison");
    let data_set = data_set(&FEW_JOBS);
    let mut supervised = Supervised::start(&test, "worker.before-compute=abort@3000", 3);
    let run = test.dispatch(&data_set, &BY_DAY);
    wait_until("every job has an outcome", || {
        supervised.restart_dead();
        test.jobs_with_outcome(&run.run_id) == run.jobs
    });
    test.aggregate(&run.run_id, "60s").expect_code(3);
    let report = report(&test.out(&run.run_id));
    assert_only_dead(&report, &[(3_000, "3 workers died of it")]);
    // Three to find the message, three to find the job; a cycle more where there was progress.
    assert!(
        (6..=12).contains(&supervised.deaths),
        "{} deaths",
        supervised.deaths
    );
    // The dead job alone is in the queue.
    let dlq = test.records(&test.topics.dlq);
    let dead: Vec<_> = dlq.iter().collect();
    assert_eq!(dead.len(), 1);
    let batch = JobBatch::decode(dead[0].payload).expect("a job");
    assert_eq!((batch.first_index(), batch.jobs_count()), (3_000, 1));
    test.wait_until_committed();
}

#[test]
fn kills_rebalances_and_scaling_never_make_a_healthy_partition_careful() {
    let broker = ApacheKafka::shared().bootstrap_servers();
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let mut command = run(
        folder.path(),
        &data_set,
        &[
            "--workers",
            "4",
            "--simulate-work",
            "2ms",
            "--bootstrap-servers",
            &broker,
        ],
        "",
    );
    command.args(["--jobs-per-message", "1"]);
    let mut running = Running::start(command, folder.path(), "run");
    let mut killed = Vec::new();
    wait_until("workers were killed again and again", || {
        let alive = children(running.id());
        // Each pass kills one that has not been killed, so the slots take turns.
        if let Some(&worker) = alive.iter().find(|worker| !killed.contains(*worker)) {
            killed.push(worker);
            signal(worker, "KILL");
        }
        killed.len() >= 12 || !running.is_running()
    });
    assert!(
        killed.len() >= 12,
        "the run was over after {} kills",
        killed.len()
    );
    assert_eq!(running.wait().code(), Some(0), "{}", running.said());
    let report = report(folder.path());
    assert_same(&report, &local(&data_set, &BY_DAY));
    let said = fs::read_to_string(folder.path().join("run.log")).expect("a log");
    assert!(!said.contains("reading=Carefully"), "{said}");
}

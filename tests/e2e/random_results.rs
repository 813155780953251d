//! A computation that is random on purpose ([`tests/random_results`](../random_results/main.rs)) on
//! Apache Kafka: jobs that are computed twice have results that differ.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kafka::GroupOffsets;
use pipeline::RunId;
use serde_json::Value;

use crate::cluster::TestCluster;
use crate::own_computation::example;
use crate::processes::{FEW_JOBS, Finished, Running, assert_reconciled, data_set, finish, report};

/// The jobs of [`FEW_JOBS`] by the day, each of which is a group.
const JOBS: usize = 6_120;

/// A worker dies when the broker has acknowledged its first outcomes, before it commits an offset.
const DIES: &str = "worker.before-commit=abort@1";

/// Two jobs fail.
const FAILS: &str = "worker.before-compute=error@17;worker.before-compute=error@42";

/// A run of the random computation.
struct RandomRun {
    test: TestCluster,
    run_id: RunId,
}

impl RandomRun {
    /// Dispatches it under a policy for results that differ.
    #[track_caller]
    fn dispatch(test: &str, results: &str) -> Self {
        let test = TestCluster::new(test);
        let data_set = data_set(&FEW_JOBS);
        let mut command = test.dispatcher(&data_set, &["--every", "day", "--compute", "random"]);
        command.args(["--run-id", "drawn", "--results", results]);
        command.args(["--jobs-per-message", "7"]);
        finish(example("random_results", &command)).expect_code(0);
        Self {
            test,
            run_id: "drawn".parse().expect("a run id"),
        }
    }

    fn worker(&self, id: &str, faults: &str) -> Running {
        let mut command = self.test.service("worker");
        command.args(["--group", &self.test.group(), "--worker-id", id]);
        command.args(["--max-attempts", "1"]);
        command.env("ROLLCALL_FAULTS", faults);
        let command = example("random_results", &command);
        Running::start(command, self.test.folder.path(), id)
    }

    /// A worker works off all that is on the jobs topic, and ends.
    #[track_caller]
    fn work_off(&self, id: &str, faults: &str) {
        let worker = self.worker(id, faults);
        self.finish_work(worker);
    }

    #[track_caller]
    fn finish_work(&self, mut worker: Running) {
        self.test.wait_until_committed();
        worker.end();
    }

    /// Has every message of the jobs topic delivered again.
    #[track_caller]
    fn deliver_again(&self) {
        let (cluster, jobs) = (&self.test.cluster, &self.test.topics.jobs);
        let partitions = self.test.partitions(jobs);
        let group = GroupOffsets::new(cluster, &self.test.group(), jobs, partitions);
        let beginning: Vec<_> = (0..partitions as i32).map(|own| (own, 0)).collect();
        let moved = group.expect("a group").move_to(&beginning);
        moved.expect("the group has no members");
    }

    fn out(&self, name: &str) -> PathBuf {
        self.test.folder.path().join(name)
    }

    fn aggregator(&self, name: &str) -> Command {
        let (out, options) = (self.out(name), ["--timeout", "60s"]);
        let command = self.test.aggregator(&self.run_id, &out, &options);
        example("random_results", &command)
    }

    #[track_caller]
    fn aggregate(&self, name: &str) -> Finished {
        finish(self.aggregator(name))
    }

    fn replay(&self) -> Finished {
        let words = ["dlq", "replay", "--run-id", self.run_id.as_str()];
        finish(self.test.command(&words))
    }

    /// Asserts that two aggregators left the same table, and reports that say the same of the run.
    /// Returns the report.
    #[track_caller]
    fn assert_agree(&self, one: &str, other: &str) -> Value {
        let table = |name| fs::read(self.out(name).join("table.csv")).expect("a table");
        assert!(table(one) == table(other), "the tables differ");
        let (one, other) = (report(&self.out(one)), report(&self.out(other)));
        assert_eq!(of_run(&one), of_run(&other));
        one
    }
}

/// What a report says of its run: all but how long things took, and what depends on the order in which
/// outcomes were read.
fn of_run(report: &Value) -> Value {
    let mut own = report.clone();
    let object = own.as_object_mut().expect("an object");
    for part in ["stages", "rates", "workers", "wall_seconds", "files"] {
        object.remove(part);
    }
    let jobs = object["jobs"].as_object_mut().expect("an object");
    jobs.remove("duplicates_dropped");
    own
}

fn lines(out: &Path) -> BTreeSet<String> {
    let table = fs::read_to_string(out.join("table.csv")).expect("a table");
    table.lines().map(str::to_owned).collect()
}

#[test]
fn two_aggregators_of_random_results_agree_wherever_they_read_to_also_across_a_replay() {
    let run = RandomRun::dispatch("random-results", "any");
    let mut killed = run.worker("killed", &format!("{DIES};{FAILS}"));
    assert_eq!(killed.wait().code(), None, "{}", killed.said());

    // It ends as soon as each job has an outcome,
    let mut early = Running::start(run.aggregator("early"), run.test.folder.path(), "early");
    run.work_off("second", FAILS);
    assert_eq!(early.wait().code(), Some(3), "{}", early.said());
    // and this one finds each job twice, half of them with a lower result.
    run.deliver_again();
    run.work_off("third", FAILS);
    run.aggregate("late").expect_code(3);
    let report = run.assert_agree("early", "late");
    assert_reconciled(&report);
    assert_eq!(report["jobs"]["dead_lettered"], 2);
    let differing = report["differing"].as_array().expect("a list");
    assert!(!differing.is_empty(), "what the killed worker left differs");

    let replayed = run.replay().expect_code(0);
    assert!(
        replayed.stdout.contains("as generation 1"),
        "{}",
        replayed.stdout
    );
    let mut early = Running::start(run.aggregator("early-1"), run.test.folder.path(), "early-1");
    run.work_off("fourth", "");
    assert_eq!(early.wait().code(), Some(0), "{}", early.said());
    run.deliver_again();
    run.work_off("fifth", "");
    run.aggregate("late-1").expect_code(0);
    let report = run.assert_agree("early-1", "late-1");
    assert_reconciled(&report);
    assert_eq!(report["verdict"]["generation"], 1);
    // What the first verdict has counted stays, though most of it has lower results by now.
    let (first, second) = (lines(&run.out("late")), lines(&run.out("late-1")));
    assert_eq!(second.len(), 1 + JOBS);
    let changed: Vec<_> = second.difference(&first).collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
}

#[test]
fn random_results_fail_a_reproducible_run_and_the_job_is_named() {
    let run = RandomRun::dispatch("random-reproducible", "reproducible");
    let mut killed = run.worker("killed", &format!("{DIES};{FAILS}"));
    assert_eq!(killed.wait().code(), None, "{}", killed.said());
    run.work_off("second", FAILS);
    for name in ["first", "again"] {
        run.aggregate(name).expect_code(1);
        let report = report(&run.out(name));
        assert_eq!(report["status"], "failed");
        let conflicts = report["conflicts"].as_array().expect("a list");
        let first = conflicts[0].as_str().expect("a text");
        assert!(first.contains("completed (16 bytes: "), "{first}");
        assert!(first.starts_with("job "), "{first}");
        let checks = report["reconciliation"].as_array().expect("checks");
        let conflicting = checks
            .iter()
            .find(|own| own["name"] == "conflicting outcomes");
        assert_eq!(conflicting.expect("the check")["holds"], false);
    }
    let refused = run.replay().expect_code(2).stderr;
    assert!(refused.contains("failed is final"), "{refused}");
}

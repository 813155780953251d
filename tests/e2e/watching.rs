//! What one sees of services from outside while they run: health, metrics, log lines and progress
//! for machines.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use service::Progress;
use service::metrics::names;

use crate::apache_kafka::ApacheKafka;
use crate::cluster::TestCluster;
use crate::on_apache_kafka::dispatch_broken;
use crate::processes::{
    FEW_JOBS, Finished, Running, data_set, finish, folder, rollcall, wait_until,
};

/// Starts a worker that serves health and metrics at a port of the kernel's choice.
#[track_caller]
fn watched_worker(test: &TestCluster, id: &str, options: &[&str]) -> Running {
    let mut command = test.service("worker");
    command.args(["--group", &test.group(), "--worker-id", id]);
    command.args(["--listen", "0"]).args(options);
    Running::start(command, test.folder.path(), id)
}

/// Where it says that it serves them.
#[track_caller]
pub fn address(worker: &Running) -> String {
    let mut address = None;
    wait_until("it says where it listens", || {
        let said = worker.said();
        address = said.split_once("serving http://").and_then(|(_, rest)| {
            let (address, _) = rest.split_once("/livez")?;
            Some(address.to_owned())
        });
        address.is_some()
    });
    address.expect("it was waited for")
}

/// Status and body of the answer to a request.
#[track_caller]
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).expect("it listens");
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").expect("it is sent");
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .expect("it is answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

/// The samples of `/metrics`, by name and labels.
#[track_caller]
fn metrics(address: &str) -> BTreeMap<String, f64> {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200, "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn a_worker_is_ready_with_partitions_and_its_metrics_count_exactly_the_jobs_of_a_run() {
    let test = TestCluster::new("watched");
    let data_set = data_set(&FEW_JOBS);
    let mut workers = ["a", "b"].map(|id| watched_worker(&test, id, &[]));
    let addresses = [address(&workers[0]), address(&workers[1])];
    wait_until("it waits for the topics", || {
        get(&addresses[0], "/readyz").1 == "waiting for a dispatcher to create the topics\n"
    });
    assert_eq!(get(&addresses[0], "/readyz").0, 503);
    assert_eq!(get(&addresses[0], "/livez"), (200, "ok\n".to_owned()));

    let group = test.group();
    let run = test.dispatch(
        &data_set,
        &[
            "--wait-for-workers",
            "2",
            "--group",
            &group,
            "--every",
            "day",
        ],
    );
    test.aggregate_complete(&run.run_id);
    test.wait_until_committed();
    wait_until("both are ready", || {
        addresses
            .iter()
            .all(|address| get(address, "/readyz").0 == 200)
    });
    let of_both = |name: &str| -> f64 {
        let each = addresses.iter().map(|address| metrics(address)[name]);
        each.sum()
    };
    assert_eq!(
        of_both("rollcall_worker_jobs_total{outcome=\"counted\"}"),
        run.jobs as f64
    );
    assert_eq!(
        of_both("rollcall_worker_consumed_messages_total"),
        run.messages as f64
    );
    assert_eq!(of_both("rollcall_worker_assigned_partitions"), 24.0);
    assert!(of_both("rollcall_worker_produced_bytes_total") > 0.0);
    assert!(of_both("rollcall_worker_compute_seconds_total") > 0.0);
    wait_until("the gauges have seen the end", || {
        of_both("rollcall_worker_lag_messages") == 0.0
            && of_both("rollcall_worker_outbox_bytes") == 0.0
    });

    workers[0].end();
    assert!(TcpStream::connect(&addresses[0]).is_err());
}

#[test]
fn dead_letters_and_retries_are_counted() {
    let test = TestCluster::new("watched-dead-letters");
    let worker = watched_worker(&test, "a", &["--retry-backoff", "1ms"]);
    let address = address(&worker);
    // Three jobs, one of which fails whenever it is tried, and a message that is none.
    dispatch_broken(&test, true);
    wait_until("both dead letters are acknowledged", || {
        metrics(&address)["rollcall_worker_dead_letters_total"] == 2.0
    });
    wait_until("all outcomes are acknowledged", || {
        let metrics = metrics(&address);
        metrics["rollcall_worker_jobs_total{outcome=\"counted\"}"] == 2.0
            && metrics["rollcall_worker_jobs_total{outcome=\"dead_lettered\"}"] == 1.0
    });
    assert_eq!(metrics(&address)["rollcall_worker_retries_total"], 2.0);
}

#[test]
fn a_worker_whose_broker_is_down_is_alive() {
    let mut broker = ApacheKafka::start(&[]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "watched-broker");
    let data_set = data_set(&FEW_JOBS);
    let mut worker = watched_worker(&test, "a", &[]);
    let address = address(&worker);
    test.dispatch(&data_set, &["--every", "month"]);
    wait_until("it is ready", || get(&address, "/readyz").0 == 200);
    broker.kill();
    let late = watched_worker(&test, "late", &["--broker-timeout", "60s"]);
    let other = self::address(&late);
    wait_until("one that comes now is not ready", || {
        get(&other, "/readyz") == (503, "no broker has answered yet\n".to_owned())
    });
    assert_eq!(get(&other, "/livez").0, 200);
    assert_eq!(get(&address, "/livez").0, 200);
    assert!(worker.is_running());
}

#[test]
fn log_lines_in_json_carry_the_worker_and_the_run() {
    let test = TestCluster::new("json-log");
    let data_set = data_set(&FEW_JOBS);
    let mut worker = watched_worker(&test, "json-worker", &["--log-format", "json"]);
    let dispatcher = test.dispatcher(&data_set, &["--every", "month", "--log-format", "json"]);
    let Finished { stdout, stderr, .. } = finish(dispatcher).expect_code(0);
    let run_id = stdout.split_whitespace().nth(1).expect("a run id");
    let lines = json_lines(&stderr);
    assert!(lines.len() >= 2, "{stderr}");
    for line in &lines {
        assert_eq!(line["run_id"], run_id, "{line}");
    }
    wait_until("it works", || worker.said().contains("partitions assigned"));
    worker.end();
    let lines = json_lines(&worker.said());
    let messages = lines.iter().map(|line| &line["fields"]["message"]);
    let up = messages
        .filter(|message| *message == "worker is up")
        .count();
    assert_eq!(up, 1, "{lines:#?}");
    for line in &lines {
        assert_eq!(line["worker"], "json-worker", "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string());
    }
}

#[track_caller]
fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_run_tells_machines_of_its_progress_line_by_line_and_last_of_its_result() {
    let folder = folder();
    let data_set = data_set(&FEW_JOBS);
    let mut command = rollcall();
    command
        .arg("run")
        .arg(&data_set)
        .args(["--json", "--every", "day"]);
    command.args(["--workers", "2", "--out"]).arg(folder.path());
    let Finished { stdout, .. } = finish(command).expect_code(0);
    let lines = json_lines(&stdout);
    let (result, progress) = lines.split_last().expect("it says something");
    assert_eq!(result["event"], "result");
    assert_eq!(result["verdict"], "complete");
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["rows"]["read"], 200_000);
    for path in result["paths"].as_array().expect("paths") {
        let path = path.as_str().expect("a path");
        assert!(Path::new(path).exists(), "{path}");
    }
    let report = crate::processes::report(folder.path());
    assert_eq!(result["run_id"], report["run"]["run_id"]);
    assert_eq!(result["jobs"], report["jobs"]);
    let last_of = |stage: &str| {
        let mut own = progress.iter().filter(|line| line["stage"] == stage);
        own.next_back().expect("it is told of").clone()
    };
    for stage in ["read", "published", "collected"] {
        let last = last_of(stage);
        assert_eq!(last["done"], last["total"], "{last}");
        assert!(last["seconds"].is_number(), "{last}");
    }
    assert_eq!(last_of("collected")["done"], report["manifest"]["jobs"]);
    let workers = progress.iter().filter(|line| line["event"] == "workers");
    assert!(
        workers
            .max_by_key(|line| line["up"].as_u64())
            .expect("some")["up"]
            == 2
    );
}

#[test]
fn a_run_that_fails_ends_with_a_result_for_machines_too() {
    let folder = folder();
    let mut command = rollcall();
    command.args(["run", "no-such-file.csv", "--json", "--out"]);
    command.arg(folder.path());
    let Finished { stdout, .. } = finish(command).expect_code(2);
    let lines = json_lines(&stdout);
    let result = lines.last().expect("it says something");
    assert_eq!(result["verdict"], "error");
    assert_eq!(result["exit_code"], 2);
    let error = result["error"].as_str().expect("an error");
    assert!(error.contains("no-such-file.csv"), "{error}");
}

/// The rows of the table that begin with a metric's name, as (name, type).
fn documented() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/watching.md");
    let text = fs::read_to_string(path).expect("the page is there");
    let rows = text.lines().filter(|line| line.starts_with("| `rollcall_"));
    let mut rows: Vec<_> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            let name = cells.nth(1).expect("a name").to_owned();
            (name, cells.next().expect("a type").to_owned())
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn the_documented_metrics_are_those_that_are_served() {
    let progress = Progress::default();
    let registries = [
        worker::metrics::Metrics::default().registry(),
        dispatcher::metrics::Metrics::default().registry(&progress),
        aggregator::metrics::Metrics::default().registry(&progress),
    ];
    let mut served: Vec<_> = registries.iter().flat_map(names).collect();
    served.sort();
    assert!(served.len() > 30, "{served:?}");
    assert_eq!(documented(), served);
}

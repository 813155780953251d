//! No personal data gets to a broker. A data set full of it is worked on in every way that writes to
//! topics, and then every byte that the broker has written to its disk is searched: keys, values,
//! headers and offsets of all topics, and what is committed beside the offsets.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;

use crate::apache_kafka::ApacheKafka;
use crate::cluster::TestCluster;
use crate::processes::{Running, finish, report, wait_until};

/// In each value that is somebody's own business, and in nothing else in the world.
const PRIVATE: &str = "pr1vate-Wq7";

/// The label of the rows that count. It has to get to the broker, or the search is worth nothing.
const LABEL: &str = "Laputa-Wq7";

/// In a label that is only in rejected rows.
const REJECTED_LABEL: &str = "Balnibarbi-Wq7";

/// Rows that count, and one that does not for each reason that shows a field.
fn data_set(folder: &Path) -> PathBuf {
    let mut text =
        "national_id,patient_name,e-mail,city,country,birth_date,test_date,result\n".to_owned();
    let person = |number: u32| {
        format!(
            "id-{number}-{PRIVATE},Name {number} {PRIVATE},a{number}@{PRIVATE}.example,{PRIVATE}ville"
        )
    };
    for number in 0..2_000 {
        let day = number % 28 + 1;
        let person = person(number);
        let born = format!("1970-01-01 {PRIVATE}");
        writeln!(
            text,
            "{person},{LABEL},{born},2020-03-{day:02}T08:00:00,negative"
        )
        .expect("text");
    }
    let person = person(9_999);
    let rejected = [
        format!("{person},{REJECTED_LABEL},1970-01-01,not a date {PRIVATE},positive"),
        format!("{person},{REJECTED_LABEL},1970-01-01,,positive"),
        format!("{person},{REJECTED_LABEL},1970-01-01,2020-03-01T08:00:00,perhaps {PRIVATE}"),
        format!("{person},{REJECTED_LABEL},1970-01-01,2020-03-01T08:00:00,"),
        format!("{person},{REJECTED_LABEL},1970-01-01,2020-03-01T08:00:00,positive,{PRIVATE}"),
        format!("{person},{REJECTED_LABEL}"),
        format!(
            "{person},{REJECTED_LABEL} {},1970-01-01,2020-03-01,positive",
            "x".repeat(40_000)
        ),
    ];
    text.push_str(&rejected.join("\n"));
    let path = folder.join("tests.csv");
    let mut bytes = text.into_bytes();
    // A row whose label is no UTF-8.
    bytes.extend(format!("\n{person},{REJECTED_LABEL}").as_bytes());
    bytes.extend(b"\xff,1970-01-01,2020-03-01,positive\n");
    fs::write(&path, bytes).expect("written");
    path
}

/// Where a folder's files have these bytes.
fn places(folder: &Path, of: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            places(&path, of, found);
        } else if memmem::find(&fs::read(&path).unwrap_or_default(), of).is_some() {
            found.push(path.display().to_string());
        }
    }
}

#[test]
fn every_byte_on_the_broker_is_free_of_personal_data() {
    let broker = ApacheKafka::start(&[]);
    let test = TestCluster::on(&broker.bootstrap_servers(), "personal");
    let data_set = data_set(test.folder.path());
    let by_day = ["--every", "day", "--jobs-per-message", "1"];

    // A worker that dies of a job, so that there are marks beside the offsets and dead letters.
    let worker = |name: &str| {
        let mut command = test.service("worker");
        command.args(["--group", &test.group(), "--worker-id", name]);
        command.env(
            "ROLLCALL_FAULTS",
            "worker.before-compute=abort@5;worker.after-compute=error@6",
        );
        Running::start(command, test.folder.path(), name)
    };
    let mut workers = vec![worker("w0")];
    let run = test.dispatch(&data_set, &by_day);
    wait_until("all jobs have an outcome", || {
        let last = workers.len() - 1;
        if !workers[last].is_running() {
            workers.push(worker(&format!("w{}", workers.len())));
        }
        test.jobs_with_outcome(&run.run_id) == run.jobs
    });
    assert!(workers.len() > 1, "no worker has died");
    test.aggregate(&run.run_id, "60s").expect_code(3);
    let report = report(&test.out(&run.run_id));
    assert_eq!(
        report["manifest"]["rows_rejected"], 8,
        "{:#}",
        report["manifest"]
    );
    assert_eq!(report["jobs"]["dead_lettered"], 2, "{:#}", report["jobs"]);

    // Runs that are given up tell why, and an exactly-once worker writes what others do not.
    for limit in ["0", "0.01%"] {
        let options = [
            "--max-rejects",
            limit,
            "--run-id",
            &format!("given-up-{}", limit.len()),
        ];
        let given_up = finish(test.dispatcher(&data_set, &options)).expect_code(1);
        assert!(given_up.stderr.contains("rejected"), "{}", given_up.stderr);
    }
    // A file without a header has its first row for one.
    let headerless = test.folder.path().join("headerless.csv");
    let bytes = fs::read(&data_set).expect("it is there");
    let text = String::from_utf8_lossy(&bytes);
    let (_, rows) = text.split_once('\n').expect("a header");
    fs::write(&headerless, rows).expect("written");
    let dispatcher = test.dispatcher(&headerless, &["--run-id", "headerless"]);
    let given_up = finish(dispatcher).expect_code(2);
    assert!(given_up.stderr.contains(PRIVATE), "{}", given_up.stderr);
    let waiting = test
        .aggregate(&"headerless".parse().expect("a run id"), "60s")
        .expect_code(1);
    assert!(
        waiting.stderr.contains("no such column"),
        "{}",
        waiting.stderr
    );
    drop(workers);
    let mut command = test.service("worker");
    command.args(["--group", &test.group(), "--delivery", "exactly-once"]);
    let _worker = Running::start(command, test.folder.path(), "exactly-once");
    let again = test.dispatch(&data_set, &["--every", "month"]);
    test.aggregate(&again.run_id, "60s").expect_code(0);

    let search = |of: &str| {
        let mut found = Vec::new();
        places(&broker.data(), of.as_bytes(), &mut found);
        found
    };
    for topic in [&test.topics.jobs, &test.topics.outcomes, &test.topics.dlq] {
        let found = search(LABEL);
        assert!(
            found.iter().any(|place| place.contains(topic.as_str())),
            "{topic}: {found:?}"
        );
    }
    // Committed offsets are among what is searched, and why a run was given up.
    let committed = search(&test.group());
    assert!(
        committed
            .iter()
            .any(|place| place.contains("__consumer_offsets")),
        "{committed:?}"
    );
    let given_up = search("rows are rejected");
    assert!(
        given_up
            .iter()
            .any(|place| place.contains(&test.topics.runs)),
        "{given_up:?}"
    );
    for secret in [PRIVATE, REJECTED_LABEL] {
        assert_eq!(search(secret), Vec::<String>::new(), "{secret}");
    }
    // Rejected rows are kept for whoever has the data set, and for nobody else.
    let rejects = fs::read(test.folder.path().join("rejects.csv")).expect("rejects");
    assert!(memmem::find(&rejects, PRIVATE.as_bytes()).is_some());
}

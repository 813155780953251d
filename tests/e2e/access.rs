//! Who is let in to a cluster behind TLS, SCRAM and ACLs, and what for: each program works with the
//! rights that docs/security.md lists for it and no others, and whoever is refused ends soon, with a
//! sentence that says what to do.

use std::path::Path;
use std::process::Command;

use kafka::{BatchProducer, GroupOffsets, Outgoing, read_to_end};

use crate::cluster::TestCluster;
use crate::processes::{
    Running, assert_reconciled, assert_same, data_set, finish, folder, local, report, rollcall,
    wait_until,
};
use crate::secured_kafka::{Operation, Resource, Right, SecuredKafka, password};

const ROWS: [&str; 4] = ["--rows", "20000", "--countries", "5"];
const BY_DAY: [&str; 2] = ["--every", "day"];

/// Access is denied.
const DENIED: i32 = 6;

fn start(test: &TestCluster, command: Command, name: &str) -> Running {
    Running::start(command, test.folder.path(), name)
}

fn worker(test: &TestCluster, options: &[&str]) -> Command {
    let mut command = test.service("worker");
    command.args(["--group", &test.group()]).args(options);
    command
}

fn aggregator(test: &TestCluster, out: &Path) -> Command {
    let mut command = test.service("aggregator");
    command.args(["--timeout", "60s", "--outputs", "csv", "--out"]);
    command.arg(out);
    command
}

/// A user for each program, with the rights that are documented for it.
#[track_caller]
fn assert_programs_work_with_their_rights(delivery: &str) {
    let kafka = SecuredKafka::shared();
    let test = kafka.test(&format!("rights-{delivery}"));
    for program in ["dispatcher", "worker", "aggregator"] {
        kafka.grant_documented(program, program, &test.prefix);
    }
    let mut dispatch = test.dispatcher(&data_set(&ROWS), &BY_DAY);
    if delivery == "exactly-once" {
        kafka.grant_documented("worker", "worker --delivery exactly-once", &test.prefix);
        dispatch.args(["-X", "enable.idempotence=true"]);
    }
    let command = worker(&test, &["--delivery", delivery, "-v"]);
    let mut worker = start(&test, kafka.as_user(command, "worker"), "worker");
    let dispatched = finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
    let out = test.folder.path().join("out");
    finish(kafka.as_user(aggregator(&test, &out), "aggregator")).expect_code(0);
    let report = report(&out);
    assert_reconciled(&report);
    assert_same(&report, &local(&data_set(&ROWS), &BY_DAY));
    test.wait_until_committed();
    worker.end();
    for said in [dispatched.stderr, worker.said()] {
        assert!(!said.contains("authoriz"), "{said}");
    }
}

#[test]
fn each_program_works_with_its_documented_rights_alone() {
    assert_programs_work_with_their_rights("at-least-once");
}

#[test]
fn with_transactions_each_program_works_with_its_documented_rights_alone() {
    assert_programs_work_with_their_rights("exactly-once");
}

#[test]
fn a_run_on_one_machine_works_with_its_documented_rights_and_removes_what_it_made() {
    let kafka = SecuredKafka::shared();
    kafka.grant_documented("run", "rollcall run", "rollcall");
    let data_set = data_set(&ROWS);
    for delivery in ["at-least-once", "exactly-once"] {
        let folder = folder();
        let mut command = rollcall();
        command.arg("run").arg(&data_set).args(BY_DAY);
        command.args(["--workers", "2", "--delivery", delivery, "--timeout", "60s"]);
        command.args(["--bootstrap-servers", &kafka.for_users(), "--out"]);
        command.arg(folder.path());
        let finished = finish(kafka.as_user(command, "run")).expect_code(0);
        assert!(
            !finished.stderr.contains("cannot remove"),
            "{}",
            finished.stderr
        );
        let report = report(folder.path());
        assert_reconciled(&report);
        assert_same(&report, &local(&data_set, &BY_DAY));
    }
}

#[test]
fn the_doctor_says_which_rights_a_program_lacks_and_what_to_grant() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("rights-doctor");
    kafka.grant_documented("dispatcher", "dispatcher", &test.prefix);
    let dispatch = test.dispatcher(&data_set(&ROWS), &BY_DAY);
    finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
    let doctor = |user: &str, program: &str| {
        let mut command = test.service("doctor");
        command.args(["--program", program]);
        finish(kafka.as_user(command, user)).stdout
    };
    let lines = |said: &str| -> Vec<String> {
        let lines = said.lines().filter(|line| line[6..].starts_with("rights "));
        lines.map(str::to_owned).collect()
    };
    for program in ["worker", "aggregator"] {
        kafka.grant_documented(program, program, &test.prefix);
    }
    for rows in ["rollcall dlq", "rollcall dlq replay"] {
        kafka.grant_documented("dlq", rows, &test.prefix);
    }
    for program in ["worker", "aggregator", "dlq"] {
        let said = doctor(program, program);
        let lines = lines(&said);
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].starts_with("ok"), "{said}");
    }
    kafka.grant_documented("runs", "rollcall runs", &test.prefix);
    let said = doctor("runs", "cancel");
    assert_eq!(lines(&said).len(), 1, "{said}");
    assert!(lines(&said)[0].starts_with("FAIL"), "{said}");
    let advice = format!("-> grant Write on topic {}", test.topics.runs);
    assert!(said.contains(&advice), "{said}");
    let said = doctor("runs", "aggregator");
    let advice = format!("-> grant Read on topic {}", test.topics.outcomes);
    assert!(said.contains(&advice), "{said}");
    assert!(said.contains("no verdict is published"), "{said}");
}

#[test]
fn the_tools_work_with_their_documented_rights_alone() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("rights-tools");
    kafka.grant_documented("dispatcher", "dispatcher", &test.prefix);
    let dispatch = test.dispatcher(&data_set(&ROWS), &BY_DAY);
    let finished = finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
    let run_id = finished.stdout.split_whitespace().nth(1).expect("a run id");

    kafka.grant_documented("doctor", "rollcall doctor", &test.prefix);
    let doctor = finish(kafka.as_user(test.service("doctor"), "doctor")).expect_code(0);
    assert!(!doctor.stdout.contains("access"), "{}", doctor.stdout);

    kafka.grant_documented("dlq", "rollcall dlq", &test.prefix);
    let list = test.command(&["dlq", "list", "--run-id", run_id]);
    finish(kafka.as_user(list, "dlq")).expect_code(0);

    kafka.grant_documented("runs", "rollcall runs", &test.prefix);
    let runs = finish(kafka.as_user(test.service("runs"), "runs")).expect_code(0);
    assert!(runs.stdout.contains(run_id), "{}", runs.stdout);
    let remove = || {
        let remove = test.command(&["runs", "rm", run_id]);
        kafka.as_user(remove, "runs")
    };
    let refused = finish(remove()).expect_code(DENIED).stderr;
    assert!(refused.contains("docs/security.md"), "{refused}");
    kafka.grant_documented("runs", "rollcall runs rm", &test.prefix);
    finish(remove()).expect_code(0);
}

#[test]
fn an_aggregator_that_may_not_publish_its_verdict_warns_or_ends_as_the_policy_says() {
    let kafka = SecuredKafka::shared();
    for (policy, code) in [("reproducible", 0), ("any", DENIED)] {
        let test = kafka.test(&format!("no-verdict-{policy}"));
        for program in ["dispatcher", "worker", "aggregator"] {
            kafka.grant_documented(program, program, &test.prefix);
        }
        kafka.deny(&[Right {
            user: "aggregator".to_owned(),
            kind: Resource::Topic,
            name: test.topics.runs.clone(),
            is_prefix: false,
            operation: Operation::Write,
        }]);
        let mut dispatch = test.dispatcher(&data_set(&ROWS), &BY_DAY);
        dispatch.args(["--results", policy]);
        finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
        let _worker = start(&test, kafka.as_user(worker(&test, &[]), "worker"), "worker");
        let out = test.folder.path().join("out");
        let command = aggregator(&test, &out);
        let ended = finish(kafka.as_user(command, "aggregator")).expect_code(code);
        let is_written = out.join("series.csv").exists();
        assert_eq!(is_written, code == 0, "{policy}: {}", ended.stderr);
        if is_written {
            assert!(
                ended.stdout.contains("verdict not published"),
                "{}",
                ended.stdout
            );
            assert_eq!(report(&out)["verdict"]["published"], false);
        }
    }
}

#[test]
fn a_dispatcher_that_resumes_works_with_its_documented_rights() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("rights-resume");
    for program in ["dispatcher", "dispatcher --run-id", "dispatcher --resume"] {
        kafka.grant_documented("dispatcher", program, &test.prefix);
    }
    let dispatch = |options: &[&str]| {
        let command = test.dispatcher(&data_set(&ROWS), &BY_DAY);
        let mut command = kafka.as_user(command, "dispatcher");
        command.args(["--run-id", "again"]).args(options);
        finish(command).expect_code(0)
    };
    dispatch(&[]);
    dispatch(&["--resume", "--group", &test.group()]);
}

/// Whether a user may write to a topic: one message, to partition 0.
#[track_caller]
fn may_write(user: &str, topic: &str) -> bool {
    let cluster = SecuredKafka::shared().cluster_of(user);
    let mut producer = BatchProducer::new(&cluster).expect("a producer");
    let target = producer.topic(topic).expect("a topic");
    let message = Outgoing {
        payload: b"intruder",
        id: 0,
    };
    let mut deliveries = Vec::new();
    match producer.produce(&target, 0, &[message]) {
        Ok(left) => assert!(left.is_empty()),
        Err(error) => {
            assert!(error.is_denied(), "{error}");
            return false;
        }
    }
    wait_until("the broker has answered", || {
        producer.poll(&mut deliveries);
        !deliveries.is_empty()
    });
    deliveries[0].error.is_none()
}

/// Whether a user may read a topic.
#[track_caller]
fn may_read(user: &str, topic: &str) -> bool {
    let cluster = SecuredKafka::shared().cluster_of(user);
    let read = read_to_end(&cluster, topic, &[], &|| false, &mut |_| {});
    if let Err(error) = &read {
        assert!(error.is_denied(), "{error}");
    }
    read.is_ok()
}

#[test]
fn no_program_may_write_or_read_more_than_it_has_to() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("rights-others");
    for program in ["dispatcher", "worker", "aggregator"] {
        kafka.grant_documented(program, program, &test.prefix);
    }
    let dispatch = test.dispatcher(&data_set(&ROWS), &BY_DAY);
    finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
    let [jobs, outcomes, dlq, runs] = test.topics.all();
    // An empty topic is read to its end by whoever may ask where that is.
    for topic in [outcomes, dlq] {
        assert!(may_write("worker", topic), "worker writes {topic}");
    }
    // (user, what it may write, what it may read)
    let expected: [(&str, &[&str], &[&str]); 4] = [
        ("dispatcher", &[jobs, runs], &[runs]),
        ("worker", &[outcomes, dlq], &[jobs, runs]),
        ("aggregator", &[runs], &[outcomes, runs]),
        ("stranger", &[], &[]),
    ];
    for (user, written, read) in expected {
        for topic in test.topics.all() {
            assert_eq!(
                may_read(user, topic),
                read.contains(&topic),
                "{user} reads {topic}"
            );
            // What is written by mistake would be in others' way.
            if !written.contains(&topic) {
                assert!(!may_write(user, topic), "{user} writes {topic}");
            }
        }
    }
    // Offsets of a group are a part of what workers know of its runs.
    let offsets = |user| {
        let cluster = kafka.cluster_of(user);
        let partitions = 24;
        GroupOffsets::new(&cluster, &test.group(), jobs, partitions)?.committed()
    };
    assert!(offsets("worker").is_ok());
    // librdkafka looks for the coordinator that it may not know of until its time is up.
    assert!(offsets("stranger").is_err());
}

/// Commands that need a broker, as yet without knowing where one is.
fn commands(test: &TestCluster) -> Vec<(&'static str, Command)> {
    let out = test.folder.path().join("out");
    let mut run = rollcall();
    run.arg("run").arg(data_set(&ROWS)).args(BY_DAY);
    run.args(["--bootstrap-servers", &test.bootstrap_servers]);
    run.args(["--workers", "1", "--timeout", "60s", "--out"]);
    run.arg(test.folder.path().join("run"));
    vec![
        ("dispatcher", test.dispatcher(&data_set(&ROWS), &BY_DAY)),
        ("worker", worker(test, &[])),
        ("aggregator", aggregator(test, &out)),
        ("run", run),
        ("runs", test.service("runs")),
        ("doctor", test.service("doctor")),
    ]
}

/// Ends by itself, long before a broker that is silent would be given up.
#[track_caller]
fn ended(test: &TestCluster, mut command: Command, name: &str, code: i32) -> String {
    command.args(["--broker-timeout", "10m"]);
    let mut running = start(test, command, name);
    let status = running.wait();
    let said = running.said();
    assert_eq!(status.code(), Some(code), "{name}: {said}");
    said
}

#[test]
fn a_stranger_can_do_nothing_and_is_told_what_to_do() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("rights-stranger");
    for (name, command) in commands(&test) {
        // The doctor has found something, and could look.
        let code = if name == "doctor" { 1 } else { DENIED };
        let said = ended(&test, kafka.as_user(command, "stranger"), name, code);
        let line = match name {
            "doctor" => "FAIL  access",
            _ => "docs/security.md",
        };
        assert!(said.contains(line), "{name}: {said}");
    }
}

#[test]
fn whoever_is_not_let_in_is_told_why_and_what_to_do() {
    let kafka = SecuredKafka::shared();
    let properties = kafka.properties("worker");
    let file = |name: &str| kafka.file(name).display().to_string();
    let replaced = |from: &str, to: &str| {
        assert!(properties.contains(from), "{from}");
        properties.replace(from, to)
    };
    let by_certificate = |name: &str| {
        format!(
            "security.protocol=SSL\nssl.ca.location={}\nssl.certificate.location={}\n\
             ssl.key.location={}\n",
            file("authority.pem"),
            file(&format!("{name}.pem")),
            file(&format!("{name}.key"))
        )
    };
    let (users, certified) = (kafka.for_users(), kafka.for_certified());
    // What is wrong, where, with which properties, and what is said.
    let wrong = [
        (
            "the password",
            &users,
            replaced(&password("worker"), "another"),
            [
                "invalid credentials",
                "check sasl.username and sasl.password",
            ],
        ),
        (
            "the user",
            &users,
            replaced("username=worker", "username=nobody"),
            [
                "invalid credentials",
                "check sasl.username and sasl.password",
            ],
        ),
        (
            "the mechanism",
            &users,
            replaced("SCRAM-SHA-512", "PLAIN"),
            ["supported mechanisms: SCRAM-SHA-512", "set sasl.mechanism"],
        ),
        (
            "the authority",
            &users,
            replaced(&file("authority.pem"), &file("other-authority.pem")),
            ["certificate verify failed", "set ssl.ca.location"],
        ),
        (
            "no authority",
            &users,
            replaced(&format!("ssl.ca.location={}\n", file("authority.pem")), ""),
            ["certificate verify failed", "set ssl.ca.location"],
        ),
        (
            "no certificate",
            &certified,
            format!(
                "security.protocol=SSL\nssl.ca.location={}\n",
                file("authority.pem")
            ),
            ["alert", "set ssl.certificate.location and ssl.key.location"],
        ),
        (
            "the certificate",
            &certified,
            by_certificate("forged"),
            ["alert", "set ssl.certificate.location and ssl.key.location"],
        ),
    ];
    for (what, at, properties, sentences) in wrong {
        let mut test = kafka.test("not-let-in");
        test.bootstrap_servers = at.clone();
        for (name, mut command) in commands(&test) {
            command.env("KAFKA_PROPERTIES", &properties);
            let said = ended(&test, command, name, DENIED);
            for sentence in sentences {
                assert!(said.contains(sentence), "{what}, {name}: {said}");
            }
        }
    }
}

#[test]
fn the_wrong_protocol_for_a_port_is_named_when_waiting_was_in_vain() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("wrong-protocol");
    for (name, mut command) in commands(&test) {
        command.args(["--broker-timeout", "2s"]);
        let said = finish(command).expect_code(5).stderr;
        assert!(
            said.contains("is -X security.protocol what it wants?"),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_certificate_is_as_good_as_a_password() {
    let kafka = SecuredKafka::shared();
    let mut test = kafka.test("certified");
    test.bootstrap_servers = kafka.for_certified();
    // As Kafka calls whoever has this certificate.
    kafka.grant_documented("CN=certified", "rollcall doctor", &test.prefix);
    let file = |name: &str| kafka.file(name).display().to_string();
    let properties = test.folder.path().join("kafka.properties");
    let text = format!(
        "# of a file, where a secret may be\nsecurity.protocol=SSL\nssl.ca.location={}\n\
         ssl.certificate.location={}\nssl.key.location={}\n",
        file("authority.pem"),
        file("certified.pem"),
        file("certified.key")
    );
    std::fs::write(&properties, text).expect("written");
    let mut doctor = test.service("doctor");
    doctor.arg("--kafka-properties-file").arg(&properties);
    let found = finish(doctor).expect_code(0).stdout;
    assert!(found.contains("ok    brokers"), "{found}");
}

#[test]
fn a_worker_that_loses_a_right_ends_with_a_sentence_and_does_not_try_for_ever() {
    let kafka = SecuredKafka::shared();
    let lost = [
        ("write", Resource::Topic, "outcomes.v2", Operation::Write),
        ("read", Resource::Topic, "jobs.v2", Operation::Read),
        ("group", Resource::Group, "worker", Operation::Read),
    ];
    for delivery in ["at-least-once", "exactly-once"] {
        for (name, kind, on, operation) in lost {
            let test = kafka.test(&format!("lost-{name}-{delivery}"));
            for program in ["worker", "worker --delivery exactly-once"] {
                kafka.grant_documented("worker", program, &test.prefix);
            }
            kafka.grant_documented("dispatcher", "dispatcher", &test.prefix);
            let dispatch = test.dispatcher(&data_set(&ROWS), &["--jobs-per-message", "1"]);
            let dispatched = finish(kafka.as_user(dispatch, "dispatcher")).expect_code(0);
            let run_id = dispatched
                .stdout
                .split_whitespace()
                .nth(1)
                .expect("a run id");
            let run_id = run_id.parse().expect("a run id");
            let command = worker(&test, &["--delivery", delivery, "--simulate-work", "5ms"]);
            let mut worker = start(&test, kafka.as_user(command, "worker"), "worker");
            wait_until("it is at work", || test.jobs_with_outcome(&run_id) > 0);
            kafka.deny(&[Right {
                user: "worker".to_owned(),
                kind,
                name: format!("{}.{on}", test.prefix),
                is_prefix: false,
                operation,
            }]);
            let status = worker.wait();
            let said = worker.said();
            assert_eq!(status.code(), Some(DENIED), "{name}, {delivery}: {said}");
            assert!(
                said.contains("docs/security.md"),
                "{name}, {delivery}: {said}"
            );
        }
    }
}

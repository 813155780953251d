//! Where a password and a private key might show: in what processes say at their loudest, on command
//! lines, in metrics, in files that a run leaves, on the topics, and in the last words of a process
//! that dies. All of it is searched for both.

use std::fs;
use std::path::Path;
use std::process::Command;

use memchr::memmem;

use crate::processes::{Running, children, data_set, finish, folder, rollcall, wait_until};
use crate::secured_kafka::{SecuredKafka, password};

const ROWS: [&str; 4] = ["--rows", "20000", "--countries", "5"];

/// What nobody may see: the password, and a line from the middle of the key.
fn secrets(user: &str) -> Vec<String> {
    vec![password(user), key_line()]
}

fn key() -> String {
    fs::read_to_string(SecuredKafka::shared().file("certified.key")).expect("a key")
}

fn key_line() -> String {
    let key = key();
    key.lines().nth(5).expect("a line of the key").to_owned()
}

/// Properties with a password, a key as text, and librdkafka at its most talkative.
fn properties(user: &str) -> String {
    let kafka = SecuredKafka::shared();
    let text = |name: &str| {
        let text = fs::read_to_string(kafka.file(name)).expect("a file");
        text.replace('\n', "\\n")
    };
    format!(
        "{}ssl.certificate.pem={}\nssl.key.pem={}\ndebug=all\n",
        kafka.properties(user),
        text("certified.pem"),
        text("certified.key")
    )
}

#[track_caller]
fn assert_without(secrets: &[String], place: &str, bytes: &[u8]) {
    for secret in secrets {
        if let Some(at) = memmem::find(bytes, secret.as_bytes()) {
            let around = &bytes[at.saturating_sub(200)..(at + 40).min(bytes.len())];
            panic!("{place} has a secret: {}", String::from_utf8_lossy(around));
        }
    }
}

/// Searches every file below a folder. Returns how many bytes that was.
#[track_caller]
fn assert_folder_without(secrets: &[String], folder: &Path) -> usize {
    let mut searched = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            searched += assert_folder_without(secrets, &path);
        } else {
            // The broker removes files of its own meanwhile.
            let bytes = fs::read(&path).unwrap_or_default();
            assert_without(secrets, &path.display().to_string(), &bytes);
            searched += bytes.len();
        }
    }
    searched
}

#[test]
fn a_run_at_its_loudest_shows_no_secret_anywhere() {
    let kafka = SecuredKafka::shared();
    kafka.grant_documented("run", "rollcall run", "rollcall");
    let secrets = secrets("run");
    let folder = folder();
    for (name, options, exit) in [
        ("text", &["-vv"] as &[&str], 3),
        ("json", &["-vv", "--log-format", "json", "--json"], 3),
        ("quiet", &["--quiet"], 3),
    ] {
        let out = folder.path().join(format!("out-{name}"));
        let mut command = rollcall();
        command
            .arg("run")
            .arg(data_set(&ROWS))
            .args(["--every", "day"])
            .args(options);
        command.args([
            "--workers",
            "2",
            "--simulate-work",
            "2ms",
            "--timeout",
            "60s",
        ]);
        command
            .args(["--bootstrap-servers", &kafka.for_users(), "--out"])
            .arg(&out);
        command.env("KAFKA_PROPERTIES", properties("run"));
        // A worker dies of this job three times, with all that it has to say about that.
        command.env("ROLLCALL_FAULTS", "worker.before-compute=abort@7");
        let mut run = Running::start(command, folder.path(), name);
        wait_until("its workers are there", || children(run.id()).len() == 2);
        for id in children(run.id()).into_iter().chain([run.id()]) {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            assert_without(&secrets, "a command line", &line);
        }
        let status = run.wait();
        assert_eq!(status.code(), Some(exit), "{}", run.said());
        if name != "quiet" {
            // It was as loud as that: librdkafka's own list of its properties is there.
            let said = run.said();
            assert!(
                said.contains("sasl.mechanisms"),
                "librdkafka says too little"
            );
            assert!(said.contains("[redacted]"), "librdkafka says too little");
        }
    }
    assert!(assert_folder_without(&secrets, folder.path()) > 100_000);
    assert!(assert_folder_without(&secrets, &kafka.data()) > 100_000);
}

#[test]
fn metrics_and_health_show_no_secret() {
    let kafka = SecuredKafka::shared();
    let test = kafka.test("secret-metrics");
    kafka.grant_documented("worker", "worker", &test.prefix);
    let mut command = test.service("worker");
    command.args(["-vv", "--listen", "0"]);
    command.env("KAFKA_PROPERTIES", properties("worker"));
    let worker = Running::start(command, test.folder.path(), "worker");
    let address = crate::watching::address(&worker);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    for path in ["/metrics", "/livez", "/readyz"] {
        let (_, body) = crate::watching::get(&address, path);
        assert!(!body.is_empty());
        assert_without(&secrets("worker"), path, body.as_bytes());
    }
    assert_without(&secrets("worker"), "the log", worker.said().as_bytes());
}

#[test]
fn errors_about_properties_and_refusals_show_no_secret() {
    let kafka = SecuredKafka::shared();
    let secret = "hunter2-Zq9";
    let wrong: [(&str, String, i32); 10] = [
        ("a name mistyped", format!("sasl.pasword={secret}"), 2),
        ("a name in capitals", format!("SASL_PASSWORD={secret}"), 2),
        (
            "a colon for an equals sign",
            format!("sasl.password: {secret}=="),
            2,
        ),
        (
            "a name of others",
            format!("basic.auth.credentials={secret}"),
            2,
        ),
        (
            "a name with a topic",
            format!("topic.sasl.password={secret}"),
            2,
        ),
        (
            "of Java",
            format!("sasl.jaas.config=… password=\"{secret}\";"),
            2,
        ),
        ("no property", format!("security.protocol=SSL\n{secret}"), 2),
        (
            "a key that is none",
            format!("security.protocol=SSL\nssl.key.pem={secret}"),
            2,
        ),
        ("without effect", format!("sasl.password={secret}"), 2),
        (
            "a wrong password",
            kafka
                .properties("worker")
                .replace(&password("worker"), secret),
            6,
        ),
    ];
    for (what, properties, code) in wrong {
        for loudness in ["-q", "-vv"] {
            let mut command: Command = kafka.test("secret-errors").service("worker");
            command.args([loudness, "--broker-timeout", "10s"]);
            command.env("KAFKA_PROPERTIES", &properties);
            let finished = finish(command);
            let said = format!("{}{}", finished.stdout, finished.stderr);
            assert_eq!(finished.code, Some(code), "{what}: {said}");
            assert_without(&[secret.to_owned()], what, said.as_bytes());
        }
    }
    // What is no property, or no list of brokers.
    let at = |text: String| {
        let path = kafka
            .test("secret-errors")
            .folder
            .path()
            .join("rollcall.toml");
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let options: [(&str, [String; 2]); 8] = [
        (
            "a secret of base 64",
            ["-X".to_owned(), format!("{secret}==")],
        ),
        (
            "-X with a colon and a secret of base 64",
            ["-X".to_owned(), format!("sasl.password:{secret}==")],
        ),
        (
            "a property with a colon as a key of a file",
            [
                "--config".to_owned(),
                at(format!("\"sasl.password: {secret}\" = 1")),
            ],
        ),
        ("-X without a name", ["-X".to_owned(), secret.to_owned()]),
        (
            "-X with a colon",
            ["-X".to_owned(), format!("sasl.password:{secret}")],
        ),
        (
            "a user among the brokers",
            [
                "--bootstrap-servers".to_owned(),
                format!("SASL_SSL://user:{secret}@127.0.0.1:1"),
            ],
        ),
        (
            "-X of a file",
            ["--config".to_owned(), at(format!("X = [\"{secret}\"]"))],
        ),
        (
            "a property as a key of a file",
            [
                "--config".to_owned(),
                at(format!("\"sasl.password={secret}\" = 1")),
            ],
        ),
    ];
    for (what, options) in options {
        let mut command = rollcall();
        command.arg("worker").args(options);
        command.env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1");
        let finished = finish(command);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.code, Some(2), "{what}: {said}");
        assert_without(&[secret.to_owned()], what, said.as_bytes());
    }
}

//! The `dispatcher` binary is there, helps, and says what it lacks.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(arguments)
        .env_remove("KAFKA_BOOTSTRAP_SERVERS")
        .output()
        .expect("the binary can be started")
}

#[test]
fn help_names_the_options_and_the_exit_codes() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for part in ["--bootstrap-servers", "--topic-prefix", "Exit codes:"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn without_a_broker_it_says_in_one_line_what_to_do() {
    let failed = run(&["tests.csv"]);
    assert_eq!(failed.status.code(), Some(2));
    let text = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(
        text,
        "error: no broker named: give --bootstrap-servers HOST:PORT or set KAFKA_BOOTSTRAP_SERVERS\n"
    );
}

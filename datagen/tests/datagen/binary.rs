//! The binary from the outside: its files, its standard output, its errors and exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use datagen::{Config, HEADER};

use crate::generate;
use crate::reader::read;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn datagen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datagen"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    datagen(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_is_written_and_a_summary_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tests.csv");
    fs::write(&path, "an older data set").unwrap();
    let output = output(&["--rows", "1000", "--out", path.to_str().unwrap()]);

    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    let printed = stderr(&output);
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.contains("tests.csv: 1,000 rows, "), "{printed}");
    assert!(printed.contains("rows/s)"), "{printed}");

    let (expected, _) = generate(&Config {
        rows: 1_000,
        ..Config::default()
    });
    assert!(fs::read(&path).unwrap() == expected);
    assert_eq!(names_in(directory.path()), ["tests.csv"]);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o400, 0o400);
    assert_eq!(mode & 0o111, 0);
}

#[test]
fn without_options_it_writes_to_the_current_directory_and_quietly_if_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let output = datagen(&["--rows", "10", "--quiet"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
    assert_eq!(names_in(directory.path()), ["covid-tests.csv"]);
}

#[test]
fn a_dash_is_standard_output() {
    let arguments = ["--rows", "20000", "--out", "-", "--malformed", "0.1"];
    let output = output(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let (expected, generated) = generate(&Config {
        rows: 20_000,
        malformed: 0.1,
        ..Config::default()
    });
    assert!(output.stdout == expected);
    let good = read(&output.stdout).into_iter().flatten().count() as u64;
    assert_eq!(good, 20_000 - generated.spoiled.total());

    let printed = stderr(&output);
    assert!(
        printed.starts_with("standard output: 20,000 rows"),
        "{printed}"
    );
    assert!(
        printed.contains(" of them spoiled (missing field "),
        "{printed}"
    );
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let mut child = datagen(&["--rows", "100000000", "--out", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), HEADER);
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn what_is_no_regular_file_is_written_to_and_not_replaced() {
    let output = output(&["--rows", "10", "--out", "/dev/null"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn the_target_of_a_link_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target.csv");
    let link = directory.path().join("link.csv");
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let output = output(&["--rows", "10", "--out", link.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&fs::read(&target).unwrap()).len(), 10);
}

#[test]
fn a_parquet_file_begins_and_ends_as_such_and_is_the_same_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tests.parquet");
    let output = output(&["--rows", "300000", "--out", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let piped = datagen(&["--rows", "300000", "--format", "parquet", "--out", "-"])
        .output()
        .unwrap();
    assert!(piped.stdout == bytes);
}

#[test]
fn a_missing_directory_is_an_error_of_one_line() {
    let output = output(&["--out", "/nowhere/at/all.csv"]);
    assert_eq!(output.status.code(), Some(2));
    let printed = stderr(&output);
    assert!(
        printed.starts_with("error: cannot create /nowhere/at/all.csv; choose another --out: "),
        "{printed}"
    );
    assert_eq!(printed.lines().count(), 1, "{printed}");
}

#[test]
fn wrong_usage_is_an_error_of_one_line() {
    for (arguments, error) in [
        (
            ["--from=2021-01-01", "--to=2021-01-01"],
            "no day between --from 2021-01-01 (inclusive) and --to 2021-01-01 (exclusive); \
             --to has to be later",
        ),
        (["--malformed", "-1"], "--malformed -1: the range is 0 to 1"),
        (["--rows", "0"], "--rows 0: at least one row is needed"),
    ] {
        let output = output(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output), format!("error: {error}\n"));
    }
    let output = output(&["--from", "yesterday"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_stopped_run_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let child = datagen(&["--rows", "10000000000", "--out", "big.csv"])
        .current_dir(directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    // Signals are handled before the temporary file appears.
    while names_in(directory.path()).is_empty() {
        assert!(started.elapsed() < DEADLINE, "no file appears");
        thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    let printed = stderr(&output);
    assert!(
        printed.contains("error: stopped by SIGTERM before all rows were written"),
        "{printed}"
    );
    assert!(names_in(directory.path()).is_empty());
}

#[test]
fn the_help_has_examples_and_exit_codes() {
    let output = output(&["--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("datagen --rows 1000 --out - | head"));
    assert!(help.contains("143  stopped by SIGTERM"));
}

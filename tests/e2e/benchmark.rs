//! `rollcall bench`, small: that its rows are runs whose results agree, that its files are there,
//! and that a comparison fails, passes and refuses as it says. No figure is asserted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::apache_kafka::ApacheKafka;
use crate::processes::{Finished, data_set, finish, folder, local, rollcall};

fn bench(out: &Path, options: &[&str]) -> Command {
    let mut command = rollcall();
    command.arg("bench").args(options).arg("--out").arg(out);
    command
}

#[track_caller]
fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

#[track_caller]
fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("it can be written");
}

/// A benchmark of the fastest row alone, with runs enough to compare.
#[track_caller]
fn measured(folder: &Path) -> PathBuf {
    let rows = ["--rows", "2000", "--engines", "loop", "--runs", "4"];
    let out = folder.join("measured");
    finish(bench(&out, &rows)).expect_code(0);
    out.join("bench.json")
}

#[test]
fn every_row_is_a_run_and_all_agree() {
    let folder = folder();
    let rows = [
        "--rows",
        "3000",
        "--workers",
        "2,1",
        "--runs",
        "2",
        "--warm-up",
        "0",
    ];
    let Finished { stdout, stderr, .. } = finish(bench(folder.path(), &rows)).expect_code(0);
    let benchmark = json(&folder.path().join("bench.json"));
    let rows = benchmark["rows"].as_array().expect("a list");
    let names: Vec<_> = rows
        .iter()
        .map(|row| row["name"].as_str().expect("a name"))
        .collect();
    let expected = [
        "loop",
        "polars",
        "packed-1",
        "packed-2",
        "one-a-message-1",
        "one-a-message-2",
    ];
    assert_eq!(names, expected);
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        assert!(stdout.contains(name), "{stdout}");
        let runs = row["runs"].as_array().expect("a list");
        assert_eq!(runs.len(), 2);
        for run in runs {
            let workers = row["workers"].as_u64().unwrap_or(0);
            let processes = run["processes"].as_array().expect("a list");
            assert_eq!(processes.len() as u64, 1 + workers, "{run:#}");
            assert!(run["cpu_seconds"].as_f64() > Some(0.0), "{run:#}");
            assert_eq!(run["messages"].is_null(), workers == 0, "{run:#}");
        }
        assert!(row["jobs_per_second"].as_f64() > Some(0.0), "{row:#}");
        let one_a_message = name.starts_with("one-a-message");
        if one_a_message {
            assert_eq!(runs[0]["messages"], benchmark["agreed"]["jobs"]);
        }
    }
    let reference = local(&folder.path().join("covid-tests.csv"), &[]);
    assert_eq!(
        benchmark["agreed"]["series_sha256"],
        reference["series"]["sha256"]
    );
    // One round there, one back.
    let order: Vec<_> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("round "))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let mut back = order[6..].to_vec();
    back.reverse();
    assert_eq!(order[..6], back, "{stderr}");
    for name in ["bench.csv", "bench.md", "bench.html"] {
        let text = fs::read_to_string(folder.path().join(name)).expect("it is there");
        assert!(text.contains("packed"), "{name}");
    }
    // Nothing of the runs themselves is left.
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 5);
}

#[test]
fn a_break_even_names_a_cost_for_each_row_with_the_dispatcher() {
    let folder = folder();
    let rows = [
        "--rows",
        "100",
        "--engines",
        "loop",
        "--workers",
        "1",
        "--runs",
        "1",
    ];
    let swept = ["--warm-up", "0", "--break-even", "--break-even-jobs", "300"];
    finish(bench(folder.path(), &[&rows[..], &swept].concat())).expect_code(0);
    let benchmark = json(&folder.path().join("bench.json"));
    let swept = &benchmark["break_even"];
    assert_eq!(swept["jobs"], 300);
    assert_eq!(swept["rows"].as_array().expect("a list").len(), 12);
    let crossings = swept["crossings"].as_array().expect("a list");
    assert_eq!(crossings.len(), 2);
    for crossing in crossings {
        // One run of each tells nothing from chance, unless nothing crosses at all.
        let pays = crossing["pays"].as_str().expect("a word");
        assert!(["unclear", "not-yet"].contains(&pays), "{crossing}");
    }
    let page = fs::read_to_string(folder.path().join("bench.html")).expect("a page");
    assert!(page.contains("When dispatching pays"));
}

/// The same benchmark with all its times changed, written beside it.
#[track_caller]
fn with_times(measured: &Path, factor: f64) -> PathBuf {
    let mut benchmark = json(measured);
    for row in benchmark["rows"].as_array_mut().expect("a list") {
        for number in ["median", "mad", "min", "max"] {
            let wall = &mut row["wall_seconds"][number];
            *wall = (wall.as_f64().expect("a number") * factor).into();
        }
        for run in row["runs"].as_array_mut().expect("a list") {
            let wall = &mut run["wall_seconds"];
            *wall = (wall.as_f64().expect("a number") * factor).into();
        }
    }
    let path = measured.with_file_name(format!("times-{factor}.json"));
    write(&path, &benchmark);
    path
}

#[test]
fn a_comparison_ends_with_1_beyond_the_limit_and_with_0_within_it() {
    let folder = folder();
    let head = measured(folder.path());
    // So far apart that no run of one is among those of the other.
    let fast = with_times(&head, 0.001);
    let compare = |base: &Path, limit: &str| {
        let mut command = bench(&folder.path().join("out"), &["--fail-above", limit]);
        command.arg("--from").arg(&head).arg("--compare").arg(base);
        finish(command)
    };
    let beyond = compare(&fast, "10%").expect_code(1);
    assert!(
        beyond.stderr.contains("loop takes 1000.00×"),
        "{}",
        beyond.stderr
    );
    assert!(beyond.stdout.contains("slower"), "{}", beyond.stdout);
    let again = fs::read(folder.path().join("out/bench.json")).expect("it is there");
    assert!(
        again == fs::read(&head).expect("it is there"),
        "they differ"
    );
    let page = fs::read_to_string(folder.path().join("out/comparison.md")).expect("a page");
    assert!(page.contains("❌ More than 10.0% longer: loop"), "{page}");
    let same = compare(&head, "10%").expect_code(0);
    assert!(same.stdout.contains("noise"), "{}", same.stdout);
    let slow = with_times(&head, 1000.0);
    let faster = compare(&slow, "0%").expect_code(0);
    assert!(faster.stdout.contains("faster"), "{}", faster.stdout);
}

#[test]
fn another_host_or_other_settings_are_refused_before_anything_runs() {
    let folder = folder();
    let measured = measured(folder.path());
    let changes: [(&str, &[&str], Value); 3] = [
        ("elsewhere", &["host", "name"], "elsewhere".into()),
        ("rows to generate", &["settings", "rows"], 7.into()),
        ("broker", &["settings", "broker"], "kafka:9092".into()),
    ];
    for (said, place, value) in changes {
        let mut base = json(&measured);
        base[place[0]][place[1]] = value;
        let path = folder.path().join("base.json");
        write(&path, &base);
        let out = folder.path().join("refused");
        let mut command = bench(&out, &["--rows", "2000", "--engines", "loop"]);
        command.arg("--compare").arg(&path);
        let Finished { stderr, .. } = finish(command).expect_code(2);
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert_eq!(fs::read_dir(&out).expect("a folder").count(), 0);
    }
    // A limit that could never be passed is none.
    for (options, said) in [
        (&["--fail-above", "10%"][..], "--compare or --base"),
        (
            &["--fail-above", "10%", "--base", "x", "--runs", "3"],
            "at least 4 runs",
        ),
    ] {
        let Finished { stderr, .. } = finish(bench(folder.path(), options)).expect_code(2);
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// A program that runs `rollcall` with more options than it is given.
#[track_caller]
fn program(folder: &Path, options: &str) -> PathBuf {
    let path = folder.join("program");
    let rollcall = env!("CARGO_BIN_EXE_rollcall");
    let script = format!("#!/bin/sh\nexec '{rollcall}' \"$@\" {options}\n");
    fs::write(&path, script).expect("it can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

#[test]
fn two_programs_are_measured_run_by_run_and_compared() {
    let folder = folder();
    let rows = ["--rows", "2000", "--engines", "loop", "--runs", "4"];
    let mut command = bench(folder.path(), &rows);
    let base = program(folder.path(), "--simulate-cpu 1ms");
    command.arg("--base").arg(base);
    let Finished { stdout, .. } = finish(command).expect_code(0);
    assert!(stdout.contains("faster"), "{stdout}");
    let base = json(&folder.path().join("base.json"));
    assert_eq!(base["rows"][0]["runs"].as_array().map(Vec::len), Some(4));
    assert!(folder.path().join("comparison.md").exists());
}

#[test]
fn wrong_results_are_no_benchmark() {
    let folder = folder();
    let rows = ["--rows", "2000", "--engines", "loop", "--runs", "1"];
    let mut command = bench(&folder.path().join("out"), &rows);
    let base = program(folder.path(), "--positive negative --negative positive");
    command.arg("--base").arg(base);
    let Finished { stderr, .. } = finish(command).expect_code(1);
    assert!(stderr.contains("base loop has positive tests"), "{stderr}");
    assert!(!folder.path().join("out/bench.json").exists());
}

#[test]
fn a_run_that_fails_is_named_with_its_own_words() {
    let folder = folder();
    let data_set = data_set(&["--rows", "1000"]);
    let data_set = data_set.to_str().expect("a path");
    let options = [data_set, "--engines", "loop", "--", "--by", "contry"];
    let mut command = rollcall();
    command
        .arg("bench")
        .arg("--out")
        .arg(folder.path())
        .args(options);
    let Finished { stderr, .. } = finish(command).expect_code(1);
    assert!(
        stderr.contains("loop ended with exit status: 2"),
        "{stderr}"
    );
    assert!(stderr.contains("did you mean country?"), "{stderr}");
}

#[test]
fn rows_with_the_dispatcher_run_on_the_apache_kafka_that_is_named() {
    let broker = ApacheKafka::shared().bootstrap_servers();
    let folder = folder();
    let rows = ["--rows", "3000", "--engines", "loop,packed,one-a-message"];
    let few = ["--workers", "1", "--runs", "1", "--warm-up", "0"];
    let mut command = bench(folder.path(), &[&rows[..], &few].concat());
    command.args(["--bootstrap-servers", &broker]);
    finish(command).expect_code(0);
    let benchmark = json(&folder.path().join("bench.json"));
    assert_eq!(benchmark["settings"]["broker"], broker.as_str());
    assert_eq!(benchmark["rows"].as_array().map(Vec::len), Some(3));
    assert!(benchmark["agreed"]["job_set_digest"].is_string());
}

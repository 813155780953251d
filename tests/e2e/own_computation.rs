//! A computation of one's own ([`examples/word_count.rs`](../../examples/word_count.rs)), on the
//! in-process broker and on Apache Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::TestCluster;
use crate::processes::{Finished, Running, assert_reconciled, finish, folder, report, rollcall};

/// Groups of 60 rows are cut into three parts.
const WORD_COUNT: [&str; 8] = [
    "--compute",
    "word-count",
    "--every",
    "day",
    "--max-rows-per-job",
    "25",
    "--jobs-per-message",
    "4",
];

/// The groups of the data set, and jobs of each.
const COUNTRIES: usize = 4;
const DAYS: usize = 20;
const ROWS_OF_GROUP: usize = 60;
const JOBS: u64 = (COUNTRIES * DAYS * 3) as u64;

/// The text of one row, in the first part of its group, that has lost a character.
const BROKEN: &str = "lost: \u{fffd}";

/// Words that many rows have, and a word that the row alone has. The text has a delimiter, quotes and
/// letters of several bytes.
fn text(row: usize) -> String {
    let common = ["Fieber", "fieber, \"Husten\"", "Grüße", ""][row % 4];
    format!("{common} w{row} ж{}", row % 7)
}

/// A data set, and the table that is to come of it: what this test reads and counts by itself.
fn data_set(folder: &Path, is_broken: bool) -> (PathBuf, String) {
    let mut lines = String::from("text,country,test_date\n");
    let mut table = String::from("country,date_day,word,count\n");
    let mut row = 0;
    for country in 0..COUNTRIES {
        for day in 1..=DAYS {
            let mut counts = BTreeMap::<String, u64>::new();
            for of_group in 0..ROWS_OF_GROUP {
                row += 1;
                let is_lost = is_broken && country == 2 && day == 7;
                let text = match is_lost && of_group == 3 {
                    true => BROKEN.to_owned(),
                    false => text(row),
                };
                let quoted = text.replace('"', "\"\"");
                lines += &format!("\"{quoted}\",c{country},2024-03-{day:02}T08:00:00\n");
                // The first part of the group is the dead letter.
                if is_lost && of_group < 25 {
                    continue;
                }
                for word in text.to_lowercase().split([' ', ',', '"']) {
                    *counts.entry(word.to_owned()).or_default() += 1;
                }
            }
            counts.remove("");
            for (word, count) in counts {
                table += &format!("c{country},2024-03-{day:02},{word},{count}\n");
            }
        }
    }
    let path = folder.join("texts.csv");
    fs::write(&path, lines).expect("the data set can be written");
    (path, table)
}

/// A command of `rollcall`, of the program that knows one computation more.
fn word_count(command: &Command) -> Command {
    example("word_count", command)
}

/// A command of `rollcall`, of an example that is built beside it.
pub fn example(name: &str, command: &Command) -> Command {
    let program = Path::new(command.get_program());
    let program = program.with_file_name("examples").join(name);
    assert!(
        program.exists(),
        "cargo test builds {} unless it is asked for one target; cargo build --examples does",
        program.display()
    );
    let mut own = Command::new(program);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => own.env(name, value),
            None => own.env_remove(name),
        };
    }
    own.args(command.get_args());
    own
}

fn run(data_set: &Path, out: &Path, options: &[&str]) -> Finished {
    let mut command = word_count(&rollcall());
    command.arg("run").arg(data_set).args(WORD_COUNT);
    command.args(["--workers", "2", "--timeout", "60s"]);
    command.args(options).arg("--out").arg(out);
    finish(command)
}

#[track_caller]
fn assert_table(out: &Path, table: &str) -> Value {
    let written = fs::read_to_string(out.join("table.csv")).expect("a table");
    let lines = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (ours, theirs) = (lines(table), lines(&written));
    let differing: Vec<_> = ours.symmetric_difference(&theirs).take(9).collect();
    assert_eq!(differing, [""; 0]);
    assert_eq!(written, table, "the order of the rows");
    let report = report(out);
    assert_reconciled(&report);
    assert_eq!(report["table"]["rows"], table.lines().count() - 1);
    report
}

#[track_caller]
fn assert_dead_letter(report: &Value) {
    assert_eq!(report["status"], "complete-with-dead-letters");
    let dead = report["dead_letters"].as_array().expect("a list");
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert_eq!(dead[0]["attempts"], 1, "{dead:#?}");
    assert_eq!(dead[0]["reason"], "a text has lost characters");
}

#[test]
fn words_are_counted_on_the_in_process_broker() {
    let folder = folder();
    let (data_set, table) = data_set(folder.path(), false);
    let out = folder.path().join("out");
    run(&data_set, &out, &[]).expect_code(0);
    let report = assert_table(&out, &table);
    assert_eq!(report["status"], "complete");
    assert_eq!(report["manifest"]["jobs"], JOBS);
}

#[test]
fn a_parameter_reaches_whoever_makes_the_computation() {
    let folder = folder();
    let (data_set, table) = data_set(folder.path(), false);
    let is_long = |line: &&str| {
        line.split(',')
            .nth(2)
            .is_some_and(|word| word.chars().count() >= 4)
    };
    let (header, words) = table.split_once('\n').expect("a header");
    let words = words
        .lines()
        .filter(is_long)
        .map(|line| format!("{line}\n"));
    let expected = format!("{header}\n{}", words.collect::<String>());
    assert!(expected.len() > header.len() + 1 && expected.len() < table.len());
    let out = folder.path().join("out");
    run(&data_set, &out, &["--param", "min_length=4"]).expect_code(0);
    assert_table(&out, &expected);
    for (param, why) in [
        (
            "min-length=4",
            "parameter min-length: it is not known, did you mean min_length?",
        ),
        ("min_length=four", "parameter min_length: it is no number"),
    ] {
        let refused = run(&data_set, &out, &["--param", param]).expect_code(2);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
}

#[test]
fn a_text_that_cannot_be_counted_is_a_dead_letter_and_the_others_are_counted() {
    let folder = folder();
    let (data_set, table) = data_set(folder.path(), true);
    let out = folder.path().join("out");
    run(&data_set, &out, &[]).expect_code(3);
    assert_dead_letter(&assert_table(&out, &table));
}

#[test]
fn words_are_counted_on_apache_kafka_with_a_dead_letter() {
    let test = TestCluster::new("own-computation");
    let (data_set, table) = data_set(test.folder.path(), true);
    let out = test.folder.path().join("out");
    let options = ["--bootstrap-servers", &test.bootstrap_servers];
    let options = [options, ["--topic-prefix", &test.prefix]].concat();
    run(&data_set, &out, &options).expect_code(3);
    assert_dead_letter(&assert_table(&out, &table));
}

#[test]
fn a_dispatcher_that_was_killed_is_started_again_and_all_words_are_counted() {
    let test = TestCluster::new("own-computation-resumed");
    let (data_set, table) = data_set(test.folder.path(), false);
    let dispatcher = || {
        let mut command = word_count(&test.dispatcher(&data_set, &WORD_COUNT));
        command.args(["--run-id", "words"]);
        command
    };
    let mut killed = dispatcher();
    killed.env("ROLLCALL_FAULTS", "dispatcher.mid-publish=abort");
    assert_eq!(finish(killed).code, None);

    let mut worker = word_count(&test.service("worker"));
    worker.args(["--group", &test.group(), "--worker-id", "a"]);
    let _worker = Running::start(worker, test.folder.path(), "a");
    let mut other = dispatcher();
    other.args(["--param", "min_length=4"]);
    let refused = finish(other).expect_code(2).stderr;
    assert!(refused.contains("parameter min_length is 4"), "{refused}");
    let mut again = dispatcher();
    again.arg("--resume");
    let resumed = finish(again).expect_code(0).stdout;
    // How many are missing is up to the client library, which may have sent all of them by then.
    assert!(
        resumed.contains(&format!("of its {JOBS} jobs w")),
        "{resumed}"
    );

    let mut aggregator = word_count(&test.service("aggregator"));
    let out = test.folder.path().join("out");
    aggregator.args(["--run-id", "words", "--timeout", "60s", "--out"]);
    finish({
        aggregator.arg(&out);
        aggregator
    })
    .expect_code(0);
    assert_eq!(assert_table(&out, &table)["status"], "complete");
}

#[test]
fn a_program_that_does_not_know_the_computation_says_which_it_knows() {
    let folder = folder();
    let (data_set, _) = data_set(folder.path(), false);
    let mut command = rollcall();
    command.arg("run").arg(&data_set).args(WORD_COUNT);
    command.arg("--out").arg(folder.path().join("out"));
    let refused = finish(command).expect_code(2).stderr;
    let known = "computation word-count is not known here; known: positivity, count";
    assert!(refused.contains(known), "{refused}");
}

/// Sizes of results: ten thousand small ones, then a heavy tail up to 256 KiB, of 86 MiB together.
fn sizes() -> impl Iterator<Item = usize> {
    const TAIL: [usize; 8] = [0, 1, 30, 1_000, 4_096, 16_384, 65_536, 262_144];
    let small = (0..10_000).map(|job| job % 3);
    small.chain((0..2_000).map(|job| TAIL[7 - job % 8]))
}

#[test]
fn large_results_after_many_small_ones_are_held_back_and_none_is_lost_in_process() {
    let folder = folder();
    let mut lines = String::from("job,test_date,bytes\n");
    let mut table = String::from("job,date_day,size,sum\n");
    for (job, size) in sizes().enumerate() {
        lines += &format!("{job:05},2024-03-01,{size}\n");
        let bytes = (0..size).map(|position| u64::from((position * 31 + size) as u8));
        let sum: u64 = bytes.sum();
        table += &format!("{job:05},2024-03-01,{size},{sum}\n");
    }
    let data_set = folder.path().join("sizes.csv");
    fs::write(&data_set, lines).expect("the data set can be written");
    let out = folder.path().join("out");
    let mut command = example("sized_results", &rollcall());
    command.arg("run").arg(&data_set);
    command.args(["--compute", "sized", "--by", "job", "--every", "day"]);
    // Two partitions keep 10 MiB together.
    command.args(["--workers", "2", "--partitions", "2", "--timeout", "60s"]);
    finish({
        command.arg("--out").arg(&out);
        command
    })
    .expect_code(0);
    let report = assert_table(&out, &table);
    assert_eq!(report["jobs"]["duplicates_dropped"], 0);
}

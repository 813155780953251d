//! `rollcall` as a newcomer starts it: nothing named, nothing installed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use aggregator::export::series_csv::hexadecimal;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::processes::{
    self, FEW_JOBS, Finished, Running, assert_reconciled, assert_same, children, data_set, finish,
    folder, is_alive, local, report, rollcall, signal, wait_until,
};

fn run(out: &Path, data_set: &Path, options: &[&str]) -> Command {
    let mut command = rollcall();
    command.arg("run").arg(data_set).args(options);
    command.args(["--timeout", "60s", "--out"]).arg(out);
    command
}

#[track_caller]
fn complete(data_set: &Path, options: &[&str]) -> Value {
    let folder = folder();
    finish(run(folder.path(), data_set, options)).expect_code(0);
    let report = report(folder.path());
    assert_eq!(report["status"], "complete");
    assert_reconciled(&report);
    report
}

#[test]
fn plain_rollcall_generates_runs_and_reports() {
    let folder = folder();
    let mut command = rollcall();
    command
        .args(["--rows", "30000", "--out"])
        .arg(folder.path());
    let Finished { stdout, stderr, .. } = finish(command).expect_code(0);
    assert!(
        stdout.contains("30,000 read, 30,000 accepted, 0 rejected"),
        "{stdout}"
    );
    assert!(stdout.contains("on the in-process broker"), "{stdout}");
    assert!(stderr.contains("generating 30,000 rows"), "{stderr}");
    let report = report(folder.path());
    assert_reconciled(&report);
    let data_set = folder.path().join("covid-tests.csv");
    assert_same(&report, &local(&data_set, &[]));
    // The file's digest is the report's, and its lines are as many as its groups.
    let series = fs::read_to_string(folder.path().join("series.csv")).expect("a series");
    assert_eq!(
        series.lines().count() as u64 - 1,
        report["series"]["rows"].as_u64().unwrap()
    );
    assert_eq!(report["files"][0]["bytes"], series.len());
}

#[test]
fn every_grain_and_any_labels_agree_with_the_local_engine() {
    let data_set = data_set(&FEW_JOBS);
    let cases: [&[&str]; 5] = [
        &["--every", "hour"],
        &["--every", "week", "--by", "country", "--by", "result"],
        &["--every", "month", "--by", "city"],
        &["--every", "day", "--by", ""],
        &[
            "--every",
            "day",
            "--positive",
            "negative",
            "--negative",
            "positive",
        ],
    ];
    for options in cases {
        assert_same(&complete(&data_set, options), &local(&data_set, options));
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn every_form_is_written_with_the_digest_that_the_report_names() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = ["--grain-out", "day", "--grain-out", "month"];
    let Finished { stdout, .. } = finish(run(folder.path(), &data_set, &options)).expect_code(0);
    let report = report(folder.path());
    assert_reconciled(&report);
    let files = report["files"].as_array().expect("a list");
    let names: Vec<_> = files
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "series.csv",
            "series.parquet",
            "series.svg",
            "series-day.csv",
            "series-day.parquet",
            "series-month.csv",
            "series-month.parquet",
            "report.md",
            "report.html"
        ]
    );
    for file in files {
        let name = file["name"].as_str().unwrap();
        let bytes = fs::read(folder.path().join(name)).expect("the file is there");
        assert_eq!(file["bytes"], bytes.len(), "{name}");
        assert_eq!(
            file["sha256"],
            hexadecimal(&Sha256::digest(&bytes)),
            "{name}"
        );
        assert!(
            stdout.contains(&format!("/{name}\n")),
            "{name} is not in {stdout}"
        );
    }
    // Nothing half-written is left, and nothing else.
    assert_eq!(names_in(folder.path()).len(), names.len() + 1);

    // What was added up is what a run at that grain makes, byte for byte; so are all forms.
    let by_day = processes::folder();
    let mut reference = rollcall();
    reference.args(["run", "--engine", "local", "--quiet", "--every", "day"]);
    reference.arg(&data_set).arg("--out").arg(by_day.path());
    finish(reference).expect_code(0);
    for (added, own) in [
        ("series-day.csv", "series.csv"),
        ("series-day.parquet", "series.parquet"),
        ("series.svg", "series.svg"),
    ] {
        let added = fs::read(folder.path().join(added)).expect("the file is there");
        let own = fs::read(by_day.path().join(own)).expect("the file is there");
        assert!(added == own, "the day's series differ");
    }
}

#[test]
fn only_the_chosen_forms_are_written_by_either_engine() {
    let data_set = data_set(&FEW_JOBS);
    let reference = local(&data_set, &["--every", "day"]);
    for engine in ["kafka", "local"] {
        let folder = folder();
        let options = ["--every", "day", "--outputs", "md", "--engine", engine];
        finish(run(folder.path(), &data_set, &options)).expect_code(0);
        assert_eq!(
            names_in(folder.path()),
            ["report.json", "report.md"],
            "{engine}"
        );
        // What an engine does not have is missing, and never 0.
        let report = report(folder.path());
        for part in ["jobs", "messages", "job_set_digest"] {
            assert_eq!(
                report["manifest"][part].is_null(),
                engine == "local",
                "{part}"
            );
        }
        for (part, value) in report["jobs"].as_object().expect("jobs by outcome") {
            assert_eq!(value.is_null(), engine == "local", "{part}");
        }
        // The series is known by its digest all the same.
        assert_same(&report, &reference);
    }
}

/// A partition keeps 5 MiB: the run is many times that, and nothing may be dropped unread.
#[test]
fn a_run_far_larger_than_what_the_broker_keeps_is_complete() {
    let data_set = data_set(&["--rows", "200000"]);
    let options = [
        "--partitions",
        "1",
        "--jobs-per-message",
        "1",
        "--workers",
        "2",
    ];
    let report = complete(&data_set, &options);
    let messages = report["manifest"]["messages"].as_u64().expect("a number");
    assert!(messages > 150_000, "{messages}");
    assert_same(&report, &local(&data_set, &[]));
}

#[test]
fn a_worker_that_is_killed_is_started_again_and_no_job_is_lost() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = ["--every", "day", "--workers", "2", "--simulate-work", "1ms"];
    let mut running = Running::start(
        run(folder.path(), &data_set, &options),
        folder.path(),
        "run",
    );
    let mut workers = Vec::new();
    wait_until("two workers are there", || {
        workers = children(running.id());
        workers.len() == 2
    });
    signal(workers[0], "KILL");
    wait_until("another one took its place", || {
        let now = children(running.id());
        now.len() == 2 && !now.contains(&workers[0])
    });
    // Mid-run: nothing is reported yet, so outcomes were missing.
    assert!(running.is_running() && !folder.path().join("report.json").exists());
    assert_eq!(running.wait().code(), Some(0), "{}", running.said());
    assert!(
        running.said().contains("worker died; starting it again"),
        "{}",
        running.said()
    );
    let report = report(folder.path());
    assert_reconciled(&report);
    assert_same(&report, &local(&data_set, &["--every", "day"]));
    // What the killed one has used nobody knows, so it is not told as if it were nothing.
    let processes = report["processes"].as_array().expect("a list");
    let unknown = processes
        .iter()
        .filter(|process| process["cpu_seconds"].is_null());
    assert_eq!((processes.len(), unknown.count()), (3, 1), "{processes:#?}");
}

#[test]
fn every_process_of_a_run_tells_what_it_has_used() {
    let data_set = data_set(&FEW_JOBS);
    let jobs = ["--max-rows-per-job", "100", "--every", "month"];
    let computing = ["--simulate-cpu", "100us", "--workers", "2"];
    let report = complete(&data_set, &[&jobs[..], &computing].concat());
    let processes = report["processes"].as_array().expect("a list");
    let names: Vec<_> = processes.iter().map(|process| &process["name"]).collect();
    assert_eq!(names, ["rollcall", "worker-1", "worker-2"]);
    let seconds = |process: &Value| process["cpu_seconds"].as_f64().expect("it is known");
    let of_workers: f64 = processes[1..].iter().map(seconds).sum();
    let jobs = report["manifest"]["jobs"].as_f64().expect("a number");
    assert!(of_workers >= jobs * 100e-6, "{jobs} jobs: {processes:#?}");
    for process in processes {
        assert!(seconds(process) > 0.0, "{process:#}");
        let peak = process["peak_resident_bytes"].as_u64();
        assert_eq!(
            peak.is_some_and(|peak| peak > 1 << 20),
            cfg!(target_os = "linux")
        );
    }
    assert!(report["wall_seconds"].as_f64() > Some(0.0));
    // The first job comes after reading and grouping, and before the end.
    let stages = report["stages"].as_array().expect("a list").iter();
    let first = stages.filter(|stage| stage["stage"] == "read" || stage["stage"] == "group");
    let read: f64 = first.filter_map(|stage| stage["seconds"].as_f64()).sum();
    let first_job = report["first_job_seconds"].as_f64();
    assert!(first_job > Some(read), "{first_job:?} after {read} s");
    assert!(first_job < report["wall_seconds"].as_f64(), "{first_job:?}");
}

#[test]
fn the_plain_loop_computes_the_same_jobs_to_the_same_series() {
    let data_set = data_set(&FEW_JOBS);
    for options in [["--every", "day"], ["--max-rows-per-job", "2"]] {
        let looped = complete_without_kafka(&data_set, &[&options[..], &["--engine", "loop"]]);
        let kafka = complete(&data_set, &options);
        assert_same(&looped, &local(&data_set, &options));
        assert_eq!(looped["manifest"]["jobs"], kafka["manifest"]["jobs"]);
        assert_eq!(looped["jobs"]["counted"], kafka["jobs"]["counted"]);
    }
}

#[track_caller]
fn complete_without_kafka(data_set: &Path, options: &[&[&str]]) -> Value {
    let folder = folder();
    finish(run(folder.path(), data_set, &options.concat())).expect_code(0);
    report(folder.path())
}

#[test]
fn a_run_that_is_interrupted_ends_with_130_and_leaves_no_worker() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = [
        "--every",
        "day",
        "--workers",
        "2",
        "--simulate-work",
        "50ms",
    ];
    let mut running = Running::start(
        run(folder.path(), &data_set, &options),
        folder.path(),
        "run",
    );
    let mut workers = Vec::new();
    wait_until("two workers are there", || {
        workers = children(running.id());
        workers.len() == 2
    });
    running.signal("INT");
    assert_eq!(running.wait().code(), Some(130), "{}", running.said());
    assert!(!workers.iter().any(|&worker| is_alive(worker)));
    assert!(!folder.path().join("report.json").exists());
}

/// The first Ctrl-C ends it, though nobody has written anything, and nobody will.
#[test]
fn a_run_that_waits_for_a_pipe_ends_when_it_is_interrupted() {
    for engine in ["kafka", "local"] {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo can be started").success());
        let command = run(folder.path(), &pipe, &["--engine", engine]);
        let mut running = Running::start(command, folder.path(), "run");
        let opened = Path::new("/proc").join(format!("{}/fd", running.id()));
        wait_until("the pipe is opened", || {
            let mut files = fs::read_dir(&opened).expect("it runs").flatten();
            files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link == pipe))
        });
        running.signal("INT");
        assert_eq!(running.wait().code(), Some(130), "{}", running.said());
        assert!(
            running.said().contains("stopped by SIGINT"),
            "{}",
            running.said()
        );
    }
}

#[test]
fn a_run_that_waits_for_standard_input_ends_when_it_is_interrupted() {
    let folder = folder();
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let mut command = run(folder.path(), Path::new("-"), &[]);
    command.stdin(reader);
    let mut running = Running::start(command, folder.path(), "run");
    writer
        .write_all(b"country,test_date,result\nItaly,")
        .expect("there is room");
    wait_until("it has begun", || running.said().contains("not resumable"));
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(143), "{}", running.said());
    assert!(
        running.said().contains("stopped by SIGTERM"),
        "{}",
        running.said()
    );
}

#[test]
fn a_run_that_is_terminated_ends_with_143() {
    let data_set = data_set(&FEW_JOBS);
    let folder = folder();
    let options = [
        "--every",
        "day",
        "--workers",
        "1",
        "--simulate-work",
        "50ms",
    ];
    let mut running = Running::start(
        run(folder.path(), &data_set, &options),
        folder.path(),
        "run",
    );
    wait_until("a worker is there", || children(running.id()).len() == 1);
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(143), "{}", running.said());
}

#[test]
fn the_real_worlds_columns_are_options_away() {
    let folder = folder();
    let data_set = folder.path().join("tests.csv");
    // A date without an hour, other names, a third result, `None` for a missing value.
    let rows = "test_date,corona_result,gender\n\
        2020-04-30,negative,female\n\
        2020-04-30,positive,None\n\
        2020-04-30,other,male\n\
        2020-03-11,positive,female\n";
    fs::write(&data_set, rows).expect("it can be written");
    let out = folder.path().join("out");
    let options = [
        "--by",
        "gender",
        "--every",
        "day",
        "--result",
        "corona_result",
    ];
    let Finished { stdout, .. } = finish(run(&out, &data_set, &options)).expect_code(0);
    assert!(stdout.contains("1 unknown_result"), "{stdout}");
    assert_eq!(stdout.matches("/rejects.csv\n").count(), 1, "{stdout}");
    let files = report(&out)["files"].clone();
    let names = files.as_array().expect("a list").iter();
    assert!(
        names
            .map(|file| &file["name"])
            .any(|name| name == "rejects.csv"),
        "{files}"
    );
    let series = fs::read_to_string(out.join("series.csv")).expect("a series");
    assert_eq!(
        series,
        "gender,date_day,tests,positive,rate\n\
         None,2020-04-30,1,1,1\n\
         female,2020-03-11,1,1,1\n\
         female,2020-04-30,1,0,0\n"
    );
    let rejects = fs::read_to_string(out.join("rejects.csv")).expect("the rejects");
    assert!(
        rejects.contains(",3,unknown_result,2020-04-30,other,male"),
        "{rejects}"
    );
}

#[test]
fn labels_too_long_for_any_message_are_rejects_and_the_longest_others_arrive() {
    let folder = folder();
    let data_set = folder.path().join("tests.csv");
    let longest = "x".repeat(32 * 1024);
    // Everything in one message as far as it goes, and labels in many jobs of one worker's batch.
    let mut rows = format!("country,test_date,result\n{longest}y,2020-07-14,positive\n");
    rows.push_str(&format!("{},2020-07-14,positive\n", "z".repeat(900_000)));
    for day in 1..=28 {
        rows.push_str(&format!("{longest},2020-07-{day:02},positive\n"));
        rows.push_str(&format!("{},2020-07-14,negative\n", &longest[day..]));
    }
    fs::write(&data_set, rows).expect("it can be written");
    for jobs_per_message in ["auto", "1", "100000"] {
        let options = ["--every", "day", "--jobs-per-message", jobs_per_message];
        let report = complete(&data_set, &options);
        assert_eq!(report["manifest"]["rejected"]["label_too_long"], 2);
        assert_eq!(report["manifest"]["jobs"], 28 + 28);
        assert_same(&report, &local(&data_set, &["--every", "day"]));
    }
}

/// Packs a file by a tool of the system, as people do.
fn packed(tool: &str, options: &[&str], file: &Path, to: &Path) {
    let output = fs::File::create(to).expect("it can be made");
    let mut command = Command::new(tool);
    let status = command.args(options).arg(file).stdout(output).status();
    assert!(status.expect("the tool can be started").success());
}

#[test]
fn packed_files_parquet_standard_input_and_patterns_give_the_series_of_the_plain_csv() {
    let data_set = data_set(&FEW_JOBS);
    let reference = local(&data_set, &["--every", "day"]);
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    // The names say nothing: the first bytes do.
    packed("gzip", &["-c"], &data_set, &at("gzip.txt"));
    let mut datagen = rollcall();
    datagen
        .args(["datagen", "--quiet", "--out"])
        .arg(at("a.parquet"));
    finish({
        datagen.args(FEW_JOBS);
        datagen
    })
    .expect_code(0);
    let text = fs::read_to_string(&data_set).expect("text");
    let zstd = zstd::encode_all(text.as_bytes(), 1).expect("it can be packed");
    fs::write(at("zstd.txt"), zstd).expect("written");
    let (header, rows) = text.split_once('\n').expect("a header");
    let middle = rows[..rows.len() / 2].rfind('\n').expect("a line end") + 1;
    fs::write(at("part-2.csv"), format!("{header}\n{}", &rows[middle..])).expect("written");
    fs::write(at("part-1.csv"), format!("{header}\n{}", &rows[..middle])).expect("written");
    for name in ["gzip.txt", "zstd.txt", "a.parquet", "part-*.csv"] {
        let report = complete(&at(name), &["--every", "day"]);
        assert_same(&report, &reference);
        assert_same(&local(&at(name), &["--every", "day"]), &reference);
    }
    let out = at("out");
    let mut piped = run(&out, Path::new("-"), &["--every", "day"]);
    piped.stdin(fs::File::open(&data_set).expect("it can be opened"));
    let Finished { stderr, .. } = finish(piped).expect_code(0);
    assert!(stderr.contains("this run is not resumable"), "{stderr}");
    assert_same(&report(&out), &reference);
}

#[test]
fn rejects_go_where_they_are_wanted_and_too_many_of_them_end_the_run() {
    let data_set = data_set(&["--rows", "20000", "--malformed", "0.1"]);
    let folder = folder();
    let rejects = folder.path().join("elsewhere.csv");
    let path = rejects.to_str().expect("a path");
    let report = complete(&data_set, &["--rejects", path, "--max-rejects", "20%"]);
    // Some of them are rejected for being no UTF-8.
    let kept = fs::read(&rejects).expect("the rejects");
    let files = report["files"].as_array().expect("a list");
    let listed = files.iter().find(|file| file["name"] == path);
    let listed = listed.unwrap_or_else(|| panic!("{path} is not in {files:?}"));
    assert_eq!(listed["bytes"], kept.len());
    assert_eq!(listed["sha256"], hexadecimal(&Sha256::digest(&kept)));
    let kept = String::from_utf8_lossy(&kept);
    assert!(kept.starts_with("file,record,reason,fields\n"), "{kept}");
    for limit in ["5%", "7"] {
        let options = ["--rejects", path, "--max-rejects", limit];
        let finished = finish(run(folder.path(), &data_set, &options)).expect_code(1);
        let said = finished.stderr;
        assert!(said.contains(&format!("more than {limit} ")), "{said}");
        assert_eq!(said.matches(" record ").count(), 5, "{said}");
    }
}

#[test]
fn a_run_of_count_leaves_a_table_whose_rows_are_those_of_the_data_set() {
    let data_set = data_set(&["--rows", "20000"]);
    let folder = folder();
    let options = ["--compute", "count", "--every", "day"];
    finish(run(folder.path(), &data_set, &options)).expect_code(0);
    let report = report(folder.path());
    assert_eq!(report["status"], "complete");
    assert_reconciled(&report);
    assert_eq!(report["run"]["computation"]["name"], "count");
    let table = fs::read_to_string(folder.path().join("table.csv")).expect("a table");
    let (header, lines) = table.split_once('\n').expect("a header");
    assert_eq!(header, "country,date_day,rows");
    assert_eq!(report["table"]["rows"], lines.lines().count());
    let counted = lines.lines().map(|line| {
        let rows = line.rsplit_once(',').expect("a row of cells").1;
        rows.parse::<u64>().expect("a number")
    });
    assert_eq!(counted.sum::<u64>(), 20_000);
    assert!(!folder.path().join("series.csv").exists());
    // The groups are those of positivity, which are the reference's.
    let reference = local(&data_set, &["--every", "day"]);
    assert_eq!(report["table"]["rows"], reference["series"]["rows"]);
}

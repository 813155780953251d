//! What a newcomer gets wrong first: each is one line that says what to do, and exit code 2.

use std::fs;

use crate::processes::{Finished, data_set, finish, folder, rollcall};

#[track_caller]
fn fails(arguments: &[&str], code: i32) -> String {
    let folder = folder();
    let mut command = rollcall();
    command.current_dir(folder.path()).args(arguments);
    let Finished { stderr, .. } = finish(command).expect_code(code);
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn a_data_set_that_is_not_there_is_named() {
    let line = fails(&["run", "no-such.csv"], 2);
    assert!(line.contains("cannot open no-such.csv"), "{line}");
    let line = fails(
        &[
            "dispatcher",
            "no-such.csv",
            "--bootstrap-servers",
            "127.0.0.1:1",
        ],
        2,
    );
    assert!(line.contains("cannot open no-such.csv"), "{line}");
    let line = fails(&["run", "no-such.csv", "--engine", "local"], 2);
    assert!(line.contains("cannot open no-such.csv"), "{line}");
}

#[test]
fn a_column_that_is_not_there_is_named_with_the_nearest_one() {
    let data_set = data_set(&["--rows", "1000"]);
    let data_set = data_set.to_str().expect("a path");
    let line = fails(&["run", data_set, "--by", "contry"], 2);
    assert!(line.contains("did you mean country?"), "{line}");
    assert!(line.contains("patient_name, city, country"), "{line}");
    let line = fails(
        &["run", data_set, "--result", "outcome", "--engine", "local"],
        2,
    );
    assert!(line.contains("--result outcome"), "{line}");
}

#[test]
fn a_series_that_the_run_does_not_add_up_to_is_refused_before_the_run() {
    for engine in ["kafka", "local"] {
        // Nothing is generated: the output folder is not even made.
        let options = ["run", "--engine", engine, "--every", "week"];
        let line = fails(&[&options[..], &["--grain-out", "month"]].concat(), 2);
        let what = "--grain-out month: a run by week adds up to week only; give that";
        assert!(line.contains(what), "{line}");
    }
    let options = ["run", "--grain-out", "day", "--outputs", "svg"];
    let line = fails(&options, 2);
    assert!(line.contains("let --outputs name csv or parquet"), "{line}");
}

#[test]
fn a_data_set_without_a_row_to_count_is_refused() {
    let folder = folder();
    let path = folder.path().join("empty.csv");
    fs::write(&path, "country,test_date,result\nItaly,soon,positive\n").expect("written");
    let line = fails(&["run", path.to_str().expect("a path")], 2);
    assert!(line.contains("no row of"), "{line}");
    assert!(line.contains("1 of 1 rows are rejected"), "{line}");
}

#[test]
fn an_empty_run_id_in_the_environment_counts_as_none() {
    let folder = folder();
    for arguments in [["dispatcher", "no-such.csv"].as_slice(), &["aggregator"]] {
        let mut command = rollcall();
        command.current_dir(folder.path()).env("RUN_ID", "");
        // What is missed is the broker, not a name.
        let Finished { stderr, .. } = finish({
            command.args(arguments);
            command
        })
        .expect_code(2);
        assert!(stderr.contains("no broker named"), "{stderr}");
    }
}

#[test]
fn a_time_format_that_makes_no_date_says_what_it_needs() {
    let first_line = |format: &str| {
        let mut command = rollcall();
        command.args(["run", "no-such.csv", "--time-format", format]);
        let stderr = finish(command).expect_code(2).stderr;
        stderr.lines().next().expect("a line").to_owned()
    };
    let line = first_line("%H:%M");
    assert!(
        line.contains("give day, month and year, such as %d.%m.%Y %H:%M"),
        "{line}"
    );
    let line = first_line("%Y-%m-%!");
    assert!(
        line.contains("the directives are those of strftime"),
        "{line}"
    );
}

#[test]
fn a_broker_that_never_comes_ends_with_5() {
    let folder = folder();
    for service in ["worker", "aggregator"] {
        let mut command = rollcall();
        command.current_dir(folder.path()).arg(service);
        // Port 1 of loopback: nobody listens there.
        command.args([
            "--bootstrap-servers",
            "127.0.0.1:1",
            "--broker-timeout",
            "1s",
        ]);
        let finished = finish(command).expect_code(5);
        let line = "no broker answered at 127.0.0.1:1 within 1s";
        assert!(finished.stderr.contains(line), "{}", finished.stderr);
    }
}

#[test]
fn services_want_to_be_told_where_the_broker_is() {
    for service in ["worker", "aggregator"] {
        let line = fails(&[service], 2);
        assert!(line.contains("--bootstrap-servers"), "{line}");
    }
}

#[test]
fn what_the_guarantees_rest_on_cannot_be_set() {
    // By librdkafka's other names for them, too.
    for property in [
        "enable.auto.commit=true",
        "acks=1",
        "topic.acks=1",
        "topic.topic.request.required.acks=0",
        "topic.enable.auto.commit=true",
    ] {
        let fixed = [
            "worker",
            "--bootstrap-servers",
            "127.0.0.1:1",
            "-X",
            property,
        ];
        let line = fails(&fixed, 2);
        assert!(
            line.contains("rollcall sets this property itself"),
            "{line}"
        );
    }
    let unknown = [
        "worker",
        "--bootstrap-servers",
        "127.0.0.1:1",
        "-X",
        "linger.mss=3",
    ];
    let line = fails(&unknown, 2);
    assert!(line.contains("linger.mss"), "{line}");
}

#[test]
fn encryption_without_a_broker_that_speaks_it_is_refused() {
    let line = fails(&["run", "-X", "security.protocol=ssl", "--rows", "10"], 2);
    assert!(line.contains("--bootstrap-servers"), "{line}");
}

#[test]
fn a_wrong_option_in_a_file_is_named_with_its_line() {
    let folder = folder();
    fs::write(
        folder.path().join("rollcall.toml"),
        "[worker]\ngruop = \"x\"\n",
    )
    .expect("written");
    let start = |arguments: &[&str]| {
        let mut command = rollcall();
        command.current_dir(folder.path()).args(arguments);
        finish(command)
    };
    let Finished { stderr, .. } = start(&["worker"]).expect_code(2);
    let line = "error: rollcall.toml:2: unknown key gruop in [worker]; did you mean group?\n";
    assert_eq!(stderr, line);
    let Finished { stderr, .. } = start(&["worker", "--config", "no.toml"]).expect_code(2);
    assert!(stderr.contains("cannot read no.toml"), "{stderr}");
}

#[test]
fn completions_and_the_manual_page_are_printed_whatever_a_file_says() {
    let folder = folder();
    fs::write(folder.path().join("rollcall.toml"), "nonsense").expect("written");
    for (arguments, says) in [
        (["completions", "bash"].as_slice(), "_rollcall()"),
        (&["man"], ".TH rollcall 1"),
    ] {
        let mut command = rollcall();
        command.current_dir(folder.path()).args(arguments);
        let Finished { stdout, .. } = finish(command).expect_code(0);
        assert!(stdout.contains(says), "{stdout}");
    }
}

#[test]
fn rejects_never_take_the_place_of_the_data_set_or_of_an_output() {
    let folder = folder();
    let data_set = folder.path().join("in.csv");
    let text = "country,test_date,result\nItaly,2020-07-14,positive\nItaly,2020-07-14,maybe\n";
    fs::write(&data_set, text).expect("written");
    let run = |rejects: &str| {
        let mut command = rollcall();
        command.current_dir(folder.path());
        command.args(["run", "in.csv", "--engine", "local", "--out", "o"]);
        finish({
            command.args(["--rejects", rejects]);
            command
        })
    };
    for rejects in ["in.csv", "./in.csv"] {
        let said = run(rejects).expect_code(2).stderr;
        assert!(said.contains("in.csv"), "{said}");
    }
    assert_eq!(fs::read_to_string(&data_set).expect("still there"), text);
    run("rejects.csv").expect_code(0);
    for rejects in ["o/series.csv", "./o/report.json"] {
        let said = run(rejects).expect_code(2).stderr;
        assert!(said.contains("an output of the run goes there"), "{said}");
    }
    // Nor do outputs take the place of the data set, be it by a link.
    let out = folder.path().join("p");
    fs::create_dir(&out).expect("a folder");
    fs::hard_link(&data_set, out.join("series.csv")).expect("a link");
    for name in [
        "report.json",
        "series-month.parquet",
        "bench.md",
        "series.csv",
    ] {
        let path = out.join(name);
        if name != "series.csv" {
            fs::write(&path, text).expect("written");
        }
        for command_name in ["run", "bench"] {
            let mut command = rollcall();
            command.arg(command_name).arg(&path).arg("--out").arg(&out);
            let said = finish(command).expect_code(2).stderr;
            assert!(said.contains("is the data set"), "{said}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), text);
        }
    }
    // Nor where something else is wrong.
    let report = out.join("report.json");
    for wrong in [
        &[report.to_str().expect("text")][..],
        &["no-such*.csv"],
        &["--delimiter", ";", "--quote", ";"],
    ] {
        let mut command = rollcall();
        command.arg("run").arg(&report).args(wrong);
        let said = finish({
            command.arg("--out").arg(&out);
            command
        });
        assert!(said.expect_code(2).stderr.contains("is the data set"));
        assert_eq!(fs::read_to_string(&report).expect("still there"), text);
    }
    let mut command = rollcall();
    command.args(["run", "in.csv", "--engine", "local", "--out", "p"]);
    command.current_dir(folder.path());
    let said = finish(command).expect_code(2).stderr;
    assert!(said.contains("is the data set"), "{said}");
    // Standard input may be the very file that rejects would go to.
    let mut command = rollcall();
    command.current_dir(folder.path());
    command.stdin(fs::File::open(&data_set).expect("it opens"));
    command.args([
        "run",
        "-",
        "--engine",
        "local",
        "--out",
        "o",
        "--rejects",
        "in.csv",
    ]);
    finish(command).expect_code(2);
    assert_eq!(fs::read_to_string(&data_set).expect("still there"), text);
}

//! Starts the binaries of this package and looks at what they say, write and leave behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Nothing that a test waits for takes longer.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// A data set of twenty countries: by the day, these are 6,120 jobs, few enough to be made slow.
pub const FEW_JOBS: [&str; 4] = ["--rows", "200000", "--countries", "20"];

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, holds);
}

/// Waits until a condition holds that may take longer, or has to hold sooner, than others.
#[track_caller]
pub fn wait_within(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    const STEP: Duration = Duration::from_millis(20);
    let until = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        thread::sleep(STEP);
    }
}

/// The `rollcall` binary, with the environment of nobody.
pub fn rollcall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    for name in [
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_PROPERTIES",
        "KAFKA_PROPERTIES_FILE",
        "ROLLCALL_CONFIG",
        "ROLLCALL_FAULTS",
        "RUN_ID",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A folder for one test's files.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A generated data set, made once for all tests that want the same.
#[track_caller]
pub fn data_set(options: &[&str]) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data-sets");
    let path = folder.join(format!("{}.csv", options.join("").replace('-', "_")));
    let _guard = MAKING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    fs::create_dir_all(&folder).expect("the folder can be made");
    // Made anew by each test run: the generator may have changed.
    static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !made.contains(&path) {
        let mut datagen = rollcall();
        datagen
            .args(["datagen", "--quiet", "--out"])
            .arg(&path)
            .args(options);
        finish(datagen).expect_code(0);
        made.push(path.clone());
    }
    path
}

/// What a process that has ended has said.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(mut command: Command) -> Finished {
    Finished::new(command.output().expect("the process can be started"))
}

/// A process that goes on while the test does. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command; what it says goes to a file in `folder`.
    #[track_caller]
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("the log can be made");
        command.stdout(file.try_clone().expect("a second handle"));
        command.stderr(file);
        let child = command.spawn().expect("the process can be started");
        Self { child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it as nobody can prevent, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Whether it goes on.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }

    /// Asks it to end, and asserts that it does, with code 0.
    #[track_caller]
    pub fn end(&mut self) {
        self.signal("TERM");
        assert_eq!(self.wait().code(), Some(0), "{}", self.said());
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.child.try_wait().expect("it can be asked");
            ended.is_some()
        });
        ended.expect("it has ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// Sends a signal to a process by its id.
pub fn signal(id: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &id.to_string()])
        .status();
    assert!(sent.expect("kill can be started").success());
}

/// The living child processes of a process.
pub fn children(id: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// Whether a process is there and not merely unburied.
pub fn is_alive(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    })
}

/// The most memory that a living process has had so far.
pub fn peak_resident_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The report in an output folder.
#[track_caller]
pub fn report(out: &Path) -> Value {
    let path = out.join("report.json");
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the report is JSON")
}

/// The reference: the same data set and options without Kafka.
#[track_caller]
pub fn local(data_set: &Path, options: &[&str]) -> Value {
    let folder = folder();
    let mut command = rollcall();
    command.args(["run", "--engine", "local", "--quiet"]);
    command
        .arg(data_set)
        .args(options)
        .arg("--out")
        .arg(folder.path());
    finish(command).expect_code(0);
    report(folder.path())
}

/// Asserts that a run is complete and has the reference's series, tests and rejects.
#[track_caller]
pub fn assert_same(report: &Value, reference: &Value) {
    assert_eq!(report["series"], reference["series"], "{report:#}");
    for number in ["tests", "positive", "rate"] {
        assert_eq!(report[number], reference[number], "{number}");
    }
    for part in ["rows_read", "rows_accepted", "rows_rejected", "rejected"] {
        assert_eq!(
            report["manifest"][part], reference["manifest"][part],
            "{part}"
        );
    }
    assert!(reference["tests"].as_u64() > Some(0));
}

/// Asserts that every line of the reconciliation holds.
#[track_caller]
pub fn assert_reconciled(report: &Value) {
    let checks = report["reconciliation"]
        .as_array()
        .expect("there are checks");
    assert!(checks.len() >= 7, "{checks:#?}");
    for check in checks {
        assert_eq!(check["holds"], true, "{check:#}");
    }
}

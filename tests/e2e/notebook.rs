//! The analyst's notebook on the output of a fresh run, with the packages that it is pinned to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::processes::{data_set, finish, folder, report, rollcall};
use crate::python::environment;

/// All packages with their versions.
const REQUIREMENTS: &str = include_str!("../../notebooks/requirements.txt");

/// A committed notebook that is larger is slow to look at and to clone.
const MOST_BYTES: usize = 1_500_000;

fn notebooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks")
}

/// The Python that has the packages.
#[track_caller]
fn python() -> &'static Path {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(|| environment("notebook", REQUIREMENTS)) {
        Ok(python) => python,
        Err(reason) => panic!("{reason}"),
    }
}

/// Executes the notebook on what a run left in a folder.
#[track_caller]
fn execute(out: &Path) -> Notebook {
    let result = out.join("executed.ipynb");
    let mut command = Command::new(python());
    command
        .arg(notebooks().join("execute.py"))
        .arg(&result)
        .env("ROLLCALL_OUT", out)
        .env_remove("ROLLCALL_BENCH")
        // Settings of whoever runs the tests are none of the notebook's.
        .env("MPLCONFIGDIR", out)
        .env("IPYTHONDIR", out)
        .env("JUPYTER_CONFIG_DIR", out);
    finish(command).expect_code(0);
    Notebook::read(&result)
}

/// A notebook with the results of its cells.
struct Notebook(Value);

impl Notebook {
    #[track_caller]
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("the notebook is there");
        Self(serde_json::from_str(&text).expect("a notebook is JSON"))
    }

    fn code(&self) -> impl Iterator<Item = &Value> {
        let cells = self.0["cells"].as_array().into_iter().flatten();
        cells.filter(|cell| cell["cell_type"] == "code")
    }

    fn outputs(&self) -> impl Iterator<Item = &Value> {
        self.code()
            .flat_map(|cell| cell["outputs"].as_array().into_iter().flatten())
    }

    fn figures(&self) -> usize {
        let figures = self
            .outputs()
            .filter(|output| output["data"]["image/png"].is_string());
        figures.count()
    }

    /// What its cells printed.
    fn printed(&self) -> String {
        let texts = self.outputs().map(|output| match &output["text"] {
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            text => text.as_str().unwrap_or_default().to_owned(),
        });
        texts.collect::<Vec<String>>().concat()
    }

    #[track_caller]
    fn assert_executed(&self) {
        assert!(self.code().all(|cell| cell["execution_count"].is_u64()));
        let failed = |output: &&Value| output["output_type"] == "error";
        assert_eq!(self.outputs().find(failed), None);
    }
}

#[track_caller]
fn run(out: &Path, options: &[&str]) {
    let data_set = data_set(&["--rows", "40000", "--countries", "12"]);
    let mut command = rollcall();
    command.args(["run", "--quiet"]).arg(data_set).args(options);
    command.arg("--out").arg(out);
    finish(command).expect_code(0);
}

#[test]
fn the_notebook_shows_a_fresh_run() {
    let out = folder();
    run(out.path(), &["--workers", "2"]);
    let shown = execute(out.path());
    shown.assert_executed();
    assert_eq!(shown.figures(), 5);
    let report = report(out.path());
    let printed = shown.printed();
    let id = report["run"]["run_id"].as_str().expect("an id");
    assert!(
        printed.contains(&format!("run {id}: complete")),
        "{printed}"
    );
    assert!(printed.contains("40,000 tests"), "{printed}");
    assert!(printed.contains("There is no bench.json"), "{printed}");
}

#[test]
fn the_notebook_takes_other_labels_and_grains() {
    let out = folder();
    run(
        out.path(),
        &["--engine", "local", "--by", "", "--every", "week"],
    );
    let shown = execute(out.path());
    shown.assert_executed();
    assert_eq!(shown.figures(), 5);
}

#[test]
fn the_committed_notebook_has_its_figures() {
    let path = notebooks().join("positivity.ipynb");
    let bytes = fs::metadata(&path).expect("it is there").len();
    assert!(bytes < MOST_BYTES as u64, "{bytes}");
    let shown = Notebook::read(&path);
    shown.assert_executed();
    assert_eq!(shown.figures(), 5);
    assert!(shown.printed().contains(": complete"));
}

#[test]
fn every_package_is_pinned() {
    let packages = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
    for package in packages {
        assert!(package.contains("=="), "{package}");
    }
}

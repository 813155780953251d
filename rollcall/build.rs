//! Tells the program which commit it is built from, if it is built from a git checkout; a commit
//! that is given in `ROLLCALL_COMMIT`, as where the sources come without one, is taken instead.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=ROLLCALL_COMMIT");
    // What may make the commit another one, or the files differ from it.
    for part in [
        "aggregator",
        "bench",
        "datagen",
        "dispatcher",
        "kafka",
        "pipeline",
        "rollcall",
        "service",
        "worker",
    ] {
        println!("cargo::rerun-if-changed=../{part}/src");
    }
    if std::env::var_os("ROLLCALL_COMMIT").is_some() {
        return;
    }
    let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) else {
        return;
    };
    // Cargo runs this again and again for a path that is not there.
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]);
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let mark = match dirty {
            Some(changes) if changes.is_empty() => "",
            _ => "-dirty",
        };
        println!("cargo::rustc-env=ROLLCALL_COMMIT={commit}{mark}");
    }
}

/// What git says; `None` where there is no git, or no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim().to_owned())
}

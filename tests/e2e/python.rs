//! Python environments with pinned packages. They come from PyPI, once, into the cache that Apache
//! Kafka's jars are in.
//!
//! They need Python 3.11 or newer with `venv`. Without it these tests fail and say what to install.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

use crate::apache_kafka;

const INSTALL_PYTHON: &str = "install Python 3.11 or newer with venv, for example by \
    `apt-get install python3-venv` or `brew install python`";

/// Installs packages, so that they are there complete or not at all, and returns the Python that has
/// them. One process does it while others wait. `name` is for the folder.
///
/// # Errors
/// When there is no Python, or the packages cannot be had.
pub fn environment(name: &str, requirements: &str) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    let place = format!("{name}-{:016x}", hasher.finish());
    let folder = apache_kafka::cache()?.join(place);
    let failed = |error: io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(failed)?;
    let lock = File::create(folder.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    // Not `eprintln!`, which libtest captures.
    let _ = writeln!(
        io::stderr(),
        "installing the packages of {name} from PyPI, once (to {})",
        folder.display(),
    );
    let file = folder.join("requirements.txt");
    fs::write(&file, requirements).map_err(failed)?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&environment);
    apache_kafka::run(&mut venv, INSTALL_PYTHON)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
    apache_kafka::run(pip.arg(&file), INSTALL_PYTHON)?;
    fs::write(&complete, "").map_err(failed)?;
    Ok(python)
}

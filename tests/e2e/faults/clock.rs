//! A clock of the day for single processes, which can be set at any time: `clock.c`, preloaded, adds
//! what a file says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock of the processes that have its [environment](DayClock::environment).
#[derive(Debug)]
pub struct DayClock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl DayClock {
    /// A clock that goes right, with its files in a folder.
    #[track_caller]
    pub fn make(folder: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/faults/clock.c");
        let library = folder.join("clock.so");
        let built = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status();
        assert!(built.is_ok_and(|status| status.success()), "cc builds it");
        let path = folder.join("clock");
        let file = File::create(&path).expect("a file");
        let clock = Self {
            library,
            path,
            file,
        };
        clock.set(0);
        clock
    }

    /// What a process needs in its environment to have this clock.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAULTS_CLOCK", self.path.display().to_string()),
        ]
    }

    /// Sets it to be so many seconds ahead.
    pub fn set(&self, seconds: i64) {
        let written = self.file.write_all_at(&seconds.to_ne_bytes(), 0);
        written.expect("the clock can be set");
    }
}

//! A disk that is soon full: a small tmpfs, which only root may mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::folder;

/// A folder with little room. Unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    pub folder: PathBuf,
}

impl SmallDisk {
    /// Whether this process may mount one; else why not.
    pub fn is_possible() -> Result<(), &'static str> {
        let folder = folder();
        let disk = Self::mount(folder.path(), "16k");
        disk.map(drop).ok_or("only root may mount a small disk")
    }

    /// Mounts one in a folder.
    pub fn mount(in_folder: &Path, size: &str) -> Option<Self> {
        let folder = in_folder.join("small-disk");
        std::fs::create_dir(&folder).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&folder)
            .output();
        let is_mounted = mounted.is_ok_and(|mount| mount.status.success());
        is_mounted.then_some(Self { folder })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to die may still have a file open there.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

//! Results beyond the memory budget, in a file without a name: it is gone when the process is, however
//! that ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pipeline::ledger::SpillStore;

/// A file in a folder, made when something is first written to it.
#[derive(Debug)]
pub struct SpillFile {
    folder: PathBuf,
    file: Option<File>,
}

impl SpillFile {
    /// Nothing was spilled yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file: None,
        }
    }
}

impl SpillStore for SpillFile {
    fn write_at(&mut self, bytes: &[u8], position: u64) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&self.folder)?),
        };
        file.write_all_at(bytes, position)
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        let file = self.file.as_ref();
        let file = file.ok_or_else(|| io::Error::other("nothing was spilled"))?;
        file.read_exact_at(bytes, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spilled_is_read_back_and_its_file_has_no_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = SpillFile::new(folder.path());
        assert!(spill.read_at(&mut [0], 0).is_err());
        spill.write_at(b"abc", 0).expect("there is room");
        spill.write_at(b"defg", 3).expect("there is room");
        let mut read = [0; 4];
        spill.read_at(&mut read, 2).expect("it was written");
        assert_eq!(&read, b"cdef");
        assert!(spill.read_at(&mut read, 4).is_err());
        let names = std::fs::read_dir(folder.path()).expect("it is there");
        assert_eq!(names.count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_of_the_first_write() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = SpillFile::new(&folder.path().join("gone"));
        let error = spill.write_at(b"abc", 0).expect_err("no such folder");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

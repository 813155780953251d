//! The output folder of a run. Each file is written under a temporary name in the folder, so that an
//! incomplete file is never visible, and its digest is computed. All files are renamed to their own
//! names together, once the verdict is published.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use serde::Serialize;
use service::FaultPoint;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::Error;
use crate::export::Exporter;
use crate::export::report_html::REPORT_HTML;
use crate::export::series_csv::hexadecimal;

/// The name of the report in the output folder.
pub const REPORT_JSON: &str = "report.json";

/// The names of all reports on a run in the output folder, of every format.
const REPORTS: [&str; 3] = [REPORT_JSON, "report.md", REPORT_HTML];

/// A file of a run, as the report lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputFile {
    /// The name in the output folder, or the path of a file elsewhere.
    pub name: String,
    /// The size in bytes.
    pub bytes: u64,
    /// The SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// The output folder of a run.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    /// The files that are written and not renamed yet, in the order in which they were written, each
    /// with its path.
    staged: RefCell<Vec<(NamedTempFile, PathBuf)>>,
    /// The fault point before each file is renamed. The report is the last one.
    before_rename: FaultPoint,
}

impl Outputs {
    /// The folder, created where it does not exist. The reports of an earlier run are removed, so that
    /// they are not mistaken for the result of this one should it fail.
    ///
    /// # Errors
    /// When the folder cannot be created, or is not writable.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::OutputFolder {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        tempfile::tempfile_in(folder).map_err(unusable)?;
        for report in REPORTS {
            match fs::remove_file(folder.join(report)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unusable(error));
                }
                _ => {}
            }
        }
        Ok(Self::of_ended_run(folder))
    }

    /// The folder of a run that has ended. Its reports are not removed.
    pub fn of_ended_run(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            staged: RefCell::default(),
            before_rename: FaultPoint::new("aggregator.before-rename"),
        }
    }

    /// Writes the file of an exporter. [`place`](Self::place) puts it in place.
    ///
    /// # Errors
    /// Those of [`Outputs::write`].
    pub fn export(&self, exporter: &mut dyn Exporter) -> Result<OutputFile, Error> {
        let (file, ()) = self.write(&exporter.file_name(), |out| exporter.export(out))?;
        Ok(file)
    }

    /// The name, size and digest of a file that something else has written, such as the rejects.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn written_by_others(&self, path: &Path) -> Result<OutputFile, Error> {
        let unreadable = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let (bytes, sha256) = digest(path).map_err(unreadable)?;
        let whole = path.canonicalize().map_err(unreadable)?;
        let folder = self.folder.canonicalize().map_err(unreadable)?;
        let name = whole.strip_prefix(folder).unwrap_or(&whole);
        Ok(OutputFile {
            name: name.display().to_string(),
            bytes,
            sha256,
        })
    }

    /// Writes a file, which [`place`](Self::place) puts in place. Returns it with the value of `write`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write<T>(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> Result<(OutputFile, T), Error> {
        let path = self.folder.join(name);
        self.stage(&path, write)
            .map(|(bytes, sha256, value)| {
                let name = name.to_owned();
                let file = OutputFile {
                    name,
                    bytes,
                    sha256,
                };
                (file, value)
            })
            .map_err(|source| Error::Write { path, source })
    }

    /// Puts the files that were written in place, in the order in which they were written.
    ///
    /// # Errors
    /// When a file cannot be renamed. The files before it are in place, and the others are not.
    pub fn place(&self) -> Result<(), Error> {
        for (file, path) in self.staged.take() {
            let placed = self.before_rename.pass().map_err(io::Error::other);
            let placed = placed.and_then(|()| file.persist(&path).map_err(|error| error.error));
            placed.map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }

    /// Removes the files that were written and are not in place yet.
    pub fn discard(&self) {
        self.staged.take();
    }

    fn stage<T>(
        &self,
        path: &Path,
        write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> io::Result<(u64, String, T)> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".rollcall-").suffix(".partial");
        // A temporary file is readable by its owner alone; an output gets the permissions of the umask.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(&self.folder)?;
        let (value, (bytes, sha256)) = in_background(Digesting::new(&mut file), write)?;
        self.staged.borrow_mut().push((file, path.to_owned()));
        Ok((bytes, sha256, value))
    }
}

/// The size of a file in bytes, and its SHA-256 in lower-case hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hexadecimal(&hasher.finalize()))),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs `make` while another thread hashes and writes the bytes that it makes. Returns its value, with
/// the size and the digest of the file.
fn in_background<T>(
    mut file: Digesting<'_>,
    make: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> io::Result<(T, (u64, String))> {
    thread::scope(|scope| {
        // The bounded channel limits the number of pieces in memory.
        let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(4);
        let (empty, used) = mpsc::channel();
        let writing = thread::Builder::new()
            .name("output".to_owned())
            .spawn_scoped(scope, move || -> io::Result<_> {
                for mut piece in pieces {
                    file.write(&piece)?;
                    piece.clear();
                    // The receiver is gone after the last piece.
                    let _ = empty.send(piece);
                }
                Ok(file.finish())
            })?;
        let mut out = Pieces {
            piece: Vec::with_capacity(PIECE_BYTES),
            full,
            used,
        };
        let made = make(&mut out).and_then(|value| out.send_rest().map(|()| value));
        // The other thread ends when the sender is dropped.
        drop(out);
        let written = writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where writing failed, `make` failed for that, so the error of writing is the cause.
        let digest = written?;
        Ok((made?, digest))
    })
}

/// The size of a piece, which is sent from thread to thread as a whole.
const PIECE_BYTES: usize = 128 * 1024;

/// A writer that collects bytes to pieces and sends these to another thread.
struct Pieces {
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let next = self.used.try_recv().unwrap_or_default();
        let piece = std::mem::replace(&mut self.piece, next);
        let sent = self.full.send(piece);
        // The cause is the error with which the other thread ended.
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn send_rest(&mut self) -> io::Result<()> {
        match self.piece.is_empty() {
            true => Ok(()),
            false => self.send(),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file with the digest and the number of the bytes that are written to it.
struct Digesting<'a> {
    file: &'a mut NamedTempFile,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> Digesting<'a> {
    fn new(file: &'a mut NamedTempFile) -> Self {
        Self {
            file,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(self) -> (u64, String) {
        (self.bytes, hexadecimal(&self.hasher.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_place_whole_with_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let outputs = Outputs::new(&folder.path().join("deep/out")).expect("it can be made");
        let (file, lines) = outputs
            .write("a.csv", |out| out.write_all(b"abc").map(|()| 1))
            .expect("it can be written");
        assert_eq!((file.bytes, lines), (3, 1));
        let path = folder.path().join("deep/out/a.csv");
        assert!(!path.exists());
        outputs.place().expect("it can be put in place");
        assert_eq!(fs::read(&path).expect("it is there"), b"abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file.sha256, abc);
    }

    #[test]
    fn a_file_whose_writing_fails_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let outputs = Outputs::new(folder.path()).expect("it is there");
        outputs
            .write("a", |out| out.write_all(b"old"))
            .expect("it can be written");
        outputs.place().expect("it can be put in place");
        let failed = outputs.write("a", |out| {
            out.write_all(b"new")?;
            Err::<(), _>(io::Error::other("disk full"))
        });
        let error = failed.expect_err("it failed");
        assert!(error.to_string().contains("/a; choose"), "{error}");
        outputs
            .write("a", |out| out.write_all(b"discarded"))
            .expect("it can be written");
        outputs.discard();
        outputs.place().expect("nothing is left");
        assert_eq!(
            fs::read(folder.path().join("a")).expect("it is there"),
            b"old"
        );
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1);
    }
}

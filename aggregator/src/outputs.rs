//! Writes the files of a run: each under a temporary name beside its own, so that half of one is never
//! seen, and its digest is told. All of them are put in place together, once the verdict stands.

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

/// Everything that tells of a run in the output folder, whoever asks for it.
const REPORTS: [&str; 3] = [REPORT_JSON, "report.md", REPORT_HTML];

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputFile {
    /// Its name in the output folder, or its path if it is elsewhere.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// A folder that outputs are written to.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    /// Files that are written and not in place yet, in the order in which they were written.
    staged: RefCell<Vec<(NamedTempFile, PathBuf)>>,
    /// Passed before each file is put in place; the report is the last.
    before_rename: FaultPoint,
}

impl Outputs {
    /// The folder, made if it is not there. The reports of an earlier run are removed: should this
    /// one fail, nobody must take them for its result.
    ///
    /// # Errors
    /// When it cannot be made, or nothing can be written to it.
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

    /// The folder of a run that has ended, as it is: its report stays.
    pub fn of_ended_run(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            staged: RefCell::default(),
            before_rename: FaultPoint::new("aggregator.before-rename"),
        }
    }

    /// Writes what an exporter makes.
    ///
    /// # Errors
    /// Those of [`Outputs::write`].
    pub fn export(&self, exporter: &mut dyn Exporter) -> Result<OutputFile, Error> {
        let (file, ()) = self.write(&exporter.file_name(), |out| exporter.export(out))?;
        Ok(file)
    }

    /// A file of the run that is there already, such as its rejects.
    ///
    /// # Errors
    /// When it cannot be read.
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

    /// Writes a file, which [`place`](Self::place) puts in place. Returns it with what `write`
    /// returns.
    ///
    /// # Errors
    /// When it cannot be written.
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

    /// Puts the files in place that were written, in their order.
    ///
    /// # Errors
    /// When one cannot be put in place; those before it are, and the others stay as they were.
    pub fn place(&self) -> Result<(), Error> {
        for (file, path) in self.staged.take() {
            let placed = self.before_rename.pass().map_err(io::Error::other);
            let placed = placed.and_then(|()| file.persist(&path).map_err(|error| error.error));
            placed.map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }

    /// Removes the files that were written and are not in place.
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
        // A temporary file is its owner's alone; an output is for whom the umask allows.
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

/// Size of a file, and its SHA-256 in lower-case hexadecimal digits.
///
/// # Errors
/// When it cannot be read.
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

/// Has a thread hash and write what another makes, so that both take no longer than either.
fn in_background<T>(
    mut file: Digesting<'_>,
    make: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> io::Result<(T, (u64, String))> {
    thread::scope(|scope| {
        // As many pieces are on their way as fit in the channel, and no more.
        let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(4);
        let (empty, used) = mpsc::channel();
        let writing = thread::Builder::new()
            .name("output".to_owned())
            .spawn_scoped(scope, move || -> io::Result<_> {
                for mut piece in pieces {
                    file.write(&piece)?;
                    piece.clear();
                    // Nobody wants it back after the last one.
                    let _ = empty.send(piece);
                }
                Ok(file.finish())
            })?;
        let mut out = Pieces {
            piece: Vec::with_capacity(PIECE_BYTES),
            full,
            used,
        };
        let made = make(&mut out).and_then(|value| out.hand_on_the_rest().map(|()| value));
        // That was the last piece: without its sender the other thread ends.
        drop(out);
        let written = writing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // That nothing can be written is the cause, when it is why nothing more was made.
        let digest = written?;
        Ok((made?, digest))
    })
}

/// What is handed from thread to thread at once.
const PIECE_BYTES: usize = 128 * 1024;

/// Collects bytes to pieces, and hands these on.
struct Pieces {
    piece: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
}

impl Pieces {
    fn hand_on(&mut self) -> io::Result<()> {
        let next = self.used.try_recv().unwrap_or_default();
        let piece = std::mem::replace(&mut self.piece, next);
        let sent = self.full.send(piece);
        // The other thread tells why it takes no more.
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn hand_on_the_rest(&mut self) -> io::Result<()> {
        match self.piece.is_empty() {
            true => Ok(()),
            false => self.hand_on(),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.hand_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and counts what goes to a file.
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
    fn a_file_is_in_place_whole_with_its_digest() {
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
    fn a_file_that_fails_half_way_leaves_the_old_one_and_no_other() {
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

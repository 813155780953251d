//! Where a data set goes: to a file, which has its name only once it is complete, or to standard
//! output.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use service::Shutdown;

use crate::args::Format;
use crate::blocks::{Generated, generate};
use crate::config::Config;
use crate::error::Error;
use crate::parquet::generate_parquet;

/// Makes a data set and writes it to a file, in place of one that may be there.
///
/// Rows go to a file with a temporary name in the same directory, which is renamed at the end and
/// removed if there is none: nobody ever reads half a data set. What is no regular file, such as a
/// named pipe or `/dev/null`, is written to as it is.
///
/// # Errors
/// [`generate`]'s; [`Error::Create`] and [`Error::Rename`].
pub fn write_file(
    config: &Config,
    format: Format,
    path: &Path,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Generated, Error> {
    config.check()?;
    let create_error = |source| Error::Create {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut file = File::options()
            .write(true)
            .open(path)
            .map_err(create_error)?;
        return generate_as(format, config, &mut file, shutdown, progress);
    }
    // A symbolic link keeps pointing: the file that it points to is the one that is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file = tempfile::Builder::new()
        .prefix(".datagen-")
        .suffix(".partial")
        // Temporary files are private by default; this one is going to be an ordinary file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory(&target))
        .map_err(create_error)?;
    let generated = generate_as(format, config, file.as_file_mut(), shutdown, progress)?;
    file.persist(&target).map_err(|error| Error::Rename {
        path: path.to_owned(),
        source: error.error,
    })?;
    Ok(generated)
}

/// Makes a data set and writes it to standard output. `None` if the reader went away before the
/// end, which is no error: it has seen what it wanted.
///
/// # Errors
/// [`generate`]'s.
pub fn write_stdout(
    config: &Config,
    format: Format,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Option<Generated>, Error> {
    match generate_as(format, config, &mut io::stdout().lock(), shutdown, progress) {
        Ok(generated) => Ok(Some(generated)),
        Err(error) if error.is_broken_pipe() => Ok(None),
        Err(error) => Err(error),
    }
}

fn generate_as(
    format: Format,
    config: &Config,
    out: &mut dyn Write,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Generated, Error> {
    match format {
        Format::Csv => generate(config, out, shutdown, progress),
        Format::Parquet => generate_parquet(config, out, shutdown, progress),
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(directory(Path::new("a.csv")), Path::new("."));
        assert_eq!(directory(Path::new("data/a.csv")), Path::new("data"));
        assert_eq!(directory(Path::new("/a.csv")), Path::new("/"));
    }
}

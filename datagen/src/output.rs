//! The output of a data set: a file, which gets its name when it is complete, or standard output.

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

/// Generates a data set and writes it to a file, which replaces an existing one.
///
/// Rows are written to a temporary file in the same directory, which is renamed when it is complete
/// and removed after an error, so no reader finds half a data set. A path that is no regular file,
/// such as a named pipe or `/dev/null`, is written to directly.
///
/// # Errors
/// The errors of [`generate`]; [`Error::Create`] and [`Error::Rename`].
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
    // The target of a symbolic link is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut file = tempfile::Builder::new()
        .prefix(".datagen-")
        .suffix(".partial")
        // Temporary files are private by default, and this one becomes an ordinary file.
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

/// Generates a data set and writes it to standard output. `None` if the reader closed the pipe
/// before the end, which is no error.
///
/// # Errors
/// The errors of [`generate`].
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

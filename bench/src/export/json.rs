//! `bench.json`: the whole benchmark, which `--compare` and `--from` read.

use std::io::{self, Write};

use aggregator::export::Exporter;

use crate::benchmark::Benchmark;

/// The name of the file.
pub const NAME: &str = "bench.json";

/// An exporter of a benchmark as JSON.
#[derive(Clone, Copy, Debug)]
pub struct BenchJson<'a> {
    benchmark: &'a Benchmark,
    name: &'static str,
}

impl<'a> BenchJson<'a> {
    /// An exporter to [`NAME`].
    pub fn new(benchmark: &'a Benchmark) -> Self {
        Self::named(benchmark, NAME)
    }

    /// An exporter to a file with another name.
    pub fn named(benchmark: &'a Benchmark, name: &'static str) -> Self {
        Self { benchmark, name }
    }
}

impl Exporter for BenchJson<'_> {
    fn file_name(&self) -> String {
        self.name.to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self.benchmark)?;
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::benchmark::tests::example;

    fn write(benchmark: &Benchmark) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let written = BenchJson::new(benchmark).export(&mut file);
        written.expect("it can be written");
        file
    }

    #[test]
    fn a_benchmark_is_read_as_it_was_written() {
        let benchmark = example();
        let file = write(&benchmark);
        let read = Benchmark::read(file.path()).expect("it can be read");
        assert_eq!(read, benchmark);
    }

    #[test]
    fn another_version_of_the_schema_and_other_files_are_refused() {
        let newer = Benchmark {
            schema_version: 99,
            ..example()
        };
        let error = Benchmark::read(write(&newer).path()).expect_err("refused");
        assert!(matches!(error, Error::SchemaVersion { found: 99, .. }));
        let report = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(report.path(), r#"{"schema_version": 1}"#).expect("written");
        let error = Benchmark::read(report.path()).expect_err("refused");
        assert!(error.to_string().contains("is no benchmark"), "{error}");
    }
}

//! The exporter of `series.csv`: the time series as text, one line for each group, in the order of
//! labels and time as bytes. The digest of the series is the SHA-256 over its lines without header and
//! rate, so that it can be checked from the file with a line of shell.

use std::fmt::Write as _;
use std::io::{self, Write};

use computations::positivity::{Series, SeriesRow};
use pipeline::{Grain, LabelSet};
use sha2::{Digest, Sha256};

use super::{Exporter, Table};

/// The number of buffered bytes at which lines are written.
const FLUSH_AT: usize = 64 * 1024;

/// The number of tests of a group below which the text of its rate is cached.
const CACHED_TESTS: u64 = 64;

/// The exporter of a series as CSV, which also computes its digest.
#[derive(Clone, Debug)]
pub struct SeriesCsv<'a> {
    table: Table<'a>,
    digest: Option<String>,
}

impl<'a> SeriesCsv<'a> {
    /// The exporter of this series.
    pub fn new(table: Table<'a>) -> Self {
        Self {
            table,
            digest: None,
        }
    }

    /// The digest of the series, in lower-case hexadecimal digits; `None` before it is exported.
    pub fn into_digest(self) -> Option<String> {
        self.digest
    }
}

impl Exporter for SeriesCsv<'_> {
    fn file_name(&self) -> String {
        self.table.file_name("csv")
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Table {
            series,
            label_columns,
            grain,
            ..
        } = self.table;
        self.digest = Some(write(series, label_columns, grain, out)?);
        Ok(())
    }
}

/// Writes a series and returns its digest in lower-case hexadecimal digits.
///
/// Columns: the label columns; `date_hour`, `date_day`, `date_week` or `date_month`; `tests`,
/// `positive`, `rate`. The rate is the shortest decimal that parses to the quotient. In a group without
/// a completed job the last three are empty.
///
/// # Errors
/// When `out` cannot be written.
fn write(
    series: &Series,
    label_columns: &[String],
    grain: Grain,
    out: &mut dyn Write,
) -> io::Result<String> {
    write_header(label_columns, grain, out)?;
    let prefixes: Vec<Vec<u8>> = series
        .label_sets
        .iter()
        .map(label_prefix)
        .collect::<Result<_, _>>()?;
    let mut hasher = Sha256::new();
    let mut times = Times::new(grain);
    let mut rates = Rates::default();
    let mut number = itoa::Buffer::new();
    // The hashed text is the written one without the last field, the rate.
    let mut hashed = Vec::with_capacity(FLUSH_AT + 1024);
    let mut written = Vec::with_capacity(FLUSH_AT + 1024);
    for row in &series.rows {
        let start = hashed.len();
        hashed.extend_from_slice(&prefixes[row.label_set as usize]);
        times.write(row, &mut hashed);
        hashed.push(b',');
        if row.tests > 0 {
            hashed.extend_from_slice(number.format(row.tests).as_bytes());
        }
        hashed.push(b',');
        if row.tests > 0 {
            hashed.extend_from_slice(number.format(row.positive).as_bytes());
        }
        written.extend_from_slice(&hashed[start..]);
        hashed.push(b'\n');
        written.push(b',');
        if let Some(rate) = row.rate() {
            rates.write(rate, row.tests, row.positive, &mut written);
        }
        written.push(b'\n');
        if written.len() >= FLUSH_AT {
            hasher.update(&hashed);
            hashed.clear();
            out.write_all(&written)?;
            written.clear();
        }
    }
    hasher.update(&hashed);
    out.write_all(&written)?;
    Ok(hexadecimal(&hasher.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn write_header(label_columns: &[String], grain: Grain, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    let columns = label_columns.iter().map(String::as_str);
    let fixed = [grain.column(), "tests", "positive", "rate"];
    writer.write_record(columns.chain(fixed))?;
    writer.flush()
}

/// The label fields of a line, each with a comma after it and quoted where CSV requires it.
fn label_prefix(labels: &LabelSet) -> io::Result<Vec<u8>> {
    const REST: &str = "x";
    let mut line = Vec::new();
    let mut writer = csv::Writer::from_writer(&mut line);
    writer.write_record(labels.values.iter().map(String::as_str).chain([REST]))?;
    writer.flush()?;
    drop(writer);
    line.truncate(line.len() - REST.len() - 1);
    Ok(line)
}

/// A writer of times, which formats the date once for all hours of a day.
struct Times {
    grain: Grain,
    days: Option<i32>,
    date: String,
}

impl Times {
    fn new(grain: Grain) -> Self {
        Self {
            grain,
            days: None,
            date: String::new(),
        }
    }

    fn write(&mut self, row: &SeriesRow, line: &mut Vec<u8>) {
        let days = row.hours.div_euclid(24);
        if self.days != Some(days) {
            self.days = Some(days);
            self.date.clear();
            let _ = write!(self.date, "{}", row.time().display(Grain::Day));
        }
        line.extend_from_slice(self.date.as_bytes());
        if self.grain == Grain::Hour {
            let hour = row.hours.rem_euclid(24) as u8;
            line.extend_from_slice(&[b'T', b'0' + hour / 10, b'0' + hour % 10]);
            line.extend_from_slice(b":00:00");
        }
    }
}

/// A writer of rates, which caches those of small groups: most groups are small, and there are few
/// quotients of small numbers.
#[derive(Default)]
struct Rates {
    small: Vec<Option<Box<str>>>,
}

impl Rates {
    fn write(&mut self, rate: f64, tests: u64, positive: u64, line: &mut Vec<u8>) {
        if tests >= CACHED_TESTS || positive > tests {
            // Writing to a vector never fails.
            let _ = write!(line, "{rate}");
            return;
        }
        self.small
            .resize((CACHED_TESTS * CACHED_TESTS) as usize, None);
        let text = self.small[(tests * CACHED_TESTS + positive) as usize]
            .get_or_insert_with(|| rate.to_string().into_boxed_str());
        line.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use pipeline::TimeBucket;

    use super::*;

    fn row(label_set: u32, hours: i64, tests: u64, positive: u64) -> SeriesRow {
        SeriesRow {
            label_set,
            hours: TimeBucket::from_hours(hours).expect("in range").hours(),
            tests,
            positive,
        }
    }

    fn written(series: &Series, columns: &[&str], grain: Grain) -> (String, String) {
        let columns: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
        let mut out = Vec::new();
        let digest = write(series, &columns, grain, &mut out).expect("a vector takes all");
        (String::from_utf8(out).expect("UTF-8"), digest)
    }

    #[test]
    fn a_series_is_written_with_times_by_grain_and_the_shortest_rates() {
        let series = Series {
            label_sets: vec![LabelSet::new([""]), LabelSet::new(["Korea, \"South\""])],
            rows: vec![
                row(0, 442_617, 3, 1),
                row(0, 442_618, 100, 25),
                row(1, 442_617, 0, 0),
            ],
        };
        let (text, digest) = written(&series, &["country"], Grain::Hour);
        assert_eq!(
            text,
            "country,date_hour,tests,positive,rate\n\
             ,2020-06-29T09:00:00,3,1,0.3333333333333333\n\
             ,2020-06-29T10:00:00,100,25,0.25\n\
             \"Korea, \"\"South\"\"\",2020-06-29T09:00:00,,,\n"
        );
        let hashed = ",2020-06-29T09:00:00,3,1\n\
             ,2020-06-29T10:00:00,100,25\n\
             \"Korea, \"\"South\"\"\",2020-06-29T09:00:00,,\n";
        assert_eq!(digest, hexadecimal(&Sha256::digest(hashed)));
    }

    #[test]
    fn without_labels_and_by_the_day_a_line_begins_with_the_date() {
        let series = Series {
            label_sets: vec![LabelSet::default()],
            rows: vec![row(0, -24, 2, 2)],
        };
        let (text, _) = written(&series, &[], Grain::Day);
        assert_eq!(text, "date_day,tests,positive,rate\n1969-12-31,2,2,1\n");
    }

    #[test]
    fn the_digest_does_not_depend_on_how_the_lines_were_flushed() {
        let rows: Vec<_> = (0..10_000)
            .map(|hour| row(0, hour, 1 + hour as u64 % 90, 1))
            .collect();
        let series = Series {
            label_sets: vec![LabelSet::new(["Italy"])],
            rows,
        };
        let (text, digest) = written(&series, &["country"], Grain::Hour);
        let mut hasher = Sha256::new();
        for line in text.lines().skip(1) {
            let without_rate = line.rsplit_once(',').expect("it has a rate").0;
            hasher.update(without_rate);
            hasher.update("\n");
        }
        assert_eq!(digest, hexadecimal(&hasher.finalize()));
        assert_eq!(text.lines().count(), 10_001);
    }
}

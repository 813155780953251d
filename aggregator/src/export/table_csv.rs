//! The exporter of `table.csv`: the table of a run as text, in the order of labels and time as bytes.
//! Its columns are those of the key, then those of the computation. A missing value is an empty cell.

use std::io::{self, Write};

use computations::Tabulate;
use computations::tabulate::{Cell, ResultRows};
use pipeline::ledger::Labels;
use pipeline::{Grain, Ledger};
use sha2::{Digest, Sha256};

use super::Exporter;
use super::series_csv::hexadecimal;

/// The table of a run: its outcomes, and the computation that makes rows of them.
#[derive(Clone, Copy)]
pub struct RunTable<'a> {
    /// The outcomes.
    pub ledger: &'a Ledger,
    /// The computation, which makes the rows of a group.
    pub tabulate: &'a dyn Tabulate,
    /// The names of the label columns, in order.
    pub label_columns: &'a [String],
    /// The grain of the times; `None` when groups have no time.
    pub grain: Option<Grain>,
}

/// The size and the digest of a table that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTable {
    /// The number of rows.
    pub rows: u64,
    /// The SHA-256 over the lines without the header, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// The exporter of a run's table as CSV, which also computes its digest.
pub struct TableCsv<'a> {
    table: RunTable<'a>,
    written: Option<WrittenTable>,
}

impl<'a> TableCsv<'a> {
    /// The exporter of this table.
    pub fn new(table: RunTable<'a>) -> Self {
        Self {
            table,
            written: None,
        }
    }

    /// The size and the digest of the table; `None` before it is exported.
    pub fn into_written(self) -> Option<WrittenTable> {
        self.written
    }
}

impl Exporter for TableCsv<'_> {
    fn file_name(&self) -> String {
        "table.csv".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.written = Some(write(self.table, out)?);
        Ok(())
    }
}

fn write(table: RunTable<'_>, out: &mut dyn Write) -> io::Result<WrittenTable> {
    write_header(table, out)?;
    let groups = table.ledger.groups();
    let columns = table.tabulate.columns().len();
    let missing = vec![Cell::Missing; columns];
    let mut hasher = Sha256::new();
    let mut writer = csv::Writer::from_writer(Hashed {
        out,
        hasher: &mut hasher,
    });
    let mut rows = ResultRows::default();
    let mut written = 0;
    groups.for_each(|group| -> io::Result<()> {
        rows.clear();
        // A malformed result fails the run. The cells of its group are empty.
        let is_known =
            !group.parts.is_empty() && table.tabulate.rows(group.parts, &mut rows).is_ok();
        if !is_known {
            rows.clear();
            rows.push(missing.iter().cloned());
        }
        let labels = groups.labels(&group);
        let time = group.time.map(|time| {
            let grain = table.grain.unwrap_or(Grain::Hour);
            time.display(grain).to_string()
        });
        for cells in rows.rows(columns) {
            written += 1;
            write_row(&mut writer, labels, time.as_deref(), cells)?;
        }
        Ok(())
    })?;
    writer.flush()?;
    drop(writer);
    Ok(WrittenTable {
        rows: written,
        sha256: hexadecimal(&hasher.finalize()),
    })
}

fn write_header(table: RunTable<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    let labels = table.label_columns.iter().map(String::as_str);
    let results = table.tabulate.columns().iter().map(|column| column.name);
    let names = labels.chain(table.grain.map(Grain::column)).chain(results);
    writer.write_record(names)?;
    writer.flush()
}

fn write_row(
    writer: &mut csv::Writer<Hashed<'_>>,
    labels: Labels<'_>,
    time: Option<&str>,
    cells: &[Cell],
) -> io::Result<()> {
    for value in labels.values() {
        writer.write_field(value)?;
    }
    if let Some(time) = time {
        writer.write_field(time)?;
    }
    for cell in cells {
        match cell {
            Cell::Missing => writer.write_field("")?,
            Cell::Integer(number) => {
                writer.write_field(itoa::Buffer::new().format(*number))?;
            }
            Cell::Real(number) => writer.write_field(number.to_string())?,
            Cell::Text(text) => writer.write_field(text)?,
        }
    }
    writer.write_record(None::<&[u8]>)?;
    Ok(())
}

/// A writer that hashes the bytes that it writes.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hasher: &'a mut Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use computations::tabulate::{Kind, MalformedResult, ResultColumn};
    use pipeline::LabelSet;
    use pipeline::ledger::SpillError;
    use pipeline::outcome::Worker;
    use pipeline::reconciliation::Check;
    use pipeline::{GroupKey, Job, Outcome, OutcomeBatch, OutcomeBatchBuilder, TimeBucket};

    use super::*;

    /// A computation whose table has one row for each byte of the results: the byte, its half, and its
    /// letter.
    struct Letters;

    impl Tabulate for Letters {
        fn columns(&self) -> &'static [ResultColumn] {
            const fn column(name: &'static str, kind: Kind) -> ResultColumn {
                ResultColumn { name, kind }
            }
            const COLUMNS: [ResultColumn; 3] = [
                column("byte", Kind::Integer),
                column("half", Kind::Real),
                column("letter", Kind::Text),
            ];
            &COLUMNS
        }

        fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
            for &byte in parts.iter().copied().flatten() {
                if byte == 0 {
                    return Err(MalformedResult);
                }
                let letter = char::from(byte).to_string();
                out.push([
                    Cell::Integer(byte.into()),
                    Cell::Real(f64::from(byte) / 2.0),
                    Cell::Text(letter),
                ]);
            }
            Ok(())
        }

        fn checks(&self, _: &Ledger) -> Result<Vec<Check>, SpillError> {
            Ok(Vec::new())
        }
    }

    /// The label, hour, part and result of a job; the result of a dead letter is `None`.
    type OneJob<'a> = (&'a str, Option<i64>, u32, Option<&'a [u8]>);

    /// A ledger of these jobs.
    fn ledger(of: &[OneJob<'_>]) -> Ledger {
        let run_id = "a-run".parse().expect("a run id");
        let mut ledger = Ledger::new(of.len() as u64);
        for (index, &(label, hours, part, result)) in (0..).zip(of) {
            let labels = LabelSet::new([label]);
            let job = Job {
                index,
                key: GroupKey {
                    labels: &labels,
                    time: hours.and_then(TimeBucket::from_hours),
                },
                part,
                weight: 1,
                payload: &[],
            };
            let dead = Outcome::DeadLettered {
                reason: "broken",
                attempts: 1,
            };
            let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
            builder.push(&job, 0, result.map_or(dead, Outcome::Completed));
            let batch = OutcomeBatch::decode(&builder.encode()).expect("a valid batch");
            let recorded = ledger.record(&batch, &mut Vec::new());
            recorded.expect("all is in memory");
        }
        ledger
    }

    fn written(ledger: &Ledger, grain: Option<Grain>) -> (String, WrittenTable) {
        let label_columns = ["name".to_owned()];
        let mut exporter = TableCsv::new(RunTable {
            ledger,
            tabulate: &Letters,
            label_columns: &label_columns,
            grain,
        });
        let mut out = Vec::new();
        exporter.export(&mut out).expect("a vector takes all");
        let written = exporter.into_written().expect("it was exported");
        (String::from_utf8(out).expect("UTF-8"), written)
    }

    #[test]
    fn a_group_has_several_rows_or_one_with_empty_cells() {
        let ledger = ledger(&[
            ("a, b", Some(0), 0, Some(b"A")),
            ("a, b", Some(0), 1, Some(b"BC")),
            ("a, b", Some(1), 0, None),
            ("c", Some(0), 0, Some(b"D\0")),
            ("c", Some(25), 0, Some(b"E")),
            ("c", Some(25), 1, None),
        ]);
        let (text, written) = written(&ledger, Some(Grain::Hour));
        let lines = "\"a, b\",1970-01-01T00:00:00,65,32.5,A\n\
             \"a, b\",1970-01-01T00:00:00,66,33,B\n\
             \"a, b\",1970-01-01T00:00:00,67,33.5,C\n\
             \"a, b\",1970-01-01T01:00:00,,,\n\
             c,1970-01-01T00:00:00,,,\n\
             c,1970-01-02T01:00:00,69,34.5,E\n";
        assert_eq!(text, format!("name,date_hour,byte,half,letter\n{lines}"));
        assert_eq!(written.rows, 6);
        assert_eq!(written.sha256, hexadecimal(&Sha256::digest(lines)));
    }

    #[test]
    fn a_table_of_groups_without_times_has_no_time_column() {
        let ledger = ledger(&[("a", None, 0, Some(b"A")), ("b", None, 0, Some(b""))]);
        let (text, written) = written(&ledger, None);
        assert_eq!(text, "name,byte,half,letter\na,65,32.5,A\n");
        assert_eq!(written.rows, 1);
    }
}

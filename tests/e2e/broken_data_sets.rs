//! Data sets as nobody should have them, and what becomes of each: one table, from which `rollcall run`
//! is started. Where rows are counted, the pipeline on the in-process broker must come to what the
//! reference does.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use polars::prelude::*;

use crate::processes::{
    Finished, Running, assert_reconciled, assert_same, folder, report, rollcall,
};

/// A data set, how it is read, and what must come of it.
struct Case {
    name: &'static str,
    data: Data,
    options: Vec<&'static str>,
    verdict: Verdict,
}

enum Data {
    /// One file.
    Bytes(Vec<u8>),
    /// What is put into a folder, and what of it is named to `rollcall`.
    Files(fn(&Path) -> Vec<PathBuf>),
}

enum Verdict {
    /// Exit code 0: so many rows read, and all accepted but these, by reason.
    Counted {
        rows_read: u64,
        rejected: Vec<(&'static str, u64)>,
        /// Labels and hours of the series, where they are looked at.
        groups: Option<BTreeMap<String, String>>,
    },
    /// Exit code 2, one line on standard error that contains this, and no report.
    Refused(&'static str),
}

const HEADER: &str = "country,test_date,result\n";
const ROW: &str = "Italy,2020-07-14T09:00:00,positive\n";

/// The header, a row that can be counted, and more.
fn and(rest: impl AsRef<[u8]>) -> Vec<u8> {
    [HEADER.as_bytes(), ROW.as_bytes(), rest.as_ref()].concat()
}

fn counted(
    name: &'static str,
    bytes: impl Into<Vec<u8>>,
    rows_read: u64,
    rejected: &[(&'static str, u64)],
) -> Case {
    Case {
        name,
        data: Data::Bytes(bytes.into()),
        options: Vec::new(),
        verdict: Verdict::Counted {
            rows_read,
            rejected: rejected.to_vec(),
            groups: None,
        },
    }
}

fn refused(name: &'static str, bytes: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case {
        name,
        data: Data::Bytes(bytes.into()),
        options: Vec::new(),
        verdict: Verdict::Refused(says),
    }
}

fn files(name: &'static str, files: fn(&Path) -> Vec<PathBuf>, verdict: Verdict) -> Case {
    Case {
        name,
        data: Data::Files(files),
        options: Vec::new(),
        verdict,
    }
}

/// Times and the hours that they are counted in, `-` for those that are rejected.
fn times(name: &'static str, of: &[(&str, &str)]) -> Case {
    let mut bytes = and("").to_vec();
    let mut groups = BTreeMap::from([("Italy".to_owned(), "2020-07-14T09".to_owned())]);
    for (time, hour) in of {
        let quoted = format!("\"{time}\",\"{time}\",positive\n");
        bytes.extend_from_slice(quoted.as_bytes());
        if *hour != "-" {
            groups.insert((*time).to_owned(), (*hour).to_owned());
        }
    }
    let rejected = of.iter().filter(|(_, hour)| *hour == "-").count() as u64;
    Case {
        verdict: Verdict::Counted {
            rows_read: of.len() as u64 + 1,
            rejected: if rejected > 0 {
                vec![("invalid_time", rejected)]
            } else {
                Vec::new()
            },
            groups: Some(groups),
        },
        ..counted(name, bytes, 0, &[])
    }
}

impl Case {
    fn with(self, options: &[&'static str]) -> Self {
        Self {
            options: options.to_vec(),
            ..self
        }
    }
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("in memory")
}

/// A Parquet file of ten rows: text, a date as text and as a number, text and truth.
fn parquet() -> Vec<u8> {
    let rows = 0..10i64;
    let text = |name: &str, value: &str| {
        Column::new(name.into(), rows.clone().map(|_| value).collect::<Vec<_>>())
    };
    let numbers = |name: &str, of: fn(i64) -> i64| {
        Column::new(name.into(), rows.clone().map(of).collect::<Vec<_>>())
    };
    let truth: Vec<bool> = rows.clone().map(|row| row % 2 == 0).collect();
    let columns = vec![
        text("country", "Italy"),
        text("test_date", "2020-07-14"),
        text("result", "positive"),
        numbers("seconds", |row| 1_594_717_200 + row),
        Column::new("is_positive".into(), truth),
    ];
    let mut frame = DataFrame::new(10, columns).expect("columns of one length");
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .finish(&mut frame)
        .expect("in memory");
    bytes
}

/// A Parquet file with one change.
fn parquet_with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = parquet();
    change(&mut bytes);
    bytes
}

/// The file with a column of every type, among them those that are read for nothing.
fn every_type(_: &Path) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dispatcher/testdata");
    vec![path.join("every_type.parquet")]
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("it can be written");
    path
}

fn lines(number: usize, of: impl Fn(usize) -> String) -> Vec<u8> {
    let lines: String = (0..number).map(of).collect();
    [HEADER.as_bytes(), lines.as_bytes()].concat()
}

const NO_COLUMN: &str = "--by country: ";
const TOO_LONG: &str = "has more than 1 MiB, as when a quote in it is never closed";
const NOT_CLOSED: &str = "a quote in the record that begins in line 3 is never closed";
const CUT_SHORT: &str = "is cut short: it ends in the middle, after ";
const NOT_PARQUET: &str = " as Parquet beyond record 0: ";
const ALL_COUNTED: &[(&str, u64)] = &[];
const ONE_COUNTED: Verdict = Verdict::Counted {
    rows_read: 1,
    rejected: Vec::new(),
    groups: None,
};

/// The table.
fn cases() -> Vec<Case> {
    let good = and("");
    let many = lines(5_000, |_| ROW.to_owned());
    let packed = gzip(&many);
    let frames = zstandard(&many);
    let text = String::from_utf8(good.clone()).expect("text");
    vec![
        // Encodings.
        refused("UTF-16, little end first", utf16(&format!("\u{feff}{text}"), u16::to_le_bytes), "is in UTF-16 or UTF-32: convert it"),
        refused("UTF-16, big end first", utf16(&format!("\u{feff}{text}"), u16::to_be_bytes), "is in UTF-16 or UTF-32: convert it"),
        refused("UTF-16 without a mark", utf16(&text, u16::to_le_bytes), "did you mean c\\u{0}o\\u{0}u"),
        refused("UTF-32", [b"\xff\xfe\0\0".as_slice(), &good].concat(), "is in UTF-16 or UTF-32: convert it"),
        refused("UTF-32, big end first", [b"\0\0\xfe\xff".as_slice(), &good].concat(), "is in UTF-16 or UTF-32: convert it"),
        counted("Latin-1 in a label", and(b"Cura\xe7ao,2020-07-14,positive\n"), 2, &[("invalid_utf8", 1)]),
        counted("bytes that begin no character", and(b"It\xff\xfealy,2020-07-14,positive\n"), 2, &[("invalid_utf8", 1)]),
        counted("a character written too long", and(b"It\xc0\xaf,2020-07-14,positive\n"), 2, &[("invalid_utf8", 1)]),
        counted("half of a surrogate pair", and(b"It\xed\xa0\x80,2020-07-14,positive\n"), 2, &[("invalid_utf8", 1)]),
        counted("a character that is cut short", and(b"It\xe2\x82,2020-07-14,positive\n"), 2, &[("invalid_utf8", 1)]),
        counted("no UTF-8 in a column that nobody needs", b"name,country,test_date,result\nJos\xe9,Italy,2020-07-14,positive\n", 1, ALL_COUNTED),
        counted("no UTF-8 in the name of one", b"nam\xe9,country,test_date,result\nx,Italy,2020-07-14,positive\n", 1, ALL_COUNTED),
        counted("no UTF-8 in a time", and(b"Italy,2020-07-14\xff,positive\n"), 2, &[("invalid_time", 1)]),
        counted("no UTF-8 in a result", and(b"Italy,2020-07-14,positive\xff\n"), 2, &[("unknown_result", 1)]),
        counted("a byte order mark", [b"\xef\xbb\xbf".as_slice(), &good].concat(), 1, ALL_COUNTED),
        counted("one before a quote", [b"\xef\xbb\xbf\"country\",test_date,result\n".as_slice(), ROW.as_bytes()].concat(), 1, ALL_COUNTED),
        refused("two byte order marks", [b"\xef\xbb\xbf\xef\xbb\xbf".as_slice(), &good].concat(), NO_COLUMN),
        refused("a byte order mark and nothing else", b"\xef\xbb\xbf", "is empty: it has not even a header"),
        counted("one in the middle, as of two files in one", and("\u{feff}Italy,2020-07-14,positive\n"), 2, ALL_COUNTED),
        // Line ends.
        counted("CR LF", text.replace('\n', "\r\n"), 1, ALL_COUNTED),
        counted("CR alone", text.replace('\n', "\r"), 1, ALL_COUNTED),
        counted("CR CR LF", text.replace('\n', "\r\r\n"), 1, ALL_COUNTED),
        counted("LF CR", text.replace('\n', "\n\r"), 1, ALL_COUNTED),
        counted("all kinds of line ends", format!("{HEADER}A,2020-07-14,positive\r\nB,2020-07-14,positive\rC,2020-07-14,positive\n"), 3, ALL_COUNTED),
        counted("a last line without an end", text.trim_end(), 1, ALL_COUNTED),
        counted("line ends that only Unicode has", and("A,2020-07-14,positive\u{2028}B,2020-07-14,positive\n"), 2, &[("wrong_field_count", 1)]),
        // Quotes.
        counted("a stray quote in a field", and("It\"aly,2020-07-14,positive\n"), 2, ALL_COUNTED),
        counted("a doubled quote", and("\"It\"\"aly\",2020-07-14,positive\n"), 2, ALL_COUNTED),
        counted("delimiter and line end in quotes", and("\"Bonaire, Saba\nand more\",2020-07-14,positive\n"), 2, ALL_COUNTED),
        counted("text behind a closing quote", and("\"Italy\"x,2020-07-14,positive\n"), 2, ALL_COUNTED),
        counted("empty fields in quotes", and("\"\",\"2020-07-14\",\"\"\n"), 2, &[("missing_result", 1)]),
        counted("a header in quotes", format!("\"country\",\"test_date\",\"result\"\n{ROW}"), 1, ALL_COUNTED),
        counted("other quotes", format!("{HEADER}'a,b',2020-07-14,positive\n"), 1, ALL_COUNTED).with(&["--quote", "'"]),
        refused("a quote that is not closed in the last record", and("\"Italy,2020-07-14,positive\n"), NOT_CLOSED),
        refused("one that would take in all rows behind it", format!("country,test_date,result,note\n{0}Italy,2020-07-14,positive,\"x\n{1}", "Italy,2020-07-14,positive,x\n", "Italy,2020-07-14,positive,x\n".repeat(100)), NOT_CLOSED),
        refused("one that would take in more than 1 MiB", and(format!("\"Italy,2020-07-14,positive\n{}", ROW.repeat(60_000))), TOO_LONG),
        refused("one in the header", format!("country,test_date,\"result\n{ROW}"), "a quote in the record that begins in line 1 is never closed"),
        counted("a quote that is text like any", and("\"Italy,2020-07-14,positive\n"), 2, ALL_COUNTED).with(&["--quote", "none"]),
        // Rows that are ragged, huge or blank.
        counted("a field too few", and("Italy,2020-07-14\n"), 2, &[("wrong_field_count", 1)]),
        counted("a field too many", and("Italy,2020-07-14,positive,x\n"), 2, &[("wrong_field_count", 1)]),
        counted("a delimiter at the end", and("Italy,2020-07-14,positive,\n"), 2, &[("wrong_field_count", 1)]),
        counted("delimiters and nothing else", and(",,\n"), 2, &[("missing_time", 1)]),
        counted("every row of another length", and("x\nx,x\nx,x,x,x\nx,x,x,x,x\n"), 5, &[("wrong_field_count", 4)]),
        counted("a huge field that nobody needs", format!("name,{HEADER}{},{ROW}", "x".repeat(900_000)), 1, ALL_COUNTED),
        counted("a huge row that is none", and("x".repeat(900_000) + "\n"), 2, &[("wrong_field_count", 1)]),
        refused("a record over the bound", and("x".repeat(3_000_000) + ",2020-07-14,positive\n"), TOO_LONG),
        refused("a header over the bound", "c,".repeat(600_000), TOO_LONG),
        counted("100,000 columns", format!("{}{HEADER}{}{ROW}", "c,".repeat(100_000), ",".repeat(100_000)), 1, ALL_COUNTED),
        counted("blank lines", format!("\n\r\n{HEADER}\n\n{ROW}\r\n\n{ROW}\n"), 2, ALL_COUNTED),
        counted("lines of blanks", and("   \n\t\n"), 3, &[("wrong_field_count", 2)]),
        counted("blanks around fields", and(" Italy , 2020-07-14 , positive \nItaly,2020-07-14, positive\n"), 3, &[("invalid_time", 1), ("unknown_result", 1)]),
        // Bytes of nought.
        counted("NUL in a label", and("It\0aly,2020-07-14,positive\n"), 2, ALL_COUNTED),
        counted("NUL in a time", and("Italy,2020-07-14\0,positive\n"), 2, &[("invalid_time", 1)]),
        counted("NUL in a result", and("Italy,2020-07-14,positive\0\n"), 2, &[("unknown_result", 1)]),
        counted("NUL up to the end, as of a disk that was full", and(vec![0; 4_096]), 2, &[("wrong_field_count", 1)]),
        refused("NUL in the header", format!("coun\0try,test_date,result\n{ROW}"), "did you mean coun\\u{0}try?"),
        refused("NUL and nothing else", vec![0; 10_000], NO_COLUMN),
        // Headers.
        refused("an empty file", "", "is empty: it has not even a header"),
        refused("line ends and nothing else", "\n\r\n\n", "is empty: it has not even a header"),
        refused("blanks and nothing else", "   \n  \n", NO_COLUMN),
        refused("a header and nothing else", HEADER, "can be counted: there is none"),
        refused("a header without a line end", HEADER.trim_end(), "can be counted: there is none"),
        refused("no header", ROW.repeat(3), "It has Italy, 2020-07-14T09:00:00, positive"),
        refused("a header of delimiters", format!(",,\n{ROW}"), NO_COLUMN),
        refused("a header in capitals", format!("{}{ROW}", HEADER.to_uppercase()), "did you mean COUNTRY?"),
        refused("blanks in the header", format!("country, test_date, result\n{ROW}"), "--time test_date: "),
        refused("a comment before the header", format!("# exported today\n{text}"), NO_COLUMN),
        refused("a spreadsheet's line before the header", format!("sep=,\n{text}"), NO_COLUMN),
        counted("the header again in the middle", and(format!("{HEADER}{ROW}")), 3, &[("invalid_time", 1)]),
        refused("semicolons", text.replace(',', ";"), "did you mean country;test_date;result?"),
        counted("tabs that are told", text.replace(',', "\t"), 1, ALL_COUNTED).with(&["--delimiter", "tab"]),
        refused("a needed column twice", "country,test_date,result,result\nItaly,2020-07-14,positive,negative\n", "--result result: "),
        counted("another column twice", "country,x,x,test_date,result\nItaly,1,2,2020-07-14,positive\n", 1, ALL_COUNTED),
        refused("no such column", format!("country,test_day,result\n{ROW}"), "did you mean test_day?"),
        refused("a page of a web server", "<html><body>\x1b[2J<h1>404 Not Found</h1></body></html>\n", "<html><body>\\u{1b}[2J"),
        refused("another kind of file", b"\x7fELF\x02\x01\x01\0\0\0\x1b]0;x\x07", NO_COLUMN),
        refused("a zip archive", b"PK\x03\x04\x14\0\0\0\x08\0", NO_COLUMN),
        // Packed files.
        counted("gzip by any name", packed.clone(), 5_000, ALL_COUNTED),
        refused("gzip, cut in the middle", &packed[..packed.len() / 2], CUT_SHORT),
        refused("gzip without its checksum", &packed[..packed.len() - 8], "after 5000 records"),
        refused("gzip, cut in its header", &packed[..7], CUT_SHORT),
        refused("gzip with a wrong checksum", [&packed[..packed.len() - 8], &[0; 8]].concat(), "beyond record 5000: "),
        refused("gzip with text behind it", [&packed, b"and something that is no gzip at all".as_slice()].concat(), "beyond record 5000: invalid gzip header"),
        refused("gzip with zeros behind it", [&packed, [0; 512].as_slice()].concat(), "beyond record 5000: invalid gzip header"),
        counted("gzip of two members, parted within a row", [gzip(&good[..40]), gzip(&good[40..])].concat(), 1, ALL_COUNTED),
        refused("gzip of two members, the second cut", [gzip(&good), gzip(&many)[..40].to_vec()].concat(), CUT_SHORT),
        refused("gzip in gzip", gzip(&packed), "is packed twice"),
        refused("gzip of nothing", gzip(b""), "is empty: it has not even a header"),
        refused("gzip of UTF-16", gzip(b"\xff\xfec\0"), "is in UTF-16 or UTF-32"),
        refused("gzip of one record without end", gzip(&and(vec![b'x'; 50_000_000])), TOO_LONG),
        files("a name like gzip's, and no gzip", |folder| vec![written(folder, "a.csv.gz", &and(""))], ONE_COUNTED),
        counted("Zstandard", frames.clone(), 5_000, ALL_COUNTED),
        refused("Zstandard, cut in the middle", &frames[..frames.len() / 2], CUT_SHORT),
        refused("Zstandard, its first bytes alone", b"\x28\xb5\x2f\xfd", CUT_SHORT),
        refused("Zstandard with a window of 2 GiB", b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", "requires too much memory"),
        refused("Zstandard that says no more than skip", b"\x50\x2a\x4d\x18\x04\0\0\0abcd", "is empty: it has not even a header"),
        refused("Zstandard with text behind it", [&frames, b"and no frame".as_slice()].concat(), "beyond record 5000: "),
        // Parquet.
        counted("Parquet by any name", parquet(), 10, ALL_COUNTED),
        counted("integers for times in a format that is told", parquet(), 10, ALL_COUNTED).with(&["--time", "seconds", "--time-format", "%s"]),
        refused("integers for times", parquet(), "integers only with --time-format").with(&["--time", "seconds"]),
        counted("booleans for results", parquet(), 10, ALL_COUNTED).with(&["--result", "is_positive", "--positive", "true", "--negative", "false"]),
        refused("booleans for results that are not told", parquet(), "10 of 10 rows are rejected (10 unknown_result)").with(&["--result", "is_positive"]),
        refused("Parquet, cut in the middle", parquet_with(|bytes| bytes.truncate(bytes.len() / 2)), NOT_PARQUET),
        refused("Parquet without its last byte", parquet_with(|bytes| bytes.truncate(bytes.len() - 1)), NOT_PARQUET),
        refused("Parquet, its first bytes alone", b"PAR1", NOT_PARQUET),
        refused("Parquet, its first and last bytes alone", b"PAR1PAR1", NOT_PARQUET),
        refused("Parquet with other last bytes", parquet_with(|bytes| bytes.splice(bytes.len() - 1.., *b"2").for_each(drop)), NOT_PARQUET),
        refused("Parquet with a footer of 4 GiB", parquet_with(|bytes| bytes.splice(bytes.len() - 8..bytes.len() - 4, [0xff; 4]).for_each(drop)), NOT_PARQUET),
        refused("Parquet with a footer of nothing", parquet_with(|bytes| bytes.splice(bytes.len() - 8..bytes.len() - 4, [0; 4]).for_each(drop)), NOT_PARQUET),
        refused("Parquet with pages that are none", parquet_with(|bytes| bytes[4..100].fill(0xff)), NOT_PARQUET),
        refused("Parquet in gzip", gzip(&parquet()), "is read from plain files only"),
        refused("Parquet without a needed column", parquet(), "--by city: ").with(&["--by", "city"]),
        files("lists for labels", every_type, Verdict::Refused("has this column as list")).with(&["--by", "label_list", "--time", "time_text", "--result", "result_text"]),
        files("structs for labels", every_type, Verdict::Refused("has this column as struct")).with(&["--by", "label_struct", "--time", "time_text", "--result", "result_text"]),
        files("decimals for labels", every_type, Verdict::Refused("has this column as decimal")).with(&["--by", "label_decimal", "--time", "time_text", "--result", "result_text"]),
        files("floats for times", every_type, Verdict::Refused("has this column as float64")).with(&["--by", "label_text", "--time", "time_float", "--result", "result_text"]),
        // Times.
        times("days that no calendar has", &[("2020-02-30", "-"), ("2019-02-29", "-"), ("1900-02-29", "-"), ("2000-02-29", "2000-02-29T00"), ("2020-00-14", "-"), ("2020-07-00", "-"), ("2020-13-01", "-"), ("2020-04-31", "-")]),
        times("hours and minutes that no clock has", &[("2020-07-14T24:00:00", "-"), ("2020-07-14T24:00", "-"), ("2020-07-14T25:00:00", "-"), ("2020-07-14T12:60:00", "-"), ("2020-07-14T12:00:61", "-")]),
        times("leap seconds, which are counted with the second before", &[("2016-12-31T23:59:60", "2016-12-31T23"), ("2016-12-31T23:59:60Z", "2016-12-31T23"), ("2020-07-14T12:00:60", "2020-07-14T12")]),
        times("the first years", &[("0000-01-01", "0000-01-01T00"), ("0001-01-01T00:00:00Z", "0001-01-01T00"), ("-0001-01-01", "-"), ("-2020-07-14", "-"), ("-000001-01-01T00:00:00Z", "-"), ("0000-01-01T00:00:00+01:00", "-")]),
        times("the last years", &[("9999-12-29T23:59:59", "9999-12-29T23"), ("9999-12-30", "-"), ("9999-12-31", "-"), ("10000-01-01", "-"), ("+010000-01-01T00:00:00Z", "-"), ("2999-01-01", "2999-01-01T00")]),
        times("before 1970", &[("1969-12-31T23:59:59", "1969-12-31T23"), ("1582-10-10", "1582-10-10T00"), ("1800-01-01", "1800-01-01T00")]),
        times("offsets", &[("2020-07-14T09:00:00+02:00", "2020-07-14T07"), ("2020-07-14T09:00:00-11:30", "2020-07-14T20"), ("2020-07-14T09:00:00+0200", "2020-07-14T07"), ("2020-07-14T09:00:00+02", "2020-07-14T07"), ("2020-07-14T01:00:00+05:45", "2020-07-13T19"), ("2020-07-14T09:00:00-00:00", "2020-07-14T09"), ("2020-07-14T09:00:00+26:00", "-"), ("2020-07-14T09:00:00 +02:00", "-"), ("2020-07-14T09:00:00+2", "-"), ("2020-07-14T09:00:00+-02:00", "-")]),
        times("Z", &[("2020-07-14T09:00:00Z", "2020-07-14T09"), ("2020-07-14T09:00:00z", "2020-07-14T09"), ("2020-07-14T09:00Z", "2020-07-14T09"), ("2020-07-14T09Z", "2020-07-14T09"), ("2020-07-14T09:00:00 Z", "-"), ("2020-07-14Z", "-")]),
        times("zones by name, which say nothing without an offset", &[("2020-07-14T09:00:00[Europe/Rome]", "-"), ("2020-07-14T09:00:00 Europe/Rome", "-"), ("2020-07-14T09:00:00 CET", "-"), ("2020-07-14 09:00:00 UTC", "-"), ("2020-07-14T09:00:00+02:00[Europe/Rome]", "2020-07-14T07"), ("2020-07-14T09:00:00+05:00[Nowhere/Land]", "2020-07-14T04"), ("2020-07-14T09:00:00[+02:00]", "-")]),
        times("fractions of a second, which are cut off", &[("2020-07-14T09:59:59.999", "2020-07-14T09"), ("2020-07-14T09:00:00,5", "2020-07-14T09"), ("1969-12-31T23:59:59.999999999", "1969-12-31T23"), ("2020-07-14T09:00:00.1234567891", "-"), ("2020-07-14T09:00:00.", "-"), ("2020-07-14T09:00.5", "-"), ("2020-07-14T09.5", "-")]),
        times("weeks and days of the year", &[("2020-W29-2", "-"), ("2020-W29", "-"), ("2020W292", "-"), ("2020-196", "-"), ("2020196", "-")]),
        times("numbers", &[("1594717200", "-"), ("1594717200.5", "-"), ("1594717200000", "-"), ("-1", "-"), ("0", "-"), ("44026", "-"), ("44026.375", "-"), ("20200714", "2020-07-14T00"), ("20200714T090000Z", "2020-07-14T09"), ("20200714090000", "-")]),
        times("the order of others", &[("07/14/2020", "-"), ("7/14/2020 9:00 AM", "-"), ("14/07/2020", "-"), ("2020/07/14", "-"), ("14.07.2020", "-"), ("2020-14-07", "-"), ("20-07-14", "-")]),
        times("words", &[("yesterday", "-"), ("July 14, 2020", "-"), ("Tue, 14 Jul 2020 09:00:00 +0000", "-"), ("null", "-"), ("NaN", "-"), ("None", "-"), ("-", "-")]),
        times("a digit too few, a blank too many", &[("2020-7-14", "-"), ("2020-07-14T9:00:00", "-"), ("2020-07", "-"), ("2020", "-"), ("2020-07-14T", "-"), ("2020-07-14T09", "2020-07-14T09"), ("2020-07-14 ", "-"), (" 2020-07-14", "-"), ("2020-07-14  09:00:00", "-"), ("2020-07-14\t09:00:00", "-"), ("2020-07-14t09:00:00", "2020-07-14T09")]),
        times("digits and dashes that look alike", &[("２０２０-07-14", "-"), ("2020‐07‐14", "-"), ("2020−07−14", "-"), ("٢٠٢٠-07-14", "-")]),
        times("calendars of others", &[("2020-07-14[u-ca=hebrew]", "2020-07-14T00"), ("2020-07-14T09:00:00Z[!u-ca=hebrew]", "-"), ("2020-07-14[", "-"), ("2020-07-14T09:00:00[", "-")]),
        counted("a time without end", and(format!("Italy,2020-07-14T09:00:00.{},positive\nItaly,{},positive\n", "0".repeat(9_000), "9".repeat(500_000))), 3, &[("invalid_time", 2)]),
        counted("seconds since 1970 that are told", format!("{HEADER}Italy,1594717200,positive\nItaly,-1,positive\nItaly,99999999999999999999,positive\nItaly,,positive\n"), 4, &[("invalid_time", 1), ("missing_time", 1)]).with(&["--time-format", "%s"]),
        // Labels.
        counted("100,000 labels", lines(100_000, |row| format!("L{row},2020-07-14,positive\n")), 100_000, ALL_COUNTED),
        counted("one label for all rows", lines(100_000, |_| ROW.to_owned()), 100_000, ALL_COUNTED),
        counted("empty labels", lines(3, |_| ",2020-07-14,positive\n".to_owned()), 3, ALL_COUNTED),
        counted("labels that steer a terminal or a page", and("\"a\nb\",2020-07-14,positive\n\"a\r\nb\",2020-07-14,positive\n\"\t\x1b[31m\x07\x7f\u{202e}\",2020-07-14,positive\n</script><script>alert(1)</script>,2020-07-14,positive\n=cmd|' /C calc'!A0,2020-07-14,positive\n"), 6, ALL_COUNTED),
        counted("the same label to the eye, and not by its bytes", and("Cura\u{e7}ao,2020-07-14,positive\nCurac\u{327}ao,2020-07-14,positive\n"), 3, ALL_COUNTED),
        counted("a label of 32 KiB, and one of a byte more", and(format!("{0},2020-07-14,positive\n{0}x,2020-07-14,positive\n", "x".repeat(32 * 1024))), 3, &[("label_too_long", 1)]),
        // Results.
        counted("results of other spellings", and(["Positive", "POSITIVE", " positive", "positive ", "pos", "1", "true", "+", "p\u{43e}sitive", "positive\u{200b}"].map(|result| format!("Italy,2020-07-14,{result}\n")).concat()), 11, &[("unknown_result", 10)]),
        counted("results that are told", and("Italy,2020-07-14,Yes\nItaly,2020-07-14,No\nItaly,2020-07-14,yes\n"), 4, &[("unknown_result", 2)]).with(&["--positive", "Yes", "--negative", "No"]),
        counted("no result", and("Italy,2020-07-14,\n"), 2, &[("missing_result", 1)]),
        refused("no row that can be counted", lines(3, |_| "Italy,x,positive\n".to_owned()), "3 of 3 rows are rejected (3 invalid_time)"),
        // Files.
        files("a folder", |folder| vec![folder.to_owned()], Verdict::Refused("is a directory")),
        files("no file", |folder| vec![folder.join("none.csv")], Verdict::Refused("No such file or directory")),
        files("a file that cannot be read", |_| vec![PathBuf::from("/proc/self/mem")], Verdict::Refused("cannot read /proc/self/mem beyond record 0")),
        files("a file in a file", |folder| vec![written(folder, "a.csv", b"").join("b.csv")], Verdict::Refused("Not a directory")),
        files("a link to itself", |folder| {
            symlink("loop.csv", folder.join("loop.csv")).expect("a link");
            vec![folder.join("loop.csv")]
        }, Verdict::Refused("cannot open ")),
        files("a link to nothing", |folder| {
            symlink("none.csv", folder.join("link.csv")).expect("a link");
            vec![folder.join("link.csv")]
        }, Verdict::Refused("No such file or directory")),
        files("a file twice", |folder| {
            let path = written(folder, "a.csv", &and(""));
            vec![path.clone(), path]
        }, Verdict::Refused("is named twice")),
        files("a file and a link to it", |folder| {
            let path = written(folder, "a.csv", &and(""));
            fs::hard_link(&path, folder.join("b.csv")).expect("a link");
            vec![folder.join("*.csv")]
        }, Verdict::Refused("is named twice")),
        files("a pattern that matches nothing", |folder| vec![folder.join("*.csv")], Verdict::Refused("no file has such a name")),
        files("a pattern that is none", |folder| vec![folder.join("[.csv")], Verdict::Refused("is no pattern of file names")),
        files("a device without bytes", |_| vec![PathBuf::from("/dev/null")], Verdict::Refused("is empty: it has not even a header")),
        files("a device without end", |_| vec![PathBuf::from("/dev/zero")], Verdict::Refused(TOO_LONG)),
        files("a pipe with a name", |folder| {
            let path = folder.join("pipe");
            let made = Command::new("mkfifo").arg(&path).status();
            assert!(made.expect("mkfifo can be started").success());
            // Opening it waits for whoever reads.
            let to = path.clone();
            thread::spawn(move || fs::write(to, and("")));
            vec![path]
        }, ONE_COUNTED),
        files("a good file and one that is none", |folder| vec![written(folder, "a.csv", &and("")), written(folder, "b.csv", b"PAR1")], Verdict::Refused(NOT_PARQUET)),
    ]
}

impl Case {
    /// Runs it by an engine, and returns where the report is.
    fn run(&self, folder: &Path, engine: &[&str]) -> (Finished, PathBuf) {
        fs::create_dir(folder).expect("a folder");
        let (data, out) = (folder.join("data"), folder.join("out"));
        fs::create_dir(&data).expect("a folder");
        let paths = match &self.data {
            Data::Bytes(bytes) => vec![written(&data, "a.csv", bytes)],
            Data::Files(files) => files(&data),
        };
        let mut command = rollcall();
        command.args(["run", "--quiet", "--outputs", "csv", "--out"]);
        command.arg(&out).args(engine).args(&self.options);
        command.args(paths);
        let mut running = Running::start(command, folder, "run");
        let code = running.wait().code();
        let said = running.said();
        let finished = Finished {
            code,
            stdout: String::new(),
            stderr: said,
        };
        (finished, out)
    }

    fn check(&self, folder: &Path) {
        let name = self.name;
        let (local, out) = self.run(&folder.join("local"), &["--engine", "local"]);
        let said = &local.stderr;
        assert!(!said.contains("panicked"), "{name}: {said}");
        // A signal leaves no code.
        let code = local
            .code
            .unwrap_or_else(|| panic!("{name}: killed: {said}"));
        match &self.verdict {
            Verdict::Refused(says) => {
                assert_eq!(code, 2, "{name}: {said}");
                assert!(
                    said.starts_with("error: ") && said.contains(says),
                    "{name}: {said}"
                );
                assert_eq!(said.lines().count(), 1, "{name}: {said}");
                let line = said.trim_end();
                let steers = line.contains(char::is_control);
                assert!(!steers && line.len() < 4_000, "{name}: {said:?}");
                assert!(!out.join("report.json").exists(), "{name}");
            }
            Verdict::Counted {
                rows_read,
                rejected,
                groups,
            } => {
                assert_eq!((code, said.as_str()), (0, ""), "{name}");
                let reference = report(&out);
                let manifest = &reference["manifest"];
                let by_reason: serde_json::Map<_, _> = rejected
                    .iter()
                    .map(|&(reason, rows)| (reason.to_owned(), rows.into()))
                    .collect();
                let rows_rejected: u64 = rejected.iter().map(|(_, rows)| rows).sum();
                assert_eq!(manifest["rows_read"], *rows_read, "{name}");
                assert_eq!(
                    manifest["rejected"],
                    serde_json::Value::Object(by_reason),
                    "{name}"
                );
                assert_eq!(manifest["rows_rejected"], rows_rejected, "{name}");
                assert_eq!(
                    manifest["rows_accepted"],
                    rows_read - rows_rejected,
                    "{name}"
                );
                if let Some(groups) = groups {
                    assert_eq!(hours_by_label(&out), *groups, "{name}");
                }
                let (kafka, out) = self.run(&folder.join("kafka"), &["--workers", "1"]);
                assert_eq!((kafka.code, kafka.stderr.as_str()), (Some(0), ""), "{name}");
                let kafka = report(&out);
                assert_reconciled(&kafka);
                assert_same(&kafka, &reference);
            }
        }
    }
}

/// The hour of each label of a series in which each has one.
fn hours_by_label(out: &Path) -> BTreeMap<String, String> {
    let mut reader = csv::Reader::from_path(out.join("series.csv")).expect("a series");
    let records = reader.records().map(|record| record.expect("a record"));
    records
        .map(|record| {
            let hour = record[1].strip_suffix(":00:00").expect("a full hour");
            (record[0].to_owned(), hour.to_owned())
        })
        .collect()
}

#[test]
fn every_broken_data_set_comes_to_its_verdict() {
    /// Starting a run is mostly waiting.
    const THREADS: usize = 6;
    let cases = cases();
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let folder = folder();
    let left = Mutex::new(cases.iter().enumerate().collect::<VecDeque<_>>());
    let next = || left.lock().expect("nobody panics with it").pop_front();
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((number, case)) = next() {
                    let own = folder.path().join(number.to_string());
                    fs::create_dir(&own).expect("a folder");
                    let check = std::panic::AssertUnwindSafe(|| case.check(&own));
                    // All are looked at, so that a failure tells all that it has changed.
                    if std::panic::catch_unwind(check).is_err() {
                        failed
                            .lock()
                            .expect("nobody panics with it")
                            .push(case.name);
                    }
                    fs::remove_dir_all(&own).expect("it can be removed");
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        cases.len()
    );
}

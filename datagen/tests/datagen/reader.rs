//! The reader that decides which rows are good. It applies the rules of the file's format and
//! nothing else, and it reads quotes in two ways, because readers differ in that.

use jiff::civil::{Date, DateTime};

/// A good row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub country: String,
    pub born: Date,
    pub tested: DateTime,
    pub positive: bool,
}

/// Every record after the header, `None` where it breaks a rule.
pub fn read(bytes: &[u8]) -> Vec<Option<Row>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(bytes);
    let header: Vec<Vec<u8>> = fields(reader.byte_headers().unwrap());
    let records: Vec<Option<Row>> = reader
        .byte_records()
        .map(|record| row(&header, &fields(&record.unwrap())))
        .collect();
    let lines: Vec<Option<Row>> = lines(bytes)
        .skip(1)
        .map(|line| row(&header, &split(line)))
        .collect();
    assert!(records == lines, "two ways to read quotes, two results");
    records
}

/// The lines without their ends; the last one has an end, too.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .strip_suffix(b"\n")
        .unwrap()
        .split(|&byte| byte == b'\n')
}

fn fields(record: &csv::ByteRecord) -> Vec<Vec<u8>> {
    record.iter().map(<[u8]>::to_vec).collect()
}

/// Splits at every comma that has an even number of quotes before it.
fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let mut quoted = false;
    let mut fields = vec![Vec::new()];
    for &byte in line {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => fields.push(Vec::new()),
            _ => fields.last_mut().unwrap().push(byte),
        }
    }
    assert!(!quoted, "a quote stays open over the end of the line");
    fields
}

fn row(header: &[Vec<u8>], fields: &[Vec<u8>]) -> Option<Row> {
    if fields.len() != header.len() {
        return None;
    }
    let text = |name: &str| {
        let position = header.iter().position(|field| field == name.as_bytes());
        std::str::from_utf8(&fields[position.unwrap()]).ok()
    };
    Some(Row {
        name: text("patient_name")?.to_owned(),
        country: text("country")?.to_owned(),
        born: Date::strptime("%Y-%m-%d", text("birth_date")?).ok()?,
        tested: DateTime::strptime("%Y-%m-%dT%H:%M:%S", text("test_date")?).ok()?,
        positive: match text("result")? {
            "positive" => true,
            "negative" => false,
            _ => return None,
        },
    })
}

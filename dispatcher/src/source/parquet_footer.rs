//! The footer of a Parquet file, read in bounded memory and written anew for polars. polars allocates
//! memory for the row groups, columns and keys that a footer claims to have, before it checks that they
//! exist; an allocation that fails aborts the process, which cannot be caught.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use polars_parquet_format::FileMetaData;
use polars_parquet_format::thrift::protocol::{
    TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol, TType,
};
use polars_parquet_format::thrift::{self, ProtocolError, ProtocolErrorKind};

/// The first and the last bytes of a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// The number of bytes after a footer: its length and the magic bytes.
const END_BYTES: usize = 8;

/// The most bytes of a footer. For 6 columns a footer has about 600 bytes for each row group.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The memory for each byte of a footer, as the format's own crate counts it: 8 for an item of a list,
/// 1 for a byte of text, 2 for a struct. Footers of usual writers need less than 2 for each byte. An
/// item may be a struct of half a kilobyte, so the largest footer can allocate a gigabyte at most.
const MEMORY_PER_BYTE: usize = 3;

/// The memory for a footer in addition to that for its bytes.
const MEMORY: usize = 4 * 1024;

/// A Parquet file without rows that has the footer of `file`, except the fields that are not needed:
/// writer, orders of columns, encryption.
///
/// # Errors
/// When the file cannot be read, or its footer is missing or damaged.
pub fn rewritten(file: &File) -> io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len();
    let end = bytes.checked_sub(END_BYTES as u64);
    let end = end.ok_or_else(|| damaged("it is too short"))?;
    let mut last = [0; END_BYTES];
    file.read_exact_at(&mut last, end)?;
    let [a, b, c, d, magic @ ..] = last;
    if magic != *MAGIC {
        return Err(damaged("it does not end with PAR1"));
    }
    let length = u32::from_le_bytes([a, b, c, d]);
    let start = end.checked_sub(u64::from(length));
    let start = start.ok_or_else(|| damaged("its footer is longer than the file"))?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_BYTES {
        return Err(damaged(&format!(
            "its footer has {length} bytes, more than {MAX_BYTES}: write larger row groups"
        )));
    }
    let mut footer = vec![0; length];
    file.read_exact_at(&mut footer, start)?;
    rewrite(&footer).map_err(|error| damaged(&format!("its footer: {error}")))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A file of this footer alone.
fn rewrite(footer: &[u8]) -> thrift::Result<Vec<u8>> {
    let footer = read(footer)?;
    let mut file = MAGIC.to_vec();
    footer.write_to_out_protocol(&mut TCompactOutputProtocol::new(&mut file))?;
    let length = u32::try_from(file.len() - MAGIC.len())?;
    file.extend(length.to_le_bytes());
    file.extend(MAGIC);
    Ok(file)
}

/// Decodes a footer in bounded memory, without the fields that are not needed.
fn read(footer: &[u8]) -> thrift::Result<FileMetaData> {
    let most = MEMORY + MEMORY_PER_BYTE * footer.len();
    let mut protocol = TCompactInputProtocol::new(footer, most);
    let (mut version, mut schema, mut num_rows, mut row_groups) = (None, None, None, None);
    let mut key_value_metadata = None;
    protocol.read_struct_begin()?;
    loop {
        let field = protocol.read_field_begin()?;
        match (field.field_type, field.id) {
            (TType::Stop, _) => break,
            (_, Some(1)) => version = Some(protocol.read_i32()?),
            (_, Some(2)) => schema = Some(protocol.read_list()?),
            (_, Some(3)) => num_rows = Some(protocol.read_i64()?),
            (_, Some(4)) => row_groups = Some(protocol.read_list()?),
            (_, Some(5)) => key_value_metadata = Some(protocol.read_list()?),
            (other, _) => protocol.skip(other)?,
        }
        protocol.read_field_end()?;
    }
    protocol.read_struct_end()?;
    Ok(FileMetaData {
        version: version.ok_or_else(|| missing("version"))?,
        schema: schema.ok_or_else(|| missing("schema"))?,
        num_rows: num_rows.ok_or_else(|| missing("number of rows"))?,
        row_groups: row_groups.ok_or_else(|| missing("row groups"))?,
        key_value_metadata,
        created_by: None,
        column_orders: None,
        encryption_algorithm: None,
        footer_signing_key_metadata: None,
    })
}

fn missing(what: &str) -> thrift::Error {
    thrift::Error::Protocol(ProtocolError {
        kind: ProtocolErrorKind::InvalidData,
        message: format!("its {what} is missing"),
    })
}

#[cfg(test)]
mod tests {
    use polars_parquet_format::{KeyValue, SchemaElement};

    use super::*;

    fn footer() -> FileMetaData {
        FileMetaData {
            version: 2,
            schema: vec![SchemaElement::new(
                None,
                None,
                None,
                "schema".to_owned(),
                0,
                None,
                None,
                None,
                None,
                None,
            )],
            num_rows: 0,
            row_groups: Vec::new(),
            key_value_metadata: Some(vec![KeyValue::new("key".to_owned(), None)]),
            created_by: None,
            column_orders: None,
            encryption_algorithm: None,
            footer_signing_key_metadata: None,
        }
    }

    fn written(footer: &FileMetaData) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut protocol = TCompactOutputProtocol::new(&mut bytes);
        let written = footer.write_to_out_protocol(&mut protocol);
        written.expect("in memory");
        bytes
    }

    #[test]
    fn a_footer_is_read_without_the_fields_that_are_not_needed() {
        let mut other = footer();
        other.created_by = Some("somebody".to_owned());
        assert_eq!(read(&written(&other)).expect("whole"), footer());
    }

    #[test]
    fn a_list_that_claims_to_be_longer_than_the_footer_is_an_error_without_an_allocation() {
        // A version, and the header of a list of 2,147,483,647 structs for each field that is one.
        for field in [2, 4, 5] {
            let header = (field - 1) << 4 | 9;
            let footer = [0x15, 4, header, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0];
            let error = read(&footer).expect_err("the items are missing");
            assert!(
                matches!(&error, thrift::Error::Protocol(error) if error.kind == ProtocolErrorKind::SizeLimit),
                "{error}"
            );
        }
    }

    #[test]
    fn a_footer_truncated_anywhere_is_an_error() {
        let whole = written(&footer());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}

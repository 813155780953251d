//! Checks of the sizes that a Parquet file claims for itself, before polars allocates memory for them.
//! A wrong size would not be an error in polars: an allocation that fails aborts the process, which
//! cannot be caught.
//!
//! Sizes that may be correct although they need few bytes are limited: a page to what its codec can
//! compress, and a row group, all of whose rows may be one run, to as many rows as usual writers make.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use polars::prelude::{PolarsResult, polars_ensure, polars_err};
use polars_parquet::parquet::compression::Compression;
use polars_parquet::parquet::metadata::{ColumnChunkMetadata, RowGroupMetadata};
use polars_parquet_format::thrift::protocol::TCompactInputProtocol;
use polars_parquet_format::{PageHeader, PageType};

/// The most rows of a row group. Arrow's writers make 1,048,576 by default (67,108,864 in old
/// versions), DuckDB's 122,880, writers with a limit of bytes some millions.
pub const MAX_ROWS_IN_GROUP: usize = 64 * 1024 * 1024;

/// The most bytes of a decompressed page. Writers end a page after about one MiB.
const MAX_PAGE_BYTES: u64 = 256 * 1024 * 1024;

/// The limit for a page that is so short that the ratio of its codec would give less.
const MAX_SHORT_PAGE_BYTES: u64 = 64 * 1024;

/// Checks columns of a row group by name; none of them is nested. `bytes` is the length of the file.
///
/// # Errors
/// When numbers of rows, values or bytes contradict each other, or exceed a limit.
pub fn check<'n>(
    file: &File,
    bytes: u64,
    group: &RowGroupMetadata,
    names: impl Iterator<Item = &'n str>,
) -> PolarsResult<()> {
    polars_ensure!(
        group.num_rows() <= MAX_ROWS_IN_GROUP,
        ComputeError: "a row group has {} rows, more than {MAX_ROWS_IN_GROUP}: write smaller ones",
        group.num_rows()
    );
    for name in names {
        let mut chunks = group.columns_under_root_iter(name).into_iter().flatten();
        let chunk = chunks
            .next()
            .ok_or_else(|| polars_err!(ComputeError: "a row group has no column {name}"))?;
        polars_ensure!(
            i64::try_from(group.num_rows()) == Ok(chunk.num_values()),
            ComputeError: "column {name} has {} values in {} rows",
            chunk.num_values(),
            group.num_rows()
        );
        check_pages(file, bytes, chunk, name)?;
    }
    Ok(())
}

/// Checks the pages of a column by their headers.
fn check_pages(
    file: &File,
    bytes: u64,
    chunk: &ColumnChunkMetadata,
    name: &str,
) -> PolarsResult<()> {
    let range = chunk.byte_range();
    polars_ensure!(
        range.start <= range.end && range.end <= bytes,
        ComputeError: "column {name} ends beyond the file"
    );
    let mut packed = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut packed, range.start)?;
    let expected = u64::try_from(chunk.num_values()).unwrap_or(0);
    // The decompressed size of all pages of the column together.
    let unpacked = u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
    let end = packed.len() as u64;
    let mut values = 0u64;
    let mut rest = Cursor::new(packed);
    // A column without values may still have a dictionary.
    while rest.position() < end && (values < expected || rest.position() == 0) {
        let page = read_page(&mut rest, name)?;
        polars_ensure!(
            page.packed_bytes <= end - rest.position(),
            ComputeError: "a page of column {name} ends beyond the column"
        );
        rest.set_position(rest.position() + page.packed_bytes);
        polars_ensure!(
            page.bytes <= most_unpacked(chunk.compression(), page.packed_bytes),
            ComputeError: "a page of column {name} claims that its {} bytes unpack to {}",
            page.packed_bytes,
            page.bytes
        );
        match page.is_dictionary {
            // It may have values that no row uses, but each value takes at least one byte.
            true => polars_ensure!(
                page.values <= page.bytes,
                ComputeError: "the dictionary of column {name} is larger than its page"
            ),
            false => {
                values = values.saturating_add(page.values);
                polars_ensure!(
                    values <= expected && page.bytes <= unpacked,
                    ComputeError: "a page of column {name} is larger than the column"
                );
            }
        }
    }
    polars_ensure!(
        values == expected,
        ComputeError: "the pages of column {name} have {values} values, not {expected}"
    );
    Ok(())
}

/// The sizes in the header of a page.
struct PageSizes {
    is_dictionary: bool,
    values: u64,
    /// The size in the file.
    packed_bytes: u64,
    /// The decompressed size.
    bytes: u64,
}

/// Reads the header of the page that begins at the position of `rest`, which is then after the header.
fn read_page(rest: &mut Cursor<Vec<u8>>, name: &str) -> PolarsResult<PageSizes> {
    let damaged = || polars_err!(ComputeError: "column {name} has a damaged page header");
    // No text in the header can be longer than the column.
    let most = rest.get_ref().len();
    let mut protocol = TCompactInputProtocol::new(&mut *rest, most);
    let header = PageHeader::read_from_in_protocol(&mut protocol).map_err(|_| damaged())?;
    let is_dictionary = header.type_ == PageType::DICTIONARY_PAGE;
    let values = match (
        &header.data_page_header,
        &header.data_page_header_v2,
        &header.dictionary_page_header,
    ) {
        (_, _, Some(dictionary)) if is_dictionary => dictionary.num_values,
        (Some(page), ..) if header.type_ == PageType::DATA_PAGE => page.num_values,
        (_, Some(page), _) if header.type_ == PageType::DATA_PAGE_V2 => page.num_values,
        // Also for index pages, which no writer makes and polars does not read.
        _ => return Err(damaged()),
    };
    let size = |number: i32| u64::try_from(number).map_err(|_| damaged());
    Ok(PageSizes {
        is_dictionary,
        values: size(values)?,
        packed_bytes: size(header.compressed_page_size)?,
        bytes: size(header.uncompressed_page_size)?,
    })
}

/// The most bytes to which `packed_bytes` can be decompressed, by the format of the codec.
fn most_unpacked(codec: Compression, packed_bytes: u64) -> u64 {
    let ratio = match codec {
        Compression::Uncompressed => return packed_bytes,
        // Three bytes can copy 64.
        Compression::Snappy => 22,
        // Two codes of one bit each can copy 258 bytes (RFC 1951).
        Compression::Gzip => 1_032,
        // Each further byte extends a match by 255.
        Compression::Lz4 | Compression::Lz4Raw => 255,
        // Four bytes can be a block of 128 KiB (RFC 8878).
        Compression::Zstd => 32_768,
        // One command can copy 16 MiB (RFC 7932).
        Compression::Brotli | Compression::Lzo => u64::MAX,
    };
    packed_bytes
        .saturating_mul(ratio)
        .clamp(MAX_SHORT_PAGE_BYTES, MAX_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use pipeline::Grain;
    use polars_parquet_format::thrift::protocol::TCompactOutputProtocol;
    use polars_parquet_format::{
        ColumnChunk, ColumnMetaData, CompressionCodec, DataPageHeader, DictionaryPageHeader,
        Encoding, FieldRepetitionType, FileMetaData, RowGroup, SchemaElement, Type,
    };
    use service::{Progress, Shutdown};

    use super::*;
    use crate::columns::tests::{result, selected};
    use crate::error::Error;
    use crate::input::Input;
    use crate::rejects::Rejects;
    use crate::source::{DataSet, Source};
    use crate::spill::Spill;

    /// The sizes that a file claims, all of whose rows are the same.
    #[derive(Clone, Copy)]
    struct Claims {
        rows: i64,
        groups: usize,
        dictionary_values: i32,
        dictionary_bytes: Option<i32>,
        codec: CompressionCodec,
    }

    const TRUE_CLAIMS: Claims = Claims {
        rows: 100,
        groups: 1,
        dictionary_values: 1,
        dictionary_bytes: None,
        codec: CompressionCodec::UNCOMPRESSED,
    };

    fn page(
        file: &mut Vec<u8>,
        body: &[u8],
        unpacked: Option<i32>,
        dictionary: Option<i32>,
        rows: i64,
    ) {
        let data = DataPageHeader {
            num_values: i32::try_from(rows).unwrap_or(i32::MAX),
            encoding: Encoding::RLE_DICTIONARY,
            definition_level_encoding: Encoding::RLE,
            repetition_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let header = PageHeader {
            type_: match dictionary {
                Some(_) => PageType::DICTIONARY_PAGE,
                None => PageType::DATA_PAGE,
            },
            uncompressed_page_size: unpacked.unwrap_or(body.len() as i32),
            compressed_page_size: body.len() as i32,
            crc: None,
            data_page_header: dictionary.is_none().then_some(data),
            index_page_header: None,
            dictionary_page_header: dictionary.map(|num_values| DictionaryPageHeader {
                num_values,
                encoding: Encoding::PLAIN,
                is_sorted: None,
            }),
            data_page_header_v2: None,
        };
        let mut protocol = TCompactOutputProtocol::new(&mut *file);
        header
            .write_to_out_protocol(&mut protocol)
            .expect("in memory");
        file.extend_from_slice(body);
    }

    /// A file of three text columns with one value each: a dictionary, and one run of it.
    fn file(claims: Claims) -> Vec<u8> {
        let element = |name: &str, type_, num_children: Option<i32>| SchemaElement {
            type_,
            type_length: None,
            repetition_type: num_children
                .is_none()
                .then_some(FieldRepetitionType::REQUIRED),
            name: name.to_owned(),
            num_children,
            converted_type: None,
            scale: None,
            precision: None,
            field_id: None,
            logical_type: None,
        };
        let columns = [
            ("country", "Italy"),
            ("test_date", "2020-07-14"),
            ("result", "yes"),
        ];
        let mut file = b"PAR1".to_vec();
        let mut schema = vec![element("schema", None, Some(3))];
        let mut chunks = Vec::new();
        for (name, value) in columns {
            schema.push(element(name, Some(Type::BYTE_ARRAY), None));
            let start = file.len();
            let mut dictionary = (value.len() as u32).to_le_bytes().to_vec();
            dictionary.extend_from_slice(value.as_bytes());
            let values = Some(claims.dictionary_values);
            page(&mut file, &dictionary, claims.dictionary_bytes, values, 0);
            let data_start = file.len();
            // A width of one bit, and a run of all rows with their common index.
            let mut run = vec![1];
            let mut length = (claims.rows as u64) << 1;
            while length > 0x7f {
                run.push(length as u8 | 0x80);
                length >>= 7;
            }
            run.extend([length as u8, 0]);
            page(&mut file, &run, None, None, claims.rows);
            let bytes = (file.len() - start) as i64;
            chunks.push(ColumnChunk {
                file_path: None,
                file_offset: start as i64,
                meta_data: Some(ColumnMetaData {
                    type_: Type::BYTE_ARRAY,
                    encodings: vec![Encoding::RLE_DICTIONARY],
                    path_in_schema: vec![name.to_owned()],
                    codec: claims.codec,
                    num_values: claims.rows,
                    total_uncompressed_size: bytes,
                    total_compressed_size: bytes,
                    key_value_metadata: None,
                    data_page_offset: data_start as i64,
                    index_page_offset: None,
                    dictionary_page_offset: Some(start as i64),
                    statistics: None,
                    size_statistics: None,
                    encoding_stats: None,
                    bloom_filter_offset: None,
                    bloom_filter_length: None,
                }),
                offset_index_offset: None,
                offset_index_length: None,
                column_index_offset: None,
                column_index_length: None,
                crypto_metadata: None,
                encrypted_column_metadata: None,
            });
        }
        let group = RowGroup {
            columns: chunks,
            total_byte_size: file.len() as i64,
            num_rows: claims.rows,
            sorting_columns: None,
            file_offset: None,
            total_compressed_size: None,
            ordinal: None,
        };
        let footer = FileMetaData {
            version: 1,
            schema,
            num_rows: claims.rows * claims.groups as i64,
            row_groups: vec![group; claims.groups],
            key_value_metadata: None,
            created_by: None,
            column_orders: None,
            encryption_algorithm: None,
            footer_signing_key_metadata: None,
        };
        let start = file.len();
        let mut protocol = TCompactOutputProtocol::new(&mut file);
        footer
            .write_to_out_protocol(&mut protocol)
            .expect("in memory");
        let length = (file.len() - start) as u32;
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(b"PAR1");
        file
    }

    fn read(claims: Claims) -> Result<DataSet, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, file(claims)).expect("it can be written");
        let selected = selected(&["country"], result());
        let rejects = Rejects::new(&folder.path().join("rejects.csv"), None);
        let spill = Spill::new(folder.path(), Grain::Hour, u64::MAX);
        let (input, progress) = (Input::of(&path), Progress::new());
        Source::open(
            &input,
            selected.as_selection(),
            &progress.read,
            &Shutdown::new(),
        )?
        .read(rejects, spill, &Shutdown::new())
    }

    #[track_caller]
    fn refused(claims: Claims) -> String {
        read(claims).expect_err("it claims too much").to_string()
    }

    #[test]
    fn many_rows_in_few_bytes_are_read_in_several_parts() {
        let rows = crate::source::parquet_file::ROWS_AT_ONCE as i64 + 3;
        let data_set = read(Claims {
            rows,
            groups: 2,
            ..TRUE_CLAIMS
        })
        .expect("it is read");
        assert_eq!(data_set.rows_read, 2 * rows as u64);
        assert_eq!(data_set.rows.len() as i64, 2 * rows);
        assert_eq!(data_set.rows.label_sets.len(), 1);
    }

    #[test]
    fn a_row_group_of_more_rows_than_the_limit_is_refused() {
        for rows in [
            MAX_ROWS_IN_GROUP as i64 + 1,
            i64::from(i32::MAX),
            i64::MAX,
            -1,
        ] {
            let text = refused(Claims {
                rows,
                ..TRUE_CLAIMS
            });
            assert!(text.starts_with("cannot read "), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        let text = refused(Claims {
            rows: i64::from(i32::MAX),
            ..TRUE_CLAIMS
        });
        assert!(
            text.ends_with("rows, more than 67108864: write smaller ones"),
            "{text}"
        );
    }

    #[test]
    fn a_page_that_claims_more_than_its_codec_can_compress_is_refused() {
        for codec in [
            CompressionCodec::UNCOMPRESSED,
            CompressionCodec::SNAPPY,
            CompressionCodec::GZIP,
            CompressionCodec::LZ4_RAW,
            CompressionCodec::ZSTD,
            CompressionCodec::BROTLI,
        ] {
            for bytes in [i32::MAX, 300 * 1024 * 1024, -1] {
                let text = refused(Claims {
                    codec,
                    dictionary_bytes: Some(bytes),
                    ..TRUE_CLAIMS
                });
                let expected = match bytes {
                    -1 => "a damaged page header",
                    _ => "bytes unpack to",
                };
                assert!(text.contains(expected), "{codec:?}: {text}");
            }
        }
    }

    #[test]
    fn a_dictionary_of_more_values_than_bytes_is_refused() {
        let text = refused(Claims {
            dictionary_values: i32::MAX,
            ..TRUE_CLAIMS
        });
        assert!(text.contains("is larger than its page"), "{text}");
        assert_eq!(read(TRUE_CLAIMS).expect("it is read").rows.len(), 100);
    }
}

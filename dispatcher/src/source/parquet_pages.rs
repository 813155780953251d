//! Holds what a Parquet file says of its own sizes against the file, before polars makes room for
//! it. A length that is not true would not end in an error there: memory that cannot be had aborts
//! the process, which nothing can catch.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use polars::prelude::{PolarsResult, polars_ensure, polars_err};
use polars_parquet::parquet::compression::DecompressionContext;
use polars_parquet::parquet::metadata::{ColumnChunkMetadata, RowGroupMetadata};
use polars_parquet::parquet::page::CompressedPage;
use polars_parquet::read::{Page, PageReader, decompress};

/// Checks the columns of these names in a row group, none of them nested, of a file with so many
/// bytes.
///
/// # Errors
/// When rows, values or bytes are not as many as they are said to be elsewhere.
pub fn check<'n>(
    file: &File,
    bytes: u64,
    group: &RowGroupMetadata,
    names: impl Iterator<Item = &'n str>,
) -> PolarsResult<()> {
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
    // What the pages of a column unpack to, all of them together.
    let unpacked = u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
    let mut values = 0u64;
    for page in PageReader::new(Cursor::new(packed.into()), chunk, Vec::new(), usize::MAX) {
        match page? {
            CompressedPage::Data(page) => {
                values = values.saturating_add(page.num_values() as u64);
                polars_ensure!(
                    // A number below 0 looks like a very large one.
                    values <= expected && page.uncompressed_size() as u64 <= unpacked,
                    ComputeError: "a page of column {name} is larger than the column"
                );
            }
            // It may have values that no row has, but none that takes no byte.
            dictionary => {
                if let Page::Dict(page) = decompress(
                    dictionary,
                    &mut Vec::new(),
                    &mut DecompressionContext::Unset,
                )? {
                    polars_ensure!(
                        page.num_values <= page.buffer.len(),
                        ComputeError: "the dictionary of column {name} is larger than its page"
                    );
                }
            }
        }
    }
    polars_ensure!(
        values == expected,
        ComputeError: "the pages of column {name} have {values} values, not {expected}"
    );
    Ok(())
}

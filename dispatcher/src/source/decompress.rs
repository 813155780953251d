//! The kind of a file, recognised by its first bytes and never by its name, and the decompression of
//! gzip and Zstandard.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// The number of bytes that one system call reads.
pub const READ_BYTES: usize = 256 * 1024;

/// The number of bytes by which the kind of a file is recognised.
const HEAD_BYTES: usize = 4;

/// The kind of a file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, or anything else that is not recognised.
    Text,
    /// Text in UTF-16 or UTF-32, by its byte order mark.
    Utf16,
    /// Apache Parquet.
    Parquet,
    /// Compressed by gzip (RFC 1952).
    Gzip,
    /// Compressed by Zstandard (RFC 8878), possibly with a skippable frame in front.
    Zstandard,
}

impl Kind {
    /// The kind of a file with these first bytes: four, or all of a shorter file.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [b'P', b'A', b'R', b'1', ..] => Self::Parquet,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstandard,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 0, 0xfe, 0xff] => Self::Utf16,
            _ => Self::Text,
        }
    }
}

/// The kind of a file, and a reader that returns the file from its beginning.
///
/// # Errors
/// When reading fails.
pub fn sniff<'r>(
    mut reader: Box<dyn Read + Send + 'r>,
) -> io::Result<(Kind, Box<dyn Read + Send + 'r>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader
        .by_ref()
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    Ok((Kind::of(&head), Box::new(Cursor::new(head).chain(reader))))
}

/// A reader that decompresses a file of this kind; a file that is not compressed is returned unchanged.
/// Several members or frames in sequence are one file. Reading a truncated file fails with
/// [`io::ErrorKind::UnexpectedEof`].
///
/// # Errors
/// When the decoder cannot be created.
pub fn unpack<'r>(
    kind: Kind,
    packed: Box<dyn Read + Send + 'r>,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    let buffered = |packed| BufReader::with_capacity(READ_BYTES, packed);
    Ok(match kind {
        Kind::Gzip => Box::new(MultiGzDecoder::new(buffered(packed))),
        Kind::Zstandard => Box::new(zstd::stream::read::Decoder::with_buffer(buffered(packed))?),
        Kind::Text | Kind::Utf16 | Kind::Parquet => packed,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"country,test_date,result\nItaly,2020-07-14,yes\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("it can be packed");
        encoder.finish().expect("it can be packed")
    }

    fn zstandard(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).expect("it can be packed")
    }

    fn read(bytes: &[u8]) -> (Kind, io::Result<Vec<u8>>) {
        let (kind, reader) = sniff(Box::new(bytes)).expect("bytes can be read");
        let mut unpacked = Vec::new();
        let read = unpack(kind, reader).and_then(|mut reader| reader.read_to_end(&mut unpacked));
        (kind, read.map(|_| unpacked))
    }

    #[test]
    fn compressed_files_are_recognised_and_decompressed() {
        for (kind, bytes) in [
            (Kind::Text, TEXT.to_vec()),
            (Kind::Gzip, gzip(TEXT)),
            (Kind::Zstandard, zstandard(TEXT)),
        ] {
            let (found, unpacked) = read(&bytes);
            assert_eq!((found, unpacked.expect("whole")), (kind, TEXT.to_vec()));
        }
        assert_eq!(read(b"").0, Kind::Text);
        assert_eq!(read(b"a").0, Kind::Text);
        assert_eq!(read(b"PAR1").0, Kind::Parquet);
        assert_eq!(read(b"\xff\xfea\0").0, Kind::Utf16);
    }

    #[test]
    fn several_members_or_frames_are_one_file() {
        let (first, second) = TEXT.split_at(30);
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
        for bytes in [
            [gzip(first), gzip(b""), gzip(second)].concat(),
            [zstandard(first), zstandard(second)].concat(),
            [skippable.as_slice(), &zstandard(TEXT)].concat(),
        ] {
            assert_eq!(read(&bytes).1.expect("whole"), TEXT);
        }
    }

    #[test]
    fn a_file_truncated_anywhere_is_an_error() {
        for bytes in [gzip(TEXT), zstandard(TEXT)] {
            for end in HEAD_BYTES..bytes.len() {
                let error = read(&bytes[..end]).1.expect_err("its end is missing");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}: {error}");
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let mut bytes = gzip(TEXT);
        let at = bytes.len() - 8;
        bytes[at] ^= 1;
        assert!(read(&bytes).1.is_err());
    }
}

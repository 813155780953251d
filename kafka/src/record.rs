//! A batch of records of a topic, with one buffer for all keys and payloads: a thousand records need
//! two allocations, and no memory of librdkafka is kept.

use std::ops::Range;

/// Records of one topic, in the order in which they were received.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    partition: i32,
    offset: i64,
    key: Option<Range<usize>>,
    payload: Range<usize>,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; empty for a tombstone.
    pub payload: &'a [u8],
}

impl RecordBatch {
    /// Appends a copy of a record.
    pub fn push(&mut self, record: Record<'_>) {
        let key = record.key.map(|key| self.append(key));
        let payload = self.append(record.payload);
        self.entries.push(Entry {
            partition: record.partition,
            offset: record.offset,
            key,
            payload,
        });
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| self.record(entry))
    }

    /// The record at a position.
    #[inline]
    pub fn get(&self, position: usize) -> Option<Record<'_>> {
        self.entries.get(position).map(|entry| self.record(entry))
    }

    #[inline]
    fn record(&self, entry: &Entry) -> Record<'_> {
        Record {
            partition: entry.partition,
            offset: entry.offset,
            key: entry.key.clone().map(|key| &self.bytes[key]),
            payload: &self.bytes[entry.payload.clone()],
        }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of bytes of all keys and payloads.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_returned_as_they_were_pushed() {
        let mut batch = RecordBatch::default();
        let records = [
            Record {
                partition: 1,
                offset: 7,
                key: None,
                payload: b"abc",
            },
            Record {
                partition: 0,
                offset: 9,
                key: Some(b"k"),
                payload: b"",
            },
        ];
        for record in records {
            batch.push(record);
        }
        assert_eq!(batch.iter().collect::<Vec<_>>(), records);
        assert_eq!((batch.len(), batch.bytes()), (2, 4));
    }
}

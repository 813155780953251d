//! What must hold whatever the bytes are that somebody else has written: a property a decoder, each
//! for a fuzz target of the same name. `cargo test` calls the same functions on what the fuzzers have
//! kept (`tests/fuzz`).
//!
//! Beside what it asserts, no property panics, and none takes more memory than a multiple of its input
//! and a constant: the allocator ends the process when it does.

#[cfg(any(test, feature = "data-sets"))]
mod config;
#[cfg(any(test, feature = "data-sets"))]
mod csv_to_jobs;
mod dead_letter;
mod job_batch;
#[cfg(any(test, feature = "data-sets"))]
mod labels;
mod mark;
mod outcome_batch;
#[cfg(any(test, feature = "data-sets"))]
mod parquet;
mod run_event;
#[cfg(any(test, feature = "data-sets"))]
mod series;
#[cfg(any(test, feature = "data-sets"))]
mod time;

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1024 * 1024;

/// A property of what reads some bytes.
pub struct Property {
    /// Its name, which is that of the target and of the folder of its corpus.
    pub name: &'static str,
    /// So many bytes of memory may each byte of input take.
    memory_by_byte: usize,
    /// So many bytes more there may be.
    memory: usize,
    holds: fn(&[u8]),
}

/// All properties, by name.
pub const PROPERTIES: &[Property] = &[
    // Clap's own options, and the file's.
    #[cfg(any(test, feature = "data-sets"))]
    property("config", 64, 16 * MIB, config::holds),
    // Buffers for reading, and a window of Zstandard.
    #[cfg(any(test, feature = "data-sets"))]
    property("csv", 256, 64 * MIB, csv_to_jobs::holds),
    property("dead_letter", 128, MIB, dead_letter::holds),
    // A label set without labels takes two bytes as a message and 24 in memory.
    property("job_batch", 96, MIB, job_batch::holds),
    #[cfg(any(test, feature = "data-sets"))]
    property("labels", 128, MIB, labels::holds),
    property("mark", 16, MIB, mark::holds),
    property("outcome_batch", 768, MIB, outcome_batch::holds),
    // Two million rows are decoded at once, however few bytes they have, and polars' threads have
    // buffers of their own.
    #[cfg(any(test, feature = "data-sets"))]
    property("parquet", 65_536, 512 * MIB, parquet::holds),
    property("run_event", 96, MIB, run_event::holds),
    #[cfg(any(test, feature = "data-sets"))]
    property("series", 256, 16 * MIB, series::holds),
    #[cfg(any(test, feature = "data-sets"))]
    property("time", 16, MIB, time::holds),
];

const fn property(
    name: &'static str,
    memory_by_byte: usize,
    memory: usize,
    holds: fn(&[u8]),
) -> Property {
    Property {
        name,
        memory_by_byte,
        memory,
        holds,
    }
}

impl Property {
    /// Panics where the property does not hold, and aborts where it takes too much memory. Nothing
    /// else in the process may take memory meanwhile.
    pub fn check(&self, input: &[u8]) {
        let most = self.memory + self.memory_by_byte * input.len();
        limit(ALLOCATOR.allocated().saturating_add(most));
        (self.holds)(input);
        limit(usize::MAX);
    }
}

fn limit(bytes: usize) {
    ALLOCATOR
        .set_limit(bytes)
        .expect("the limit is above what is allocated");
}

/// Checks the property of a name.
pub fn check(name: &str, input: &[u8]) {
    let property = PROPERTIES.iter().find(|property| property.name == name);
    property.expect("a property of this name").check(input);
}

/// The first bytes of an input, for what is to be chosen, and the others. Missing ones are 0.
#[cfg(any(test, feature = "data-sets"))]
fn choices<const N: usize>(input: &[u8]) -> ([u8; N], &[u8]) {
    match input.split_first_chunk() {
        Some((choices, rest)) => (*choices, rest),
        None => ([0; N], &[]),
    }
}

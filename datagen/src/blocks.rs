//! Generation of the rows: blocks are filled in parallel and written in order. Each thread shares
//! three buffers with the writer, so memory is bounded even when the output is slow.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use service::Shutdown;

use crate::config::Config;
use crate::error::Error;
use crate::random::{Purpose, stream};
use crate::rows::{HEADER, Rows};
use crate::spoil::{Spoiled, Spoiler};

/// The number of rows in a block. Another number gives other bytes for the same seed.
const BLOCK_ROWS: u64 = 8_192;

/// The number of buffers per thread: one being filled, one waiting, one being written.
const BUFFERS_PER_THREAD: usize = 3;

/// The counts of a generated data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Rows, including spoiled ones, without the header.
    pub rows: u64,
    /// Bytes, including the header.
    pub bytes: u64,
    /// Spoiled rows by defect.
    pub spoiled: Spoiled,
}

/// A block of rows as they are written to the output.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    rows: u64,
    spoiled: Spoiled,
}

/// The writer's ends of the channels to and from a thread that fills blocks.
struct Lane {
    filled: Receiver<Block>,
    empty: Sender<Block>,
}

/// Generates a data set and writes it to `out`, header first. The bytes depend on all fields of
/// `config` except the number of threads.
///
/// `progress` is called after each block with the number of its rows. Each write to `out` is a
/// whole block of about 600 kB, so `out` needs no buffer; it is flushed at the end.
///
/// # Errors
/// The errors of [`Config::check`] and of `out`; [`Error::Stopped`] if `shutdown` is requested
/// before the last block is written. What is written by then is a prefix of the data set.
pub fn generate(
    config: &Config,
    out: &mut dyn Write,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Generated, Error> {
    config.check()?;
    let rows = Rows::new(config);
    let blocks = config.rows.div_ceil(BLOCK_ROWS);
    let threads = config.threads as u64;
    let threads = threads.min(blocks);

    thread::scope(|scope| {
        let mut lanes = Vec::new();
        for first in 0..threads {
            let (fill, filled) = channel();
            let (empty, emptied) = channel();
            for _ in 0..BUFFERS_PER_THREAD {
                // Cannot fail: the receiver, `emptied`, is alive.
                let _ = empty.send(Block::default());
            }
            let rows = &rows;
            let mine = (first..blocks).step_by(threads as usize);
            thread::Builder::new()
                .name(format!("rows-{first}"))
                .spawn_scoped(scope, move || {
                    for number in mine {
                        // The writer closes both channels when it fails.
                        let Ok(mut block) = emptied.recv() else {
                            return;
                        };
                        block.fill(config, rows, number);
                        if fill.send(block).is_err() {
                            return;
                        }
                    }
                })
                .map_err(|source| Error::Thread { source })?;
            lanes.push(Lane { filled, empty });
        }
        write_in_order(&lanes, blocks, out, shutdown, progress)
    })
}

fn write_in_order(
    lanes: &[Lane],
    blocks: u64,
    out: &mut dyn Write,
    shutdown: &Shutdown,
    progress: &dyn Fn(u64),
) -> Result<Generated, Error> {
    let write_error = |source| Error::Write { source };
    let header = format!("{HEADER}\n");
    out.write_all(header.as_bytes()).map_err(write_error)?;
    let mut generated = Generated {
        bytes: header.len() as u64,
        ..Generated::default()
    };
    for (_, lane) in (0..blocks).zip(lanes.iter().cycle()) {
        if let Some(signal) = shutdown.requested() {
            return Err(Error::Stopped { signal });
        }
        let block = lane
            .filled
            .recv()
            .expect("a thread ends after its last block, or by a panic that is already reported");
        out.write_all(&block.bytes).map_err(write_error)?;
        generated.rows += block.rows;
        generated.bytes += block.bytes.len() as u64;
        generated.spoiled.add(&block.spoiled);
        progress(block.rows);
        // A thread that has filled its last block is gone and needs no buffer.
        let _ = lane.empty.send(block);
    }
    out.flush().map_err(write_error)?;
    Ok(generated)
}

impl Block {
    /// Fills this buffer with the rows of the block with this number.
    fn fill(&mut self, config: &Config, rows: &Rows, number: u64) {
        self.bytes.clear();
        self.spoiled = Spoiled::default();
        self.rows = BLOCK_ROWS.min(config.rows - number * BLOCK_ROWS);
        let mut rng = stream(config.seed, Purpose::Rows, number);
        let mut spoiler = Spoiler::new(config, number);
        for _ in 0..self.rows {
            let start = self.bytes.len();
            rows.write(&mut rng, &mut self.bytes);
            if let Some(spoiler) = &mut spoiler {
                spoiler.next_row(&mut self.bytes, start, &mut self.spoiled);
            }
        }
    }
}

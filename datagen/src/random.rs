//! Random numbers: ChaCha8 streams, selected by seed, purpose and number, so that no part of the
//! data set depends on how many random numbers another part has drawn.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The number of values of a 32-bit draw. A draw is below `share * DRAWS` with the probability
/// `share`.
pub(crate) const DRAWS: f64 = 4_294_967_296.0;

/// The purpose of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The rows of a block; numbered by block.
    Rows = 0,
    /// Which rows of a block are spoiled, and how; numbered by block.
    Spoiling = 1,
    /// A country's waves; numbered by the country's position in the table.
    Waves = 2,
    /// The names of a locale; numbered by locale.
    Names = 3,
    /// A country's cities; numbered by the country's position in the table.
    Cities = 4,
}

/// The stream for a purpose and a number.
pub(crate) fn stream(seed: u64, purpose: Purpose, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Numbers are below 2^56: the largest are those of blocks, of which there are at most 2^51.
    rng.set_stream((purpose as u64) << 56 | number);
    rng
}

/// A number from `low` (inclusive) to `high` (exclusive).
pub(crate) fn uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    low + (high - low) * unit
}

/// A draw that is uniform over all `u32`, scaled to `0..bound`, and the rest of it, which is again
/// nearly uniform over all `u32`.
#[inline]
pub(crate) fn scale(draw: u32, bound: u32) -> (u32, u32) {
    let product = u64::from(draw) * u64::from(bound);
    ((product >> 32) as u32, product as u32)
}

/// The two halves of a 64-bit draw, as 32-bit draws.
#[inline]
pub(crate) fn halves(draw: u64) -> (u32, u32) {
    ((draw >> 32) as u32, draw as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_number() {
        let first = |seed, purpose, number| stream(seed, purpose, number).next_u64();
        let one = first(1, Purpose::Rows, 1);
        assert_eq!(one, first(1, Purpose::Rows, 1));
        assert_ne!(one, first(2, Purpose::Rows, 1));
        assert_ne!(one, first(1, Purpose::Spoiling, 1));
        assert_ne!(one, first(1, Purpose::Rows, 2));
    }

    #[test]
    fn a_scaled_draw_stays_below_its_bound() {
        assert_eq!(scale(0, 24), (0, 0));
        assert_eq!(scale(u32::MAX, 24).0, 23);
    }
}

//! A country's epidemic: a few waves, drawn from the seed, which determine the share of positive
//! tests at any time of the range, and from that the number of tests.

use rand::Rng;

use crate::random::{Purpose, scale, stream, uniform};

/// The largest share of positive tests.
pub(crate) const HIGHEST_POSITIVITY: f64 = 0.35;

/// The increase of testing at [`HIGHEST_POSITIVITY`], as a share of the tests at none.
const LIFT: f64 = 0.6;

/// The share of positive tests over the range, for one country.
#[derive(Clone, Debug)]
pub(crate) struct Epidemic {
    /// The positivity between waves.
    base: f64,
    waves: Vec<Wave>,
}

/// A wave. Centre and width are shares of the range; the height is a share of positive tests.
#[derive(Clone, Copy, Debug)]
struct Wave {
    centre: f64,
    width: f64,
    height: f64,
}

impl Epidemic {
    /// The epidemic of the country at `position` of the table, which does not depend on the number
    /// of countries in the data set.
    pub(crate) fn of(seed: u64, position: usize) -> Self {
        let mut rng = stream(seed, Purpose::Waves, position as u64);
        let base = uniform(&mut rng, 0.008, 0.02);
        let between = scale(rng.next_u32(), 3).0;
        let mut waves = vec![
            Wave::draw(&mut rng, (0.06, 0.24), (0.06, 0.22)),
            Wave::draw(&mut rng, (0.72, 0.94), (0.12, 0.30)),
        ];
        for place in 0..between {
            // Each wave has its own part of the middle of the range, so that two do not merge.
            let room = 0.4 / f64::from(between);
            let start = 0.28 + room * f64::from(place);
            waves.push(Wave::draw(&mut rng, (start, start + room), (0.03, 0.20)));
        }
        Self { base, waves }
    }

    /// The share of positive tests at `t`, from 0 to 1 over the range.
    pub(crate) fn positivity(&self, t: f64) -> f64 {
        let negative = self.waves.iter().fold(1.0 - self.base, |negative, wave| {
            negative * (1.0 - wave.height * bell((t - wave.centre) / wave.width))
        });
        (1.0 - negative).min(HIGHEST_POSITIVITY)
    }
}

impl Wave {
    fn draw(rng: &mut impl Rng, centre: (f64, f64), height: (f64, f64)) -> Self {
        Self {
            centre: uniform(rng, centre.0, centre.1),
            width: uniform(rng, 0.035, 0.075),
            height: uniform(rng, height.0, height.1),
        }
    }
}

/// The factor by which testing grows at a positivity, compared with none.
pub(crate) fn lift(positivity: f64) -> f64 {
    1.0 + LIFT * positivity / HIGHEST_POSITIVITY
}

/// The Gaussian `exp(-z²/2)`, approximated by `(1 - z²/128)^64`: within 0.005 everywhere and,
/// unlike `exp`, the same to the last bit on every machine.
fn bell(z: f64) -> f64 {
    let mut power = (1.0 - z * z / 128.0).max(0.0);
    for _ in 0..6 {
        power *= power;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_the_range(epidemic: &Epidemic) -> Vec<f64> {
        (0..=300)
            .map(|day| epidemic.positivity(f64::from(day) / 300.0))
            .collect()
    }

    #[test]
    fn the_bell_is_close_to_a_gaussian() {
        for step in -60..=60 {
            let z = f64::from(step) / 10.0;
            let gaussian = (-z * z / 2.0).exp();
            assert!((bell(z) - gaussian).abs() < 0.005, "at {z}");
        }
        assert_eq!(bell(20.0), 0.0, "it does not rise again");
    }

    #[test]
    fn every_country_has_waves_between_one_and_thirty_five_percent() {
        for position in 0..195 {
            let shares = over_the_range(&Epidemic::of(42, position));
            let lowest = shares.iter().copied().fold(1.0, f64::min);
            let highest = shares.iter().copied().fold(0.0, f64::max);
            assert!((0.008..0.12).contains(&lowest), "{position}: {lowest}");
            assert!(highest > 0.1, "{position}: {highest}");
            assert!(highest <= HIGHEST_POSITIVITY, "{position}: {highest}");
        }
    }

    #[test]
    fn positivity_changes_smoothly() {
        for position in 0..195 {
            let shares = over_the_range(&Epidemic::of(7, position));
            let steepest = shares
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).abs())
                .fold(0.0, f64::max);
            assert!(steepest < 0.03, "{position}: {steepest}");
        }
    }

    #[test]
    fn countries_and_seeds_differ() {
        let one = over_the_range(&Epidemic::of(1, 0));
        assert_eq!(one, over_the_range(&Epidemic::of(1, 0)));
        assert_ne!(one, over_the_range(&Epidemic::of(1, 1)));
        assert_ne!(one, over_the_range(&Epidemic::of(2, 0)));
    }
}

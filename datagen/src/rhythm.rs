//! The distributions that all countries share: over the week, over the day, over the range, and
//! over age. They are flat, so that most hours have some tests.

/// The relative number of tests on each day of the week, Monday first.
pub(crate) const WEEKDAYS: [f64; 7] = [1.08, 1.07, 1.06, 1.05, 1.04, 0.88, 0.82];

/// The relative number of tests in each hour of the day, midnight first.
pub(crate) const HOURS: [f64; 24] = [
    72.0, 70.0, 68.0, 68.0, 70.0, 74.0, 84.0, 98.0, 114.0, 128.0, 134.0, 130.0, //
    120.0, 115.0, 118.0, 117.0, 112.0, 106.0, 100.0, 95.0, 90.0, 85.0, 80.0, 76.0,
];

/// The relative number of tests in each decade of age.
const DECADES: [f64; 10] = [0.6, 0.9, 1.5, 1.4, 1.3, 1.1, 0.8, 0.6, 0.4, 0.1];

/// The number of ages, from 0 years on.
pub(crate) const AGES: usize = DECADES.len() * 10;

/// The relative number of tests at each age in years.
pub(crate) fn ages() -> [f64; AGES] {
    std::array::from_fn(|age| DECADES[age / 10])
}

/// The relative number of tests at `t`, which is from 0 to 1 over the range: testing grows.
pub(crate) fn trend(t: f64) -> f64 {
    0.85 + 0.3 * t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_tests_are_taken_mid_morning_and_fewest_at_night() {
        let most = HOURS.iter().copied().fold(0.0, f64::max);
        let fewest = HOURS.iter().copied().fold(f64::MAX, f64::min);
        assert_eq!(HOURS[10], most);
        assert_eq!(HOURS[3], fewest);
    }
}

//! The statistics of the runs of a row: median, spread, outliers, and whether two rows differ
//! significantly. Pure.
//!
//! Medians and not means: other load makes single runs slower and never faster, which would raise a
//! mean.

use serde::{Deserialize, Serialize};

/// The median and the spread of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The median absolute deviation from the median, not scaled.
    pub mad: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
}

impl Summary {
    /// The summary of values; `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let median = median(values)?;
        Some(Self {
            median,
            mad: self::median(&deviations(values, median))?,
            min: values.iter().copied().reduce(f64::min)?,
            max: values.iter().copied().reduce(f64::max)?,
        })
    }
}

/// The median; of an even number of values, the mean of the two in the middle. `None` without
/// values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(match sorted.len() % 2 {
        1 => upper,
        _ => (sorted[sorted.len() / 2 - 1] + upper) / 2.0,
    })
}

fn deviations(values: &[f64], median: f64) -> Vec<f64> {
    values.iter().map(|value| (value - median).abs()).collect()
}

/// The modified z-score above which a value is an outlier.
const OUTLIER: f64 = 3.5;

/// The number of outliers, by the modified z-score 0.6745 (x - median) / MAD.
///
/// Boris Iglewicz and David Hoaglin (1993), "How to Detect and Handle Outliers", ASQC Basic
/// References in Quality Control, volume 16. Where more than half of the values are equal, the
/// score is not defined, and the number is 0.
pub fn outliers(values: &[f64]) -> usize {
    let Some(summary) = Summary::of(values).filter(|summary| summary.mad > 0.0) else {
        return 0;
    };
    let score = |value: f64| 0.6745 * (value - summary.median).abs() / summary.mad;
    values
        .iter()
        .filter(|&&value| score(value) > OUTLIER)
        .count()
}

/// The exact two-sided p of the Mann-Whitney U test: the probability that two samples of one
/// distribution differ in rank at least as much as these. `None` when either has no values.
///
/// H. B. Mann and D. R. Whitney (1947), doi 10.1214/aoms/1177730491. The test assumes nothing about
/// the distribution; that of run times is skewed. A tie counts as half for both sides.
pub fn mann_whitney_p(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut u = 0.0;
    for x in a {
        for y in b {
            u += match x.total_cmp(y) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    let pairs = (a.len() * b.len()) as f64;
    // Rounded up, to the larger p.
    let smaller = f64::min(u, pairs - u).ceil() as usize;
    let ways = ways_by_u(a.len(), b.len());
    let all: f64 = ways.iter().sum();
    let as_far: f64 = ways.iter().take(smaller + 1).sum();
    Some((2.0 * as_far / all).min(1.0))
}

/// The level of significance: a difference with a p below it is significant.
pub const SIGNIFICANT: f64 = 0.05;

/// Whether a difference with this p is significant; one without a p is not.
pub fn is_significant(p: Option<f64>) -> bool {
    p.is_some_and(|p| p < SIGNIFICANT)
}

/// The number of orders of `n` and `m` values that have each U, by the recursion of the paper,
/// `ways(n, m, u) = ways(n - 1, m, u - m) + ways(n, m - 1, u)`.
fn ways_by_u(n: usize, m: usize) -> Vec<f64> {
    // With 0 values on one side there is one order, and its U is 0.
    let mut fewer = vec![vec![1.0]; m + 1];
    for n in 1..=n {
        let mut ways: Vec<Vec<f64>> = vec![vec![1.0]];
        for m in 1..=m {
            let way = |u: usize| {
                let with = u.checked_sub(m).and_then(|u| fewer[m].get(u));
                let without = ways[m - 1].get(u);
                with.unwrap_or(&0.0) + without.unwrap_or(&0.0)
            };
            let row = (0..=n * m).map(way).collect();
            ways.push(row);
        }
        fewer = ways;
    }
    fewer.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_median_spread_and_range() {
        let summary = Summary::of(&[5.0, 1.0, 2.0, 4.0, 30.0]).expect("values");
        assert_eq!(summary.median, 4.0);
        assert_eq!(summary.mad, 2.0);
        assert_eq!((summary.min, summary.max), (1.0, 30.0));
        assert_eq!(median(&[1.0, 4.0]), Some(2.5));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_distant_value_is_an_outlier_and_equal_values_are_not() {
        assert_eq!(outliers(&[1.0, 1.01, 0.99, 1.02, 2.0]), 1);
        assert_eq!(outliers(&[1.0, 1.01, 0.99, 1.02, 0.98]), 0);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 5.0]), 0);
        assert_eq!(outliers(&[]), 0);
    }

    /// Samples that do not overlap are the two extreme ones of all orders.
    #[test]
    fn samples_that_do_not_overlap_have_the_least_p_that_their_size_allows() {
        let orders = [(1, 2.0), (3, 20.0), (4, 70.0), (5, 252.0)];
        for (size, orders) in orders {
            let low: Vec<f64> = (0..size).map(f64::from).collect();
            let high: Vec<f64> = low.iter().map(|value| value + 100.0).collect();
            let p = mann_whitney_p(&low, &high).expect("values");
            assert!((p - 2.0 / orders).abs() < 1e-12, "{size}: {p}");
            assert_eq!(mann_whitney_p(&high, &low), Some(p));
        }
    }

    #[test]
    fn p_is_the_one_in_published_tables() {
        // U = 3 for 5 and 5 values: 7 of 252 orders have a U of at most 3.
        let p = mann_whitney_p(&[1.0, 2.0, 3.0, 4.0, 7.5], &[5.0, 6.0, 7.0, 8.0, 9.0]);
        assert!(
            (p.expect("values") - 2.0 * 7.0 / 252.0).abs() < 1e-12,
            "{p:?}"
        );
        assert_eq!(mann_whitney_p(&[1.0, 2.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(mann_whitney_p(&[], &[1.0]), None);
    }

    #[test]
    fn all_orders_are_counted() {
        // The binomial coefficient of 10 over 5 is 252.
        assert_eq!(ways_by_u(5, 5).iter().sum::<f64>(), 252.0);
        assert_eq!(ways_by_u(5, 5)[..4], [1.0, 1.0, 2.0, 3.0]);
        assert_eq!(ways_by_u(2, 3).len(), 7);
    }
}

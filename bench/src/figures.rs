//! The formatting of figures for people: three significant digits and a unit.

/// A time in the unit that fits: µs, ms or s.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.000_999_5 => format!("{} µs", three_digits(s * 1e6)),
        s if s < 0.999_5 => format!("{} ms", three_digits(s * 1e3)),
        s => format!("{} s", three_digits(s)),
    }
}

/// A time in seconds, without the unit: for columns that have it in their head.
pub fn plain_seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

/// A size of memory in MiB.
pub fn mebibytes(bytes: f64) -> String {
    format!("{} MiB", three_digits(bytes / (1024.0 * 1024.0)))
}

/// A ratio, such as `1.50×`.
pub fn ratio(ratio: f64) -> String {
    format!("{ratio:.2}×")
}

/// A ratio as a signed percentage of change, such as `+3.4%`.
pub fn change(ratio: f64) -> String {
    format!("{:+.1}%", 100.0 * (ratio - 1.0))
}

/// A number rounded to an integer, with commas between groups of three digits.
pub fn whole(number: f64) -> String {
    service::progress::grouped(number.round().max(0.0) as u64)
}

/// A formatted value, or a dash if it is unknown.
pub fn known<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or("–".to_owned(), format)
}

fn three_digits(number: f64) -> String {
    match number {
        n if n >= 99.95 => format!("{n:.0}"),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let formatted: Vec<_> = [0.0, 0.000_012_34, 0.001, 0.187_6, 1.236, 20.04, 125.4]
            .map(seconds)
            .into();
        assert_eq!(
            formatted,
            [
                "0 s", "12.3 µs", "1.00 ms", "188 ms", "1.24 s", "20.0 s", "125 s"
            ]
        );
        assert_eq!(mebibytes(1_572_864.0), "1.50 MiB");
        assert_eq!(change(1.034), "+3.4%");
        assert_eq!(known(None, ratio), "–");
        assert_eq!(whole(1_028_010.6), "1,028,011");
    }
}

//! The grain of a time series, and the bucket to which it truncates a point in time. The bucket is part
//! of the key of a group.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

const SECONDS_PER_HOUR: i64 = 3_600;
const HOURS_PER_DAY: i64 = 24;
/// The number of days from the Monday before 1970-01-01, a Thursday.
const DAYS_FROM_MONDAY_AT_EPOCH: i64 = 3;

/// The length of a time bucket. Buckets are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday (ISO 8601).
    Week,
    /// From the first of a month to the first of the next.
    Month,
}

impl Grain {
    /// All grains, the finest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// The name of the grain in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The name of the time column in a series of this grain: `date_hour`, `date_day`, `date_week` or
    /// `date_month`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Hour => "date_hour",
            Self::Day => "date_day",
            Self::Week => "date_week",
            Self::Month => "date_month",
        }
    }

    /// The grains that a series of this one can be added up to, itself first. Weeks do not add up to
    /// months, because a week may begin in one month and end in the next.
    pub fn makes(self) -> &'static [Self] {
        match self {
            Self::Hour => &Self::ALL,
            Self::Day => &[Self::Day, Self::Week, Self::Month],
            Self::Week => &[Self::Week],
            Self::Month => &[Self::Month],
        }
    }

    /// The bucket of this grain that contains a bucket of a finer one. The first week begins before the
    /// year 0, which is out of range, so its bucket begins with the year.
    pub fn of(self, bucket: TimeBucket) -> TimeBucket {
        self.truncate(bucket.seconds())
            .unwrap_or(TimeBucket(TimeBucket::MIN))
    }

    /// The bucket that contains the time `seconds` after 1970-01-01T00:00:00Z; `None` outside the years
    /// 0 to 9999.
    // Inline, because another crate calls it for each row, with the conversions of the bucket.
    #[inline]
    pub fn truncate(self, seconds: i64) -> Option<TimeBucket> {
        let hours = seconds.div_euclid(SECONDS_PER_HOUR);
        let days = hours.div_euclid(HOURS_PER_DAY);
        let start = match self {
            Self::Hour => hours,
            Self::Day => days * HOURS_PER_DAY,
            Self::Week => (days - (days + DAYS_FROM_MONDAY_AT_EPOCH).rem_euclid(7)) * HOURS_PER_DAY,
            Self::Month => {
                let day = TimeBucket::from_hours(days.checked_mul(HOURS_PER_DAY)?)?;
                days * HOURS_PER_DAY - (i64::from(day.date().day()) - 1) * HOURS_PER_DAY
            }
        };
        TimeBucket::from_hours(start)
    }
}

impl fmt::Display for Grain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Grain {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|grain| grain.name() == name)
            .ok_or_else(|| "expected hour, day, week or month".to_owned())
    }
}

/// A time bucket, as its start in seconds since 1970-01-01T00:00:00Z, within the years 0 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeBucket(i64);

impl TimeBucket {
    /// 0000-01-01T00:00:00Z.
    const MIN: i64 = -17_268_672 * SECONDS_PER_HOUR;
    /// The last second of 9999-12-29, the last day that jiff can represent in every time zone.
    const MAX: i64 = 70_389_480 * SECONDS_PER_HOUR - 1;

    /// The bucket that begins this number of seconds after 1970-01-01T00:00:00Z; `None` out of range.
    #[inline]
    pub const fn from_seconds(seconds: i64) -> Option<Self> {
        match seconds {
            Self::MIN..=Self::MAX => Some(Self(seconds)),
            _ => None,
        }
    }

    /// Appends the buckets that begin these offsets, in seconds, after `base`. `None` where one of them
    /// is out of range; then none is appended.
    // The range is looked at once for all.
    #[inline]
    pub(crate) fn extend_after(
        buckets: &mut Vec<Self>,
        base: i64,
        offsets: impl Iterator<Item = u64> + Clone,
    ) -> Option<()> {
        let last = offsets.clone().max().unwrap_or(0);
        let last = base.checked_add(i64::try_from(last).ok()?)?;
        Self::from_seconds(base).and(Self::from_seconds(last))?;
        buckets.extend(offsets.map(|offset| Self(base + offset as i64)));
        Some(())
    }

    /// The bucket that begins this number of hours after 1970-01-01T00:00:00Z; `None` out of range.
    #[inline]
    pub fn from_hours(hours: i64) -> Option<Self> {
        // The range is checked before the multiplication, so that the compiler removes a later division.
        let range = Self::MIN / SECONDS_PER_HOUR..=Self::MAX / SECONDS_PER_HOUR;
        range
            .contains(&hours)
            .then(|| Self(hours * SECONDS_PER_HOUR))
    }

    /// The number of whole hours from 1970-01-01T00:00:00Z to the start.
    #[inline]
    pub fn hours(self) -> i32 {
        // Counted from the first bucket, so that nothing negative is divided. The range in hours is
        // that of an i32.
        let hours = (self.0 - Self::MIN) as u64 / SECONDS_PER_HOUR as u64;
        hours as i32 + (Self::MIN / SECONDS_PER_HOUR) as i32
    }

    /// The number of seconds from 1970-01-01T00:00:00Z to the start.
    #[inline]
    pub fn seconds(self) -> i64 {
        self.0
    }

    fn date_time(self) -> DateTime {
        let timestamp = Timestamp::from_second(self.seconds())
            .expect("a bucket is well within what a timestamp can hold");
        Offset::UTC.to_datetime(timestamp)
    }

    /// The date in UTC on which the bucket begins.
    pub fn date(self) -> Date {
        self.date_time().date()
    }

    /// The start as text: `2020-07-14T09:00:00` by the hour, and `2020-07-14` by other grains.
    pub fn display(self, grain: Grain) -> impl fmt::Display {
        let start = self.date_time();
        fmt::from_fn(move |f| match grain {
            Grain::Hour => write!(f, "{start}"),
            _ => write!(f, "{}", start.date()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a timestamp").as_second()
    }

    #[test]
    fn a_time_is_truncated_to_its_hour_day_week_and_month() {
        let time = seconds("2020-07-15T09:23:51Z");
        let cases = [
            (Grain::Hour, "2020-07-15T09:00:00"),
            (Grain::Day, "2020-07-15"),
            (Grain::Week, "2020-07-13"),
            (Grain::Month, "2020-07-01"),
        ];
        for (grain, start) in cases {
            let bucket = grain.truncate(time).expect("in range");
            assert_eq!(bucket.display(grain).to_string(), start);
        }
    }

    #[test]
    fn times_before_1970_are_truncated_downwards() {
        let bucket = Grain::Hour
            .truncate(seconds("1969-12-31T23:30:00Z"))
            .expect("in range");
        assert_eq!(
            bucket.display(Grain::Hour).to_string(),
            "1969-12-31T23:00:00"
        );
    }

    #[test]
    fn the_first_and_the_last_bucket_can_be_displayed() {
        let text = |seconds| {
            let bucket = TimeBucket::from_seconds(seconds).expect("in range");
            bucket.display(Grain::Hour).to_string()
        };
        assert_eq!(text(TimeBucket::MIN), "0000-01-01T00:00:00");
        assert_eq!(text(TimeBucket::MAX), "9999-12-29T23:59:59");
        assert_eq!(TimeBucket::from_seconds(TimeBucket::MIN - 1), None);
        assert_eq!(TimeBucket::from_seconds(TimeBucket::MAX + 1), None);
    }

    #[test]
    fn the_first_week_begins_with_the_first_year() {
        let first = TimeBucket::from_seconds(TimeBucket::MIN).expect("in range");
        assert_eq!(Grain::Week.truncate(first.seconds()), None);
        assert_eq!(Grain::Week.of(first), first);
    }

    #[test]
    fn a_time_out_of_range_has_no_bucket() {
        for seconds in [i64::MIN, i64::MAX] {
            for grain in Grain::ALL {
                assert_eq!(grain.truncate(seconds), None);
            }
        }
        assert_eq!(TimeBucket::from_hours(i64::from(i32::MAX)), None);
        assert_eq!(TimeBucket::from_hours(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_bucket_begins_at_or_before_its_times_and_is_its_own_bucket(
            seconds in -60_000_000_000i64..250_000_000_000,
        ) {
            for grain in Grain::ALL {
                let bucket = grain.truncate(seconds).expect("in range");
                prop_assert!(bucket.seconds() <= seconds);
                prop_assert!(seconds - bucket.seconds() < 31 * 24 * SECONDS_PER_HOUR);
                prop_assert_eq!(grain.truncate(bucket.seconds()), Some(bucket));
            }
        }
    }
}

//! The formats of times in data sets. A time without a zone or an offset is in UTC.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};

const SECONDS_PER_DAY: i64 = 86_400;

/// The format of times that are text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// ISO 8601, see [`parse`].
    #[default]
    Iso,
    /// A format in the directives of [`jiff::fmt::strtime`], which are those of strftime.
    Directives(Box<str>),
}

impl TimeFormat {
    /// The time in seconds since 1970-01-01T00:00:00Z; `None` for a text that does not have the format.
    #[inline]
    pub fn parse(&self, text: &[u8]) -> Option<i64> {
        match self {
            Self::Iso => parse(text),
            Self::Directives(format) => {
                let read = BrokenDownTime::parse(format.as_bytes(), text).ok()?;
                seconds(&read)
            }
        }
    }
}

impl FromStr for TimeFormat {
    type Err = String;

    /// Checks that the directives are complete enough for a date, and can read what they write.
    fn from_str(format: &str) -> Result<Self, Self::Err> {
        let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        let written = strtime::format(format, &sample);
        let written = written.map_err(|error| not_a_format(&error))?;
        let read = BrokenDownTime::parse(format, &written);
        let read = read.map_err(|error| not_a_format(&error))?;
        if is_zone_by_name(&read) {
            return Err(
                "%Q and %:Q read the name of a zone, which has no offset without a table of zones; \
                 %z and %:z read an offset"
                    .to_owned(),
            );
        }
        seconds(&read).ok_or(
            "it has no complete date; give day, month and year, such as %d.%m.%Y %H:%M, or %s for \
             seconds since 1970",
        )?;
        Ok(Self::Directives(format.into()))
    }
}

/// The message for a format that jiff refuses. The last cause of jiff's error names the directive.
fn not_a_format(error: &jiff::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit(": ").next().unwrap_or(&text);
    format!("{cause}; the directives are those of strftime, such as %d.%m.%Y %H:%M")
}

/// The time of parsed directives in seconds since 1970: of `%s`, or of date, time and offset, where a
/// missing time is midnight and a missing offset is UTC. `None` when the date is not complete, or when
/// a zone has only a name.
fn seconds(read: &BrokenDownTime) -> Option<i64> {
    let timestamp = match (read.timestamp(), read.offset()) {
        (None, None) if is_zone_by_name(read) => return None,
        (None, None) => Offset::UTC.to_timestamp(read.to_datetime().ok()?).ok()?,
        _ => read.to_timestamp().ok()?,
    };
    Some(whole_seconds(timestamp))
}

/// Whether a zone is given by its name alone, without its offset. Tables of zones differ between
/// machines, so the numbers of a run's jobs would depend on the machine that dispatched it.
fn is_zone_by_name(read: &BrokenDownTime) -> bool {
    read.timestamp().is_none() && read.offset().is_none() && read.iana_time_zone().is_some()
}

/// The whole seconds of a time since 1970, rounded down, also before 1970.
fn whole_seconds(timestamp: Timestamp) -> i64 {
    timestamp.as_nanosecond().div_euclid(1_000_000_000) as i64
}

/// The seconds since 1970-01-01T00:00:00Z of a time in ISO 8601: `2020-07-14T09:23:51` or `2020-07-14`;
/// with a space in place of the `T`, without seconds, with fractions of seconds (rounded down), with
/// `Z` or an offset such as `+02:00`, after which the name of a zone is ignored. `None` for anything
/// else, also for a zone by its name alone (`2020-07-14T09:23:51[Europe/Rome]`).
pub fn parse(text: &[u8]) -> Option<i64> {
    parse_common(text).or_else(|| parse_any(text))
}

/// Reads the two forms that nearly all data sets use, in about 10 ns; a parser of all forms takes ten
/// times as long.
fn parse_common(text: &[u8]) -> Option<i64> {
    let (date, time) = match text.len() {
        10 => (text, None),
        19 if matches!(text[10], b'T' | b' ') => (&text[..10], Some(&text[11..])),
        _ => return None,
    };
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = two_digits(date, 0)? * 100 + two_digits(date, 2)?;
    let month = two_digits(date, 5)?;
    let day = two_digits(date, 8)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let of_day = match time {
        None => 0,
        Some(time) => {
            if time[2] != b':' || time[5] != b':' {
                return None;
            }
            let (hour, minute) = (two_digits(time, 0)?, two_digits(time, 3)?);
            let second = two_digits(time, 6)?;
            if hour > 23 || minute > 59 || second > 59 {
                return None;
            }
            hour * 3_600 + minute * 60 + second
        }
    };
    Some(days_from_civil(year, month, day) * SECONDS_PER_DAY + of_day)
}

/// The number of two decimal digits at a position.
fn two_digits(text: &[u8], at: usize) -> Option<i64> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by Howard Hinnant's algorithm
/// `days_from_civil` ("chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Reads all other forms.
fn parse_any(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(whole_seconds(timestamp));
    }
    // jiff's parser of civil times would ignore an offset or a zone.
    let pieces = Pieces::parse(text).ok()?;
    if pieces.offset().is_some() || pieces.time_zone_annotation().is_some() {
        return None;
    }
    let civil = pieces
        .date()
        .to_datetime(pieces.time().unwrap_or(Time::midnight()));
    let timestamp = Offset::UTC.to_timestamp(civil).ok()?;
    Some(whole_seconds(timestamp))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> Option<i64> {
        Some(text.parse::<Timestamp>().expect("a timestamp").as_second())
    }

    #[test]
    fn all_usual_forms_are_read() {
        let noon = utc("2020-07-14T12:00:00Z");
        for text in [
            "2020-07-14T12:00:00",
            "2020-07-14 12:00:00",
            "2020-07-14T12:00",
            "2020-07-14T12:00:00.999",
            "2020-07-14T12:00:00Z",
            "2020-07-14T14:00:00+02:00",
            "2020-07-14T14:00:00+02:00[Europe/Rome]",
            "20200714T120000",
        ] {
            assert_eq!(parse(text.as_bytes()), noon, "{text}");
        }
        assert_eq!(parse(b"2020-02-29"), utc("2020-02-29T00:00:00Z"));
        assert_eq!(parse(b"1969-12-31T23:59:59"), Some(-1));
    }

    #[test]
    fn a_text_that_is_not_a_time_is_refused() {
        for text in [
            "",
            "n/a",
            "2019-02-29",
            "2020-13-01",
            "2020-00-10",
            "2020-07-32",
            "2020-07-14T24:00:00",
            "2020-07-14T12:60:00",
            "14/07/2020 09:23",
            "2020-7-14",
            "20200714T9",
            "2020-07-14T09:23:5x",
            "2020-07-14X09:23:51",
            // In Rome it was 07:23 UTC, but no table of zones is used.
            "2020-07-14T09:23:51[Europe/Rome]",
            "2020-07-14[UTC]",
            // The time is out of range, and without its offset it would be another one.
            "-009999-01-01T00:00:00+14:00",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"2020-07-14T09:23:\xff1"), None);
    }

    #[test]
    fn other_forms_are_read_by_directives() {
        let noon = utc("2020-07-14T12:00:00Z");
        for (format, text) in [
            ("%d.%m.%Y %H:%M", "14.07.2020 12:00"),
            ("%d/%m/%y %I:%M:%S %p", "14/07/20 12:00:00 PM"),
            ("%Y-%m-%dT%H:%M:%S%z", "2020-07-14T14:00:00+0200"),
            ("%Y-%m-%d %H:%M %:z", "2020-07-14 07:00 -05:00"),
            ("%s", "1594728000"),
            ("%d %b %Y %T", "14 Jul 2020 12:00:00"),
        ] {
            let format: TimeFormat = format.parse().expect("a complete format");
            assert_eq!(format.parse(text.as_bytes()), noon, "{format:?}");
            for wrong in ["", "2020-07-14T12:00:00", "n/a"] {
                assert_eq!(format.parse(wrong.as_bytes()), None, "{format:?} {wrong}");
            }
        }
        let date: TimeFormat = "%d.%m.%Y".parse().expect("a date is enough");
        assert_eq!(date.parse(b"14.07.2020"), utc("2020-07-14T00:00:00Z"));
        assert_eq!(date.parse(b"31.02.2020"), None);
        assert_eq!(date.parse(b"14.07.2020 "), None);
    }

    #[test]
    fn a_zone_by_its_name_alone_is_not_read_as_utc() {
        for format in ["%Y-%m-%d %H:%M %Q", "%Y-%m-%d %H:%M[%:Q]"] {
            let error = format
                .parse::<TimeFormat>()
                .expect_err("a name is no offset");
            assert!(error.contains("%z"), "{error}");
        }
        let both: TimeFormat = "%Y-%m-%d %H:%M%:z[%Q]".parse().expect("it has an offset");
        assert_eq!(
            both.parse(b"2020-07-14 08:00-04:00[America/New_York]"),
            utc("2020-07-14T12:00:00Z")
        );
    }

    #[test]
    fn directives_without_a_complete_date_are_refused() {
        for format in ["", "yesterday", "%H:%M", "%Y-%m", "%Y-%m-%", "%d.%m.%!"] {
            assert!(format.parse::<TimeFormat>().is_err(), "{format}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_parser_agrees_with_the_library(seconds in -62_135_596_800i64..253_402_207_200) {
            let civil = Offset::UTC.to_datetime(Timestamp::from_second(seconds).expect("in range"));
            let text = civil.to_string();
            prop_assert_eq!(parse_common(text.as_bytes()), Some(seconds), "{}", text);
            prop_assert_eq!(parse_any(text.as_bytes()), Some(seconds));
        }

        #[test]
        fn the_fast_parser_accepts_nothing_that_the_library_refuses(
            text in "[0-9]{4}-[0-3][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9])?",
        ) {
            if let Some(seconds) = parse_common(text.as_bytes()) {
                prop_assert_eq!(parse_any(text.as_bytes()), Some(seconds), "{}", text);
            }
        }
    }
}

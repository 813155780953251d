//! The time of a test, as data sets write it. A time without a zone is taken for UTC.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};

const SECONDS_PER_DAY: i64 = 86_400;

/// How times that are text are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// As ISO 8601 has it, see [`parse`].
    #[default]
    Iso,
    /// By the directives of [`jiff::fmt::strtime`], which are those of strftime.
    Directives(Box<str>),
}

impl TimeFormat {
    /// Seconds since 1970-01-01T00:00:00Z; `None` for what is not written so.
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

    /// Takes directives that make up a date at least, and can be read back from what they write.
    fn from_str(format: &str) -> Result<Self, Self::Err> {
        let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        let written = strtime::format(format, &sample);
        let written = written.map_err(|error| not_a_format(&error))?;
        let read = BrokenDownTime::parse(format, &written);
        let read = read.map_err(|error| not_a_format(&error))?;
        if is_zone_by_name(&read) {
            return Err(
                "%Q and %:Q read the name of a zone, which says no offset without a table of zones; \
                 times with an offset are read by %z or %:z"
                    .to_owned(),
            );
        }
        seconds(&read).ok_or(
            "it makes up no date; give day, month and year, such as %d.%m.%Y %H:%M, or %s for \
             seconds since 1970",
        )?;
        Ok(Self::Directives(format.into()))
    }
}

/// The last of the causes says which directive it is.
fn not_a_format(error: &jiff::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit(": ").next().unwrap_or(&text);
    format!("{cause}; the directives are those of strftime, such as %d.%m.%Y %H:%M")
}

/// Of `%s`, else of date, time and offset; without a time it is midnight, without an offset UTC.
/// `None` for what makes up no time, or one in a zone of which only the name is known.
fn seconds(read: &BrokenDownTime) -> Option<i64> {
    let timestamp = match (read.timestamp(), read.offset()) {
        (None, None) if is_zone_by_name(read) => return None,
        (None, None) => Offset::UTC.to_timestamp(read.to_datetime().ok()?).ok()?,
        _ => read.to_timestamp().ok()?,
    };
    Some(whole_seconds(timestamp))
}

/// Whether a zone is named without its offset. What the offset is, a table of zones says, and not
/// every machine has the same: the numbers of a run would depend on where it was dispatched.
fn is_zone_by_name(read: &BrokenDownTime) -> bool {
    read.timestamp().is_none() && read.offset().is_none() && read.iana_time_zone().is_some()
}

/// Cut off towards the past, also before 1970.
fn whole_seconds(timestamp: Timestamp) -> i64 {
    timestamp.as_nanosecond().div_euclid(1_000_000_000) as i64
}

/// Seconds since 1970-01-01T00:00:00Z of a point in time in ISO 8601: `2020-07-14T09:23:51` or
/// `2020-07-14`, with a blank for the `T`, without seconds, with fractions of them (cut off), with
/// `Z` or an offset such as `+02:00`, after which the name of a zone is passed over. `None` for
/// anything else, also for a zone by its name alone (`2020-07-14T09:23:51[Europe/Rome]`), which is
/// neither UTC nor an offset.
pub fn parse(text: &[u8]) -> Option<i64> {
    parse_common(text).or_else(|| parse_any(text))
}

/// The two forms that nearly all data sets use, without looking anything up: some 10 ns, where a
/// parser of all forms takes ten times as long.
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

/// Every other form.
fn parse_any(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(whole_seconds(timestamp));
    }
    // The parser of civil times would pass over an offset and a zone as if they were not there.
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
    fn what_is_no_time_is_none() {
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
            // In Rome it was 07:23 UTC, and no table of zones is asked.
            "2020-07-14T09:23:51[Europe/Rome]",
            "2020-07-14[UTC]",
            // The point in time is out of range, and without its offset it is another one.
            "-009999-01-01T00:00:00+14:00",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"2020-07-14T09:23:\xff1"), None);
    }

    #[test]
    fn directives_say_how_other_forms_are_read() {
        let noon = utc("2020-07-14T12:00:00Z");
        for (format, text) in [
            ("%d.%m.%Y %H:%M", "14.07.2020 12:00"),
            ("%d/%m/%y %I:%M:%S %p", "14/07/20 12:00:00 PM"),
            ("%Y-%m-%dT%H:%M:%S%z", "2020-07-14T14:00:00+0200"),
            ("%Y-%m-%d %H:%M %:z", "2020-07-14 07:00 -05:00"),
            ("%s", "1594728000"),
            ("%d %b %Y %T", "14 Jul 2020 12:00:00"),
        ] {
            let format: TimeFormat = format.parse().expect("it makes up a time");
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
    fn a_zone_by_its_name_alone_is_never_taken_for_utc() {
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
    fn directives_that_make_up_no_date_are_refused() {
        for format in ["", "yesterday", "%H:%M", "%Y-%m", "%Y-%m-%", "%d.%m.%!"] {
            assert!(format.parse::<TimeFormat>().is_err(), "{format}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_agrees_with_the_library(seconds in -62_135_596_800i64..253_402_207_200) {
            let civil = Offset::UTC.to_datetime(Timestamp::from_second(seconds).expect("in range"));
            let text = civil.to_string();
            prop_assert_eq!(parse_common(text.as_bytes()), Some(seconds), "{}", text);
            prop_assert_eq!(parse_any(text.as_bytes()), Some(seconds));
        }

        #[test]
        fn the_fast_way_takes_nothing_that_the_library_refuses(
            text in "[0-9]{4}-[0-3][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9])?",
        ) {
            if let Some(seconds) = parse_common(text.as_bytes()) {
                prop_assert_eq!(parse_any(text.as_bytes()), Some(seconds), "{}", text);
            }
        }
    }
}

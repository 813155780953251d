//! The drawing and writing of a row. All that is the same for every row is computed and formatted
//! before the first one, so that a row costs four 64-bit draws, a few table look-ups and three
//! copies into the block's buffer.

use jiff::civil::Date;
use rand::Rng;

use crate::alias::Alias;
use crate::config::Config;
use crate::countries::{COUNTRIES, Country, Locale};
use crate::epidemic::{Epidemic, lift};
use crate::pools::Pool;
use crate::random::{DRAWS, halves, scale};
use crate::rhythm::{AGES, HOURS, WEEKDAYS, ages, trend};

/// The first line of every file, without its line end.
pub const HEADER: &str = "patient_name,city,country,birth_date,test_date,result";

/// The template of the end of a row, which has the same length in every row.
const TAIL: [u8; 40] = *b"YYYY-MM-DD,YYYY-MM-DDThh:mm:ss,negative\n";

/// The number of birthdays in a year, without the 29th of February.
const BIRTHDAYS: usize = 365;

/// The tables that rows are drawn from.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Picks a position in `countries`.
    country: Alias,
    countries: Vec<CountryTables>,
    /// By locale; `None` for a locale that no country of this data set has.
    names: Vec<Option<Pool>>,
    hour: Alias,
    age: Alias,
    /// By day of the range, such as `2020-07-14`.
    days: Vec<[u8; 10]>,
    /// By age, such as `1961`.
    birth_years: [[u8; 4]; AGES],
    /// By day of the year, such as `-04-30`.
    birthdays: [[u8; 6]; BIRTHDAYS],
    /// `00` to `59`.
    sixty: [[u8; 2]; 60],
}

/// The tables of one country.
#[derive(Debug)]
struct CountryTables {
    locale: Locale,
    places: Pool,
    /// Picks a day of the range.
    day: Alias,
    /// By day of the range: a test is positive when its draw is below this.
    positive_below: Vec<u32>,
}

impl Rows {
    /// The tables for a valid configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let countries = &COUNTRIES[..config.countries];
        let weights: Vec<f64> = countries.iter().map(Country::weight).collect();
        let days: Vec<Date> = config
            .from
            .series(jiff::Span::new().days(1))
            .take_while(|&day| day < config.to)
            .collect();
        let mut names = vec![None; Locale::COUNT];
        for country in countries {
            names[country.locale as usize]
                .get_or_insert_with(|| Pool::names(config.seed, country.locale));
        }
        Self {
            country: Alias::new(&weights),
            countries: countries
                .iter()
                .enumerate()
                .map(|(position, country)| {
                    CountryTables::new(config.seed, position, country, &days)
                })
                .collect(),
            names,
            hour: Alias::new(&HOURS),
            age: Alias::new(&ages()),
            days: days.iter().map(|day| text(&day.to_string())).collect(),
            birth_years: std::array::from_fn(|age| {
                let year = i32::from(config.from.year()) - 1 - age as i32;
                text(&format!("{year:04}"))
            }),
            birthdays: birthdays(),
            sixty: std::array::from_fn(|number| text(&format!("{number:02}"))),
        }
    }

    /// Draws a row and appends its line to `line`.
    #[inline]
    pub(crate) fn write(&self, rng: &mut impl Rng, line: &mut Vec<u8>) {
        let (country, day) = halves(rng.next_u64());
        let (hour, result) = halves(rng.next_u64());
        let (second, age) = halves(rng.next_u64());
        let (name, rest) = halves(rng.next_u64());

        let country = &self.countries[self.country.pick(country)];
        let day = country.day.pick(day);
        let (second, _) = scale(second, 60 * 60);
        // Birthday and city share one draw: the city is drawn from the rest of the birthday's.
        let (birthday, rest) = scale(rest, BIRTHDAYS as u32);
        let names = self.names[country.locale as usize]
            .as_ref()
            .expect("the locale of every country of the data set has names");

        let mut tail = TAIL;
        tail[0..4].copy_from_slice(&self.birth_years[self.age.pick(age)]);
        tail[4..10].copy_from_slice(&self.birthdays[birthday as usize]);
        tail[11..21].copy_from_slice(&self.days[day]);
        tail[22..24].copy_from_slice(&self.sixty[self.hour.pick(hour)]);
        tail[25..27].copy_from_slice(&self.sixty[second as usize / 60]);
        tail[28..30].copy_from_slice(&self.sixty[second as usize % 60]);
        if result < country.positive_below[day] {
            tail[31..39].copy_from_slice(b"positive");
        }

        line.extend_from_slice(names.pick(name));
        line.extend_from_slice(country.places.pick(rest));
        line.extend_from_slice(&tail);
    }
}

impl CountryTables {
    fn new(seed: u64, position: usize, country: &Country, days: &[Date]) -> Self {
        let epidemic = Epidemic::of(seed, position);
        // The time of noon of a day, from 0 to 1 over the range.
        let time = |day: usize| (day as f64 + 0.5) / days.len() as f64;
        let positivity: Vec<f64> = (0..days.len())
            .map(|day| epidemic.positivity(time(day)))
            .collect();
        let volume: Vec<f64> = days
            .iter()
            .enumerate()
            .map(|(day, date)| {
                let weekday = date.weekday().to_monday_zero_offset() as usize;
                trend(time(day)) * lift(positivity[day]) * WEEKDAYS[weekday]
            })
            .collect();
        Self {
            locale: country.locale,
            places: Pool::places(seed, position, country),
            day: Alias::new(&volume),
            positive_below: positivity
                .iter()
                .map(|share| (share * DRAWS) as u32)
                .collect(),
        }
    }
}

/// Every day of a year that is not a leap year, such as `-04-30`.
fn birthdays() -> [[u8; 6]; BIRTHDAYS] {
    let first = Date::constant(2021, 1, 1);
    let mut days = first.series(jiff::Span::new().days(1));
    std::array::from_fn(|_| {
        let day = days.next().unwrap_or(first);
        text(&format!("-{:02}-{:02}", day.month(), day.day()))
    })
}

/// A text of a known length as an array of bytes.
fn text<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    text.as_bytes()
        .try_into()
        .expect("years of valid configurations have four digits, all else two")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    #[test]
    fn a_line_has_the_fields_of_the_header() {
        let rows = Rows::new(&Config::default());
        let mut rng = stream(42, Purpose::Rows, 0);
        let mut line = Vec::new();
        for _ in 0..1_000 {
            line.clear();
            rows.write(&mut rng, &mut line);
            let line = std::str::from_utf8(&line).expect("UTF-8");
            let fields: Vec<&str> = line.trim_end_matches('\n').split(',').collect();
            assert_eq!(fields.len(), HEADER.split(',').count(), "{line}");
            assert!(COUNTRIES.iter().any(|country| country.name == fields[2]));
            assert!(fields[3].parse::<Date>().expect("a date") < Config::default().from);
            assert!(["positive", "negative"].contains(&fields[5]));
            assert!(line.ends_with('\n'));
        }
    }

    #[test]
    fn a_year_has_its_first_and_its_last_birthday() {
        let days = birthdays();
        assert_eq!(&days[0], b"-01-01");
        assert_eq!(&days[58], b"-02-28");
        assert_eq!(&days[59], b"-03-01");
        assert_eq!(&days[364], b"-12-31");
    }
}

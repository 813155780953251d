//! Pools of names and cities, filled by the `fake` crate before the first row is written. Rows copy
//! from them, because faking a name takes longer than the rest of a row.

use fake::faker::address::raw::CityName;
use fake::faker::impls::address::CityNameGenFn;
use fake::faker::name::raw::{FirstName, LastName, Name};
use fake::locales::{DE_DE, EN, FR_FR, IT_IT, JA_JP, NL_NL, PT_BR, PT_PT, TR_TR, ZH_CN};
use fake::{Dummy, Fake};
use rand_chacha::ChaCha8Rng;

use crate::countries::{Country, Locale};
use crate::random::{Purpose, scale, stream};

/// The number of names of a locale.
const NAMES: usize = 4096;

/// The number of cities of a country.
const CITIES: usize = 64;

/// A pool of strings, which are concatenated in one allocation.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    text: Vec<u8>,
    /// The end of each string in `text`, after the start of the first one, which is 0.
    bounds: Vec<u32>,
}

impl Pool {
    /// A pool of people's names, each followed by a comma.
    pub(crate) fn names(seed: u64, locale: Locale) -> Self {
        let mut rng = stream(seed, Purpose::Names, locale as u64);
        Self::fill(NAMES, || {
            let mut name = plain(|| name(locale, &mut rng));
            name.push(',');
            name
        })
    }

    /// A pool of cities of the country at `position` of the table, each followed by a comma, the
    /// country's name and another comma.
    pub(crate) fn places(seed: u64, position: usize, country: &Country) -> Self {
        let mut rng = stream(seed, Purpose::Cities, position as u64);
        Self::fill(CITIES, || {
            let city = plain(|| city(country.locale, &mut rng));
            format!("{city},{},", country.name)
        })
    }

    fn fill(pieces: usize, mut piece: impl FnMut() -> String) -> Self {
        let mut pool = Self {
            text: Vec::new(),
            bounds: vec![0],
        };
        for _ in 0..pieces {
            pool.text.extend_from_slice(piece().as_bytes());
            pool.bounds.push(pool.text.len() as u32);
        }
        pool
    }

    /// The string for a draw, which is uniform over all `u32`.
    #[inline]
    pub(crate) fn pick(&self, draw: u32) -> &[u8] {
        let (piece, _) = scale(draw, self.bounds.len() as u32 - 1);
        let piece = piece as usize;
        &self.text[self.bounds[piece] as usize..self.bounds[piece + 1] as usize]
    }
}

/// A text that does not have to be quoted in CSV, by drawing until there is one: [`Rows`] and
/// [`Spoiler`] rely on every comma being the end of a field.
///
/// [`Rows`]: crate::rows::Rows
/// [`Spoiler`]: crate::spoil::Spoiler
fn plain(mut draw: impl FnMut() -> String) -> String {
    loop {
        let text = draw();
        if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
            return text;
        }
    }
}

fn name(locale: Locale, rng: &mut ChaCha8Rng) -> String {
    match locale {
        Locale::English => Name(EN).fake_with_rng(rng),
        Locale::French => Name(FR_FR).fake_with_rng(rng),
        Locale::Portuguese => Name(PT_PT).fake_with_rng(rng),
        Locale::PortugueseBrazil => Name(PT_BR).fake_with_rng(rng),
        Locale::German => Name(DE_DE).fake_with_rng(rng),
        Locale::Italian => Name(IT_IT).fake_with_rng(rng),
        Locale::Dutch => Name(NL_NL).fake_with_rng(rng),
        Locale::Turkish => Name(TR_TR).fake_with_rng(rng),
        Locale::Japanese => Name(JA_JP).fake_with_rng(rng),
        Locale::ChineseSimplified => Name(ZH_CN).fake_with_rng(rng),
    }
}

/// The name of a city. Where `fake` has only English patterns for a locale's cities, a pattern of
/// that language is used instead.
fn city(locale: Locale, rng: &mut ChaCha8Rng) -> String {
    match locale {
        Locale::English => city_name(EN, rng),
        Locale::French => format!("Saint-{}", FirstName(FR_FR).fake_with_rng::<&str, _>(rng)),
        Locale::Portuguese | Locale::PortugueseBrazil => city_name(PT_PT, rng),
        Locale::German => city_name(DE_DE, rng),
        Locale::Italian => city_name(IT_IT, rng),
        Locale::Dutch => city_name(NL_NL, rng),
        Locale::Turkish => city_name(TR_TR, rng),
        Locale::Japanese => format!("{}市", LastName(JA_JP).fake_with_rng::<&str, _>(rng)),
        Locale::ChineseSimplified => city_name(ZH_CN, rng),
    }
}

fn city_name<L: CityNameGenFn>(locale: L, rng: &mut ChaCha8Rng) -> String
where
    String: Dummy<CityName<L>>,
{
    CityName(locale).fake_with_rng(rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countries::COUNTRIES;

    fn pieces(pool: &Pool) -> impl Iterator<Item = &str> {
        pool.bounds.windows(2).map(|bounds| {
            std::str::from_utf8(&pool.text[bounds[0] as usize..bounds[1] as usize])
                .expect("pools are made of strings")
        })
    }

    #[test]
    fn every_piece_has_the_right_number_of_fields() {
        for (position, country) in COUNTRIES.iter().enumerate() {
            let names = Pool::names(42, country.locale);
            assert_eq!(pieces(&names).count(), NAMES);
            assert!(pieces(&names).all(|piece| piece.matches(',').count() == 1));

            let places = Pool::places(42, position, country);
            assert_eq!(pieces(&places).count(), CITIES);
            for piece in pieces(&places) {
                assert_eq!(piece.split(',').nth(1), Some(country.name));
                assert_eq!(piece.matches(',').count(), 2);
                assert!(!piece.contains(['"', '\n', '\r']));
            }
        }
    }

    #[test]
    fn the_least_and_the_greatest_draw_pick_the_ends_of_the_pool() {
        let pool = Pool::names(42, Locale::English);
        assert_eq!(Some(pool.pick(0)), pieces(&pool).next().map(str::as_bytes));
        assert_eq!(
            Some(pool.pick(u32::MAX)),
            pieces(&pool).last().map(str::as_bytes)
        );
    }
}

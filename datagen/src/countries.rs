//! The countries of the world, most populous first: the 193 members of the United Nations and its
//! two observer states, with populations of about 2020.

/// A country in which tests are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Country {
    /// The short English name. Some have letters outside ASCII; none has to be quoted in CSV.
    pub name: &'static str,
    /// The population in millions, rounded; used as a weight only.
    pub population_millions: f64,
    pub(crate) locale: Locale,
}

/// The locale of the `fake` crate for the names of a country's people and cities; English where the
/// crate has no other that fits. Arabic and Persian are not used: with text from right to left,
/// terminals display the fields of a line out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locale {
    English,
    French,
    Portuguese,
    PortugueseBrazil,
    German,
    Italian,
    Dutch,
    Turkish,
    Japanese,
    ChineseSimplified,
}

impl Locale {
    /// The number of locales.
    pub(crate) const COUNT: usize = Self::ChineseSimplified as usize + 1;
}

impl Country {
    /// The country's relative number of rows, `population^(1/8)`: flat enough for small countries
    /// to have tests in most hours, too.
    pub(crate) fn weight(&self) -> f64 {
        // Three square roots instead of `powf`: IEEE 754 defines them to the last bit.
        self.population_millions.sqrt().sqrt().sqrt()
    }
}

/// All countries, by descending population.
pub static COUNTRIES: [Country; 195] = [
    country("China", 1425.0, Locale::ChineseSimplified),
    country("India", 1396.0, Locale::English),
    country("United States", 336.0, Locale::English),
    country("Indonesia", 272.0, Locale::English),
    country("Pakistan", 227.0, Locale::English),
    country("Brazil", 213.0, Locale::PortugueseBrazil),
    country("Nigeria", 208.0, Locale::English),
    country("Bangladesh", 167.0, Locale::English),
    country("Russia", 146.0, Locale::English),
    country("Mexico", 126.0, Locale::English),
    country("Japan", 125.0, Locale::Japanese),
    country("Ethiopia", 117.0, Locale::English),
    country("Philippines", 112.0, Locale::English),
    country("Egypt", 107.0, Locale::English),
    country("Viet Nam", 97.0, Locale::English),
    country("Democratic Republic of the Congo", 93.0, Locale::French),
    country("Iran", 87.0, Locale::English),
    country("Turkey", 84.0, Locale::Turkish),
    country("Germany", 83.0, Locale::German),
    country("Thailand", 71.5, Locale::English),
    country("United Kingdom", 67.0, Locale::English),
    country("France", 64.5, Locale::French),
    country("Tanzania", 62.0, Locale::English),
    country("Italy", 59.5, Locale::Italian),
    country("South Africa", 59.0, Locale::English),
    country("Myanmar", 53.0, Locale::English),
    country("Kenya", 52.0, Locale::English),
    country("South Korea", 52.0, Locale::English),
    country("Colombia", 51.0, Locale::English),
    country("Spain", 47.0, Locale::English),
    country("Argentina", 45.0, Locale::English),
    country("Algeria", 44.0, Locale::French),
    country("Sudan", 44.0, Locale::English),
    country("Uganda", 44.0, Locale::English),
    country("Ukraine", 44.0, Locale::English),
    country("Iraq", 42.5, Locale::English),
    country("Afghanistan", 39.0, Locale::English),
    country("Canada", 38.0, Locale::English),
    country("Poland", 38.0, Locale::English),
    country("Morocco", 37.0, Locale::French),
    country("Saudi Arabia", 36.0, Locale::English),
    country("Uzbekistan", 33.5, Locale::English),
    country("Angola", 33.4, Locale::Portuguese),
    country("Malaysia", 33.2, Locale::English),
    country("Peru", 32.8, Locale::English),
    country("Ghana", 32.0, Locale::English),
    country("Yemen", 32.0, Locale::English),
    country("Mozambique", 31.0, Locale::Portuguese),
    country("Nepal", 29.0, Locale::English),
    country("Venezuela", 28.5, Locale::English),
    country("Madagascar", 28.0, Locale::French),
    country("Côte d'Ivoire", 26.8, Locale::French),
    country("Cameroon", 26.5, Locale::French),
    country("North Korea", 25.9, Locale::English),
    country("Australia", 25.7, Locale::English),
    country("Niger", 24.3, Locale::French),
    country("Sri Lanka", 21.7, Locale::English),
    country("Burkina Faso", 21.5, Locale::French),
    country("Mali", 21.2, Locale::French),
    country("Syria", 20.8, Locale::English),
    country("Malawi", 19.4, Locale::English),
    country("Romania", 19.4, Locale::English),
    country("Chile", 19.3, Locale::English),
    country("Kazakhstan", 19.0, Locale::English),
    country("Zambia", 18.9, Locale::English),
    country("Ecuador", 17.6, Locale::English),
    country("Netherlands", 17.4, Locale::Dutch),
    country("Guatemala", 17.0, Locale::English),
    country("Chad", 16.6, Locale::French),
    country("Somalia", 16.5, Locale::English),
    country("Cambodia", 16.4, Locale::English),
    country("Senegal", 16.4, Locale::French),
    country("Zimbabwe", 15.7, Locale::English),
    country("Guinea", 13.2, Locale::French),
    country("Rwanda", 13.1, Locale::French),
    country("Benin", 12.6, Locale::French),
    country("Burundi", 12.2, Locale::French),
    country("Tunisia", 12.2, Locale::French),
    country("Bolivia", 11.9, Locale::English),
    country("Belgium", 11.6, Locale::French),
    country("Cuba", 11.3, Locale::English),
    country("Haiti", 11.3, Locale::French),
    country("Dominican Republic", 11.0, Locale::English),
    country("Jordan", 10.9, Locale::English),
    country("South Sudan", 10.6, Locale::English),
    country("Czechia", 10.5, Locale::English),
    country("Greece", 10.5, Locale::English),
    country("Sweden", 10.4, Locale::English),
    country("Azerbaijan", 10.3, Locale::English),
    country("Portugal", 10.3, Locale::Portuguese),
    country("Honduras", 10.1, Locale::English),
    country("Hungary", 9.8, Locale::English),
    country("Papua New Guinea", 9.7, Locale::English),
    country("Belarus", 9.6, Locale::English),
    country("Tajikistan", 9.5, Locale::English),
    country("United Arab Emirates", 9.3, Locale::English),
    country("Austria", 8.9, Locale::German),
    country("Israel", 8.8, Locale::English),
    country("Switzerland", 8.6, Locale::German),
    country("Togo", 8.4, Locale::French),
    country("Sierra Leone", 8.2, Locale::English),
    country("Laos", 7.3, Locale::English),
    country("Bulgaria", 6.9, Locale::English),
    country("Serbia", 6.9, Locale::English),
    country("Nicaragua", 6.8, Locale::English),
    country("Libya", 6.7, Locale::English),
    country("Paraguay", 6.6, Locale::English),
    country("Kyrgyzstan", 6.4, Locale::English),
    country("El Salvador", 6.3, Locale::English),
    country("Turkmenistan", 6.3, Locale::English),
    country("Singapore", 5.9, Locale::English),
    country("Denmark", 5.8, Locale::English),
    country("Lebanon", 5.7, Locale::English),
    country("Republic of the Congo", 5.7, Locale::French),
    country("Finland", 5.5, Locale::English),
    country("Slovakia", 5.5, Locale::English),
    country("Norway", 5.4, Locale::English),
    country("Central African Republic", 5.3, Locale::French),
    country("Costa Rica", 5.1, Locale::English),
    country("Liberia", 5.1, Locale::English),
    country("New Zealand", 5.1, Locale::English),
    country("Palestine", 5.0, Locale::English),
    country("Ireland", 4.9, Locale::English),
    country("Mauritania", 4.5, Locale::French),
    country("Oman", 4.5, Locale::English),
    country("Kuwait", 4.4, Locale::English),
    country("Panama", 4.3, Locale::English),
    country("Croatia", 4.1, Locale::English),
    country("Georgia", 3.8, Locale::English),
    country("Eritrea", 3.6, Locale::English),
    country("Uruguay", 3.4, Locale::English),
    country("Bosnia and Herzegovina", 3.3, Locale::English),
    country("Mongolia", 3.3, Locale::English),
    country("Moldova", 3.1, Locale::English),
    country("Albania", 2.9, Locale::English),
    country("Armenia", 2.8, Locale::English),
    country("Jamaica", 2.8, Locale::English),
    country("Lithuania", 2.8, Locale::English),
    country("Qatar", 2.8, Locale::English),
    country("Gambia", 2.6, Locale::English),
    country("Botswana", 2.5, Locale::English),
    country("Namibia", 2.5, Locale::English),
    country("Gabon", 2.3, Locale::French),
    country("Lesotho", 2.3, Locale::English),
    country("North Macedonia", 2.1, Locale::English),
    country("Slovenia", 2.1, Locale::English),
    country("Guinea-Bissau", 2.0, Locale::Portuguese),
    country("Latvia", 1.9, Locale::English),
    country("Equatorial Guinea", 1.6, Locale::English),
    country("Bahrain", 1.5, Locale::English),
    country("Trinidad and Tobago", 1.5, Locale::English),
    country("Estonia", 1.3, Locale::English),
    country("Mauritius", 1.3, Locale::French),
    country("Timor-Leste", 1.3, Locale::Portuguese),
    country("Cyprus", 1.2, Locale::English),
    country("Eswatini", 1.2, Locale::English),
    country("Djibouti", 1.1, Locale::French),
    country("Fiji", 0.92, Locale::English),
    country("Comoros", 0.81, Locale::French),
    country("Guyana", 0.8, Locale::English),
    country("Bhutan", 0.77, Locale::English),
    country("Solomon Islands", 0.69, Locale::English),
    country("Luxembourg", 0.63, Locale::French),
    country("Montenegro", 0.63, Locale::English),
    country("Suriname", 0.61, Locale::Dutch),
    country("Cabo Verde", 0.58, Locale::Portuguese),
    country("Malta", 0.52, Locale::English),
    country("Maldives", 0.51, Locale::English),
    country("Brunei", 0.44, Locale::English),
    country("Bahamas", 0.41, Locale::English),
    country("Belize", 0.4, Locale::English),
    country("Iceland", 0.37, Locale::English),
    country("Vanuatu", 0.31, Locale::English),
    country("Barbados", 0.28, Locale::English),
    country("São Tomé and Príncipe", 0.22, Locale::Portuguese),
    country("Samoa", 0.21, Locale::English),
    country("Saint Lucia", 0.18, Locale::English),
    country("Kiribati", 0.13, Locale::English),
    country("Grenada", 0.12, Locale::English),
    country("Micronesia", 0.11, Locale::English),
    country("Seychelles", 0.11, Locale::French),
    country("Tonga", 0.11, Locale::English),
    country("Saint Vincent and the Grenadines", 0.1, Locale::English),
    country("Antigua and Barbuda", 0.09, Locale::English),
    country("Andorra", 0.08, Locale::English),
    country("Dominica", 0.07, Locale::English),
    country("Saint Kitts and Nevis", 0.05, Locale::English),
    country("Liechtenstein", 0.04, Locale::German),
    country("Marshall Islands", 0.04, Locale::English),
    country("Monaco", 0.04, Locale::French),
    country("San Marino", 0.03, Locale::Italian),
    country("Palau", 0.02, Locale::English),
    country("Nauru", 0.01, Locale::English),
    country("Tuvalu", 0.01, Locale::English),
    country("Vatican City", 0.001, Locale::Italian),
];

const fn country(name: &'static str, population_millions: f64, locale: Locale) -> Country {
    Country {
        name,
        population_millions,
        locale,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn countries_are_unique_and_in_descending_order_of_population() {
        assert!(COUNTRIES.is_sorted_by(|a, b| a.population_millions >= b.population_millions));
        let names: HashSet<&str> = COUNTRIES.iter().map(|country| country.name).collect();
        assert_eq!(names.len(), COUNTRIES.len());
    }

    #[test]
    fn the_populations_add_up_to_the_worlds() {
        let billions: f64 = COUNTRIES
            .iter()
            .map(|country| country.population_millions / 1_000.0)
            .sum();
        assert!((7.7..7.9).contains(&billions), "{billions}");
    }

    #[test]
    fn weights_are_lightly_skewed() {
        let weight = |position: usize| COUNTRIES[position].weight();
        assert!((1.7..2.2).contains(&(weight(0) / weight(97))));
        assert!((5.0..7.0).contains(&(weight(0) / weight(194))));
    }
}

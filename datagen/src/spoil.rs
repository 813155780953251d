//! Spoiled rows, with the defects of real files, each within its line. A spoiled row breaks at
//! least one of these rules: it has as many fields as the header, `test_date` is a date and time,
//! `result` is exactly `positive` or `negative`, the country is UTF-8.

use std::fmt;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Config;
use crate::random::{DRAWS, Purpose, halves, scale, stream};

/// The defect of a spoiled row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Defect {
    /// A field is left out, or the line ends after its third field.
    MissingField,
    /// There is one field too many: at the end, or because a comma separates a title from its name.
    ExtraField,
    /// `test_date` is in another notation, not in the calendar, or no date.
    UnparsableDate,
    /// `test_date` is empty.
    EmptyDate,
    /// `result` is neither `positive` nor `negative`; it may be empty.
    UnknownResult,
    /// Quotes make two neighbouring fields one. They are closed on the same line.
    BrokenQuotes,
    /// The country's name is in Latin-1 and not valid UTF-8.
    NotUtf8,
}

impl Defect {
    /// Every defect, in the order of [`Spoiled::iter`].
    pub const ALL: [Self; 7] = [
        Self::MissingField,
        Self::ExtraField,
        Self::UnparsableDate,
        Self::EmptyDate,
        Self::UnknownResult,
        Self::BrokenQuotes,
        Self::NotUtf8,
    ];
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingField => "missing field",
            Self::ExtraField => "extra field",
            Self::UnparsableDate => "unparsable date",
            Self::EmptyDate => "empty date",
            Self::UnknownResult => "unknown result",
            Self::BrokenQuotes => "broken quotes",
            Self::NotUtf8 => "not UTF-8",
        })
    }
}

/// The number of spoiled rows by defect. A row has at most one defect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoiled {
    rows: [u64; Defect::ALL.len()],
}

impl Spoiled {
    /// The number of rows with a defect.
    pub fn rows(&self, defect: Defect) -> u64 {
        self.rows[defect as usize]
    }

    /// The number of rows with any defect.
    pub fn total(&self) -> u64 {
        self.rows.iter().sum()
    }

    /// Every defect with its number of rows, which may be 0.
    pub fn iter(&self) -> impl Iterator<Item = (Defect, u64)> {
        Defect::ALL.into_iter().zip(self.rows)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, rows) in self.rows.iter_mut().zip(other.rows) {
            *sum += rows;
        }
    }
}

/// Spoils some of the rows of a block, one after the other.
#[derive(Debug)]
pub(crate) struct Spoiler {
    rng: ChaCha8Rng,
    /// A row is spoiled when its 32-bit draw is below this.
    spoiled_below: u64,
    /// A copy of the row before it was spoiled.
    row: Vec<u8>,
}

impl Spoiler {
    /// The spoiler for a block; `None` if no row is to be spoiled.
    pub(crate) fn new(config: &Config, block: u64) -> Option<Self> {
        (config.malformed > 0.0).then(|| Self {
            rng: stream(config.seed, Purpose::Spoiling, block),
            spoiled_below: (config.malformed * DRAWS).round() as u64,
            row: Vec::new(),
        })
    }

    /// Decides whether to spoil the next row, which is the end of `block` from `start` on, and
    /// spoils it.
    pub(crate) fn next_row(&mut self, block: &mut Vec<u8>, start: usize, spoiled: &mut Spoiled) {
        // One draw for every row: with a higher share the same rows are spoiled, and more.
        let (decision, how) = halves(self.rng.next_u64());
        if u64::from(decision) >= self.spoiled_below {
            return;
        }
        let (defect, form) = scale(how, Defect::ALL.len() as u32);
        let defect = Defect::ALL[defect as usize];
        self.row.clear();
        self.row.extend_from_slice(&block[start..]);
        block.truncate(start);
        if let Some(fields) = Fields::of(&self.row) {
            fields.write_spoiled(defect, form, block);
        }
        block.push(b'\n');
        spoiled.rows[defect as usize] += 1;
    }
}

const CITY: usize = 1;
const COUNTRY: usize = 2;
const TEST_DATE: usize = 4;
const RESULT: usize = 5;

/// The fields of an unspoiled row. None is quoted, so each ends at a comma.
#[derive(Clone, Copy)]
struct Fields<'a>([&'a [u8]; 6]);

impl<'a> Fields<'a> {
    fn of(row: &'a [u8]) -> Option<Self> {
        let row = row.strip_suffix(b"\n")?;
        let mut fields = row.split(|&byte| byte == b',');
        let mut all = [&row[..0]; 6];
        for field in &mut all {
            *field = fields.next()?;
        }
        Some(Self(all))
    }

    /// Writes the row with a defect; `form`, a draw, chooses among its varieties.
    fn write_spoiled(mut self, defect: Defect, form: u32, out: &mut Vec<u8>) {
        let choose = |varieties: usize| scale(form, varieties as u32).0 as usize;
        match defect {
            Defect::MissingField => match choose(7) {
                6 => out.extend_from_slice(&self.0[..=COUNTRY].join(&b","[..])),
                missing => {
                    self.0[missing..].rotate_left(1);
                    out.extend_from_slice(&self.0[..RESULT].join(&b","[..]));
                }
            },
            Defect::ExtraField => match choose(3) {
                0 => {
                    self.write(out);
                    out.push(b',');
                }
                1 => {
                    self.write(out);
                    out.extend_from_slice(b",PCR");
                }
                _ => {
                    out.extend_from_slice(b"Dr.,");
                    self.write(out);
                }
            },
            Defect::UnparsableDate => {
                let date = unparsable(self.0[TEST_DATE], choose(6));
                self.with(TEST_DATE, &date).write(out);
            }
            Defect::EmptyDate => self.with(TEST_DATE, b"").write(out),
            Defect::UnknownResult => {
                let results: [&[u8]; 5] = [b"inconclusive", b"POS?", b"", b"void", b"pending"];
                self.with(RESULT, results[choose(results.len())]).write(out);
            }
            Defect::BrokenQuotes => match choose(6) {
                5 => {
                    // A doubled quote is a quote within the field and does not end it.
                    let name = [b"\"", self.0[0], b"\"\""].concat();
                    let city = [self.0[CITY], b"\""].concat();
                    self.with(0, &name).with(CITY, &city).write(out);
                }
                first => {
                    let opened = [b"\"", self.0[first]].concat();
                    let closed = [self.0[first + 1], b"\""].concat();
                    self.with(first, &opened)
                        .with(first + 1, &closed)
                        .write(out);
                }
            },
            Defect::NotUtf8 => {
                let country = latin1(self.0[COUNTRY]);
                self.with(COUNTRY, &country).write(out);
            }
        }
    }

    fn with<'b>(self, position: usize, field: &'b [u8]) -> Fields<'b>
    where
        'a: 'b,
    {
        let mut fields: [&'b [u8]; 6] = self.0;
        fields[position] = field;
        Fields(fields)
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.join(&b","[..]));
    }
}

/// A date and time such as `2020-07-14T09:23:51` in a notation that is not the file's.
fn unparsable(date: &[u8], variety: usize) -> Vec<u8> {
    let (year, month, day) = (&date[..4], &date[5..7], &date[8..10]);
    let minute = &date[11..16];
    match variety {
        0 => [day, b"/", month, b"/", year, b" ", minute].concat(),
        1 => [month, b"/", day, b"/", year].concat(),
        2 => [year, b"-13-45T99:99:99"].concat(),
        // Well formed, but not in the calendar.
        3 => [year, b"-02-30", &date[10..]].concat(),
        // A day as spreadsheets number it.
        4 => b"44026.39".to_vec(),
        _ => b"n/a".to_vec(),
    }
}

/// A country's name in Latin-1, so that it is not valid UTF-8. To a name of ASCII letters, which
/// would be valid, the no-break space is added that spreadsheets leave behind.
fn latin1(name: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = String::from_utf8_lossy(name)
        .chars()
        .map(|letter| u8::try_from(letter).unwrap_or(b'?'))
        .collect();
    if bytes.is_ascii() {
        bytes.push(0xA0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::countries::COUNTRIES;

    const ROW: &[u8] =
        b"Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,2020-07-14T09:23:51,positive\n";

    /// All varieties of a defect of the row.
    fn forms(defect: Defect) -> HashSet<String> {
        (0..=u32::MAX)
            .step_by(1 << 24)
            .map(|form| {
                let mut out = Vec::new();
                let fields = Fields::of(ROW).expect("a good row");
                fields.write_spoiled(defect, form, &mut out);
                out.escape_ascii().to_string()
            })
            .collect()
    }

    fn expect(defect: Defect, lines: &[&str]) {
        let expected: HashSet<String> = lines.iter().map(|&line| line.to_owned()).collect();
        assert_eq!(forms(defect), expected, "{defect}");
    }

    #[test]
    fn fields_are_left_out() {
        expect(
            Defect::MissingField,
            &[
                "Bad Meierstadt,Germany,1961-04-30,2020-07-14T09:23:51,positive",
                "Anna Schmidt,Germany,1961-04-30,2020-07-14T09:23:51,positive",
                "Anna Schmidt,Bad Meierstadt,1961-04-30,2020-07-14T09:23:51,positive",
                "Anna Schmidt,Bad Meierstadt,Germany,2020-07-14T09:23:51,positive",
                "Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,positive",
                "Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,2020-07-14T09:23:51",
                "Anna Schmidt,Bad Meierstadt,Germany",
            ],
        );
    }

    #[test]
    fn fields_are_added() {
        let row = "Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,2020-07-14T09:23:51,positive";
        expect(
            Defect::ExtraField,
            &[
                &format!("{row},"),
                &format!("{row},PCR"),
                &format!("Dr.,{row}"),
            ],
        );
    }

    #[test]
    fn dates_become_unparsable_or_empty() {
        let with = |date| format!("Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,{date},positive");
        expect(
            Defect::UnparsableDate,
            &[
                &with("14/07/2020 09:23"),
                &with("07/14/2020"),
                &with("2020-13-45T99:99:99"),
                &with("2020-02-30T09:23:51"),
                &with("44026.39"),
                &with("n/a"),
            ],
        );
        expect(Defect::EmptyDate, &[&with("")]);
    }

    #[test]
    fn results_become_unknown() {
        let row = "Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,2020-07-14T09:23:51,";
        let with = |result| format!("{row}{result}");
        expect(
            Defect::UnknownResult,
            &[
                &with("inconclusive"),
                &with("POS?"),
                &with(""),
                &with("void"),
                &with("pending"),
            ],
        );
    }

    #[test]
    fn quotes_include_a_comma_but_never_the_end_of_the_line() {
        expect(
            Defect::BrokenQuotes,
            &[
                r#"\"Anna Schmidt,Bad Meierstadt\",Germany,1961-04-30,2020-07-14T09:23:51,positive"#,
                r#"Anna Schmidt,\"Bad Meierstadt,Germany\",1961-04-30,2020-07-14T09:23:51,positive"#,
                r#"Anna Schmidt,Bad Meierstadt,\"Germany,1961-04-30\",2020-07-14T09:23:51,positive"#,
                r#"Anna Schmidt,Bad Meierstadt,Germany,\"1961-04-30,2020-07-14T09:23:51\",positive"#,
                r#"Anna Schmidt,Bad Meierstadt,Germany,1961-04-30,\"2020-07-14T09:23:51,positive\""#,
                r#"\"Anna Schmidt\"\",Bad Meierstadt\",Germany,1961-04-30,2020-07-14T09:23:51,positive"#,
            ],
        );
    }

    #[test]
    fn no_country_is_utf8_in_latin1() {
        for country in &COUNTRIES {
            let bytes = latin1(country.name.as_bytes());
            assert!(std::str::from_utf8(&bytes).is_err(), "{}", country.name);
            assert!(!bytes.contains(&b'?'), "{} is no Latin-1", country.name);
        }
        assert_eq!(latin1("Côte d'Ivoire".as_bytes()), b"C\xF4te d'Ivoire");
    }

    #[test]
    fn a_share_of_zero_spoils_no_row_and_a_share_of_one_spoils_all() {
        let mut config = Config::default();
        assert!(Spoiler::new(&config, 0).is_none());

        config.malformed = 1.0;
        let mut spoiler = Spoiler::new(&config, 0).expect("rows are to be spoiled");
        let mut spoiled = Spoiled::default();
        let mut block = Vec::new();
        for _ in 0..1_000 {
            let start = block.len();
            block.extend_from_slice(ROW);
            spoiler.next_row(&mut block, start, &mut spoiled);
            assert_ne!(&block[start..], ROW);
        }
        assert_eq!(spoiled.total(), 1_000);
        assert_eq!(block.iter().filter(|&&byte| byte == b'\n').count(), 1_000);
    }
}

//! A generator of fake COVID test records as CSV or Parquet: the data set of demonstrations,
//! benchmarks and tests. The same seed gives the same bytes, on every machine and with any number
//! of threads.
//!
//! # The file
//! A header, `patient_name,city,country,birth_date,test_date,result`, then one line per row, each
//! ended by `\n`, in random order. `birth_date` is `1961-04-30`; `test_date` is local time without
//! a zone, `2020-07-14T09:23:51`; `result` is `positive` or `negative`. No field of an unspoiled
//! row has to be quoted. Text is UTF-8.
//!
//! In Parquet the same rows have the same columns; `birth_date` is a date, `test_date` a date and
//! time without a zone, all others are strings.
//!
//! # The model
//! Rows are independent of each other. For each row,
//!
//! * the **country** is drawn with a weight of `population^(1/8)` ([`countries`]). This is far
//!   flatter than the real distribution, on purpose: the most populous country has about twice the
//!   rows of the median one and six times those of the smallest, and 2,000,000 rows over the
//!   default range make about 1.03 million groups of country and hour, of 1.43 million possible
//!   ones;
//! * the **day** is drawn with a weight of `trend * lift * weekday`. With `t` from 0 to 1 over the
//!   range, `trend = 0.85 + 0.3 t` (testing grows), `lift = 1 + 0.6 p / 0.35` where `p` is the
//!   country's positivity on that day (more people get tested when more are infected), and
//!   `weekday` falls from 1.08 on Mondays to 0.82 on Sundays;
//! * the **hour** is drawn from one table for all countries: the fewest tests at 2 and 3 at night,
//!   and about twice as many at 10 in the morning, the most; minutes and seconds are uniform;
//! * the **result** is positive with the probability `p`, the country's positivity on that day:
//!   `1 - (1 - base) * product(1 - height * bell((t - centre) / width))`, at most 0.35. `base` is
//!   0.8 % to 2 %. A country has two, three or four waves, drawn from the seed. Every country has one
//!   early in the range and one, mostly higher, late in it, like spring and autumn of 2020, so that
//!   the sum over all countries has waves too; the waves between them differ most (`epidemic.rs`
//!   has the numbers);
//! * **name** and **city** are drawn from pools that the `fake` crate fills: 4,096 names for each
//!   locale in use, 64 invented cities for each country;
//! * the **age** is 0 to 99 years, with the most tests at working age; the day of birth is uniform
//!   in its year (never the 29th of February) and always before the range.
//!
//! The only operations are additions, multiplications, divisions and square roots, which IEEE 754
//! defines to the last bit; `exp` and `pow` differ between machines.
//!
//! # Randomness
//! Rows are generated in blocks of 8,192. Each block has a ChaCha8 stream of its own, selected by
//! the seed and the block's number, so any thread can fill any block in any order. Which rows are
//! spoiled, and how, is drawn from another stream, so `--malformed` changes no byte of the other
//! rows.

mod alias;
mod args;
mod blocks;
mod config;
pub mod countries;
mod epidemic;
mod error;
mod output;
mod parquet;
mod pools;
mod random;
mod rhythm;
mod rows;
mod run;
mod spoil;

pub use args::{Args, Format};
pub use blocks::{Generated, generate};
pub use config::Config;
pub use error::Error;
pub use output::{write_file, write_stdout};
pub use rows::HEADER;
pub use run::run;
pub use spoil::{Defect, Spoiled};

//! The order in which the files of a run are written: the tables, then, when the verdict stands, the
//! reports that name them with their digests, and last `report.json`. They are put in place in the same
//! order, each whole, and the reports of an earlier run were removed before, so wherever an aggregator
//! dies, a `report.json` that is there has all of its files beside it.

use pipeline::Grain;

use crate::args::OutputChoice;
use crate::export::Format;

/// One thing to do before the verdict stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableStep {
    /// Write the run's series in this form.
    Series(Format),
    /// Compute the digest of `series.csv`, which is not written.
    DigestOfSeries,
    /// Write the series of a coarser grain in this form.
    Coarser(Grain, Format),
    /// Compute the digest of the file of rejected rows, which the dispatcher has written.
    DigestOfRejects,
}

/// What to do with the tables, in order. `has_rejects`: there is a file of rejected rows.
pub fn table_steps(choice: &OutputChoice, has_rejects: bool) -> Vec<TableStep> {
    let mut steps = Vec::new();
    // The report has the digest of the series whatever is written.
    if !choice.has(Format::Csv) {
        steps.push(TableStep::DigestOfSeries);
    }
    let own = chosen(choice, &[Format::Csv, Format::Parquet, Format::Svg]);
    steps.extend(own.map(TableStep::Series));
    for &grain in choice.grains() {
        let formats = chosen(choice, &[Format::Csv, Format::Parquet]);
        steps.extend(formats.map(|format| TableStep::Coarser(grain, format)));
    }
    if has_rejects {
        steps.push(TableStep::DigestOfRejects);
    }
    steps
}

/// The forms in which the report is written, in order; `report.json` comes after them.
pub fn report_steps(choice: &OutputChoice) -> Vec<Format> {
    chosen(choice, &[Format::Md, Format::Html]).collect()
}

fn chosen<'a>(
    choice: &'a OutputChoice,
    formats: &'a [Format],
) -> impl Iterator<Item = Format> + 'a {
    let formats = formats.iter().copied();
    formats.filter(|format| choice.has(*format))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OutputArgs;

    fn choice(outputs: &[Format], grain_out: &[Grain]) -> OutputChoice {
        let args = OutputArgs {
            outputs: outputs.to_vec(),
            grain_out: grain_out.to_vec(),
        };
        args.choice().expect("they go together")
    }

    #[test]
    fn tables_come_in_a_fixed_order_and_the_page_after_the_report_for_people() {
        let all = [
            Format::Html,
            Format::Md,
            Format::Svg,
            Format::Parquet,
            Format::Csv,
        ];
        let expected = [
            TableStep::Series(Format::Csv),
            TableStep::Series(Format::Parquet),
            TableStep::Series(Format::Svg),
            TableStep::Coarser(Grain::Day, Format::Csv),
            TableStep::Coarser(Grain::Day, Format::Parquet),
            TableStep::DigestOfRejects,
        ];
        let all = choice(&all, &[Grain::Day]);
        assert_eq!(table_steps(&all, true), expected);
        assert_eq!(report_steps(&all), [Format::Md, Format::Html]);
    }

    #[test]
    fn the_digest_of_the_series_is_computed_whatever_is_written() {
        assert_eq!(
            table_steps(&choice(&[], &[]), false),
            [TableStep::DigestOfSeries]
        );
        assert!(report_steps(&choice(&[], &[])).is_empty());
    }
}

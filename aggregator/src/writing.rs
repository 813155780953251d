//! The order in which the files of a run are written: the tables, then the reports that name them
//! with their digests, and last `report.json`. Each file is put in place whole, and the reports of an
//! earlier run were removed before, so wherever an aggregator dies, a `report.json` that is there has
//! all of its files beside it.

use pipeline::Grain;

use crate::args::OutputChoice;
use crate::export::Format;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the run's series in this form.
    Series(Format),
    /// Write the run's table in this form.
    Table(Format),
    /// Compute the digest of `table.csv`, which is not written.
    DigestOfTable,
    /// Compute the digest of `series.csv`, which is not written.
    DigestOfSeries,
    /// Write the series of a coarser grain in this form.
    Coarser(Grain, Format),
    /// Compute the digest of the file of rejected rows, which the dispatcher has written.
    DigestOfRejects,
    /// Add what follows from all of these to the report.
    Rates,
    /// Write the report in this form.
    Report(Format),
    /// Write `report.json`.
    ReportJson,
}

/// The output of a run beside its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// The series of positivity.
    Series,
    /// The table of another computation.
    Table,
    /// Nothing: there is no manifest, and the computation makes no series.
    Nothing,
}

/// The steps, in order. `has_rejects`: whether there is a file of rejected rows.
pub fn steps(choice: &OutputChoice, leaves: Leaves, has_rejects: bool) -> Vec<Step> {
    let mut steps = tables(choice, leaves);
    if has_rejects {
        steps.push(Step::DigestOfRejects);
    }
    steps.push(Step::Rates);
    // The page draws a series.
    let pages = [Format::Md, Format::Html];
    let pages = pages
        .into_iter()
        .filter(|&format| format == Format::Md || leaves == Leaves::Series);
    steps.extend(pages.filter(|&format| choice.has(format)).map(Step::Report));
    steps.push(Step::ReportJson);
    steps
}

/// The report has the digest of series or table whatever is written.
fn tables(choice: &OutputChoice, leaves: Leaves) -> Vec<Step> {
    let chosen = |formats: &'static [Format]| {
        let formats = formats.iter().copied();
        formats.filter(|format| choice.has(*format))
    };
    let mut steps = Vec::new();
    match leaves {
        Leaves::Series => {
            if !choice.has(Format::Csv) {
                steps.push(Step::DigestOfSeries);
            }
            steps.extend(chosen(&[Format::Csv, Format::Parquet, Format::Svg]).map(Step::Series));
            for &grain in choice.grains() {
                let formats = chosen(&[Format::Csv, Format::Parquet]);
                steps.extend(formats.map(|format| Step::Coarser(grain, format)));
            }
        }
        Leaves::Table if choice.has(Format::Csv) => steps.push(Step::Table(Format::Csv)),
        Leaves::Table => steps.push(Step::DigestOfTable),
        Leaves::Nothing => {}
    }
    steps
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
    fn reports_come_after_everything_that_they_name_and_report_json_is_the_last() {
        let all = [
            Format::Html,
            Format::Md,
            Format::Svg,
            Format::Parquet,
            Format::Csv,
        ];
        let expected = [
            Step::Series(Format::Csv),
            Step::Series(Format::Parquet),
            Step::Series(Format::Svg),
            Step::Coarser(Grain::Day, Format::Csv),
            Step::Coarser(Grain::Day, Format::Parquet),
            Step::DigestOfRejects,
            Step::Rates,
            Step::Report(Format::Md),
            Step::Report(Format::Html),
            Step::ReportJson,
        ];
        assert_eq!(
            steps(&choice(&all, &[Grain::Day]), Leaves::Series, true),
            expected
        );
    }

    #[test]
    fn report_json_and_its_digest_are_there_whatever_else_is_written() {
        let expected = [Step::DigestOfSeries, Step::Rates, Step::ReportJson];
        assert_eq!(steps(&choice(&[], &[]), Leaves::Series, false), expected);
    }

    #[test]
    fn a_table_is_written_before_the_reports_that_name_it() {
        let all = [Format::Html, Format::Md, Format::Csv, Format::Svg];
        let expected = [
            Step::Table(Format::Csv),
            Step::Rates,
            Step::Report(Format::Md),
            Step::ReportJson,
        ];
        assert_eq!(steps(&choice(&all, &[]), Leaves::Table, false), expected);
        let expected = [Step::DigestOfTable, Step::Rates, Step::ReportJson];
        assert_eq!(steps(&choice(&[], &[]), Leaves::Table, false), expected);
        let expected = [Step::Rates, Step::ReportJson];
        assert_eq!(steps(&choice(&[], &[]), Leaves::Nothing, false), expected);
    }
}

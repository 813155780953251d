//! `comparison.md`: two benchmarks beside each other, as Markdown.

use std::io::{self, Write};

use aggregator::export::Exporter;

use super::markdown::line;
use crate::bench::args::Share;
use crate::bench::compare::{COLUMNS, Comparison, RowChange, SIGNIFICANT};
use crate::bench::show;

/// Writes a comparison as Markdown, with the limit if there is one.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonMd<'a>(pub &'a Comparison, pub Option<Share>);

impl Exporter for ComparisonMd<'_> {
    fn file_name(&self) -> String {
        "comparison.md".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(text(self.0, self.1).as_bytes())
    }
}

fn text(comparison: &Comparison, limit: Option<Share>) -> String {
    let mut text = "## rollcall bench: against the base\n\n".to_owned();
    if let Some(limit) = limit {
        let slower = comparison.slower_than(limit.0);
        let percent = format!("{:.1}%", 100.0 * limit.0);
        text.push_str(&match slower.as_slice() {
            [] => {
                let noisy = comparison.noisy_beyond(limit.0);
                let noisy = noisy.iter().map(|row| format!("{} ({})", row.name, show::change(row.ratio)));
                let noisy: Vec<_> = noisy.collect();
                match noisy.is_empty() {
                    true => format!("✅ No row takes more than {percent} longer.\n\n"),
                    false => format!(
                        "✅ No row takes more than {percent} longer beyond noise. Within it: {}.\n\n",
                        noisy.join(", ")
                    ),
                }
            }
            rows => {
                let rows = rows.iter().map(|row| {
                    let change = show::change(row.ratio);
                    format!("{} ({change})", row.name)
                });
                let rows: Vec<_> = rows.collect();
                format!("❌ More than {percent} longer: {}.\n\n", rows.join(", "))
            }
        });
    }
    text.push_str(&line(COLUMNS.map(str::to_owned)));
    text.push_str("| :--- | ---: | ---: | ---: | ---: | ---: | :--- |\n");
    for row in &comparison.rows {
        text.push_str(&line(RowChange::cells(row)));
    }
    text.push_str(&format!(
        "\nWall times are medians. p is that of the exact two-sided Mann-Whitney U test over all \
         runs; from {SIGNIFICANT} on upwards a difference is noise.\n"
    ));
    if !comparison.alone.is_empty() {
        let names = comparison.alone.join(", ");
        text.push_str(&format!("\nOnly on one side: {names}.\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::BenchEngine;
    use crate::bench::benchmark::tests::benchmark;

    #[test]
    fn a_comparison_says_which_rows_are_beyond_the_limit() {
        let of = |walls: &[f64]| benchmark(&[(BenchEngine::Packed, Some(2), walls)]);
        let base = of(&[1.00, 1.01, 0.99, 1.02, 1.00]);
        let head = of(&[1.25, 1.26, 1.24, 1.25, 1.27]);
        let comparison = Comparison::new(&base, &head).expect("comparable");
        let expected = "\
## rollcall bench: against the base

❌ More than 10.0% longer: packed-2 (+25.0%).

| row | base | here | wall | CPU | p | says |
| :--- | ---: | ---: | ---: | ---: | ---: | :--- |
| packed-2 | 1.00 s | 1.25 s | +25.0% | +0.0% | 0.008 | slower |

Wall times are medians. p is that of the exact two-sided Mann-Whitney U test over all runs; from \
0.05 on upwards a difference is noise.
";
        assert_eq!(text(&comparison, Some(Share(0.1))), expected);
        let within = text(&comparison, Some(Share(0.3)));
        assert!(
            within.contains("✅ No row takes more than 30.0% longer."),
            "{within}"
        );
    }
}

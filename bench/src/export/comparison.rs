//! `comparison.md`: the comparison of two benchmarks as Markdown, with the changes by row and the
//! conditions of both.

use std::io::{self, Write};

use aggregator::export::Exporter;

use super::facts;
use super::markdown::line;
use crate::args::Share;
use crate::benchmark::Benchmark;
use crate::compare::{COLUMNS, Comparison, RowChange};
use crate::figures;
use crate::statistics::SIGNIFICANT;

/// Those of the [`facts`] that are listed for both benchmarks. All others have to be equal, or the
/// two are not compared.
const CONDITIONS: [&str; 8] = [
    "host",
    "system",
    "load",
    "begun",
    "rounds",
    "rollcall",
    "commit",
    "librdkafka",
];

/// Writes a comparison as Markdown.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonMd<'a> {
    /// The base.
    pub base: &'a Benchmark,
    /// The benchmark that is compared with the base.
    pub head: &'a Benchmark,
    /// The changes by row.
    pub comparison: &'a Comparison,
    /// The limit of `--fail-above`, if one was given.
    pub limit: Option<Share>,
}

impl Exporter for ComparisonMd<'_> {
    fn file_name(&self) -> String {
        "comparison.md".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(text(self).as_bytes())
    }
}

fn text(md: &ComparisonMd<'_>) -> String {
    let (comparison, limit) = (md.comparison, md.limit);
    let mut text = "## rollcall bench: against the base\n\n".to_owned();
    if let Some(limit) = limit {
        let percent = format!("{:.1}%", 100.0 * limit.0);
        let slower = named(&comparison.slower_than(limit.0));
        let noisy = named(&comparison.possibly_slower_than(limit.0));
        text.push_str(&match (slower.as_str(), noisy.as_str()) {
            ("", "") => format!("✅ No row takes more than {percent} longer.\n\n"),
            ("", noisy) => {
                format!("✅ No row takes more than {percent} longer, except by noise: {noisy}.\n\n")
            }
            (slower, _) => format!("❌ More than {percent} longer: {slower}.\n\n"),
        });
    }
    text.push_str(&line(COLUMNS.map(str::to_owned)));
    text.push_str("| :--- | ---: | ---: | ---: | ---: | ---: | :--- |\n");
    for row in &comparison.rows {
        text.push_str(&line(RowChange::cells(row)));
    }
    text.push_str(&format!(
        "\nWall times are medians. p is that of the exact two-sided Mann-Whitney U test over all \
         runs; a difference with a p of {SIGNIFICANT} or more is noise.\n"
    ));
    if !comparison.on_one_side.is_empty() {
        let names = comparison.on_one_side.join(", ");
        text.push_str(&format!("\nOnly on one side: {names}.\n"));
    }
    text.push_str("\n| | base | here |\n| :--- | :--- | :--- |\n");
    let (base, head) = (facts(md.base), facts(md.head));
    let value = |facts: &[(&str, String)], wanted: &str| {
        let found = facts.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.clone())
    };
    for name in CONDITIONS {
        let sides = [value(&base, name), value(&head, name)];
        if sides.iter().any(Option::is_some) {
            let sides = sides.map(|side| figures::known(side, |side| side));
            text.push_str(&line([name.to_owned()].into_iter().chain(sides)));
        }
    }
    text
}

/// A list of rows with their changes.
fn named(rows: &[&RowChange]) -> String {
    let rows = rows.iter();
    let named = rows.map(|row| format!("{} ({})", row.name, figures::change(row.ratio)));
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::BenchEngine;
    use crate::benchmark::tests::benchmark;

    #[test]
    fn a_comparison_names_the_rows_above_the_limit() {
        let of = |walls: &[f64], commit: &str| {
            let mut side = benchmark(&[(BenchEngine::Packed, Some(2), walls)]);
            let (name, commit) = ("commit".to_owned(), commit.to_owned());
            side.versions.insert(name, commit);
            side
        };
        let base = of(&[1.00, 1.01, 0.99, 1.02, 1.00], "0123456789ab");
        let mut head = of(&[1.25, 1.26, 1.24, 1.25, 1.27], "ba9876543210");
        head.load.before = Some(2.5);
        head.versions
            .insert("librdkafka".to_owned(), "2.12.1".to_owned());
        let comparison = Comparison::new(&base, &head).expect("comparable");
        let expected = "\
## rollcall bench: against the base

❌ More than 10.0% longer: packed-2 (+25.0%).

| row | base | here | wall | CPU | p | change |
| :--- | ---: | ---: | ---: | ---: | ---: | :--- |
| packed-2 | 1.00 s | 1.25 s | +25.0% | +0.0% | 0.008 | slower |

Wall times are medians. p is that of the exact two-sided Mann-Whitney U test over all runs; a \
difference with a p of 0.05 or more is noise.

| | base | here |
| :--- | :--- | :--- |
| host | here: 2 cores, A CPU, 8.0 GiB of memory | here: 2 cores, A CPU, 8.0 GiB of memory |
| system | Debian \\<12\\>, x86\\_64 | Debian \\<12\\>, x86\\_64 |
| load | 0.25 before, – after | 2.50 before, – after |
| begun | 2026-11-21T12:00:00Z | 2026-11-21T12:00:00Z |
| rounds | 3 measured after 1 to warm up, interleaved | 3 measured after 1 to warm up, interleaved |
| rollcall | 0.1.0 | 0.1.0 |
| commit | 0123456789ab | ba9876543210 |
| librdkafka | – | 2.12.1 |
";
        let with_limit = |limit| {
            text(&ComparisonMd {
                base: &base,
                head: &head,
                comparison: &comparison,
                limit: Some(Share(limit)),
            })
        };
        assert_eq!(with_limit(0.1), expected);
        let within = with_limit(0.3);
        assert!(
            within.contains("✅ No row takes more than 30.0% longer."),
            "{within}"
        );
    }
}

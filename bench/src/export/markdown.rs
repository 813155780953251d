//! `bench.md`: the rows as Markdown, for example for the summary of a CI job.

use std::io::{self, Write};

use aggregator::export::Exporter;

use super::{COLUMNS, break_even, cells, facts, notes, title};
use crate::benchmark::Benchmark;

/// An exporter of a benchmark as Markdown.
#[derive(Clone, Copy, Debug)]
pub struct BenchMd<'a>(pub &'a Benchmark);

impl Exporter for BenchMd<'_> {
    fn file_name(&self) -> String {
        "bench.md".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(text(self.0).as_bytes())
    }
}

fn text(benchmark: &Benchmark) -> String {
    let mut text = format!("## rollcall bench: {}\n\n", title(benchmark));
    text.push_str(&line(COLUMNS.map(str::to_owned)));
    text.push_str("| :--- |");
    text.push_str(&" ---: |".repeat(COLUMNS.len() - 1));
    text.push('\n');
    for row in &benchmark.rows {
        text.push_str(&line(cells(row)));
    }
    text.push_str(
        "\nWall seconds are medians. Speed-up is against one worker, with the ideal one.\n",
    );
    for note in notes(benchmark) {
        text.push_str(&format!("\n> **Note:** {note}.\n"));
    }
    let sentences = break_even(benchmark);
    if !sentences.is_empty() {
        text.push('\n');
    }
    for sentence in sentences {
        text.push_str(&format!("- {sentence}\n"));
    }
    text.push_str("\n| | |\n| :--- | :--- |\n");
    for (name, value) in facts(benchmark) {
        text.push_str(&line([name.to_owned(), value]));
    }
    text
}

/// A row of a Markdown table.
pub(super) fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells = cells.into_iter().map(|cell| escaped(&cell));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// Text with the special characters of Markdown escaped.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => plain.push(' '),
            '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '\\' => {
                plain.push('\\');
                plain.push(letter);
            }
            letter => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::tests::example;

    #[test]
    fn the_page_is_the_golden_one() {
        assert_eq!(text(&example()), include_str!("bench_md.golden.md"));
    }

    #[test]
    fn names_cannot_break_a_table() {
        assert_eq!(line(["a|b\n<c>".to_owned()]), "| a\\|b \\<c\\> |\n");
    }
}

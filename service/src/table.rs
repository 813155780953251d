//! Tables for a terminal: columns as wide as their widest cell, numbers aligned to the right, no
//! spaces at the end of a line. Cells may contain text from other hosts, so each is escaped and
//! truncated to one bounded line.

use crate::text::truncated;

/// The largest number of characters of a cell. A longer cell would make every line longer.
const MAX_CHARACTERS: usize = 200;

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// To the left, for words.
    Left,
    /// To the right, for numbers.
    Right,
}

/// The lines of a table, head first. A row may have fewer cells than the head. A cell is truncated
/// to 200 characters.
pub fn table(head: &[(&str, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().map(bounded).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head[column].0.chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, (_, align)), &width) in cells.zip(head).zip(&widths) {
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                Align::Right => line.push_str(&format!("{cell:>width$}  ")),
            }
        }
        format!("{}\n", line.trim_end())
    };
    let mut lines = line(&mut head.iter().map(|(name, _)| *name));
    for row in &rows {
        lines.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    lines
}

/// A row with escaped and truncated cells.
fn bounded(row: Vec<String>) -> Vec<String> {
    let cells = row.iter();
    cells
        .map(|cell| truncated(cell.as_bytes(), MAX_CHARACTERS))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_aligned_to_the_left_and_numbers_to_the_right() {
        let rows = [
            vec!["a".to_owned(), "1,000".to_owned(), "day".to_owned()],
            vec!["überlang".to_owned(), "7".to_owned(), "-".to_owned()],
        ];
        let head = [
            ("RUN", Align::Left),
            ("JOBS", Align::Right),
            ("EVERY", Align::Left),
        ];
        let lines = [
            "RUN        JOBS  EVERY",
            "a         1,000  day",
            "überlang      7  -",
        ];
        assert_eq!(table(&head, rows), format!("{}\n", lines.join("\n")));
    }

    #[test]
    fn a_table_without_rows_is_its_head() {
        assert_eq!(table(&[("RUN", Align::Left)], []), "RUN\n");
    }

    #[test]
    fn a_cell_is_one_bounded_line_with_any_content() {
        let long = "x".repeat(100_000);
        let rows = [vec![long], vec!["a\nb\x1b[2J".to_owned()]];
        let cell = format!("{}…", "x".repeat(MAX_CHARACTERS));
        assert_eq!(
            table(&[("REASON", Align::Left)], rows),
            format!("REASON\n{cell}\na\\nb\\u{{1b}}[2J\n")
        );
    }
}

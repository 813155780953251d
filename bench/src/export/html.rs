//! `bench.html`: one self-contained page, for light and dark screens and for print.

use std::fmt::Write as _;
use std::io::{self, Write};

use aggregator::export::Exporter;

use super::{COLUMNS, break_even, cells, charts, facts, notes, title};
use crate::args::BenchEngine;
use crate::benchmark::{Benchmark, Row};
use crate::figures;

const STYLE: &str = include_str!("bench.css");

/// An exporter of a benchmark as an HTML page.
#[derive(Clone, Copy, Debug)]
pub struct BenchHtml<'a>(pub &'a Benchmark);

impl Exporter for BenchHtml<'_> {
    fn file_name(&self) -> String {
        "bench.html".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(page(self.0).as_bytes())
    }
}

fn page(benchmark: &Benchmark) -> String {
    let title = escaped(&title(benchmark));
    let mut body = format!(
        "<header>\n<p class=\"kicker\">rollcall bench</p>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n\
         </header>\n",
        escaped(&lead(benchmark))
    );
    for note in notes(benchmark) {
        let _ = writeln!(body, "<p class=\"note\">{}</p>", escaped(&note));
    }
    body.push_str(&cards(benchmark));
    body.push_str(&section(
        "Time with and without the dispatcher",
        "A bar ends at the median of the wall seconds; each dot below it is a run.",
        &charts::times(benchmark),
    ));
    if let Some(chart) = charts::scaling(benchmark) {
        body.push_str(&section(
            "Speed-up by number of workers",
            "Dispatcher, aggregator and workers share the machine, so the ideal is bounded by its \
             cores. One process reads, groups and writes, with any number of workers.",
            &chart,
        ));
    }
    if let Some(chart) = charts::cores(benchmark) {
        body.push_str(&section(
            "CPU time",
            "CPU seconds, median. The full part is the process with dispatcher, aggregator and \
             in-process broker; the light part is the workers. Another broker is not included.",
            &chart,
        ));
    }
    if let Some(swept) = &benchmark.break_even {
        let jobs = swept.jobs.map_or(String::new(), |jobs| {
            format!(
                "{} jobs, each with added CPU time. ",
                figures::whole(jobs as f64)
            )
        });
        let sentences = break_even(benchmark).join("; ");
        body.push_str(&section(
            "When dispatching pays",
            &format!("{jobs}{sentences}."),
            &charts::break_even(swept),
        ));
    }
    body.push_str(&rows(benchmark));
    body.push_str(&runs(benchmark));
    body.push_str(&conditions(benchmark));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>rollcall bench: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         {body}</main>\n</body>\n</html>\n"
    )
}

/// The conditions of the benchmark, in a sentence.
fn lead(benchmark: &Benchmark) -> String {
    let cores = benchmark.host.cores;
    let plural = if cores == 1 { "" } else { "s" };
    let broker = match benchmark.settings.broker.as_str() {
        "in-process" => "the in-process broker".to_owned(),
        brokers => format!("Apache Kafka at {brokers}"),
    };
    let day = benchmark.started_at.split('T').next().unwrap_or_default();
    format!(
        "On {broker}, {cores} core{plural}, {day}. All engines made the same series, with every row \
         in it exactly once."
    )
}

/// The main figures: the loop, polars, and the fastest row of each engine with the dispatcher.
fn cards(benchmark: &Benchmark) -> String {
    let row = |name: &str| benchmark.row(name);
    let fastest = |engine: BenchEngine| {
        let rows = benchmark
            .rows
            .iter()
            .filter(move |row| row.engine == engine);
        rows.min_by(|a, b| a.wall_seconds.median.total_cmp(&b.wall_seconds.median))
    };
    let wall = |row: &Row| figures::seconds(row.wall_seconds.median);
    let workers = |row: &Row| match row.workers {
        Some(1) => "1 worker".to_owned(),
        workers => format!("{} workers", workers.unwrap_or_default()),
    };
    let per_second = |row: &Row| {
        figures::known(row.jobs_per_second, |jobs| {
            format!("{} jobs/s", figures::whole(jobs))
        })
    };
    let mut cards = Vec::new();
    if let Some(row) = row("loop") {
        cards.push(("loop", wall(row), "plain loop".to_owned(), per_second(row)));
    }
    if let Some(row) = row("polars") {
        cards.push((
            "polars",
            wall(row),
            "one polars query".to_owned(),
            per_second(row),
        ));
    }
    for (engine, class, name) in [
        (BenchEngine::Packed, "packed", "packed"),
        (BenchEngine::OneAMessage, "one", "one job per message"),
    ] {
        if let Some(row) = fastest(engine) {
            let name = format!("{name}, {}", workers(row));
            cards.push((class, wall(row), name, per_second(row)));
        }
    }
    let mut html = "<div class=\"cards\">\n".to_owned();
    for (class, figure, name, rate) in cards {
        let _ = writeln!(
            html,
            "<div class=\"card {class}\"><b>{figure}</b><span>{name}</span><small>{rate}</small></div>"
        );
    }
    html.push_str("</div>\n");
    html
}

fn section(heading: &str, text: &str, chart: &str) -> String {
    format!(
        "<section>\n<h2>{heading}</h2>\n<p>{}</p>\n<div class=\"chart\">\n{chart}</div>\n</section>\n",
        escaped(text)
    )
}

fn head(columns: &[&str]) -> String {
    let cells = columns
        .iter()
        .map(|name| format!("<th scope=\"col\">{name}</th>"));
    format!("<thead><tr>{}</tr></thead>\n", cells.collect::<String>())
}

fn line(cells: &[String]) -> String {
    let mut cells = cells.iter().map(|cell| escaped(cell));
    let name = cells.next().unwrap_or_default();
    let cells: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr><th scope=\"row\">{name}</th>{cells}</tr>\n")
}

fn rows(benchmark: &Benchmark) -> String {
    let lines: String = benchmark.rows.iter().map(|row| line(&cells(row))).collect();
    format!(
        "<section>\n<h2>All rows</h2>\n<p>Medians; MAD is the median absolute deviation from them. \
         The peak is the sum of the processes' own peaks.</p>\n<div class=\"table\"><table>\n{}\
         <tbody>\n{lines}</tbody>\n</table></div>\n</section>\n",
        head(&COLUMNS)
    )
}

fn runs(benchmark: &Benchmark) -> String {
    let swept = benchmark.break_even.iter().flat_map(|swept| &swept.rows);
    let mut lines = String::new();
    for row in benchmark.rows.iter().chain(swept) {
        let name = match row.job_cost_seconds {
            0.0 => row.name.clone(),
            cost => format!("{} at {} per job", row.name, figures::seconds(cost)),
        };
        let walls = row.walls().into_iter().map(figures::plain_seconds);
        let walls: Vec<_> = walls.collect();
        lines.push_str(&line(&[name, walls.join("  ")]));
    }
    format!(
        "<details>\n<summary>Every run, wall seconds by round</summary>\n<div class=\"table\"><table>\n\
         {}<tbody>\n{lines}</tbody>\n</table></div>\n</details>\n",
        head(&["row", "rounds"])
    )
}

fn conditions(benchmark: &Benchmark) -> String {
    let facts: String = facts(benchmark)
        .into_iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value)))
        .collect();
    format!("<section>\n<h2>Conditions</h2>\n<dl>\n{facts}</dl>\n</section>\n")
}

/// Text with the special characters of HTML escaped.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => plain.push_str("&amp;"),
            '<' => plain.push_str("&lt;"),
            '>' => plain.push_str("&gt;"),
            '"' => plain.push_str("&quot;"),
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
    fn the_page_has_every_row_and_loads_nothing() {
        let benchmark = example();
        let page = page(&benchmark);
        for row in &benchmark.rows {
            let name = format!("<th scope=\"row\">{}</th>", row.name);
            assert!(page.contains(&name), "{}", row.name);
        }
        for loads in [
            "http:", "https:", "src=", "<link", "<script", "@import", "url(",
        ] {
            assert!(!page.contains(loads), "{loads}");
        }
    }

    #[test]
    fn names_of_hosts_and_brokers_are_escaped() {
        let mut benchmark = example();
        benchmark.host.name = "<script>alert(1)</script>".to_owned();
        benchmark.settings.broker = "\"><b>:9092".to_owned();
        let page = page(&benchmark);
        assert!(!page.contains("<script"));
        assert!(!page.contains("<b>:"));
        assert!(page.contains("&lt;script&gt;"));
        // The operating system of the example has such characters, too.
        assert!(page.contains("Debian &lt;12&gt;"));
    }

    #[test]
    fn every_opened_tag_is_closed() {
        let page = page(&example());
        for tag in [
            "section", "table", "svg", "div", "dl", "details", "p", "main",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            let closed = page.matches(&format!("</{tag}>")).count();
            assert_eq!(opened, closed, "{tag}");
            assert!(opened > 0, "{tag}");
        }
    }
}

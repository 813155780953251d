//! The exporter of `report.html`: the report as one page that needs nothing but a browser. The sources
//! of the page are in the folder `report_html/`; this file joins them with the run's data.
//!
//! The page's content security policy allows only these sources, by their digests, as scripts and
//! styles, and no request to any host, whatever the labels of a data set are.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::page_series::PageSeries;
use super::{Exporter, Table};

/// The name of the page in the output folder.
pub const REPORT_HTML: &str = "report.html";

/// The largest number of dead letters, of missing jobs and of conflicts on the page. `report.json` has
/// more.
const LISTED: usize = 100;

/// The template of the page, with `{{NAME}}` in the place of each part.
const PAGE: &str = include_str!("report_html/page.html");

/// The licence of the chart library.
const LICENCE: &str = include_str!("report_html/uplot/LICENSE");

const STYLES: [&str; 2] = [
    include_str!("report_html/uplot/uPlot.min.css"),
    include_str!("report_html/page.css"),
];

/// The scripts, in the order of their dependencies.
const SCRIPTS: [&str; 6] = [
    include_str!("report_html/uplot/uPlot.iife.min.js"),
    include_str!("report_html/model.js"),
    include_str!("report_html/elements.js"),
    include_str!("report_html/chart.js"),
    include_str!("report_html/run.js"),
    include_str!("report_html/page.js"),
];

/// The exporter of the page of a run.
#[derive(Clone, Debug)]
pub struct ReportHtml<'a> {
    table: Table<'a>,
    report: Value,
}

impl<'a> ReportHtml<'a> {
    /// The exporter of a series and its report. `report_json`: the text of `report.json`, whose fields
    /// that are known only after the page are ignored, so that the same page can be made again from the
    /// files, byte for byte.
    ///
    /// # Errors
    /// When `report_json` is not JSON.
    pub fn new(table: Table<'a>, report_json: &str) -> serde_json::Result<Self> {
        let mut report: Value = serde_json::from_str(report_json)?;
        for list in ["dead_letters", "missing", "conflicts"] {
            if let Some(entries) = report.get_mut(list).and_then(Value::as_array_mut) {
                entries.truncate(LISTED);
            }
        }
        // These fields are known only when all processes of the run have ended, after the page.
        if let Some(fields) = report.as_object_mut() {
            let later = ["wall_seconds", "first_job_seconds", "processes"];
            fields.retain(|name, _| !later.contains(&name.as_str()));
        }
        if let Some(versions) = report.get_mut("versions").and_then(Value::as_object_mut) {
            versions.retain(|name, _| ["rollcall", "librdkafka"].contains(&name.as_str()));
        }
        // The page cannot contain its own digest.
        if let Some(files) = report.get_mut("files").and_then(Value::as_array_mut) {
            files.retain(|file| file.get("name").is_none_or(|name| name != REPORT_HTML));
        }
        Ok(Self { table, report })
    }
}

impl Exporter for ReportHtml<'_> {
    fn file_name(&self) -> String {
        REPORT_HTML.to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Table {
            series,
            label_columns,
            grain,
            ..
        } = self.table;
        let series = PageSeries::new(series, label_columns, grain);
        let mut rest = PAGE;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").unwrap_or((after, ""));
            out.write_all(before.as_bytes())?;
            match name {
                "policy" => out.write_all(policy().as_bytes())?,
                "licence" => out.write_all(LICENCE.as_bytes())?,
                "styles" => elements("style", &STYLES, out)?,
                "scripts" => elements("script", &SCRIPTS, out)?,
                "report" => out.write_all(json_in_html(&self.report)?.as_bytes())?,
                "series" => out.write_all(json_in_html(&series)?.as_bytes())?,
                unknown => return Err(io::Error::other(format!("the page has no {unknown}"))),
            }
            rest = after;
        }
        out.write_all(rest.as_bytes())
    }
}

/// The page's content security policy (<https://www.w3.org/TR/CSP3/>).
fn policy() -> String {
    let digests = |parts: &[&str]| {
        let digest = |part: &&str| format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(part)));
        parts.iter().map(digest).collect::<String>()
    };
    format!(
        "default-src 'none'; img-src data:; script-src{}; style-src{}",
        digests(&SCRIPTS),
        digests(&STYLES)
    )
}

fn elements(tag: &str, parts: &[&str], out: &mut dyn Write) -> io::Result<()> {
    for part in parts {
        writeln!(out, "<{tag}>{part}</{tag}>")?;
    }
    Ok(())
}

/// JSON as the content of a `script` element, without text that begins or ends an element.
fn json_in_html(value: &impl serde::Serialize) -> serde_json::Result<String> {
    // In JSON, `<` occurs only in strings, where it can be escaped.
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use computations::positivity::Series;
    use pipeline::Grain;

    use super::super::series_csv::hexadecimal;
    use super::super::test_series::{columns, row, series};
    use super::*;

    fn page(series: &Series, label_columns: &[&str], report: &Value) -> String {
        let label_columns = columns(label_columns);
        let table = Table {
            series,
            label_columns: &label_columns,
            grain: Grain::Hour,
            added: false,
        };
        let mut exporter = ReportHtml::new(table, &report.to_string()).expect("JSON");
        let mut out = Vec::new();
        exporter.export(&mut out).expect("a vector takes all");
        String::from_utf8(out).expect("UTF-8")
    }

    /// The content of the JSON element of the page with this id.
    fn data(page: &str, id: &str) -> Value {
        let begin = format!("<script type=\"application/json\" id=\"{id}\">");
        let (_, rest) = page.split_once(&begin).expect("the element");
        let (text, _) = rest.split_once("</script").expect("its end");
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn labels_cannot_add_elements_to_the_page() {
        let hostile = [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "{{scripts}}",
            "\u{2028}\"'&amp;\u{0}\u{202e}",
        ];
        let rows = (0..4).map(|set| row(set, 0, 2, 1)).collect();
        let report = serde_json::json!({ "conflicts": hostile });
        let harmless = page(&series(&["Italy"], vec![row(0, 0, 2, 1)]), &["x"], &report);
        let page = page(&series(&hostile, rows), &[hostile[0]], &report);
        let elements = |page: &str| page.matches("<script").count();
        assert_eq!(elements(&page), elements(&harmless));
        assert_eq!(page.matches("alert(1)").count(), 3, "as data");
        let sets = &data(&page, "series-data")["label_sets"];
        for (number, label) in hostile.iter().enumerate() {
            assert_eq!(sets[number]["labels"][0], *label);
            assert_eq!(data(&page, "report-data")["conflicts"][number], *label);
        }
    }

    #[test]
    fn long_lists_are_truncated_and_the_page_is_not_in_its_list_of_files() {
        let files = [
            serde_json::json!({"name": "series.csv"}),
            serde_json::json!({"name": "report.html"}),
        ];
        let missing: Vec<usize> = (0..1_000).collect();
        let report = serde_json::json!({ "files": files, "missing": missing, "tests": 7 });
        let report = data(&page(&Series::default(), &[], &report), "report-data");
        assert_eq!(report["files"], serde_json::json!([files[0]]));
        assert_eq!(report["missing"].as_array().map(Vec::len), Some(LISTED));
        assert_eq!(report["tests"], 7);
    }

    #[test]
    fn two_hundred_label_sets_and_a_million_groups_are_well_below_three_megabytes() {
        let labels: Vec<String> = (100..300)
            .map(|number| format!("Country {number}"))
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let hours = |set| (0..6_000).map(move |hour| row(set, hour, 40, hour as u64 % 30));
        let rows: Vec<_> = (0..200).flat_map(hours).collect();
        assert_eq!(rows.len(), 1_200_000);
        let page = page(&series(&labels, rows), &["country"], &Value::Null);
        assert!(page.len() < 3_000_000, "{}", page.len());
        let sets = &data(&page, "series-data")["label_sets"];
        assert_eq!(sets.as_array().map(Vec::len), Some(200));
    }

    #[test]
    fn every_source_is_whole_in_the_page_and_allowed_by_its_policy() {
        let page = page(&Series::default(), &[], &Value::Null);
        for part in SCRIPTS.iter().chain(&STYLES) {
            // An end tag in a source would end the element early.
            assert!(!part.contains("</script") && !part.contains("</style"));
            assert!(page.contains(part));
            assert!(page.contains(&STANDARD.encode(Sha256::digest(part))));
        }
        assert!(!page.contains("{{"), "every place is filled");
    }

    #[test]
    fn the_chart_library_has_the_digests_of_its_readme() {
        let readme = include_str!("report_html/uplot/README.md");
        for part in [SCRIPTS[0], STYLES[0]] {
            let digest = hexadecimal(&Sha256::digest(part));
            assert!(readme.contains(&digest), "{digest}");
        }
    }
}

//! The exporter of `report.md`: the report as Markdown, for the summary of a CI job or a wiki page. It
//! has the content of `report.json`, with long lists truncated.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use pipeline::Verdict;
use service::progress::grouped;

use super::Exporter;
use crate::report::{Report, truncated};

/// The largest number of workers, and of dead letters, that are listed.
const LISTED: usize = 20;

/// The exporter of a report as Markdown.
#[derive(Clone, Copy, Debug)]
pub struct ReportMd<'a>(pub &'a Report);

impl Exporter for ReportMd<'_> {
    fn file_name(&self) -> String {
        "report.md".to_owned()
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut text = String::new();
        markdown(self.0, &mut text).map_err(io::Error::other)?;
        out.write_all(text.as_bytes())
    }
}

fn markdown(report: &Report, text: &mut String) -> fmt::Result {
    let mark = match report.status {
        Verdict::Complete => "✅",
        Verdict::CompleteWithDeadLetters => "⚠️",
        Verdict::Incomplete | Verdict::Failed => "❌",
    };
    writeln!(text, "## {mark} rollcall: {}\n", report.status.word())?;
    write!(text, "Run `{}`", report.run.run_id)?;
    if let Some(time) = &report.run.opened_at {
        write!(text, ", opened {time}")?;
    }
    let grouping = &report.run.grouping;
    let by = grouping.label_columns.iter().map(|column| cell(column));
    let grain = grouping.grain.map(|grain| grain.to_string());
    let by: Vec<_> = by.chain(grain).collect();
    writeln!(
        text,
        ", {} by {}, {} engine.\n",
        cell(&report.run.computation.name),
        by.join(", "),
        report.run.engine
    )?;
    totals(report, text)?;
    reconciliation(report, text)?;
    rejects(report, text)?;
    dead_letters(report, text)?;
    stages(report, text)?;
    workers(report, text)?;
    files(report, text)
}

fn totals(report: &Report, text: &mut String) -> fmt::Result {
    let unknown = || "?".to_owned();
    let manifest = report.manifest.as_ref();
    let known = |value: Option<u64>| value.map_or_else(unknown, grouped);
    heading(
        text,
        &["", "total", "of them"],
        &[Align::Left, Align::Right, Align::Left],
    )?;
    let accepted = known(manifest.map(|manifest| manifest.rows_accepted));
    let rejected = known(manifest.map(|manifest| manifest.rows_rejected));
    line(
        text,
        &[
            "rows".to_owned(),
            known(manifest.map(|manifest| manifest.rows_read)),
            format!("{accepted} accepted, {rejected} rejected"),
        ],
    )?;
    // The local engine has no jobs.
    if report.run.engine != "local" {
        let jobs = &report.jobs;
        line(
            text,
            &[
                "jobs".to_owned(),
                known(manifest.and_then(|manifest| manifest.jobs)),
                format!(
                    "{} counted, {} dead-lettered, {} missing",
                    known(jobs.counted),
                    known(jobs.dead_lettered),
                    known(jobs.missing)
                ),
            ],
        )?;
    }
    if let Some(table) = &report.table {
        let rows = grouped(table.rows);
        line(text, &["table".to_owned(), rows, "rows".to_owned()])?;
        return writeln!(text);
    }
    let rate = report
        .rate
        .map_or(String::new(), |rate| format!(" ({:.2} %)", 100.0 * rate));
    line(
        text,
        &[
            "tests".to_owned(),
            known(report.tests),
            format!("{} positive{rate}", known(report.positive)),
        ],
    )?;
    line(
        text,
        &[
            "series".to_owned(),
            known(report.series.rows),
            "groups".to_owned(),
        ],
    )?;
    writeln!(text)
}

fn reconciliation(report: &Report, text: &mut String) -> fmt::Result {
    writeln!(text, "### Reconciliation\n")?;
    heading(text, &["", "check", "expected", "found"], &[Align::Left; 4])?;
    for check in &report.reconciliation {
        let mark = if check.holds { "✅" } else { "❌" };
        // Values that differ are not truncated.
        let value = |value: &String| match check.holds {
            true => cell(&truncated(value)),
            false => cell(value),
        };
        line(
            text,
            &[
                mark.to_owned(),
                cell(check.name),
                value(&check.expected),
                value(&check.found),
            ],
        )?;
    }
    writeln!(text)
}

fn rejects(report: &Report, text: &mut String) -> fmt::Result {
    let Some(manifest) = report
        .manifest
        .as_ref()
        .filter(|known| known.rows_rejected > 0)
    else {
        return Ok(());
    };
    writeln!(text, "### Rejected rows\n")?;
    heading(text, &["reason", "rows"], &[Align::Left, Align::Right])?;
    for (reason, rows) in &manifest.rejected {
        line(text, &[cell(reason), grouped(*rows)])?;
    }
    writeln!(text)
}

fn dead_letters(report: &Report, text: &mut String) -> fmt::Result {
    let Some(all @ 1..) = report.jobs.dead_lettered else {
        return Ok(());
    };
    writeln!(text, "### Dead letters\n")?;
    let columns = ["job", "labels", "time", "rows", "attempts", "reason"];
    let (left, right) = (Align::Left, Align::Right);
    heading(text, &columns, &[right, left, left, right, right, left])?;
    for letter in report.dead_letters.iter().take(LISTED) {
        line(
            text,
            &[
                letter.index.to_string(),
                cell(&letter.labels.join(", ")),
                letter.time.clone().unwrap_or_default(),
                grouped(letter.rows.into()),
                letter.attempts.to_string(),
                cell(&letter.reason),
            ],
        )?;
    }
    writeln!(text)?;
    and_more(text, all)
}

fn stages(report: &Report, text: &mut String) -> fmt::Result {
    writeln!(text, "### Stages\n")?;
    let right = Align::Right;
    heading(
        text,
        &["stage", "seconds", "rate"],
        &[Align::Left, right, right],
    )?;
    for stage in &report.stages {
        let rate = report
            .rate_of(&stage.stage)
            .map_or(String::new(), |(rate, unit)| {
                format!("{} {unit}", grouped(rate as u64))
            });
        line(
            text,
            &[cell(&stage.stage), format!("{:.3}", stage.seconds), rate],
        )?;
    }
    writeln!(text)
}

fn workers(report: &Report, text: &mut String) -> fmt::Result {
    if report.workers.is_empty() {
        return Ok(());
    }
    writeln!(text, "### Workers\n")?;
    let (left, right) = (Align::Left, Align::Right);
    heading(
        text,
        &["worker", "host", "jobs", "retries"],
        &[left, left, right, right],
    )?;
    for worker in report.workers.iter().take(LISTED) {
        line(
            text,
            &[
                cell(&worker.id),
                cell(&worker.host),
                grouped(worker.share.jobs),
                grouped(worker.share.retries),
            ],
        )?;
    }
    writeln!(text)?;
    and_more(text, report.workers.len() as u64)
}

fn files(report: &Report, text: &mut String) -> fmt::Result {
    if report.files.is_empty() {
        return Ok(());
    }
    writeln!(text, "### Files\n")?;
    let left = Align::Left;
    heading(
        text,
        &["file", "bytes", "SHA-256"],
        &[left, Align::Right, left],
    )?;
    for file in &report.files {
        line(
            text,
            &[
                cell(&file.name),
                grouped(file.bytes),
                format!("`{}`", file.sha256),
            ],
        )?;
    }
    Ok(())
}

fn and_more(text: &mut String, all: u64) -> fmt::Result {
    match all.checked_sub(LISTED as u64) {
        Some(more) if more > 0 => writeln!(text, "and {} more, see `report.json`\n", grouped(more)),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

fn heading(text: &mut String, names: &[&str], aligns: &[Align]) -> fmt::Result {
    writeln!(text, "| {} |", names.join(" | "))?;
    let rules = aligns.iter().map(|align| match align {
        Align::Left => "---",
        Align::Right => "---:",
    });
    writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "))
}

fn line(text: &mut String, cells: &[String]) -> fmt::Result {
    writeln!(text, "| {} |", cells.join(" | "))
}

/// A text of any content, escaped so that it is one table cell and rendered literally.
fn cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' | '\n' => escaped.push(' '),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipeline::reconciliation::{Check, Share};
    use pipeline::{Computation, Grain};

    use super::*;
    use crate::outputs::OutputFile;
    use crate::report::{
        DeadLetterReport, GroupingReport, Jobs, ManifestReport, Rates, Run, SCHEMA_VERSION,
        SeriesReport, TableReport, WorkerReport,
    };

    fn report() -> Report {
        let grouping = GroupingReport {
            label_columns: vec!["country".to_owned(), "test_type".to_owned()],
            time_column: Some("test_date".to_owned()),
            grain: Some(Grain::Hour),
            max_rows_per_job: 10_000,
        };
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            status: Verdict::CompleteWithDeadLetters,
            run: Run {
                run_id: "a-run".to_owned(),
                engine: "kafka",
                opened_at: Some("2020-07-14T09:00:00Z".to_owned()),
                grouping,
                computation: Computation::named("positivity"),
            },
            manifest: Some(ManifestReport {
                jobs: Some(1_200),
                rows_read: 2_010,
                rows_accepted: 2_000,
                rows_rejected: 10,
                rejected: BTreeMap::from([("unknown_result".to_owned(), 10)]),
                messages: Some(7),
                job_set_digest: Some(String::new()),
            }),
            reconciliation: vec![
                Check::numbers("each job has an outcome", 1_200, 1_200),
                Check::numbers("tests = rows in counted jobs", 1_999, 1_998),
                Check::new("digest", &"5a".repeat(32), &"5a".repeat(32), true),
            ],
            jobs: Jobs {
                counted: Some(1_199),
                dead_lettered: Some(1),
                missing: Some(0),
                ..Jobs::default()
            },
            tests: Some(1_999),
            positive: Some(500),
            rate: Some(0.250_125),
            series: SeriesReport {
                rows: Some(1_100),
                sha256: None,
            },
            table: None,
            dead_letters: vec![DeadLetterReport {
                index: 17,
                labels: vec!["a|b".to_owned(), "<PCR>".to_owned()],
                time: Some("2020-07-14T09:00:00".to_owned()),
                part: 0,
                rows: 1,
                attempts: 3,
                reason: "first line\nsecond line".to_owned(),
            }],
            missing: Vec::new(),
            conflicts: Vec::new(),
            differing: Vec::new(),
            verdict: None,
            stages: Vec::new(),
            rates: Rates::default(),
            workers: vec![WorkerReport {
                host: "here".to_owned(),
                id: "worker-0".to_owned(),
                share: Share {
                    jobs: 1_200,
                    retries: 2,
                    ..Share::default()
                },
            }],
            wall_seconds: None,
            first_job_seconds: None,
            processes: Vec::new(),
            files: vec![OutputFile {
                name: "series.csv".to_owned(),
                bytes: 61_234,
                sha256: "ab12".to_owned(),
            }],
            versions: BTreeMap::new(),
        };
        report.add_stage("read", 0.5);
        report.add_stage("write", 0.012_34);
        report.work_out_rates();
        report
    }

    fn written(report: &Report) -> String {
        let mut out = Vec::new();
        ReportMd(report)
            .export(&mut out)
            .expect("a vector takes all");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_report_is_tables_of_markdown() {
        assert_eq!(written(&report()), include_str!("report_md.golden.md"));
    }

    #[test]
    fn a_run_without_a_manifest_has_question_marks_for_unknown_numbers() {
        let mut report = report();
        report.status = Verdict::Incomplete;
        report.manifest = None;
        report.jobs = Jobs::default();
        (report.tests, report.positive, report.rate) = (None, None, None);
        report.series = SeriesReport::default();
        let text = written(&report);
        for part in [
            "❌ rollcall: incomplete",
            "| rows | ? | ? accepted, ? rejected |",
            "| jobs | ? | ? counted, ? dead-lettered, ? missing |",
            "| tests | ? | ? positive |",
            "| series | ? | groups |",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("Rejected rows"));
    }

    #[test]
    fn a_run_with_a_table_has_its_rows_in_place_of_tests() {
        let mut report = report();
        report.run.computation = Computation::named("count");
        report.run.grouping.grain = None;
        report.table = Some(TableReport {
            rows: 1_234,
            sha256: String::new(),
        });
        let text = written(&report);
        assert!(
            text.contains(", count by country, test\\_type, kafka"),
            "{text}"
        );
        assert!(text.contains("| table | 1,234 | rows |"), "{text}");
        assert!(!text.contains("| tests |") && !text.contains("| series |"));
    }

    #[test]
    fn long_lists_end_with_the_number_of_further_entries() {
        let mut report = report();
        report.workers = vec![report.workers[0].clone(); 25];
        report.jobs.dead_lettered = Some(2_020);
        report.dead_letters = vec![report.dead_letters[0].clone(); 1_000];
        let text = written(&report);
        assert_eq!(text.matches("| worker-0 |").count(), LISTED);
        assert!(text.contains("and 5 more, see `report.json`"));
        assert!(text.contains("and 2,000 more, see `report.json`"));
    }
}

//! The summary of a report, a short table of text.

use std::fmt;

use pipeline::Verdict;

use super::Report;

/// The summary: totals, stages, workers, checks and the first failures.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}: {}", self.run.run_id, self.status.word())?;
        if let Some(manifest) = &self.manifest {
            line(
                f,
                "rows",
                &format!(
                    "{} read, {} accepted, {} rejected",
                    grouped(manifest.rows_read),
                    grouped(manifest.rows_accepted),
                    grouped(manifest.rows_rejected)
                ),
            )?;
            for (reason, rows) in &manifest.rejected {
                line(f, "", &format!("{} {reason}", grouped(*rows)))?;
            }
        }
        if let Some(counted) = self.jobs.counted {
            line(f, "jobs", &self.jobs_line(counted))?;
        }
        let rate = self
            .rate
            .map_or(String::new(), |rate| format!(", {:.2} %", 100.0 * rate));
        if let (Some(tests), Some(positive)) = (self.tests, self.positive) {
            let text = format!("{}, {} positive{rate}", grouped(tests), grouped(positive));
            line(f, "tests", &text)?;
        }
        if let Some(groups) = self.series.rows {
            line(f, "series", &format!("{} groups", grouped(groups)))?;
        }
        if let Some(table) = &self.table {
            line(f, "table", &format!("{} rows", grouped(table.rows)))?;
        }
        self.fmt_stages(f)?;
        self.fmt_workers(f)?;
        writeln!(f)?;
        for check in &self.reconciliation {
            let mark = if check.holds { "ok  " } else { "FAIL" };
            write!(f, "  {mark}  {}", check.name)?;
            if check.holds {
                writeln!(f, ": {}", truncated(&check.found))?;
            } else {
                writeln!(f, ": expected {}, found {}", check.expected, check.found)?;
            }
        }
        self.fmt_failures(f)
    }
}

impl Report {
    fn jobs_line(&self, counted: u64) -> String {
        let jobs = &self.jobs;
        let mut text = format!("{} counted", grouped(counted));
        for (amount, what) in [
            (jobs.dead_lettered, "dead-lettered"),
            (jobs.missing, "missing"),
        ] {
            if let Some(amount @ 1..) = amount {
                text.push_str(&format!(", {} {what}", grouped(amount)));
            }
        }
        let manifest = self.manifest.as_ref();
        if let Some(messages) = manifest.and_then(|manifest| manifest.messages) {
            text.push_str(&format!(" in {} messages", grouped(messages)));
        }
        if let Some(dropped @ 1..) = jobs.duplicates_dropped {
            let dropped = grouped(dropped);
            text.push_str(&format!(", {dropped} duplicate outcomes dropped"));
        }
        text
    }

    fn fmt_stages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, stage) in self.stages.iter().enumerate() {
            let mut text = format!("{:<10} {:>8.3} s", stage.stage, stage.seconds);
            if let Some((rate, unit)) = self.rate_of(&stage.stage) {
                text.push_str(&format!("  {:>12} {unit}", grouped(rate as u64)));
            }
            line(f, if number == 0 { "stages" } else { "" }, &text)?;
        }
        Ok(())
    }

    fn fmt_workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTED: usize = 16;
        for (number, worker) in self.workers.iter().take(LISTED).enumerate() {
            let mut text = format!(
                "{:<10} {:>12} jobs on {}",
                worker.id,
                grouped(worker.share.jobs),
                worker.host
            );
            if worker.share.retries > 0 {
                text.push_str(&format!(", {} retries", grouped(worker.share.retries)));
            }
            line(f, if number == 0 { "workers" } else { "" }, &text)?;
        }
        if self.workers.len() > LISTED {
            line(f, "", &format!("and {} more", self.workers.len() - LISTED))?;
        }
        Ok(())
    }

    fn fmt_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTED: usize = 5;
        for letter in self.dead_letters.iter().take(LISTED) {
            writeln!(
                f,
                "  dead letter: job {} ({}), {} attempts: {}",
                letter.index,
                letter.key(),
                letter.attempts,
                letter.reason
            )?;
        }
        if !self.missing.is_empty() {
            let listed: Vec<_> = self
                .missing
                .iter()
                .take(LISTED)
                .map(u64::to_string)
                .collect();
            let more = if self.missing.len() > LISTED {
                ", …"
            } else {
                ""
            };
            writeln!(f, "  missing: jobs {}{more}", listed.join(", "))?;
        }
        for conflict in self.conflicts.iter().take(LISTED) {
            writeln!(f, "  conflict: {conflict}")?;
        }
        let Some(verdict) = &self.verdict else {
            return Ok(());
        };
        for conflict in verdict.late_conflicts.iter().take(LISTED) {
            writeln!(f, "  late conflict, after the verdict: {conflict}")?;
        }
        match (&verdict.published_by, verdict.published) {
            // An incomplete run has no verdict to publish.
            (None, _) if self.status == Verdict::Incomplete => Ok(()),
            (Some(by), true) => writeln!(f, "  verdict published by {by}"),
            (Some(by), false) => writeln!(f, "  another verdict was published by {by}"),
            (None, _) => writeln!(f, "  verdict not published"),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:<9} {text}")
}

/// A value of a check: a long text, such as a digest, truncated, and a number with grouped digits.
pub(crate) fn truncated(text: &str) -> String {
    const LONG: usize = 40;
    const PREFIX: usize = 16;
    match text.get(..PREFIX) {
        Some(beginning) if text.len() > LONG => format!("{beginning}…"),
        _ => text.parse().map_or(text.to_owned(), grouped),
    }
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    service::progress::grouped(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_digests_truncated() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(truncated("2000000"), "2,000,000");
        assert_eq!(truncated(&"ab".repeat(32)), "abababababababab…");
        assert_eq!(truncated("yes"), "yes");
    }
}

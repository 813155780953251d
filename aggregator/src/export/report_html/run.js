// What became of the run: verdict, receipt, stages, workers, files, and what went wrong. All of it is
// shown as `report.json` has it; a field that is not there or null is said to be unknown.
"use strict";

const VERDICTS = {
  "complete": { mark: "✓", word: "Complete", kind: "good" },
  "complete-with-dead-letters": { mark: "!", word: "Complete, with dead letters", kind: "warn" },
  "incomplete": { mark: "…", word: "Incomplete", kind: "bad" },
  "failed": { mark: "✕", word: "Failed", kind: "bad" },
};

const UNKNOWN_VERDICT = { mark: "?", word: "Verdict unknown", kind: "bad" };

function verdictOf(report) {
  return VERDICTS[report.status] ?? UNKNOWN_VERDICT;
}

// What has to be known before one believes the chart; null when all is well.
function warningOf(report) {
  const jobs = report.jobs ?? {};
  switch (report.status) {
    case "complete":
      return null;
    case "complete-with-dead-letters":
      return `${jobs.dead_lettered === 1 ? "1 job" : `${count(jobs.dead_lettered)} jobs`} could not be computed. The rows of dead letters are in none of these figures; they are listed at the end of the page.`;
    case "incomplete":
      return report.manifest
        ? `This run is incomplete: ${count(jobs.missing)} of ${count(report.manifest.jobs)} jobs have no outcome. What is shown is only a part of the data set.`
        : "This run is incomplete: its dispatcher never said how many jobs it has, so nothing was counted.";
    default:
      return "The reconciliation of this run failed. Do not trust the figures; the receipt shows which line does not hold.";
  }
}

function showVerdict(report) {
  const verdict = verdictOf(report);
  byId("verdict").classList.add(verdict.kind);
  byId("verdict").replaceChildren(make("span", { class: "mark", "aria-hidden": "true" }, verdict.mark), verdict.word);
  const warning = warningOf(report);
  byId("notice").hidden = warning === null;
  byId("notice").replaceChildren(warning ?? "");
}

function showReceipt(report) {
  const manifest = report.manifest;
  const jobs = report.jobs ?? {};
  const verdict = verdictOf(report);
  const line = (name, value, className = "") => make("div", { class: `receipt-line ${className}` },
    make("dt", {}, name), make("dd", {}, value));
  const lines = [
    line("Rows read", count(manifest?.rows_read)),
    ...Object.entries(manifest?.rejected ?? {}).map(([reason, rows]) => line(`− ${reason.replaceAll("_", " ")}`, count(rows), "minor")),
    line("Rows rejected", count(manifest?.rows_rejected)),
    line("Rows accepted", count(manifest?.rows_accepted), "sum"),
  ];
  // The reference has no jobs.
  if (report.run?.engine !== "local") {
    lines.push(
      line("Jobs", count(manifest?.jobs)),
      line("counted", count(jobs.counted), "minor"),
      line("dead-lettered", count(jobs.dead_lettered), "minor"),
      line("missing", count(jobs.missing), jobs.missing > 0 ? "minor wrong" : "minor"),
      line("duplicates dropped", count(jobs.duplicates_dropped), "minor"),
    );
  }
  lines.push(
    line("Tests", count(report.tests)),
    line("Positive", count(report.positive)),
    line("Rate", percent(report.rate, 2), "sum"),
  );
  const checks = (report.reconciliation ?? []).map((check) => {
    const value = check.holds ? shortValue(check.found) : `expected ${check.expected}, found ${check.found}`;
    return make("li", { class: check.holds ? "holds" : "fails" },
      make("span", { class: "check-mark", role: "img", "aria-label": check.holds ? "holds" : "does not hold" }, check.holds ? "✓" : "✕"),
      make("span", { class: "check-name" }, check.name),
      make("span", { class: "check-value", title: check.found }, value));
  });
  const digest = manifest?.job_set_digest || report.series?.sha256 || "";
  byId("receipt").replaceChildren(...[
    make("header", {},
      make("p", { class: "receipt-brand" }, "rollcall"),
      make("p", {}, "Every job accounted for"),
      make("p", { class: "minor" }, foreign(report.run?.run_id ?? "unknown run")),
      report.run?.opened_at ? make("p", { class: "minor" }, report.run.opened_at.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")) : null),
    make("dl", {}, lines),
    make("h3", {}, "Reconciliation"),
    make("ul", { class: "checks" }, checks),
    checks.length === 0 ? make("p", { class: "minor" }, "Nothing could be checked.") : null,
    make("p", { class: `stamp ${verdict.kind}` }, verdict.word),
    digest ? barcode(digest) : null,
    digest ? make("p", { class: "minor digest" }, digest) : null,
  ].filter((child) => child !== null));
}

function shortValue(text) {
  if (/^\d+$/.test(text)) return count(Number(text));
  return text.length > 40 ? `${text.slice(0, 16)}…` : text;
}

// The digest as bars: each digit is a bar and a gap. To look at, not to scan.
function barcode(digest) {
  const bars = [];
  let x = 0;
  for (const digit of digest) {
    const value = Number.parseInt(digit, 16) || 0;
    const width = 1 + (value & 3);
    bars.push(makeSvg("rect", { x, y: 0, width, height: 36 }));
    x += width + 1 + (value >> 2);
  }
  return makeSvg("svg", { class: "barcode", viewBox: `0 0 ${x} 36`, preserveAspectRatio: "none", "aria-hidden": "true" }, bars);
}

const STAGE_RATES = {
  read: ["rows_read_per_second", "rows/s"],
  publish: ["jobs_published_per_second", "jobs/s"],
  collect: ["jobs_collected_per_second", "jobs/s"],
};

function showStages(report) {
  const stages = report.stages ?? [];
  const longest = Math.max(...stages.map((stage) => stage.seconds), 0);
  const rows = stages.map(({ stage, seconds }) => {
    const [field, unit] = STAGE_RATES[stage] ?? [];
    const rate = field ? report.rates?.[field] : null;
    return make("tr", {},
      make("th", { scope: "row" }, stage),
      make("td", { class: "bar-cell" }, bar(longest > 0 ? seconds / longest : 0)),
      make("td", {}, `${seconds.toFixed(3)} s`),
      make("td", { class: "faint" }, rate ? `${count(Math.floor(rate))} ${unit}` : ""));
  });
  byId("stages").replaceChildren(
    bars("Seconds of each stage", ["stage", "", "seconds", "a second"], rows, "No stage has ended."),
    report.run?.engine === "local" ? "" : make("p", { class: "note" }, "Stages overlap: jobs are computed and collected while others are published."));
}

function showWorkers(report) {
  const workers = report.workers ?? [];
  const most = Math.max(...workers.map((worker) => worker.jobs), 0);
  const all = workers.reduce((total, worker) => total + worker.jobs, 0);
  const rows = workers.map((worker) => make("tr", {},
    make("th", { scope: "row" }, foreign(worker.id, { title: `on ${worker.host}` })),
    make("td", { class: "bar-cell" }, bar(most > 0 ? worker.jobs / most : 0)),
    make("td", {}, count(worker.jobs)),
    make("td", { class: "faint" }, all > 0 ? percent(worker.jobs / all) : "–"),
    make("td", { class: "faint" }, worker.retries > 0 ? `${count(worker.retries)} retries` : "")));
  const nobody = report.run?.engine === "local"
    ? "The local engine has no jobs and no workers: one process computed everything."
    : "No worker's outcome was counted.";
  const hosts = [...new Set(workers.map((worker) => worker.host))];
  const on = hosts.length === 1 ? ` on ${hosts[0]}` : ` on ${count(hosts.length)} hosts`;
  byId("workers").replaceChildren(
    make("div", { class: "tall" }, bars("Jobs by worker", ["worker", "", "jobs", "share", ""], rows, nobody)),
    workers.length > 0 ? make("p", { class: "note" }, `${workers.length === 1 ? "1 worker" : `${count(workers.length)} workers`}${on}.`) : "");
}

function bars(title, heads, rows, nothing) {
  if (rows.length === 0) return make("p", { class: "faint" }, nothing);
  return make("table", { class: "bars", "aria-label": title },
    make("thead", { class: "hidden" }, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows));
}

function showFiles(report) {
  const files = (report.files ?? []).map((file) => make("tr", {},
    make("th", { scope: "row" }, foreign(file.name)),
    make("td", {}, bytes(file.bytes)),
    make("td", { class: "mono faint", title: file.sha256 }, `${file.sha256.slice(0, 12)}…`)));
  byId("files").replaceChildren(
    bars("Files of the run", ["file", "size", "SHA-256"], files, "None beside report.json."),
    make("p", { class: "note" }, "The SHA-256 of the whole file, shortened here; report.json has all of it."));
}

function bytes(number) {
  if (number < 1_000) return `${number} B`;
  return number < 1_000_000 ? `${(number / 1_000).toFixed(1)} kB` : `${(number / 1_000_000).toFixed(1)} MB`;
}

function showFailures(report) {
  const parts = [];
  const part = (title, shown, all, content) => {
    if (shown.length === 0) return;
    const more = all > shown.length ? `The first ${count(shown.length)} of ${count(all)}; report.json lists up to 1,000.` : "";
    parts.push(make("section", { class: "card failure" }, make("h3", {}, title), content, more ? make("p", { class: "note" }, more) : ""));
  };
  const jobs = report.jobs ?? {};
  const letters = report.dead_letters ?? [];
  const heads = ["job", "group", "time", "rows", "attempts", "reason"];
  part("Dead letters", letters, jobs.dead_lettered ?? letters.length, make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Dead letters" }, make("table", { "aria-label": "Dead letters" },
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, letters.map((letter) => make("tr", {},
      make("td", {}, count(letter.index)), make("td", { class: "text" }, foreign(letter.labels.join(" · "))),
      make("td", { class: "text" }, letter.time), make("td", {}, count(letter.rows)),
      make("td", {}, count(letter.attempts)), make("td", { class: "text" }, foreign(letter.reason))))))));
  const missing = report.missing ?? [];
  part("Jobs without an outcome", missing, jobs.missing ?? missing.length, make("p", { class: "mono wrap" }, missing.join(", ")));
  const conflicts = report.conflicts ?? [];
  part("Outcomes that contradict each other", conflicts, conflicts.length,
    make("ul", {}, conflicts.map((conflict) => make("li", {}, foreign(conflict)))));
  byId("failures").replaceChildren(...parts);
}

function showMaker(report) {
  const versions = Object.entries(report.versions ?? {}).map(([name, version]) => `${name} ${version}`);
  byId("made-by").replaceChildren(`Made by ${versions.join(", ") || "rollcall"}.`);
}

// Puts the page together and keeps it in step with what is chosen: chart, list, small multiples,
// table. What is chosen stands in the address behind `#`, so that it can be kept and sent.
"use strict";

// Entries of a list that are made at once; the rest comes when it is asked or searched for.
const LISTED = { choices: 300, multiples: 240, rows: 500 };

const report = JSON.parse(byId("report-data").textContent);
const series = readSeries(JSON.parse(byId("series-data").textContent));
const several = series.lines.length > 1;
const lineOf = (id) => (id === "all" ? series.all : series.lines[id]);

const state = {
  chosen: [],
  grain: series.grain,
  mean: hasMeans(series),
  interval: true,
  order: "label",
  sort: { key: "tests", down: true },
  shown: { multiples: LISTED.multiples, rows: LISTED.rows },
};

const chart = new Chart({ plot: byId("plot"), tip: byId("tip"), zoomOut: byId("zoom-out") });

const byTests = [...series.lines].sort((one, other) => other.tests - one.tests || one.id - other.id);

// The order of rates is that of the lower bound, so that three tests of three are not the highest.
const byRate = [...series.lines].sort((one, other) => (other.interval?.[0] ?? -1) - (one.interval?.[0] ?? -1));

const stops = { choices: new OneStop(byId("choices"), "input"), multiples: new OneStop(byId("multiples"), ".multiple") };

// Each keeps its colour while it is chosen.
const colours = new Map();

function colourOf(id) {
  if (id === "all") return colour("--ink");
  return colour(`--line-${colours.get(id)}`);
}

function choose(ids) {
  state.chosen = ids;
  for (const id of [...colours.keys()]) if (!ids.includes(id)) colours.delete(id);
  for (const id of ids) {
    if (id === "all" || colours.has(id)) continue;
    const taken = new Set(colours.values());
    colours.set(id, [0, 1, 2, 3, 4, 5].find((number) => !taken.has(number)));
  }
}

function chosenSets() {
  return state.chosen.filter((id) => id !== "all");
}

function toggle(id) {
  const chosen = state.chosen.includes(id);
  if (!chosen && id !== "all" && chosenSets().length >= MOST_CHOSEN) {
    byId("chooser-status").textContent = `${MOST_CHOSEN} at most. Take one out first.`;
    return;
  }
  choose(chosen ? state.chosen.filter((known) => known !== id) : [...state.chosen, id]);
  changed();
}

function changed() {
  writeAddress();
  showChart();
  showChoices();
  markMultiples();
}

// The address.

function writeAddress() {
  const parameters = new URLSearchParams();
  for (const id of state.chosen) parameters.append("show", id === "all" ? "*" : JSON.stringify(lineOf(id).labels));
  if (state.chosen.length === 0) parameters.append("show", "");
  parameters.set("grain", state.grain);
  parameters.set("mean", String(state.mean));
  parameters.set("interval", String(state.interval));
  history.replaceState(null, "", `#${parameters}`);
}

function readAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const ids = new Map(series.lines.map((line) => [JSON.stringify(line.labels), line.id]));
  if (parameters.has("show")) {
    const wanted = parameters.getAll("show").map((text) => (text === "*" ? "all" : ids.get(text)));
    const known = wanted.filter((id) => id !== undefined && (id !== "all" || several));
    choose([...new Set(known)].slice(0, MOST_CHOSEN));
  }
  if (series.grains.includes(parameters.get("grain"))) state.grain = parameters.get("grain");
  if (parameters.has("mean")) state.mean = parameters.get("mean") === "true" && series.grain === "day";
  if (parameters.has("interval")) state.interval = parameters.get("interval") === "true";
}

// The chart.

function isMean() {
  return state.mean && state.grain === "day";
}

function showChart() {
  const axis = axisOf(series, state.grain);
  const lines = state.chosen.map((id) => {
    const line = lineOf(id);
    return { line, colour: colourOf(id), drawn: points(series, line, state.grain, isMean(), axis) };
  });
  chart.draw(series, state.grain, lines, { interval: state.interval, mean: isMean() });
  const each = isMean() ? "mean of the seven days that end with each day" : `one point for each ${state.grain}`;
  byId("chart-caption").textContent = `Positive tests per test, ${each}`;
  byId("chips").replaceChildren(...lines.map(({ line, colour: ink }) => {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = ink;
    const chip = make("li", { class: "chip" }, swatch, foreign(line.label));
    if (several) chip.append(make("button", { type: "button", "aria-label": `Take out ${line.label}`, onclick: () => takeOut(line.id) }, "×"));
    return chip;
  }));
  byId("chart-summary").textContent = lines.map(({ line, drawn }) => summary(line, drawn)).join(" ");
  byId("mean").checked = isMean();
  byId("mean").disabled = state.grain !== "day";
  byId("interval").checked = state.interval;
  for (const input of byId("grains").querySelectorAll("input")) input.checked = input.value === state.grain;
  showPoints(lines, axis);
}

function takeOut(id) {
  toggle(id);
  // The button is gone, and with it the place of the keyboard.
  (byId("chips").querySelector("button") ?? byId("chooser-search")).focus();
}

function summary(line, drawn) {
  const peak = highest(drawn);
  if (peak === null) return `${line.label}: no rate is known.`;
  const last = drawn.rate.findLastIndex((rate) => rate !== null);
  const at = (position) => `${percent(drawn.rate[position])}, ${bucketName(drawn.axis[position], state.grain)}`;
  return `${line.label}: ${count(line.tests)} tests, ${percent(line.rate, 2)} positive; highest ${at(peak)}; last ${at(last)}.`;
}

// The table of points is made when it is opened.
function showPoints(lines, axis) {
  const details = byId("points");
  details.hidden = lines.length === 0 || axis.length === 0;
  const table = () => {
    const heads = lines.flatMap(({ line }) => [`${line.label}: rate`, "95 % interval", "tests"]);
    const rows = axis.map((day, at) => make("tr", {}, make("th", { scope: "row" }, isoDate(day)),
      lines.flatMap(({ drawn }) => [
        make("td", {}, percent(drawn.rate[at], 2)),
        make("td", {}, range([drawn.low[at], drawn.high[at]])),
        make("td", {}, drawn.overTests[at] === null ? "–" : count(drawn.overTests[at])),
      ])));
    details.querySelector("div").replaceChildren(make("table", { "aria-label": "The points of the chart" },
      make("thead", {}, make("tr", {}, [state.grain, ...heads].map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, rows)));
  };
  details.ontoggle = () => details.open && table();
  if (details.open) table();
}

// The list to choose from.

function showChoices() {
  const wanted = byId("chooser-search").value.trim().toLocaleLowerCase();
  const matching = series.lines.filter((line) => line.label.toLocaleLowerCase().includes(wanted));
  const focused = byId("choices").contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  const full = chosenSets().length >= MOST_CHOSEN;
  const entry = (line) => {
    const chosen = state.chosen.includes(line.id);
    const swatch = make("span", { class: "swatch" });
    if (chosen) swatch.style.background = colourOf(line.id);
    return make("label", { class: `choice${full && !chosen && line.id !== "all" ? " off" : ""}` },
      make("input", { type: "checkbox", checked: chosen, "data-id": line.id, onchange: (event) => { toggle(line.id); event.target.checked = state.chosen.includes(line.id); } }),
      swatch, foreign(line.label, { class: "choice-name", title: line.label }),
      make("span", { class: "choice-rate" }, percent(line.rate)));
  };
  // What is chosen stands first.
  const first = matching.filter((line) => state.chosen.includes(line.id));
  const others = matching.filter((line) => !state.chosen.includes(line.id)).slice(0, LISTED.choices);
  const all = wanted === "" ? [series.all] : [];
  const scrolled = byId("choices").scrollTop;
  byId("choices").replaceChildren(...[...all, ...first, ...others].map(entry));
  byId("choices").scrollTop = scrolled;
  stops.choices.renew();
  if (focused !== undefined) byId("choices").querySelector(`[data-id="${focused}"]`)?.focus();
  const left = matching.length - first.length - others.length;
  byId("chooser-status").textContent = full
    ? `${MOST_CHOSEN} chosen, which is the most.`
    : left > 0 ? `${count(left)} more: search for them.` : `${count(matching.length)} of ${count(series.lines.length)}`;
}

// All at a glance.

const multiples = { glances: [], top: 1 };

function drawMultiples() {
  const mean = hasMeans(series);
  const axis = axisOf(series, series.grain);
  multiples.glances = series.lines.map((line) => glance(series, line, series.grain, mean, axis, SMALL.buckets));
  // Few tests make wild rates: the scale reaches what 99 of 100 points reach.
  const known = Float64Array.from(multiples.glances.flatMap(({ few }) => few.filter((rate) => rate !== null))).sort();
  multiples.top = roundUp(known[Math.floor((known.length - 1) * 0.99)] || 0.001);
  const cut = known.length > 0 && known.at(-1) > multiples.top ? "; what is higher is cut off" : "";
  byId("multiples-note").textContent =
    `${mean ? "The 7-day mean" : `The rate by ${series.grain}`} from ${period(series.first)} to ${period(series.last)}, all on one scale from 0 to ${percent(multiples.top, multiples.top < 0.01 ? 1 : 0)}${cut}. Choose one to see it in the chart; arrow keys move along.`;
}

function showMultiples() {
  const orders = { label: series.lines, tests: byTests, rate: byRate };
  const lines = orders[state.order].slice(0, state.shown.multiples);
  byId("multiples").replaceChildren(...lines.map((line) => {
    return make("button", { type: "button", class: "multiple", "data-id": line.id, title: `${line.label}: ${percent(line.rate, 2)} of ${count(line.tests)} tests`,
      onclick: () => toggle(line.id) },
      make("span", { class: "multiple-head" }, foreign(line.label, { class: "multiple-name" }), make("span", { class: "multiple-rate" }, percent(line.rate))),
      smallMultiple(multiples.glances[line.id].few, multiples.top));
  }));
  const left = series.lines.length - lines.length;
  byId("multiples-more").hidden = left === 0;
  byId("multiples-more").textContent = `Show ${count(Math.min(left, LISTED.multiples))} more of ${count(left)}`;
  stops.multiples.renew();
  markMultiples();
}

function markMultiples() {
  for (const button of byId("multiples").children) {
    const id = Number(button.dataset.id);
    const chosen = state.chosen.includes(id);
    button.setAttribute("aria-pressed", String(chosen));
    button.style.setProperty("--own", chosen ? colourOf(id) : "");
  }
}

// The table.

function columns() {
  const labels = series.columns.map((name, number) => ({
    key: `label-${number}`, name, text: true, of: (line) => line.labels[number], cell: (line) => foreign(line.labels[number] || "(empty)"),
  }));
  const peakName = hasMeans(series) ? "highest 7-day mean" : `highest ${series.grain}`;
  return [
    ...labels,
    { key: "tests", name: "tests", of: (line) => line.tests, cell: (line) => count(line.tests) },
    { key: "positive", name: "positive", of: (line) => line.positive, cell: (line) => count(line.positive) },
    { key: "rate", name: "rate", of: (line) => line.rate, cell: (line) => percent(line.rate, 2) },
    { key: "low", name: "95 % interval", of: (line) => line.interval?.[0] ?? null, cell: (line) => range(line.interval, 2) },
    { key: "peak", name: peakName, of: (line) => peakOf(line)?.rate ?? null, cell: (line) => peakCell(line) },
  ];
}

function peakOf(line) {
  return multiples.glances[line.id].peak;
}

function peakCell(line) {
  const peak = peakOf(line);
  return peak === null ? "–" : [percent(peak.rate), make("span", { class: "faint" }, ` ${bucketName(peak.day, series.grain)}`)];
}

const collator = new Intl.Collator("en", { numeric: true });

function tableLines() {
  const wanted = byId("table-search").value.trim().toLocaleLowerCase();
  const { key, down } = state.sort;
  const column = columns().find((known) => known.key === key) ?? columns()[0];
  const lines = series.lines.filter((line) => line.label.toLocaleLowerCase().includes(wanted));
  const valued = lines.map((line) => ({ line, value: column.of(line) }));
  valued.sort((one, other) => {
    // What is not known stands last either way.
    if (one.value === null || other.value === null) return (one.value === null) - (other.value === null);
    const order = column.text ? collator.compare(one.value, other.value) : one.value - other.value;
    return (down ? -order : order) || one.line.id - other.line.id;
  });
  return valued.map(({ line }) => line);
}

function showTable() {
  const focused = document.activeElement?.dataset?.sort;
  const lines = tableLines();
  const { key, down } = state.sort;
  const head = columns().map((column) => make("th", { scope: "col", class: column.text ? "text" : "", "aria-sort": column.key === key ? (down ? "descending" : "ascending") : "none" },
    make("button", { type: "button", class: "sort", "data-sort": column.key, onclick: () => sortBy(column) }, foreign(column.name),
      make("span", { class: "arrow", "aria-hidden": "true" }, column.key === key ? (down ? "↓" : "↑") : ""))));
  const highestRate = Math.max(...series.lines.map((line) => line.rate ?? 0), 0);
  const rows = lines.slice(0, state.shown.rows).map((line) => make("tr", {}, columns().map((column) => {
    const cell = make("td", { class: column.text ? "text" : "" }, column.cell(line));
    if (column.key !== "rate") return cell;
    // All bars begin where the first does, whatever room the figures take.
    const share = bar(highestRate > 0 ? (line.rate ?? 0) / highestRate : 0, "thin");
    cell.replaceChildren(make("span", { class: "with-bar" }, share, ...cell.childNodes));
    return cell;
  })));
  byId("table").replaceChildren(make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows));
  if (focused) byId("table").querySelector(`[data-sort="${focused}"]`)?.focus();
  const left = lines.length - rows.length;
  byId("table-more").hidden = left <= 0;
  byId("table-more").textContent = `Show all ${count(lines.length)}`;
  const onPage = series.lines.length < series.inAll
    ? ` The ${count(series.lines.length)} of ${count(series.inAll)} with most tests are on this page; the files of the series have all.` : "";
  byId("table-status").textContent = `${count(rows.length)} of ${count(series.lines.length)} shown.${onPage} The rate is divided once, positive by tests; the interval is Wilson's.`;
}

function sortBy(column) {
  const same = state.sort.key === column.key;
  state.sort = { key: column.key, down: same ? !state.sort.down : !column.text };
  showTable();
}

// The table as it is sorted and searched, whole.
function tableAsCsv() {
  const peak = hasMeans(series) ? "highest_7_day_mean" : `highest_${series.grain}`;
  const heads = [...series.columns, "tests", "positive", "rate", "wilson_low", "wilson_high", peak, "highest_at"];
  const rows = tableLines().map((line) => {
    const highestOf = peakOf(line);
    return [...line.labels, line.tests || null, line.tests ? line.positive : null, line.rate, line.interval?.[0], line.interval?.[1], highestOf?.rate, highestOf ? isoDate(highestOf.day) : null];
  });
  return csv([heads, ...rows]);
}

// Head and figures.

// The begin of a bucket where two are named in one breath.
function period(day) {
  return series.grain === "month" ? bucketName(day, "month") : longDate(day);
}

function showHead() {
  const by = series.columns.length > 0 ? ` by ${series.columns.join(" and ")}` : "";
  byId("title").replaceChildren("Positivity rate", foreign(by));
  document.title = `Positivity rate${by} · rollcall`;
  const covered = series.first === null ? "No test was counted" : series.first === series.last
    ? bucketName(series.first, series.grain) : `${period(series.first)} to ${period(series.last)}`;
  const run = report.run ?? {};
  byId("subtitle").replaceChildren(`${covered} · ${run.engine === "local" ? "local engine" : "run "}`, run.engine === "local" ? "" : foreign(run.run_id ?? "unknown"));
  const interval = wilson(report.positive, report.tests);
  const figure = (name, value, under = "") => make("div", { class: "figure" }, make("dt", {}, name), make("dd", {}, value, make("small", {}, under)));
  const groups = report.series?.rows;
  byId("figures").replaceChildren(
    figure("Tests", count(report.tests), `${count(groups)} groups by ${series.runGrain}`),
    figure("Positive", count(report.positive)),
    figure("Rate", percent(report.rate, 2), interval ? `95 %: ${range(interval, 2)}` : "no test, no rate"),
    figure(series.columns.length > 0 ? "Label sets" : "Label columns", series.columns.length > 0 ? count(series.inAll) : "none", series.columns.join(", ")),
    figure("Jobs", run.engine === "local" ? "none" : count(report.manifest?.jobs), run.engine === "local" ? "without Kafka" : `${count(report.workers?.length ?? 0)} workers`));
}

function showNotes() {
  const grain = series.runGrain === series.grain
    ? `The data of this page is by ${series.grain}, as the run's.`
    : `The data of this page is by ${series.grain}, in UTC, added up from the run's ${series.runGrain}s, which are in series.csv and series.parquet.`;
  byId("chart-note").replaceChildren(`${grain} A 7-day mean is the positive tests of seven days by the tests of seven days. The 95 % interval of a rate is Wilson’s score interval: E. B. Wilson, Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22 (1927) 209–212, `,
    make("a", { href: "https://doi.org/10.1080/01621459.1927.10502953", rel: "noreferrer" }, "doi 10.1080/01621459.1927.10502953"), ".");
  byId("chart-hint").textContent = matchMedia("(hover: hover)").matches
    ? "Point at the chart for tests and rate; drag to zoom in; arrow keys move along." : "Tap the chart for tests and rate.";
}

function showGrains() {
  byId("grains").append(...series.grains.map((grain) => make("label", {},
    make("input", { type: "radio", name: "grain", value: grain, onchange: () => { state.grain = grain; changed(); } }), make("span", {}, grain))));
  byId("grains").hidden = series.grains.length < 2;
  byId("mean").parentElement.hidden = series.grain !== "day";
}

function begin() {
  showVerdict(report);
  showHead();
  showNotes();
  showGrains();
  choose([...(several ? ["all"] : []), ...byTests.slice(0, several ? 3 : 1).map((line) => line.id)]);
  readAddress();
  byId("chooser").hidden = !several;
  for (const id of ["multiples-section", "table-section"]) byId(id).hidden = series.lines.length === 0 || (id === "multiples-section" && !several);
  showChart();
  showChoices();
  if (series.lines.length > 0) {
    drawMultiples();
    if (several) showMultiples();
    showTable();
  }
  showReceipt(report);
  showStages(report);
  showWorkers(report);
  showFiles(report);
  showFailures(report);
  showMaker(report);
  listen();
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("mean", "change", (event) => { state.mean = event.target.checked; changed(); });
  on("interval", "change", (event) => { state.interval = event.target.checked; changed(); });
  on("chooser-search", "input", showChoices);
  on("preset-tests", "click", () => { choose(byTests.slice(0, MOST_CHOSEN).map((line) => line.id)); changed(); });
  on("preset-rate", "click", () => { choose(byRate.slice(0, MOST_CHOSEN).map((line) => line.id)); changed(); });
  on("preset-none", "click", () => { choose([]); changed(); });
  on("multiples-order", "change", (event) => { state.order = event.target.value; showMultiples(); });
  on("multiples-more", "click", () => { state.shown.multiples += LISTED.multiples; showMultiples(); });
  on("table-search", "input", showTable);
  on("table-more", "click", () => { state.shown.rows = Infinity; showTable(); });
  on("table-download", "click", () => download("rollcall-table.csv", tableAsCsv()));
  addEventListener("hashchange", () => { readAddress(); showChart(); showChoices(); markMultiples(); });
  // The canvas has no style sheet: its colours are those of the moment.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showChart(); showChoices(); markMultiples(); });
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); showChart(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); showChart(); });
}

begin();

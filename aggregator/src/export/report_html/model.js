// What the page shows, worked out from its data: pure functions over integers, without the document.
// Tests and positive tests are added up first and divided once; what is not known is null, never 0.
"use strict";

const MEAN_DAYS = 7;

// Fewer days than this are shown as they are: a mean would leave hardly any.
const FEWEST_DAYS_FOR_MEAN = 14;

// 95 % of a normal distribution lie within this number of standard deviations.
const Z = 1.959963984540054;

// Wilson's score interval of a rate: E. B. Wilson, "Probable inference, the law of succession, and
// statistical inference", J. Am. Stat. Assoc. 22 (1927) 209-212, doi 10.1080/01621459.1927.10502953.
function wilson(positive, tests) {
  if (!(tests > 0)) return null;
  const rate = positive / tests;
  const z2 = Z * Z;
  const centre = (rate + z2 / (2 * tests)) / (1 + z2 / tests);
  const half = (Z / (1 + z2 / tests)) * Math.sqrt((rate * (1 - rate)) / tests + z2 / (4 * tests * tests));
  // At 0 and 1 the bound is the rate itself, which the sums miss by a rounding error.
  return [positive === 0 ? 0 : Math.max(0, centre - half), positive === tests ? 1 : Math.min(1, centre + half)];
}

function sum(values) {
  let total = 0;
  for (const value of values) total += value ?? 0;
  return total;
}

// Days since 1970 as a date of UTC. (Date.UTC takes the years 0 to 99 for those of last century.)
function dateOf(day) {
  return new Date(day * 86_400_000);
}

// The first day of the bucket that a day is in.
function bucketOf(day, grain) {
  if (grain === "week") return day - ((((day + 3) % 7) + 7) % 7);
  if (grain === "month") return day - (dateOf(day).getUTCDate() - 1);
  return day;
}

function nextBucket(day, grain) {
  if (grain === "week") return day + 7;
  if (grain === "month") {
    const date = dateOf(day);
    return day + new Date(Date.UTC(2000 + (date.getUTCFullYear() % 400), date.getUTCMonth() + 1, 0)).getUTCDate();
  }
  return day + 1;
}

// The page's series as objects. A line is what can be drawn: a label set, or all of them together.
function readSeries(data) {
  const times = [];
  let time = 0;
  data.times.forEach((step, position) => {
    time = position === 0 ? step : time + step;
    times.push(time);
  });
  const line = (label, labels, at, tallies, id) => {
    const tests = sum(tallies.tests);
    const positive = sum(tallies.positive);
    return {
      id, label, labels, at, tests, positive,
      rate: tests > 0 ? positive / tests : null,
      interval: wilson(positive, tests),
      testsAt: tallies.tests,
      positiveAt: tallies.positive,
    };
  };
  const named = (labels) => labels.map((label) => (label === "" ? "(empty)" : label)).join(" · ") || "All tests";
  const lines = data.label_sets.map((set, id) => line(named(set.labels), set.labels, set.at, set, id));
  const all = line(`All ${count(data.label_sets_in_all)} together`, [], 0, data.all, "all");
  return {
    columns: data.label_columns,
    runGrain: data.run_grain,
    grain: data.grain,
    grains: data.grains,
    inAll: data.label_sets_in_all,
    times, lines, all,
    first: times[0] ?? null,
    last: times.at(-1) ?? null,
  };
}

// Calls back with day, tests and positive tests of each group of a line, in order of time.
function eachGroup(series, line, visit) {
  const steps = Array.isArray(line.at) ? line.at : null;
  let at = steps ? 0 : line.at - 1;
  for (let number = 0; number < line.testsAt.length; number++) {
    at += steps ? steps[number] : 1;
    visit(series.times[at], line.testsAt[number], line.positiveAt[number]);
  }
}

// The buckets from the first to the last day of the series, those without a group included.
function axisOf(series, grain) {
  const axis = [];
  if (series.first === null) return axis;
  for (let day = bucketOf(series.first, grain); day <= series.last; day = nextBucket(day, grain)) axis.push(day);
  return axis;
}

// Tests and positive tests of a line for each bucket of the axis; null where a bucket has no tests or where
// it is not known.
function tallies(series, line, grain, axis) {
  const tests = new Array(axis.length).fill(null);
  const positive = new Array(axis.length).fill(null);
  let position = 0;
  eachGroup(series, line, (day, groupTests, groupPositive) => {
    const bucket = bucketOf(day, grain);
    while (axis[position] < bucket) position++;
    if (groupTests === null) return;
    tests[position] = (tests[position] ?? 0) + groupTests;
    positive[position] = (positive[position] ?? 0) + groupPositive;
  });
  return { tests, positive };
}

// What is drawn of a line: for each bucket the rate with the tests it is of. A mean is over the seven
// days that end with its day, as soon as all seven are days of the series.
function rates(series, line, grain, mean, axis = axisOf(series, grain)) {
  const { tests, positive } = tallies(series, line, grain, axis);
  const drawn = { axis, tests, positive, overTests: [], overPositive: [], rate: [] };
  let windowTests = 0;
  let windowPositive = 0;
  for (let position = 0; position < axis.length; position++) {
    let [overTests, overPositive] = [tests[position], positive[position]];
    if (mean) {
      windowTests += tests[position] ?? 0;
      windowPositive += positive[position] ?? 0;
      if (position >= MEAN_DAYS) {
        windowTests -= tests[position - MEAN_DAYS] ?? 0;
        windowPositive -= positive[position - MEAN_DAYS] ?? 0;
      }
      const whole = position >= MEAN_DAYS - 1 && windowTests > 0;
      [overTests, overPositive] = whole ? [windowTests, windowPositive] : [null, null];
    }
    drawn.overTests.push(overTests);
    drawn.overPositive.push(overPositive);
    drawn.rate.push(overTests > 0 ? overPositive / overTests : null);
  }
  return drawn;
}

// The same with the interval of each rate.
function points(series, line, grain, mean, axis) {
  const drawn = rates(series, line, grain, mean, axis);
  const intervals = drawn.overTests.map((tests, position) => wilson(drawn.overPositive[position], tests));
  drawn.low = intervals.map((interval) => interval?.[0] ?? null);
  drawn.high = intervals.map((interval) => interval?.[1] ?? null);
  return drawn;
}

// What is kept of a line for the glance: its highest rate, and few enough rates for a small picture, the
// last among them.
function glance(series, line, grain, mean, axis, most) {
  const { rate } = rates(series, line, grain, mean, axis);
  const step = Math.max(1, Math.ceil(axis.length / most));
  const few = [];
  for (let position = (axis.length - 1) % step; position < axis.length; position += step) few.push(rate[position]);
  const peak = highest({ rate });
  return { few, peak: peak === null ? null : { rate: rate[peak], day: axis[peak] } };
}

// Whether means can be drawn at all.
function hasMeans(series) {
  return series.grain === "day" && series.first !== null && series.last - series.first + 1 >= FEWEST_DAYS_FOR_MEAN;
}

function highest(drawn) {
  let best = null;
  drawn.rate.forEach((rate, position) => {
    if (rate !== null && (best === null || rate > drawn.rate[best])) best = position;
  });
  return best;
}

// A round number at or above a rate, for the top of an axis.
function roundUp(rate) {
  for (const top of [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8]) {
    if (rate <= top) return top;
  }
  return 1;
}

// Cells as CSV after RFC 4180.
function csv(rows) {
  const field = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(field).join(",") + "\r\n").join("");
}

// Numbers and dates for people.
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const grouped = new Intl.NumberFormat("en-US");

function count(number) {
  return number === null || number === undefined ? "unknown" : grouped.format(number);
}

function percent(rate, decimals = 1) {
  return rate === null || rate === undefined ? "–" : `${(100 * rate).toFixed(decimals)} %`;
}

function range(interval, decimals = 1) {
  if (!interval || interval[0] === null) return "–";
  return `${(100 * interval[0]).toFixed(decimals)} – ${(100 * interval[1]).toFixed(decimals)} %`;
}

function isoDate(day) {
  const date = dateOf(day);
  const pad = (number, digits) => String(number).padStart(digits, "0");
  return `${pad(date.getUTCFullYear(), 4)}-${pad(date.getUTCMonth() + 1, 2)}-${pad(date.getUTCDate(), 2)}`;
}

function longDate(day) {
  const date = dateOf(day);
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
}

function bucketName(day, grain) {
  const date = dateOf(day);
  if (grain === "month") return `${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
  return grain === "week" ? `Week of ${longDate(day)}` : longDate(day);
}

// The chart over time (drawn by uPlot) and the small multiples (plain SVG).
"use strict";

// The largest number of lines that can be distinguished.
const MOST_CHOSEN = 6;

// The largest number of buckets with a dot for each point.
const MOST_DOTS = 40;

// Distances of dates below the plot, in seconds: never less than a bucket. uPlot takes 30 and 365 days for
// the beginnings of months and years.
const DAY = 86_400;
const MONTH_STEPS = [30, 60, 90, 120, 180, 365, 730, 1_825, 3_650, 7_300, 18_250, 36_500].map((days) => days * DAY);
const INCREMENTS = { months: MONTH_STEPS, days: [1, 2, 3, 4, 5, 7, 10, 14].map((days) => days * DAY).concat(MONTH_STEPS) };

const PLOT_HEIGHT = 380;
const NARROW = 560;

// The chart in `parts.plot`. `onPoint` is called with the position on the axis under pointer or keyboard.
class Chart {
  constructor(parts) {
    this.parts = parts;
    this.lines = [];
    this.axis = [];
    this.uplot = null;
    this.cursorAt = null;
    new ResizeObserver(() => this.resize()).observe(parts.plot);
    parts.plot.addEventListener("keydown", (event) => this.key(event));
    parts.plot.addEventListener("blur", () => this.point(null));
    parts.zoomOut.addEventListener("click", () => {
      this.zoomTo(null);
      this.parts.plot.focus();
    });
  }

  // Draws lines of `{line, colour, drawn}`, with bands where intervals are asked for.
  draw(series, grain, lines, { interval, mean }) {
    this.grain = grain;
    this.lines = lines;
    this.mean = mean;
    this.interval = interval;
    this.axis = axisOf(series, grain);
    this.uplot?.destroy();
    this.uplot = null;
    this.point(null);
    const { plot } = this.parts;
    plot.replaceChildren();
    if (lines.length === 0 || this.axis.length === 0) {
      const text = this.axis.length === 0 ? "No test was counted." : "Nothing is chosen.";
      plot.append(make("p", { class: "nothing" }, text));
      for (const name of plot.getAttributeNames()) if (!["id", "class"].includes(name)) plot.removeAttribute(name);
      return;
    }
    this.uplot = new uPlot(this.options(), this.data(), plot);
    plot.setAttribute("tabindex", "0");
    // The keyboard moves along the time, which is what a slider does.
    plot.setAttribute("role", "slider");
    plot.setAttribute("aria-orientation", "horizontal");
    plot.setAttribute("aria-labelledby", "chart-title chart-caption");
    plot.setAttribute("aria-describedby", "chart-hint");
    plot.setAttribute("aria-valuemin", "0");
    plot.setAttribute("aria-valuemax", String(this.axis.length - 1));
    this.say(this.axis.length - 1);
  }

  data() {
    const data = [this.axis.map((day) => day * 86_400)];
    for (const { drawn } of this.lines) {
      data.push(drawn.rate);
      if (this.interval) data.push(drawn.low, drawn.high);
    }
    return data;
  }

  options() {
    const narrow = this.parts.plot.clientWidth < NARROW;
    const series = [{}];
    const bands = [];
    const dots = this.axis.length <= MOST_DOTS;
    // Many bands upon each other would hide the lines.
    const alpha = Math.min(0.2, 0.45 / this.lines.length);
    for (const { line, colour: stroke } of this.lines) {
      series.push({
        label: line.label,
        stroke,
        width: line.id === "all" ? 3 : 2,
        spanGaps: false,
        points: { show: dots ? true : undefined, size: 9, fill: stroke },
      });
      if (this.interval) {
        const bound = { stroke: "transparent", width: 0, points: { show: false } };
        series.push(bound, bound);
        bands.push({ series: [series.length - 1, series.length - 2], fill: withAlpha(stroke, alpha) });
      }
    }
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const grid = { stroke: colour("--rule"), width: 1 };
    const axis = { stroke: colour("--faint"), font, grid, ticks: { show: false } };
    const [first, last] = [this.axis[0] * 86_400, this.axis.at(-1) * 86_400];
    return {
      width: Math.max(200, this.parts.plot.clientWidth),
      height: this.height(),
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), "Etc/UTC"),
      padding: [10, narrow ? 10 : this.roomForLabels(font), 0, 0],
      legend: { show: false },
      cursor: {
        drag: { x: true, y: false },
        y: false,
        points: { size: 8 },
      },
      scales: {
        // A single bucket stands in the middle.
        x: { range: (_plot, min, max) => (min === max ? [first - 86_400, last + 86_400] : [min, max]) },
        y: { range: (_plot, _min, max) => [0, roundUp(Math.max(max ?? 0, 0.001))] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          ticks: { show: true, stroke: colour("--rule"), size: 5 },
          space: narrow ? 60 : 80,
          incrs: INCREMENTS[this.grain === "month" ? "months" : "days"],
          values: (_plot, ticks) => dateLabels(ticks),
        },
        { ...axis, size: 52, space: 48, values: (_plot, ticks) => ticks.map(rateLabel(ticks)) },
      ],
      series,
      bands,
      hooks: {
        setCursor: [(plot) => this.hover(plot)],
        setScale: [(plot, scale) => scale === "x" && this.scaled(plot)],
        draw: [(plot) => narrow || this.labelEnds(plot, font)],
      },
    };
  }

  height() {
    return this.parts.plot.clientWidth < NARROW ? 280 : PLOT_HEIGHT;
  }

  roomForLabels(font) {
    const context = make("canvas").getContext("2d");
    context.font = font;
    const widths = this.lines.map(({ line }) => context.measureText(shortened(line.label, 22)).width);
    return Math.ceil(Math.max(...widths)) + 24;
  }

  // Writes each line's name where it ends, as near as the others leave room.
  labelEnds(plot, font) {
    const { ctx } = plot;
    const ratio = devicePixelRatio || 1;
    const pitch = 16 * ratio;
    const ends = [];
    this.lines.forEach(({ line, colour: ink, drawn }) => {
      const max = plot.scales.x.max / 86_400;
      let last = drawn.rate.length - 1;
      while (last >= 0 && (drawn.rate[last] === null || this.axis[last] > max)) last--;
      if (last >= 0) ends.push({ ink, text: shortened(line.label, 22), y: plot.valToPos(drawn.rate[last], "y", true) });
    });
    ends.sort((one, other) => one.y - other.y);
    const bottom = plot.bbox.top + plot.bbox.height;
    ends.forEach((end, number) => {
      if (number > 0) end.y = Math.max(end.y, ends[number - 1].y + pitch);
    });
    for (let number = ends.length - 1; number >= 0; number--) {
      const limit = number === ends.length - 1 ? bottom : ends[number + 1].y - pitch;
      ends[number].y = Math.min(ends[number].y, limit);
    }
    ctx.save();
    ctx.font = font.replace("12px", `${12 * ratio}px`);
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    // The colour is beside the name: some are too light for letters.
    ctx.lineWidth = 2 * ratio;
    for (const { ink, text, y } of ends) {
      const left = plot.bbox.left + plot.bbox.width + 4 * ratio;
      ctx.strokeStyle = ink;
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + 8 * ratio, y);
      ctx.stroke();
      ctx.fillStyle = colour("--ink");
      ctx.fillText(text, left + 12 * ratio, y);
    }
    ctx.restore();
  }

  resize() {
    const width = this.parts.plot.clientWidth;
    if (this.uplot && width > 0 && width !== this.uplot.width) this.uplot.setSize({ width, height: this.height() });
  }

  scaled(plot) {
    const whole = plot.scales.x.min <= this.axis[0] * 86_400 && plot.scales.x.max >= this.axis.at(-1) * 86_400;
    this.parts.zoomOut.hidden = whole;
  }

  zoomTo(days) {
    const [min, max] = days ?? [this.axis[0], this.axis.at(-1)];
    this.uplot?.setScale("x", { min: min * 86_400, max: max * 86_400 });
  }

  hover(plot) {
    const { idx, left } = plot.cursor;
    const at = left === undefined || left < 0 || idx === null || idx === undefined ? null : idx;
    this.cursorAt = at;
    if (at === null) {
      this.parts.tip.hidden = true;
      return;
    }
    this.parts.tip.replaceChildren(...this.tipOf(at));
    this.parts.tip.hidden = false;
    const x = plot.valToPos(this.axis[at] * 86_400, "x") + plot.over.offsetLeft;
    const { offsetWidth: width } = this.parts.tip;
    const room = this.parts.plot.clientWidth;
    const place = x + 14 + width <= room ? x + 14 : Math.max(0, x - 14 - width);
    this.parts.tip.style.transform = `translate(${Math.round(place)}px, 8px)`;
    this.say(at);
  }

  // What is said of one position: for each line rate, interval and tests, the highest rate first.
  tipOf(at) {
    const rows = this.lines.map(({ line, colour: ink, drawn }) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = ink;
      const cells = [
        make("th", { scope: "row" }, swatch, foreign(shortened(line.label, 28))),
        make("td", { class: "strong" }, percent(drawn.rate[at])),
        make("td", {}, range([drawn.low[at], drawn.high[at]])),
        make("td", {}, drawn.overTests[at] === null ? "–" : count(drawn.overTests[at])),
      ];
      if (this.mean) cells.push(make("td", {}, drawn.tests[at] === null ? "–" : count(drawn.tests[at])));
      return { rate: drawn.rate[at] ?? -1, row: make("tr", {}, cells) };
    });
    rows.sort((one, other) => other.rate - one.rate);
    const heads = ["", "rate", "95 % interval", this.mean ? "tests, 7 days" : "tests"];
    if (this.mean) heads.push("that day");
    return [
      make("p", { class: "tip-date" }, bucketName(this.axis[at], this.grain)),
      make("table", {},
        make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
        make("tbody", {}, rows.map(({ row }) => row))),
    ];
  }

  // For screen readers.
  say(at) {
    const parts = this.lines.map(({ line, drawn }) =>
      drawn.rate[at] === null ? `${line.label}: no rate` : `${line.label}: ${percent(drawn.rate[at])} of ${count(drawn.overTests[at])} tests`);
    this.parts.plot.setAttribute("aria-valuenow", String(at));
    this.parts.plot.setAttribute("aria-valuetext", `${bucketName(this.axis[at], this.grain)}. ${parts.join("; ")}`);
  }

  point(at) {
    if (!this.uplot) {
      this.parts.tip.hidden = true;
      return;
    }
    if (at === null) {
      this.uplot.setCursor({ left: -10, top: -10 });
      return;
    }
    const left = this.uplot.valToPos(this.axis[at] * 86_400, "x");
    this.uplot.setCursor({ left, top: 10 });
    // What is outside the zoomed part has no place in it, but is said all the same.
    this.cursorAt = at;
    this.say(at);
  }

  key(event) {
    if (!this.uplot || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.axis.length - 1;
    const from = this.cursorAt ?? last;
    const page = Math.max(1, Math.round(this.axis.length / 12));
    const moves = {
      ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1,
      PageDown: from - page, PageUp: from + page, Home: 0, End: last,
    };
    if (event.key === "Escape") {
      this.point(null);
    } else if (event.key in moves) {
      this.point(Math.max(0, Math.min(last, moves[event.key])));
    } else {
      return;
    }
    event.preventDefault();
  }
}

function shortened(text, most) {
  const characters = [...text];
  return characters.length <= most ? text : `${characters.slice(0, most - 1).join("")}…`;
}

function withAlpha(hex, alpha) {
  const value = Number.parseInt(hex.slice(1), 16);
  return `rgba(${value >> 16}, ${(value >> 8) & 255}, ${value & 255}, ${alpha})`;
}

// As many decimals as neighbouring rates need to differ.
function rateLabel(ticks) {
  const step = ticks.length > 1 ? 100 * (ticks[1] - ticks[0]) : 1;
  // 2.5 % needs one although it is more than 1.
  const decimals = [0, 1, 2].find((few) => Math.abs(Number(step.toFixed(few)) - step) < 1e-6) ?? 3;
  return (rate) => `${(100 * rate).toFixed(decimals)} %`;
}

// The year stands below the first date, and where it changes.
function dateLabels(ticks) {
  let year = null;
  const months = ticks.length > 1 && ticks[1] - ticks[0] >= 27 * 86_400;
  const years = ticks.length > 1 && ticks[1] - ticks[0] >= 360 * 86_400;
  return ticks.map((seconds) => {
    const day = Math.floor(seconds / 86_400);
    // Times between days have no label.
    if (day * 86_400 !== seconds) return null;
    const date = dateOf(day);
    const changed = date.getUTCFullYear() !== year;
    year = date.getUTCFullYear();
    if (years) return String(year);
    const text = months ? MONTHS[date.getUTCMonth()] : `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
    return changed ? `${text}\n${year}` : text;
  });
}

const SMALL = { width: 150, height: 44, buckets: 75 };

// A line as a small picture. All have one scale, whose top cuts off what is higher.
function smallMultiple(few, top) {
  const x = (position) => (few.length < 2 ? SMALL.width / 2 : (position / (few.length - 1)) * SMALL.width).toFixed(1);
  const y = (rate) => (SMALL.height - 1 - Math.min(1, rate / top) * (SMALL.height - 3)).toFixed(1);
  let path = "";
  let area = "";
  let begun = null;
  let before = null;
  const close = () => {
    if (begun !== null) area += `L${before},${SMALL.height}L${begun},${SMALL.height}Z`;
    begun = null;
  };
  few.forEach((rate, position) => {
    if (rate === null) {
      close();
      return;
    }
    const place = `${x(position)},${y(rate)}`;
    path += `${begun === null ? "M" : "L"}${place}`;
    area += `${begun === null ? "M" : "L"}${place}`;
    // A point without neighbours is a dot, by its round ends.
    if (begun === null) path += "h0.01";
    begun ??= x(position);
    before = x(position);
  });
  close();
  return makeSvg("svg", { viewBox: `0 0 ${SMALL.width} ${SMALL.height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    makeSvg("path", { class: "small-area", d: area }),
    makeSvg("path", { class: "small-line", d: path }));
}

//! The charts of `bench.html`, as SVG within the page: times as bars, the scaling curve, CPU
//! seconds by process, and the break-even. Colours are set by classes of the page's style sheet, so
//! that one chart serves light, dark and print.

use std::fmt::Write;

use crate::args::BenchEngine;
use crate::benchmark::{Benchmark, Row, Sample};
use crate::break_even::{BreakEven, Line, Pays};
use crate::figures;
use crate::statistics::median;

const WIDTH: f64 = 760.0;

/// The left end of the bars, right of their names.
const BARS_LEFT: f64 = 150.0;

/// The right end of the longest bar, left of its figure.
const BARS_RIGHT: f64 = 640.0;

const BAR_HEIGHT: f64 = 18.0;
const BAR_STEP: f64 = 32.0;
/// The distance from a bar down to the centres of its runs' dots, less than that to the next bar.
const DOTS_BELOW: f64 = 4.0;
const HEADING_STEP: f64 = 34.0;

/// The edges of a plot within its chart.
const PLOT_LEFT: f64 = 64.0;
const PLOT_RIGHT: f64 = 600.0;
const PLOT_TOP: f64 = 36.0;
const PLOT_BOTTOM: f64 = 316.0;
const PLOT_HEIGHT: f64 = 366.0;

/// The groups of bars: their headings and engines.
const GROUPS: [(&str, &[BenchEngine]); 3] = [
    (
        "Without the dispatcher",
        &[BenchEngine::Loop, BenchEngine::Polars],
    ),
    (
        "With the dispatcher, many jobs per message",
        &[BenchEngine::Packed],
    ),
    (
        "With the dispatcher, one job per message",
        &[BenchEngine::OneAMessage],
    ),
];

/// The class for an engine's colour.
fn class(engine: BenchEngine) -> &'static str {
    match engine {
        BenchEngine::Loop => "loop",
        BenchEngine::Polars => "polars",
        BenchEngine::Packed => "packed",
        BenchEngine::OneAMessage => "one",
    }
}

/// The name of a row beside its bar.
fn label(row: &Row) -> String {
    match (row.engine, row.workers) {
        (BenchEngine::Loop, _) => "plain loop".to_owned(),
        (BenchEngine::Polars, _) => "one polars query".to_owned(),
        (_, Some(1)) => "1 worker".to_owned(),
        (_, Some(workers)) => format!("{workers} workers"),
        (_, None) => row.name.clone(),
    }
}

/// The name of an engine beside its line.
fn line_label(engine: BenchEngine) -> &'static str {
    match engine {
        BenchEngine::Loop => "plain loop",
        BenchEngine::Polars => "polars",
        BenchEngine::Packed => "packed",
        BenchEngine::OneAMessage => "one a message",
    }
}

fn chart(height: f64, description: &str, inner: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{description}\">\n{inner}</svg>\n"
    )
}

/// A chart of bars under headings. `bar` draws the bar of a row at a height.
fn bars(benchmark: &Benchmark, description: &str, bar: impl Fn(&Row, f64) -> String) -> String {
    let mut inner = String::new();
    let mut y = 4.0;
    for (heading, engines) in GROUPS {
        let of_group = |row: &&Row| engines.contains(&row.engine);
        let rows: Vec<&Row> = benchmark.rows.iter().filter(of_group).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            inner,
            "<text class=\"heading\" x=\"0\" y=\"{:.1}\">{heading}</text>",
            y + 15.0
        );
        y += HEADING_STEP - 6.0;
        for row in rows {
            let _ = writeln!(
                inner,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                BARS_LEFT - 10.0,
                y + 13.5,
                label(row)
            );
            inner.push_str(&bar(row, y));
            y += BAR_STEP;
        }
        y += 8.0;
    }
    chart(y, description, &inner)
}

/// A bar, or a part of one, from `from` to `to`.
fn rectangle(class: &str, y: f64, from: f64, to: f64) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\"/>",
        from,
        (to - from).max(1.0)
    )
}

/// The figure beside the end of a bar.
fn figure(end: f64, y: f64, figure: &str) -> String {
    format!(
        "<text class=\"figure\" x=\"{:.1}\" y=\"{:.1}\">{figure}</text>\n",
        end + 10.0,
        y + 13.5
    )
}

/// The wall seconds with and without the dispatcher: a bar to the median, and a dot for each run
/// below it, so that no dot covers the median's figure.
pub fn times(benchmark: &Benchmark) -> String {
    let longest = benchmark.rows.iter().map(|row| row.wall_seconds.max);
    let longest = longest.fold(f64::MIN_POSITIVE, f64::max);
    let x = |seconds: f64| BARS_LEFT + (BARS_RIGHT - BARS_LEFT) * seconds / longest;
    bars(benchmark, "Wall seconds of each row", |row, y| {
        let median = row.wall_seconds.median;
        let mut bar = rectangle(class(row.engine), y, BARS_LEFT, x(median));
        for wall in row.walls() {
            let _ = write!(
                bar,
                "<circle class=\"run\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                x(wall),
                y + BAR_HEIGHT + DOTS_BELOW
            );
        }
        bar.push_str(&figure(x(median), y, &figures::seconds(median)));
        bar
    })
}

/// The CPU seconds: a bar of two parts, first the process with dispatcher and aggregator, then the
/// workers. `None` when no row has them.
pub fn cores(benchmark: &Benchmark) -> Option<String> {
    let known = benchmark.rows.iter().filter_map(|row| row.cpu_seconds);
    let longest = known.map(|cpu| cpu.median).reduce(f64::max)?;
    let longest = longest.max(f64::MIN_POSITIVE);
    let width = |seconds: f64| (BARS_RIGHT - BARS_LEFT) * seconds / longest;
    let drawn = bars(benchmark, "CPU seconds of each row", |row, y| {
        let Some(cpu) = row.cpu_seconds else {
            return String::new();
        };
        let shares: Vec<f64> = row.samples.iter().filter_map(own_share).collect();
        let own = median(&shares).unwrap_or(1.0);
        let end = BARS_LEFT + width(cpu.median);
        let middle = BARS_LEFT + width(cpu.median * own);
        let mut bar = rectangle(class(row.engine), y, BARS_LEFT, middle);
        if own < 1.0 {
            bar.push_str(&rectangle(
                &format!("{} light", class(row.engine)),
                y,
                middle,
                end,
            ));
        }
        bar.push_str(&figure(end, y, &figures::seconds(cpu.median)));
        bar
    });
    Some(drawn)
}

/// The share of its first process in a sample's CPU seconds.
fn own_share(sample: &Sample) -> Option<f64> {
    let own = sample.processes.first()?.cpu_seconds?;
    let all = sample.cpu_seconds.filter(|&all| all > 0.0)?;
    Some(own / all)
}

/// The frame of a plot: grid lines and figures of the y axis, figures of the x axis, and their
/// titles.
struct Frame {
    inner: String,
}

impl Frame {
    fn new(x_title: &str, y_title: &str) -> Self {
        let middle = (PLOT_LEFT + PLOT_RIGHT) / 2.0;
        let mut inner = String::new();
        let _ = writeln!(
            inner,
            "<text class=\"title\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x_title}</text>\
             <text class=\"title\" x=\"0\" y=\"12\">{y_title}</text>",
            PLOT_BOTTOM + 44.0,
        );
        Self { inner }
    }

    fn y_line(&mut self, y: f64, figure: &str) {
        let _ = writeln!(
            self.inner,
            "<line class=\"grid\" x1=\"{PLOT_LEFT}\" x2=\"{PLOT_RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{figure}</text>",
            PLOT_LEFT - 8.0,
            y + 4.5,
        );
    }

    fn x_figure(&mut self, x: f64, figure: &str) {
        let _ = writeln!(
            self.inner,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{figure}</text>",
            PLOT_BOTTOM + 20.0
        );
    }

    /// Draws a line through points, with its name right of the last one, at the height `label_y`.
    fn line(&mut self, class: &str, points: &[(f64, f64)], label: &str, label_y: f64) {
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            self.inner,
            "<polyline class=\"line {class}\" points=\"{}\"/>",
            path.join(" ")
        );
        for (x, y) in points {
            let _ = write!(
                self.inner,
                "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
            );
        }
        if let Some((x, _)) = points.last() {
            let _ = writeln!(
                self.inner,
                "<text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                x + 12.0,
                label_y + 4.5
            );
        }
    }
}

/// The heights of the names of lines: as near to the ends of their lines as possible without
/// overlap.
fn apart(heights: &[f64]) -> Vec<f64> {
    const STEP: f64 = 17.0;
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|&a, &b| heights[a].total_cmp(&heights[b]));
    let mut placed = heights.to_vec();
    for pair in order.windows(2) {
        placed[pair[1]] = placed[pair[1]].max(placed[pair[0]] + STEP);
    }
    placed
}

/// The speed-up by the number of workers, with the ideal one. `None` when no engine has two numbers
/// of workers.
pub fn scaling(benchmark: &Benchmark) -> Option<String> {
    let engines = [BenchEngine::Packed, BenchEngine::OneAMessage];
    let of = |engine: BenchEngine| {
        let rows = benchmark
            .rows
            .iter()
            .filter(move |row| row.engine == engine);
        rows.filter_map(|row| Some((row.workers?, row.speed_up?, row.ideal_speed_up?)))
            .collect::<Vec<_>>()
    };
    let longest = engines.map(of).into_iter().max_by_key(Vec::len)?;
    if longest.len() < 2 {
        return None;
    }
    let all = engines.map(of).concat();
    let top = all.iter().map(|&(_, own, ideal)| own.max(ideal));
    let top = top.fold(1.0, f64::max).ceil();
    let workers: Vec<usize> = longest.iter().map(|&(workers, ..)| workers).collect();
    let step = (PLOT_RIGHT - PLOT_LEFT - 60.0) / (workers.len() - 1) as f64;
    let x = |workers_here: usize| {
        let position = workers.iter().position(|&known| known == workers_here);
        PLOT_LEFT + 30.0 + step * position.unwrap_or(0) as f64
    };
    let y = |speed_up: f64| PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * speed_up / top;

    let mut frame = Frame::new("workers", "times as fast as one worker");
    let tick = (top / 8.0).ceil().max(if top <= 2.0 { 0.5 } else { 1.0 });
    let mut value = 0.0;
    while value <= top {
        frame.y_line(y(value), &format!("{value}×"));
        value += tick;
    }
    for &known in &workers {
        frame.x_figure(x(known), &known.to_string());
    }
    let mut lines = vec![(
        "ideal",
        format!("ideal on {} cores", benchmark.host.cores),
        longest
            .iter()
            .map(|&(workers, _, ideal)| (x(workers), y(ideal)))
            .collect::<Vec<_>>(),
    )];
    for engine in engines {
        let points: Vec<_> = of(engine)
            .iter()
            .map(|&(workers, own, _)| (x(workers), y(own)))
            .collect();
        if points.len() > 1 {
            lines.push((class(engine), line_label(engine).to_owned(), points));
        }
    }
    draw(&mut frame, &lines);
    let description = "Speed-up by number of workers, against one worker and the ideal";
    Some(chart(PLOT_HEIGHT, description, &frame.inner))
}

/// A line to draw: its class, its name, its points.
type Drawn<'a> = (&'a str, String, Vec<(f64, f64)>);

/// Draws lines with their names.
fn draw(frame: &mut Frame, lines: &[Drawn<'_>]) {
    let ends: Vec<f64> = lines
        .iter()
        .map(|(_, _, points)| points.last().map_or(0.0, |point| point.1))
        .collect();
    for ((class, label, points), label_y) in lines.iter().zip(apart(&ends)) {
        frame.line(class, points, label, label_y);
    }
}

/// The wall seconds by the cost of a job, both on logarithmic scales, and the crossings.
pub fn break_even(break_even: &BreakEven) -> String {
    let lines = break_even.lines();
    let costs: Vec<f64> = lines.first().map_or(Vec::new(), |line| {
        line.points.iter().map(|point| point.0).collect()
    });
    let walls = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1);
    let (least, most) = walls.fold((f64::INFINITY, 0.0), |(least, most), wall| {
        (f64::min(least, wall), f64::max(most, wall))
    });
    let (low, high) = (
        least.log10().floor(),
        most.log10().ceil().max(least.log10().floor() + 1.0),
    );
    let y = |seconds: f64| {
        let share = (seconds.max(1e-9).log10() - low) / (high - low);
        PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * share
    };
    let x = |cost: f64| PLOT_LEFT + 30.0 + (PLOT_RIGHT - PLOT_LEFT - 60.0) * place(cost, &costs);

    let mut frame = Frame::new("CPU time per job", "wall seconds");
    let mut power = low;
    while power <= high {
        let seconds = 10f64.powf(power);
        frame.y_line(y(seconds), &format!("{seconds}"));
        power += 1.0;
    }
    for &cost in &costs {
        let figure = figures::seconds(cost)
            .replace(".00", "")
            .replace("10.0", "10");
        frame.x_figure(x(cost), &figure);
    }
    let drawn: Vec<_> = lines
        .iter()
        .map(|line| {
            let points = line.points.iter().map(|&(cost, wall)| (x(cost), y(wall)));
            (class(line.engine), name(line), points.collect())
        })
        .collect();
    let mut label_y = PLOT_BOTTOM - 10.0;
    for crossing in &break_even.crossings {
        let Pays::From { job_cost_seconds } = crossing.pays else {
            continue;
        };
        let engine = lines.iter().find(|line| line.name == crossing.name);
        let class = engine.map_or("", |line| class(line.engine));
        let at = x(job_cost_seconds);
        let _ = writeln!(
            frame.inner,
            "<line class=\"crossing {class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{PLOT_TOP}\" y2=\"{PLOT_BOTTOM}\"/>\
             <text class=\"name {class}\" x=\"{:.1}\" y=\"{label_y:.1}\" text-anchor=\"end\">pays from {}</text>",
            at - 6.0,
            figures::seconds(job_cost_seconds),
        );
        label_y -= 18.0;
    }
    draw(&mut frame, &drawn);
    let description = "Wall seconds by CPU time per job, with and without the dispatcher";
    chart(PLOT_HEIGHT, description, &frame.inner)
}

fn name(line: &Line<'_>) -> String {
    let label = line_label(line.engine);
    match line.workers {
        None => label.to_owned(),
        Some(workers) => format!("{label}, {workers}"),
    }
}

/// The position of a cost on the x axis, from 0 to 1. Measured costs are evenly spaced; between two
/// of them the scale is logarithmic, or linear where the lower one is 0.
fn place(cost: f64, costs: &[f64]) -> f64 {
    let last = costs.len().saturating_sub(1);
    if last == 0 {
        return 0.0;
    }
    let below = costs.iter().rposition(|&known| known <= cost).unwrap_or(0);
    let above = (below + 1).min(last);
    let (from, to) = (costs[below], costs[above]);
    let share = if above == below {
        0.0
    } else if from > 0.0 {
        (cost / from).ln() / (to / from).ln()
    } else {
        (cost - from) / (to - from)
    };
    (below as f64 + share) / last as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::tests::{benchmark, example};

    #[test]
    fn each_row_has_a_bar_and_each_run_a_dot() {
        let example = example();
        let drawn = times(&example);
        assert_eq!(drawn.matches("<rect").count(), example.rows.len());
        let samples: usize = example.rows.iter().map(|row| row.samples.len()).sum();
        assert_eq!(drawn.matches("<circle").count(), samples);
        for name in ["plain loop", "one polars query", "4 workers", "1.25 s"] {
            assert!(drawn.contains(name), "{name}");
        }
    }

    #[test]
    fn the_figure_of_a_bar_is_at_its_end_also_with_outliers() {
        let drawn = times(&benchmark(&[(BenchEngine::Loop, None, &[1.0, 1.0, 4.0])]));
        let end = BARS_LEFT + (BARS_RIGHT - BARS_LEFT) / 4.0;
        let figure = format!("x=\"{:.1}\" y=\"45.5\">1.00 s<", end + 10.0);
        assert!(drawn.contains(&figure), "{drawn}");
    }

    #[test]
    fn one_number_of_workers_is_no_curve() {
        assert!(scaling(&example()).is_some());
        let one = benchmark(&[(BenchEngine::Packed, Some(1), &[1.0])]);
        assert_eq!(scaling(&one), None);
    }

    #[test]
    fn costs_are_evenly_spaced_and_others_are_interpolated() {
        let costs = [0.0, 1e-5, 1e-4, 1e-3];
        let at = |cost| (place(cost, &costs) * 3000.0).round() / 1000.0;
        assert_eq!([0.0, 1e-5, 1e-4, 1e-3].map(at), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(at(5e-6), 0.5);
        assert_eq!(at(10f64.powf(-4.5)), 1.5);
    }

    #[test]
    fn names_at_one_height_are_moved_apart() {
        assert_eq!(apart(&[50.0, 50.0, 10.0]), [50.0, 67.0, 10.0]);
    }
}

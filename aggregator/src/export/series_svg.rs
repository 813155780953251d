//! The exporter of `series.svg`: the positivity rate over time of the label sets with most tests, as a
//! picture for a README or a report. `lines.rs` chooses the lines and `axes.rs` the grid; this file
//! draws them.
//!
//! No font is needed, because an SVG viewer renders the texts.

use std::fmt::Write as _;
use std::io::{self, Write};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{Rates, dates};
use super::label_places::spread;
use super::lines::{Line, Lines, lines, truncated};
use super::{Exporter, Table};

/// The size of the picture in CSS pixels, as (width, height). GitHub shows a README with this width
/// without shrinking it.
const SIZE: (i32, i32) = (900, 480);

/// The number of drawing pixels in a CSS pixel. plotters draws at whole pixels, and lines would not be
/// smooth with one.
const SCALE: i32 = 4;

/// The distances from the plot to the left, top, right and bottom edge of the picture, in CSS pixels.
const MARGINS: (i32, i32, i32, i32) = (64, 88, 184, 44);

/// The colours of the lines: those of Okabe and Ito, which colour-blind people can distinguish, without
/// those that have little contrast to white (<https://jfly.uni-koeln.de/color/>).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xcc, 0x79, 0xa7),
];

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT_INK: RGBColor = RGBColor(0x59, 0x59, 0x59);
const GRID: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);

const TITLE_SIZE: i32 = 21;
const TEXT_SIZE: i32 = 15;

/// The smallest distance between the baselines of two labels beside the plot, in CSS pixels.
const LABEL_PITCH: i32 = 22;

/// The largest number of points of a line for which each point has a dot, where it is not a mean.
const MOST_DOTS: usize = 40;

/// The exporter of a series as a picture.
#[derive(Clone, Copy, Debug)]
pub struct SeriesSvg<'a>(pub Table<'a>);

impl Exporter for SeriesSvg<'_> {
    fn file_name(&self) -> String {
        self.0.file_name("svg")
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let lines = lines(self.0.series, self.0.grain);
        let title = title(self.0.label_columns, &lines);
        let mut picture = String::new();
        draw(&lines, &title, &mut picture)
            .map_err(|error| io::Error::other(format!("cannot draw: {error}")))?;
        out.write_all(with_root(&picture, &title).as_bytes())
    }
}

/// The title of the picture, such as `Positivity rate by country, 7-day trailing mean`.
fn title(label_columns: &[String], lines: &Lines) -> String {
    /// The largest number of characters of the names of the label columns, so that the title fits.
    const MOST_CHARS: usize = 36;
    let mut title = "Positivity rate".to_owned();
    if !label_columns.is_empty() {
        title.push_str(" by ");
        title.push_str(&truncated(label_columns.join(" and "), MOST_CHARS));
    }
    match lines.mean {
        true => title.push_str(", 7-day trailing mean"),
        false => title.push_str(&format!(", by {}", lines.grain)),
    }
    xml_text(&title)
}

/// The line below the title, such as `The 6 of 195 with most tests; 2,000,000 tests in all`.
fn subtitle(lines: &Lines) -> String {
    let mut text = String::new();
    if lines.label_sets > lines.lines.len() {
        let _ = write!(
            text,
            "The {} of {} with most tests; ",
            lines.lines.len(),
            lines.label_sets
        );
    }
    let _ = write!(text, "{} tests", service::progress::grouped(lines.tests));
    if lines.label_sets > lines.lines.len() {
        text.push_str(" in all");
    }
    text
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

fn draw(lines: &Lines, title: &str, picture: &mut String) -> Drawn {
    let size = ((SIZE.0 * SCALE) as u32, (SIZE.1 * SCALE) as u32);
    let root = SVGBackend::with_string(picture, size).into_drawing_area();
    root.fill(&WHITE)?;
    let left = MARGINS.0;
    write(&root, title, (left, 24), TITLE_SIZE, true, INK, HPos::Left)?;
    write(
        &root,
        &subtitle(lines),
        (left, 53),
        TEXT_SIZE,
        false,
        FAINT_INK,
        HPos::Left,
    )?;
    match (lines.days, lines.lines.is_empty()) {
        (Some(days), false) => draw_plot(&root, lines, days)?,
        _ => {
            let middle = (SIZE.0 / 2, SIZE.1 / 2);
            let text = "No test was counted.";
            write(
                &root,
                text,
                middle,
                TEXT_SIZE,
                false,
                FAINT_INK,
                HPos::Center,
            )?;
        }
    }
    root.present()
}

fn draw_plot(root: &Area<'_>, lines: &Lines, (first, last): (i32, i32)) -> Drawn {
    let (left, top, right, bottom) = MARGINS;
    let (right, bottom) = (SIZE.0 - right, SIZE.1 - bottom);
    let points = || {
        lines
            .lines
            .iter()
            .flat_map(|line| line.stretches.iter().flatten())
    };
    let rates = Rates::up_to(points().map(|point| point.1).fold(0.0, f64::max));
    // The plot begins with the first mean. A single day is in the middle.
    let first = points().map(|point| point.0).min().unwrap_or(first);
    let (from, to) = match first == last {
        true => (first - 1, last + 1),
        false => (first, last),
    };
    let plot = root.clone().shrink(
        (left * SCALE, top * SCALE),
        ((right - left) * SCALE, (bottom - top) * SCALE),
    );
    let mut chart = ChartBuilder::on(&plot)
        .build_cartesian_2d(f64::from(from)..f64::from(to), 0.0..rates.top())?;
    // In CSS pixels.
    let place = |day: i32, rate: f64| {
        let (x, y) = chart.backend_coord(&(f64::from(day), rate));
        (x / SCALE, y / SCALE)
    };

    for &rate in &rates.at {
        let (_, y) = place(from, rate);
        rule(root, [(left, y), (right, y)], GRID)?;
        let label = rates.label(rate);
        write(
            root,
            &label,
            (left - 9, y),
            TEXT_SIZE,
            false,
            FAINT_INK,
            HPos::Right,
        )?;
    }
    for (day, text) in dates(first..=last) {
        let (x, _) = place(day, 0.0);
        rule(root, [(x, bottom), (x, bottom + 5)], FAINT_INK)?;
        write(
            root,
            &text,
            (x, bottom + 18),
            TEXT_SIZE,
            false,
            FAINT_INK,
            HPos::Center,
        )?;
    }
    rule(root, [(left, bottom), (right, bottom)], FAINT_INK)?;
    let ends = lines
        .lines
        .iter()
        .map(|line| line.last().map(|(day, rate)| place(day, rate)));
    let ends: Vec<Option<(i32, i32)>> = ends.collect();

    // The line with most tests is drawn last, above the others.
    let points_of = |line: &Line| line.stretches.iter().map(Vec::len).sum::<usize>();
    let dots = !lines.mean && lines.lines.iter().all(|line| points_of(line) <= MOST_DOTS);
    for (line, colour) in lines.lines.iter().zip(COLOURS).rev() {
        draw_line(&mut chart, line, colour, dots)?;
    }
    draw_labels(root, lines, &ends, right, (top, bottom))
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_line(chart: &mut Chart<'_, '_>, line: &Line, colour: RGBColor, dots: bool) -> Drawn {
    let style = colour.stroke_width((5 * SCALE / 2) as u32);
    for stretch in &line.stretches {
        let points = stretch.iter().map(|&(day, rate)| (f64::from(day), rate));
        if stretch.len() > 1 {
            chart.draw_series(LineSeries::new(points.clone(), style))?;
        }
        if dots || stretch.len() == 1 {
            let dot = |point| Circle::new(point, 3 * SCALE, colour.filled());
            chart.draw_series(points.map(dot))?;
        }
    }
    Ok(())
}

/// Draws each line's label at the end of the line, or as near to it as the other labels allow.
fn draw_labels(
    root: &Area<'_>,
    lines: &Lines,
    ends: &[Option<(i32, i32)>],
    right: i32,
    (top, bottom): (i32, i32),
) -> Drawn {
    // A line that ends further from the right edge of the plot is not connected to its label.
    const NEAR: i32 = 12;
    let wanted: Vec<i32> = ends.iter().map(|end| end.map_or(top, |(_, y)| y)).collect();
    let places = spread(&wanted, LABEL_PITCH, top, bottom);
    let labels = lines.lines.iter().zip(COLOURS).zip(ends.iter().zip(places));
    for ((line, colour), (end, y)) in labels {
        let mut path = vec![(right + 22, y), (right + 34, y)];
        if let Some((x, end_y)) = end.filter(|(x, _)| right - x <= NEAR) {
            path.insert(0, (x + 4, end_y));
        }
        let style = colour.stroke_width((3 * SCALE / 2) as u32);
        root.draw(&PathElement::new(scaled(path), style))?;
        write(
            root,
            &line.label,
            (right + 40, y),
            TEXT_SIZE,
            false,
            INK,
            HPos::Left,
        )?;
    }
    Ok(())
}

fn scaled(path: Vec<(i32, i32)>) -> Vec<(i32, i32)> {
    let scale = |(x, y)| (x * SCALE, y * SCALE);
    path.into_iter().map(scale).collect()
}

/// Draws a thin line between two points in CSS pixels.
fn rule(root: &Area<'_>, path: [(i32, i32); 2], colour: RGBColor) -> Drawn {
    let style = colour.stroke_width(SCALE as u32);
    root.draw(&PathElement::new(scaled(path.to_vec()), style))
}

/// Writes a text that is vertically centred on a point in CSS pixels.
fn write(
    root: &Area<'_>,
    text: &str,
    (x, y): (i32, i32),
    size: i32,
    bold: bool,
    colour: RGBColor,
    anchor: HPos,
) -> Drawn {
    // The font size of plotters is the height of a line, from which it computes that of the letters.
    const LINE: f64 = 1.24;
    let font = FontDesc::new(
        FontFamily::SansSerif,
        f64::from(size * SCALE) * LINE,
        if bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        },
    );
    let style = font.color(&colour).pos(Pos::new(anchor, VPos::Center));
    root.draw(&Text::new(xml_text(text), (x * SCALE, y * SCALE), style))
}

/// A text in one line and without the characters that XML does not allow, not even escaped (XML 1.0,
/// section 2.2).
fn xml_text(text: &str) -> String {
    let fitting = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(fitting).collect()
}

/// The picture with a root element that has its size, a title for screen readers, and round line
/// joins.
fn with_root(picture: &str, title: &str) -> String {
    let body = picture.split_once('>').map_or(picture, |(_, body)| body);
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"title\" \
         stroke-linejoin=\"round\" stroke-linecap=\"round\">\n<title id=\"title\">{title}</title>{body}",
        SIZE.0,
        SIZE.1,
        SIZE.0 * SCALE,
        SIZE.1 * SCALE,
    )
}

#[cfg(test)]
mod tests {
    use computations::positivity::{Series, SeriesRow};
    use pipeline::{Grain, LabelSet};

    use super::super::test_series::{columns, row, series};
    use super::*;

    fn drawn(series: &Series, label_columns: &[&str], grain: Grain) -> String {
        let label_columns = columns(label_columns);
        let table = Table {
            series,
            label_columns: &label_columns,
            grain,
            added: false,
        };
        let mut out = Vec::new();
        SeriesSvg(table)
            .export(&mut out)
            .expect("a vector takes all");
        String::from_utf8(out).expect("UTF-8")
    }

    /// The texts of a picture; fails where it is not well-formed XML.
    fn texts(picture: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(picture).expect("well-formed XML");
        let nodes = document.descendants();
        let texts = nodes.filter(|node| node.has_tag_name("text"));
        texts
            .map(|node| node.text().unwrap_or_default().trim().to_owned())
            .collect()
    }

    fn daily(label_set: u32, days: i64) -> impl Iterator<Item = SeriesRow> {
        let tests = 100 + u64::from(label_set);
        // From 2020-03-01 on.
        (0..days).map(move |day| row(label_set, 24 * (18_322 + day), tests, (day as u64 * 7) % 20))
    }

    #[test]
    fn a_picture_has_titles_axes_and_labels() {
        let names = [
            "Chad", "Chile", "Italy", "Kenya", "Malta", "Nepal", "Peru", "Togo",
        ];
        let rows = (0..8).flat_map(|set| daily(set, 100)).collect();
        let picture = drawn(&series(&names, rows), &["country"], Grain::Day);
        let texts = texts(&picture);
        for text in [
            "Positivity rate by country, 7-day trailing mean",
            "The 6 of 8 with most tests; 82,800 tests in all",
            "0 %",
            "10 %",
            "9 Mar 2020",
            "4 May",
            "Togo",
            "Italy",
        ] {
            assert!(
                texts.iter().any(|known| known == text),
                "{text} is not in {texts:#?}"
            );
        }
        assert!(!texts.iter().any(|text| text == "Chad" || text == "Chile"));
        assert_eq!(picture.matches("stroke-width=\"10\"").count(), 6);
    }

    #[test]
    fn a_series_with_one_label_set_or_none_is_drawn() {
        let one = drawn(
            &series(&["Italy"], daily(0, 5).collect()),
            &["country"],
            Grain::Day,
        );
        let shown = texts(&one);
        assert!(
            shown.contains(&"Positivity rate by country, by day".to_owned()),
            "{shown:?}"
        );
        assert_eq!(one.matches("<circle").count(), 5);
        let without_labels = Series {
            label_sets: vec![LabelSet::default()],
            rows: daily(0, 50).collect(),
        };
        let shown = texts(&drawn(&without_labels, &[], Grain::Month));
        assert!(
            shown.contains(&"Positivity rate, by month".to_owned()),
            "{shown:?}"
        );
        assert!(shown.contains(&"all".to_owned()), "{shown:?}");
        let shown = texts(&drawn(&Series::default(), &["country"], Grain::Hour));
        assert!(
            shown.contains(&"No test was counted.".to_owned()),
            "{shown:?}"
        );
    }

    #[test]
    fn a_title_of_many_label_columns_is_cut() {
        let label_columns = columns(&["administrative_region", "age_group", "gender"]);
        let title = title(&label_columns, &lines(&Series::default(), Grain::Week));
        assert_eq!(
            title,
            "Positivity rate by administrative_region and age_group…, by week"
        );
    }

    #[test]
    fn any_label_leaves_the_picture_well_formed() {
        let names = [
            "<b>&\"'",
            "a\u{0}b\u{1f}\u{ffff}c",
            "]]>",
            "",
            "line\nbreak",
        ];
        let rows = (0..5).flat_map(|set| daily(set, 3)).collect();
        let shown = texts(&drawn(&series(&names, rows), &["<&>"], Grain::Day));
        for text in [
            "<b>&\"'",
            "a\u{fffd}b\u{fffd}\u{fffd}c",
            "]]>",
            "(empty)",
            "line break",
        ] {
            assert!(
                shown.iter().any(|known| known == text),
                "{text:?} is not in {shown:#?}"
            );
        }
        assert!(shown.contains(&"Positivity rate by <&>, by day".to_owned()));
    }

    #[test]
    fn the_same_series_makes_the_same_bytes() {
        let series = series(
            &["Chile", "Italy"],
            daily(0, 90).chain(daily(1, 90)).collect(),
        );
        assert_eq!(
            drawn(&series, &["country"], Grain::Day),
            drawn(&series, &["country"], Grain::Day)
        );
    }
}

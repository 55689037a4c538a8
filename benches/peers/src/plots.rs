//! The pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

use crate::measure::CONTENDERS;
use crate::report::{Results, short};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (900, 540);

fn color(contender: &str) -> RGBColor {
    const COLORS: [RGBColor; 9] = [
        RGBColor(200, 30, 30),
        RGBColor(110, 110, 110),
        RGBColor(150, 180, 220),
        RGBColor(40, 100, 180),
        RGBColor(230, 140, 20),
        RGBColor(40, 150, 70),
        RGBColor(130, 70, 170),
        RGBColor(120, 90, 60),
        RGBColor(20, 20, 20),
    ];
    CONTENDERS.iter().position(|name| *name == contender).map_or(BLACK, |at| COLORS[at])
}

fn width(contender: &str) -> u32 {
    if contender == "cloakroom" { 3 } else { 2 }
}

pub fn write(out: &Path, results: &Results) {
    let subtitle = format!("{}, {}, {} entries", results.machine, results.date, results.size);
    let picture = |name: &str, title: &str, draw: &dyn Fn(&Area<'_>)| {
        let path = out.join(name);
        let root = SVGBackend::new(&path, SIZE).into_drawing_area();
        root.fill(&WHITE).unwrap();
        let root = root.titled(title, ("sans-serif", 22)).unwrap();
        root.draw(&Text::new(subtitle.clone(), (12, 4), ("sans-serif", 13).into_font().color(&BLACK.mix(0.6))))
            .unwrap();
        let (_, body) = root.split_vertically(22);
        draw(&body);
        root.present().unwrap();
    };
    if !results.curve.is_empty() {
        picture("touch_by_size.svg", "Cost of a touch by number of entries", &|area| by_size(area, results));
    }
    if !results.table.is_empty() {
        picture("throughput.svg", "Touches per second, one thread, relaxed", &|area| throughput(area, results));
    }
    if !results.timeline.is_empty() {
        picture("latency.svg", "Touch latency over time, a tenth pruned in the middle", &|area| latency(area, results));
    }
    if !results.disk.is_empty() {
        picture("disk.svg", "Disk over touches", &|area| disk(area, results));
    }
}

/// Lines by name, log–log or linear as the axes say.
macro_rules! lines {
    ($chart:expr, $lines:expr) => {{
        for (name, color, width, points) in $lines {
            let style = color.stroke_width(width);
            let series = LineSeries::new(points, style).point_size(width + 1);
            $chart
                .draw_series(series)
                .unwrap()
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        $chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 13))
            .draw()
            .unwrap();
    }};
}

type Line = (String, RGBColor, u32, Vec<(f64, f64)>);

fn bounds(lines: &[Line]) -> ((f64, f64), (f64, f64)) {
    let all = || lines.iter().flat_map(|line| &line.3);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    (range(&mut all().map(|point| point.0)), range(&mut all().map(|point| point.1)))
}

fn by_size(area: &Area<'_>, results: &Results) {
    let lines: Vec<Line> = results
        .curve
        .iter()
        .map(|(name, points)| {
            let points = points.iter().map(|(size, stay, _)| (*size as f64, 1e6 / stay)).collect();
            (name.clone(), color(name), width(name), points)
        })
        .collect();
    let ((left, right), (low, high)) = bounds(&lines);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((left * 0.8..right * 1.3).log_scale(), (low / 2.0..high * 3.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("entries")
        .y_desc("µs per touch, its share of the commits included")
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    lines!(chart, lines);
}

fn throughput(area: &Area<'_>, results: &Results) {
    let row = |name: &str| results.table.get(name).cloned().unwrap_or_default();
    let (stay, cross) = (row("touch_uniform_stay_per_s"), row("touch_uniform_cross_per_s"));
    let names: Vec<&str> = CONTENDERS.into_iter().filter(|name| stay.contains_key(*name)).collect();
    let high = stay.values().chain(cross.values()).map(|figure| figure.max).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..names.len() as f64, (1.0..high * 3.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .x_desc("left: keys stay in their minute; right: every touch moves its key to another")
        .y_desc("touches/s")
        .y_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    for (at, name) in names.iter().enumerate() {
        let at = at as f64;
        let mut label = (*name).to_owned();
        for (offset, shade, figures) in [(0.12, 1.0, &stay), (0.5, 0.55, &cross)] {
            let Some(figure) = figures.get(*name) else { continue };
            let corners = [(at + offset, 1.0), (at + offset + 0.36, figure.median)];
            let spread = vec![(at + offset + 0.18, figure.min), (at + offset + 0.18, figure.max)];
            chart.draw_series([Rectangle::new(corners, color(name).mix(shade).filled())]).unwrap();
            chart.draw_series([PathElement::new(spread, BLACK.stroke_width(1))]).unwrap();
            label = format!("{label}  {}", short(figure.median));
        }
        let top = stay.get(*name).map_or(1.0, |figure| figure.max).max(cross.get(*name).map_or(1.0, |f| f.max));
        for (line, text) in label.split("  ").enumerate() {
            let style = ("sans-serif", 12).into_font().color(&BLACK);
            let lift = 1.25_f64.powi(1 + 2 * (2 - i32::try_from(line).unwrap()));
            chart.draw_series([Text::new(text.to_owned(), (at + 0.14, top * lift), style)]).unwrap();
        }
    }
}

fn points(rows: &Value, column: usize, scale: f64) -> Vec<(f64, f64)> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row[0].as_f64().unwrap(), row[column].as_f64().unwrap() * scale)).collect()
}

fn latency(area: &Area<'_>, results: &Results) {
    let mut lines: Vec<Line> = Vec::new();
    for (name, timeline) in &results.timeline {
        let shades = [(1, "p50", 2.2), (2, "p99", 1.0), (3, "p99.9", 0.6)];
        for (column, label, shade) in shades {
            // Of the others one line is enough to read.
            if name != "cloakroom" && column != 2 {
                continue;
            }
            let RGBColor(r, g, b) = color(name);
            let tint = |part: u8| (f64::from(part) * shade + if shade > 1.0 { 60.0 } else { 0.0 }).min(235.0) as u8;
            let tinted = if name == "cloakroom" { RGBColor(tint(r), tint(g), tint(b)) } else { color(name) };
            lines.push((format!("{name} {label}"), tinted, width(name), points(&timeline["windows"], column, 1e-3)));
        }
    }
    let ((left, right), (low, high)) = bounds(&lines);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right, (low / 2.0..high * 30.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("seconds, at 20,000 touches a second; the shade is Cloakroom's prune")
        .y_desc("µs")
        .y_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    if let Some(timeline) = results.timeline.get("cloakroom") {
        let of = |name: &str| timeline["figures"][name].as_f64().unwrap();
        let corners = [(of("pruned_from_s"), low / 2.0), (of("pruned_until_s"), high * 30.0)];
        chart.draw_series([Rectangle::new(corners, BLACK.mix(0.12).filled())]).unwrap();
    }
    lines!(chart, lines);
}

fn disk(area: &Area<'_>, results: &Results) {
    let lines: Vec<Line> = results
        .disk
        .iter()
        .map(|(name, rows)| (name.clone(), color(name), width(name), points(rows, 1, 1e-6)))
        .collect();
    let ((left, right), (_, high)) = bounds(&lines);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right, 0.0..high * 1.1)
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("touches, uniform keys")
        .y_desc("MB on disk")
        .x_label_formatter(&|value| short(*value))
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    lines!(chart, lines);
}

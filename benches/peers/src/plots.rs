//! The pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::measure::CONTENDERS;
use crate::report::{Results, short};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (900, 540);

/// By name, so that a contender more or less recolours nobody.
fn color(contender: &str) -> RGBColor {
    match contender {
        "cloakroom" => RGBColor(200, 30, 30),
        "json" => RGBColor(110, 110, 110),
        "sqlite_json" => RGBColor(130, 170, 220),
        "sqlite" => RGBColor(40, 100, 180),
        "redb" => RGBColor(230, 140, 20),
        "fjall" => RGBColor(40, 150, 70),
        "heed" => RGBColor(130, 70, 170),
        "rocksdb" => RGBColor(20, 160, 170),
        "sled" => RGBColor(120, 90, 60),
        "sled_safe" => RGBColor(190, 150, 90),
        "sled_safe4" => RGBColor(160, 130, 110),
        "old" => RGBColor(240, 150, 150),
        _ => RGBColor(20, 20, 20),
    }
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

/// Lines, and their names beside them in the order in which the lines end, topmost first.
macro_rules! lines {
    ($chart:expr, $names:expr, $lines:expr) => {{
        let mut lines = $lines;
        lines.sort_by(|a, b| f64::total_cmp(&last(b), &last(a)));
        names(&$names, &lines);
        // Circles tell few points apart; many of them hide the line.
        let many = lines.iter().any(|line| line.3.len() > 40);
        for (_, color, width, points) in lines {
            let style = color.stroke_width(width);
            let circle = if many { 0 } else { width + 1 };
            $chart.draw_series(LineSeries::new(points, style).point_size(circle)).unwrap();
        }
    }};
}

fn last(line: &Line) -> f64 {
    line.3.last().map_or(0.0, |point| point.1)
}

fn names(area: &Area<'_>, lines: &[Line]) {
    for (at, (name, color, width, _)) in (0..).zip(lines) {
        let y = 18 + 20 * at;
        area.draw(&PathElement::new([(8, y), (28, y)], color.stroke_width(*width))).unwrap();
        let style = ("sans-serif", 13).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), (34, y), style)).unwrap();
    }
}

/// The picture, and a column for names at its right: over the lines they would hide some.
fn columns<'a>(area: &Area<'a>) -> (Area<'a>, Area<'a>) {
    area.split_horizontally(SIZE.0 - 160)
}

/// Three digits at most, without zeros that say nothing.
fn tick(value: &f64) -> String {
    let text = short(*value);
    let (number, unit) = text.split_once(' ').map_or((text.as_str(), ""), |(number, unit)| (number, unit));
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number} {unit}").trim_end().to_owned()
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
    let (area, names_area) = columns(area);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((left * 0.8..right * 1.3).log_scale(), (low / 2.0..high * 2.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_labels(5)
        .x_desc("entries")
        .y_desc("µs per touch, its share of the commits included")
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    lines!(chart, names_area, lines);
}

fn throughput(area: &Area<'_>, results: &Results) {
    let row = |name: &str| results.table.get(name).cloned().unwrap_or_default();
    let (stay, cross) = (row("touch_uniform_stay_per_s"), row("touch_uniform_cross_per_s"));
    let names: Vec<&str> = CONTENDERS.iter().copied().filter(|name| stay.contains_key(*name)).collect();
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
        .y_label_formatter(&tick)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    let centered = ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Bottom));
    for (at, name) in names.iter().enumerate() {
        let at = at as f64;
        for (offset, shade, figures) in [(0.08, 1.0, &stay), (0.5, 0.55, &cross)] {
            let Some(figure) = figures.get(*name) else { continue };
            let middle = at + offset + 0.2;
            let corners = [(at + offset, 1.0), (at + offset + 0.4, figure.median)];
            let spread = vec![(middle, figure.min), (middle, figure.max)];
            chart.draw_series([Rectangle::new(corners, color(name).mix(shade).filled())]).unwrap();
            chart.draw_series([PathElement::new(spread, BLACK.stroke_width(1))]).unwrap();
            let label = Text::new(short(figure.median), (middle, figure.max * 1.15), centered.clone());
            chart.draw_series([label]).unwrap();
        }
        // Below the axis, where a chart of numbers has them.
        let ((x, y), base) = (chart.backend_coord(&(at + 0.5, 1.0)), area.get_base_pixel());
        let below = ("sans-serif", 13).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new((*name).to_owned(), (x - base.0, y - base.1 + 6), below)).unwrap();
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
    let (area, names_area) = columns(area);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right, (low / 2.0..high * 2.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("seconds, at 20,000 touches a second; the shade is Cloakroom's prune")
        .y_desc("µs")
        .y_label_formatter(&tick)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    if let Some(timeline) = results.timeline.get("cloakroom") {
        let of = |name: &str| timeline["figures"][name].as_f64().unwrap();
        let corners = [(of("pruned_from_s"), low / 2.0), (of("pruned_until_s"), high * 2.0)];
        chart.draw_series([Rectangle::new(corners, BLACK.mix(0.12).filled())]).unwrap();
    }
    lines!(chart, names_area, lines);
}

fn disk(area: &Area<'_>, results: &Results) {
    let mut lines: Vec<Line> = results
        .disk
        .iter()
        .map(|(name, rows)| (name.clone(), color(name), width(name), points(rows, 1, 1e-6)))
        .collect();
    // The floor touches so often in the same time that the stores would end at the left edge.
    if let Some(right) =
        lines.iter().filter(|line| line.0 != "floor").map(|line| line.3[line.3.len() - 1].0).reduce(f64::max)
    {
        lines.iter_mut().for_each(|line| line.3.retain(|point| point.0 <= right));
    }
    let ((left, right), (_, high)) = bounds(&lines);
    let (area, names_area) = columns(area);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(left..right, 0.0..high * 1.1)
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("touches, uniform keys")
        .y_desc("MB on disk")
        .y_label_formatter(&tick)
        .x_label_formatter(&tick)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    lines!(chart, names_area, lines);
}

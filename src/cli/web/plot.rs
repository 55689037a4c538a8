//! Plots, drawn here: no script is needed to see them.

use maud::{Markup, html};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A line over time, from `since` on: each series has its name, its class and its values, `None` where there was nothing.
pub(super) fn lines(title: &str, since: &str, unit: &str, series: &[(&str, &str, Vec<Option<f64>>)]) -> Markup {
    let all = series.iter().flat_map(|(_, _, values)| values.iter().flatten().copied());
    let top = all.fold(0.0_f64, f64::max).max(1e-9) * 1.1;
    let place = |n: usize, count: usize, value: f64| {
        let x = if count > 1 { n as f64 * WIDTH / (count - 1) as f64 } else { WIDTH };
        format!("{x:.1},{:.1}", HEIGHT - value / top * HEIGHT)
    };
    let points = |values: &[Option<f64>]| {
        let placed = values.iter().enumerate().filter_map(|(n, value)| Some(place(n, values.len(), (*value)?)));
        placed.collect::<Vec<_>>().join(" ")
    };
    let last = |values: &[Option<f64>]| values.iter().rev().flatten().next().copied();
    html! {
        figure {
            figcaption {
                (title)
                @for (name, class, values) in series {
                    " " span.key.(class) { (name) " " @if let Some(last) = last(values) { (format!("{last:.2}")) (unit) } @else { "–" } }
                }
            }
            svg role="img" aria-label=(title) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                line.grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
                @for (_, class, values) in series {
                    polyline.(class) points=(points(values)) fill="none" {}
                }
            }
            div.axis { span { (since) } span { "top " (format!("{top:.2}")) (unit) } span { "now" } }
        }
    }
}

/// Bars with their names. Those from `marked` on are marked.
pub(super) fn bars(title: &str, bars: &[(String, u64)], marked: usize) -> Markup {
    let top = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    html! {
        figure.bars {
            figcaption { (title) }
            table {
                @for (n, (name, count)) in bars.iter().enumerate() {
                    @if n == marked { tr.cutoff { td colspan="3" { "cutoff: below this line entries are past it" } } }
                    tr {
                        th scope="row" { (name) }
                        td.bar {
                            svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                                rect.(if n >= marked { "past" } else { "young" }) x="0" y="0" height="10" width=(format!("{:.2}", *count as f64 / top * 100.0)) {}
                            }
                        }
                        td.number { (crate::cli::output::thousands(*count)) }
                    }
                }
            }
        }
    }
}

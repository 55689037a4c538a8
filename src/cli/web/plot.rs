//! Plots, drawn here: no script is needed to see them.

use maud::{Markup, html};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A line over time, from `since` on: each series has its name, its class and its values, `None` where there was nothing.
/// `ends` says of each value when it was.
pub(super) fn lines(
    title: &str,
    since: &str,
    unit: &str,
    ends: &[String],
    series: &[(&str, &str, Vec<Option<f64>>)],
) -> Markup {
    let all = series.iter().flat_map(|(_, _, values)| values.iter().flatten().copied());
    let top = round_up(all.fold(0.0_f64, f64::max));
    let across = |n: usize, count: usize| if count > 1 { n as f64 * WIDTH / (count - 1) as f64 } else { WIDTH };
    let place =
        |n: usize, count: usize, value: f64| format!("{:.1},{:.1}", across(n, count), HEIGHT - value / top * HEIGHT);
    let points = |values: &[Option<f64>]| {
        let placed = values.iter().enumerate().filter_map(|(n, value)| Some(place(n, values.len(), (*value)?)));
        placed.collect::<Vec<_>>().join(" ")
    };
    let last = |values: &[Option<f64>]| values.iter().rev().flatten().next().copied();
    // What whoever points at a moment reads.
    let told = |n: usize| {
        let values = series.iter().map(|(name, _, values)| match values.get(n).copied().flatten() {
            Some(value) => format!("{name} {}{unit}", short(value)).trim_start().to_owned(),
            None => format!("{name} –").trim_start().to_owned(),
        });
        values.collect::<Vec<_>>().join(", ")
    };
    html! {
        figure {
            figcaption {
                (title)
                @for (name, class, values) in series {
                    " " span.key.(class) { (name) " " @if let Some(last) = last(values) { (short(last)) (unit) } @else { "–" } }
                }
            }
            div.plot {
                div.scale aria-hidden="true" { span { (short(top)) } span { (short(top / 2.0)) } span { "0" } }
                svg role="img" aria-label=(title) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                    @for y in [0.0, HEIGHT / 2.0, HEIGHT] { line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {} }
                    @for (n, (_, class, values)) in series.iter().enumerate() {
                        @if n == 0 && values.iter().flatten().count() > 1 {
                            polygon.(class) points=(format!("0,{HEIGHT} {} {WIDTH},{HEIGHT}", points(values))) {}
                        }
                        polyline.(class) points=(points(values)) fill="none" {}
                    }
                    @for (n, end) in ends.iter().enumerate() {
                        @let wide = WIDTH / ends.len() as f64;
                        rect.moment x=(format!("{:.1}", n as f64 * wide)) y="0" width=(format!("{wide:.1}")) height=(HEIGHT) { title { (end) ": " (told(n)) } }
                    }
                }
            }
            div.axis { span { (since) } span { "now" } }
        }
    }
}

/// The next number that is easy to read.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let step = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * step).find(|round| *round >= value).unwrap_or(value)
}

/// A number with as many digits as say something.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 || value == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        value => format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
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
                    @if n == marked { tr.cutoff { td colspan="3" { "the cutoff: what is below this line is past it" } } }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_a_round_number() {
        for (value, top) in [(0.0, 1.0), (0.003, 0.005), (1.0, 1.0), (7.2, 10.0), (122.3, 200.0), (f64::NAN, 1.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}: {}", round_up(value));
        }
        assert_eq!([0.0, 0.0035, 2.5, 2.0, 12.34, 1234.5].map(short), ["0", "0.004", "2.5", "2", "12.3", "1234"]);
    }
}

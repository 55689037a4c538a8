//! Bars on a terminal, and nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of bytes, of `size` where that is known.
pub(super) fn of_bytes(size: Option<u64>) -> ProgressBar {
    of_bytes_on(ProgressDrawTarget::stderr(), size)
}

/// The same, drawn somewhere else.
pub(super) fn of_bytes_on(target: ProgressDrawTarget, size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:32} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left, {msg}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {binary_bytes}, {binary_bytes_per_sec}, {msg}"),
    };
    styled(bar, target, template)
}

/// A bar that counts entries.
pub(super) fn of_entries(entries: u64) -> ProgressBar {
    styled(
        ProgressBar::new(entries),
        ProgressDrawTarget::stderr(),
        "{bar:32} {human_pos} of {human_len} entries, {eta} left",
    )
}

/// A count of rows, of which nobody knows how many there are.
pub(super) fn of_rows() -> ProgressBar {
    styled(
        ProgressBar::new_spinner(),
        ProgressDrawTarget::stderr(),
        "{spinner} {human_pos} rows copied and compared, {per_sec}",
    )
}

fn styled(bar: ProgressBar, target: ProgressDrawTarget, template: &str) -> ProgressBar {
    bar.set_draw_target(target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

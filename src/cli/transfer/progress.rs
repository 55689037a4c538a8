//! What the progress bar of `migrate` says.

use indicatif::ProgressBar;

use cloakroom::import::ImportProgress;

use crate::cli::output::thousands;

pub(super) fn show(bar: &ProgressBar, progress: &ImportProgress) {
    if bar.is_hidden() {
        return;
    }
    bar.set_message(match progress.quarantined {
        0 => format!("{} entries", thousands(progress.read)),
        bad => format!("{} entries, {} bad", thousands(progress.read), thousands(bad)),
    });
    bar.set_position(progress.bytes);
}

#[cfg(test)]
mod tests {
    use cloakroom::import::ImportOptions;
    use cloakroom::{Options, SessionStore};
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;
    use crate::cli::progress::of_bytes_on;

    /// What a terminal shows at the end of a dry run over a file of 1,100 entries, the last of which is bad.
    fn shown(size: impl Fn(usize) -> Option<u64>) -> (String, InMemoryTerm, ProgressBar) {
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        let good: Vec<_> = (0..1099).map(|n| format!(r#""k{n}": {{"session_id": "s{n}"}}"#)).collect();
        let file = format!("{{{}, \"bad\": 5}}", good.join(", "));
        let terminal = InMemoryTerm::new(5, 120);
        let bar = of_bytes_on(ProgressDrawTarget::term_like(Box::new(terminal.clone())), size(file.len()));
        let mut seen = Vec::new();
        store
            .import(file.as_bytes(), ImportOptions::new().dry_run(true), |progress| {
                show(&bar, progress);
                bar.force_draw();
                seen.push(terminal.contents());
            })
            .unwrap();
        assert!(seen.len() > 4, "{seen:?}");
        assert!(seen[0].ends_with("256 entries"), "{seen:?}");
        (seen.pop().unwrap(), terminal, bar)
    }

    #[test]
    fn a_bar_tells_how_far_the_import_is_and_goes_at_the_end() {
        let (line, terminal, bar) = shown(|bytes| Some(bytes as u64));
        assert!(line.starts_with(&"█".repeat(32)), "{line}");
        assert!(line.contains(" 34.33 KiB of 34.33 KiB, "), "{line}");
        assert!(line.contains(" left, ") && line.ends_with("1,100 entries, 1 bad"), "{line}");
        bar.finish_and_clear();
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn without_a_size_it_tells_what_was_read() {
        let (line, _, _) = shown(|_| None);
        assert!(!line.contains(" of ") && !line.contains("left"), "{line}");
        assert!(line.contains(" KiB") && line.ends_with("1,100 entries, 1 bad"), "{line}");
    }

    #[test]
    fn where_there_is_no_terminal_nothing_is_drawn() {
        let bar = of_bytes_on(ProgressDrawTarget::hidden(), Some(10));
        assert!(bar.is_hidden());
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        store.import(&b"{}"[..], ImportOptions::new().dry_run(true), |progress| show(&bar, progress)).unwrap();
        assert_eq!(bar.message(), "");
    }
}

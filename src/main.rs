//! The command line of cloakroom: see `cloakroom --help`.

mod cli;

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Exit, Out};

/// With glibc's, the threads of a store wait for each other where much is written: see `docs/figures.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless `CLOAKROOM_LOG` says otherwise. The engine's own complaints come back as errors.
const QUIET: &str = "cloakroom=warn";
/// What the page logs by default: changes too. Where this program has the store, no gateway's log has them.
const CHANGES: &str = "cloakroom=warn,cloakroom::live=info";

fn main() -> ExitCode {
    // Asked of the arguments themselves: what does not parse is to be told in JSON too.
    let json = env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(wrong_use) => return cli::failure::report_wrong_use(&wrong_use, json),
    };
    log_to_stderr(if cli.shows_a_page() { CHANGES } else { QUIET });
    cli::failure::log_panics();
    let mut out = Out::to_stdout();
    let exit = cli::failure::catch(|| cli.run(&mut out));
    // What was printed is written out, however it ended.
    let written = out.finish();
    let exit = exit.and_then(|exit| written.map(|()| exit));
    // What was printed before the failure says more than the failure, and a script reads one object.
    exit.unwrap_or_else(|error| cli::failure::report(&error, json && !out.has_printed())).into()
}

fn log_to_stderr(usual: &str) {
    let filter = EnvFilter::try_from_env("CLOAKROOM_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let no_color = env::var_os("NO_COLOR");
    let term = env::var_os("TERM");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(has_colors(stderr().is_terminal(), no_color.as_deref(), term.as_deref()))
        .with_target(false)
        .without_time()
        .init();
}

/// Whether to colour what goes to a terminal: see <https://no-color.org>. An empty `NO_COLOR` counts as none.
fn has_colors(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty) && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let (xterm, dumb, one, none) = ("xterm".as_ref(), "dumb".as_ref(), "1".as_ref(), "".as_ref());
        assert!(has_colors(true, None, Some(xterm)));
        assert!(has_colors(true, Some(none), Some(xterm)));
        assert!(!has_colors(false, None, Some(xterm)));
        assert!(!has_colors(true, Some(one), Some(xterm)));
        assert!(!has_colors(true, None, Some(dumb)));
        assert!(!has_colors(true, None, Some(none)));
        assert!(!has_colors(true, None, None));
    }
}

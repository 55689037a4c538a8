//! The command line of cloakroom: see `cloakroom --help`.

mod cli;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Exit};

/// What is logged unless `CLOAKROOM_LOG` says otherwise. The engine's own complaints come back as errors.
const QUIET: &str = "cloakroom=warn";

fn main() -> ExitCode {
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(wrong_use) => {
            // Nobody is left to tell if even this cannot be written.
            let _ = wrong_use.print();
            return u8::try_from(wrong_use.exit_code()).unwrap_or(2).into();
        }
    };
    log_to_stderr();
    cli::failure::log_panics();
    cli::failure::catch(|| cli.run()).unwrap_or_else(|error| cli::failure::report(&error)).into()
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CLOAKROOM_LOG").unwrap_or_else(|_| EnvFilter::new(QUIET));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

//! The store's log, on standard error, if `CLOAKROOM_LOG` asks for it. It does not go to `logging`: the threads that write it
//! never call Python.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) fn begin() {
    let Some(wanted) = std::env::var("CLOAKROOM_LOG").ok().filter(|wanted| !wanted.is_empty()) else { return };
    let filter = wanted.parse::<Targets>().unwrap_or_else(|_| {
        eprintln!("CLOAKROOM_LOG is {wanted:?}: give warn, info, debug, or a list such as cloakroom=debug,sled=warn");
        Targets::new().with_target("cloakroom", tracing_subscriber::filter::LevelFilter::WARN)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // A subscriber that the host has set stays.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

//! `web`: a page for operators, on this machine alone.
//!
//! The gateway opens no port. This program listens on loopback and asks the gateway's socket, or serves the store itself
//! where nobody has it open, and yields it to a gateway then. Who may use it: `door.rs`.

mod ask;
mod door;
mod events;
mod overview;
mod page;
mod plot;
mod prune;
mod serve;
mod session;
mod sessions;

use std::io::{Write, stderr, stdout};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use clap::Args;
use cloakroom::live::LiveOptions;
use cloakroom::prune::NoActivity;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::Exit;
use super::output::Out;
use super::source::{Db, with_view};
use ask::Asker;
use door::Door;

/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Show a store to a browser on this machine: its figures, sessions, pruning and events. Ends with Ctrl-C.
///
/// It prints an address that works once, for one browser. It asks the gateway that has the store open, or opens the store and
/// yields it to a gateway that wants it. From another machine, forward the port: `ssh -L 8080:127.0.0.1:8080`, with --listen 127.0.0.1:8080.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Web {
    /// Where to listen, on this machine only; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Open the address in a browser.
    #[arg(long)]
    open: bool,
    /// End after this long without a request.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration)]
    idle: Duration,
}

impl Web {
    pub(super) fn run(self, db: &Db, _: &mut Out) -> Result<Exit> {
        if !self.listen.ip().is_loopback() {
            bail!("{} can be reached from elsewhere: listen on 127.0.0.1 or [::1]", self.listen);
        }
        // What is offline asks nobody: see `prune --help`.
        with_view(db, LiveOptions::new().guard(NoActivity), |client, is_over| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
            // It outlives the tasks: its client may not go within one.
            let asker = Asker::new(client.another()?);
            runtime.block_on(self.serve(asker.clone(), is_over))?;
            // What still asks is cut off.
            runtime.shutdown_background();
            Ok(Exit::Done)
        })
    }

    async fn serve(&self, asker: Asker, is_over: &dyn Fn() -> bool) -> Result<()> {
        let listener =
            TcpListener::bind(self.listen).await.with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr()?;
        let door = Arc::new(Door::new(address.port())?);
        let url = format!("http://{address}/login?token={}", door.token());
        let mut out = stdout().lock();
        writeln!(out, "{url}").and_then(|()| out.flush()).context("could not write to standard output")?;
        drop(out);
        // The address is good without a browser.
        let _page = self
            .open
            .then(|| open(&url))
            .and_then(|opened| opened.inspect_err(|error| warn(&format!("{error:#}; open the address yourself"))).ok());
        let served = serve::serve(listener, router(asker, &door));
        tokio::select! {
            served = served => Ok(served?),
            () = async {
                while !is_over() && door.idle() < self.idle {
                    sleep(LOOK).await;
                }
            } => Ok(()),
        }
    }
}

fn warn(text: &str) {
    // Where standard error is gone, nobody would read it.
    let _ = writeln!(stderr(), "{text}");
}

/// Opens the address in a browser. Everybody can see the arguments of a program, so it is given a page that leads there, which
/// only this user can read; it goes with the answer.
fn open(url: &str) -> Result<NamedTempFile> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut page = tempfile::Builder::new().prefix("cloakroom-").suffix(".html").tempfile()?;
    page.write_all(door::moved(url).as_bytes())?;
    let mut command = Command::new(program);
    let opened = command.arg(page.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    opened.with_context(|| format!("could not run {program}"))?;
    Ok(page)
}

fn router(asker: Asker, door: &Arc<Door>) -> Router {
    let asset =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", get(overview::show))
        .route("/sessions", get(sessions::show))
        .route("/bulk", get(sessions::confirm).post(sessions::change))
        .route("/session/{handle}", get(session::show))
        .route("/session/{handle}/{verb}", post(session::change))
        .route("/prune", get(prune::show).post(prune::run))
        .route("/prune/now", post(prune::now))
        .route("/events", get(events::show))
        .route("/events/stream", get(events::stream))
        .route("/page.svg", asset("image/svg+xml", include_str!("page.svg")))
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("page.css")))
        .route("/page.js", asset("text/javascript; charset=utf-8", include_str!("page.js")))
        .with_state(asker)
        .layer(from_fn_with_state(Arc::clone(door), door::log_in))
        .layer(from_fn_with_state(Arc::clone(door), door::check))
        .layer(from_fn(door::headers))
}

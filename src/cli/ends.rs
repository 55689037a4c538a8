//! How programs that run for a while are ended: by Ctrl-C, or by the system with SIGTERM or SIGHUP.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;

use anyhow::Context as _;
use anyhow::Result;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether somebody has asked the program to end.
#[derive(Debug)]
pub(super) struct Ends(Arc<AtomicBool>);

impl Ends {
    /// From now on the signals do not end the program by themselves. `then` is called once, on a thread of its own.
    pub(super) fn listen(then: impl FnOnce() + Send + 'static) -> Result<Self> {
        let (asked, (told, is_there)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
        let flag = Arc::clone(&asked);
        let wait = move || {
            let runtime = match Builder::new_current_thread().enable_io().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(told.send(Err(error))),
            };
            let listened = runtime.block_on(async {
                let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                let mut signals = kinds.into_iter().map(signal).collect::<io::Result<Vec<Signal>>>()?;
                let _ = told.send(Ok(()));
                poll_fn(|context: &mut Context<'_>| {
                    let is_there = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
                    if is_there { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                Ok(())
            });
            match listened {
                Ok(()) => {
                    flag.store(true, Ordering::SeqCst);
                    then();
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        thread::Builder::new().name("cloakroom-ends".into()).spawn(wait).context("cannot listen for signals")?;
        is_there
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            .context("cannot listen for signals")?;
        Ok(Self(asked))
    }

    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

//! The native part of the Python package `cloakroom_store`. Whoever uses it imports that package: it adds types, reports
//! and exceptions, and waits for receipts in event loops.
//!
//! One rule stands above all: a thread of the store never calls Python. Python 3.11 to 3.13 end a thread that asks for
//! the interpreter while it shuts down, and a Rust thread that is ended so takes the process with it. So wakers only write
//! into a pipe (`hub.rs`), guards are asked on the thread that prunes, and the watcher takes leases in place of a guard.

mod answer;
mod convert;
mod draft;
mod entry;
mod error;
mod events;
mod fields;
mod hub;
mod json;
mod lease;
mod listing;
mod live;
mod log;
mod open;
mod policy;
mod prune;
mod receipt;
mod store;
mod transfer;
mod watcher;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::answer::{Change, Resolved, Turn};
    #[pymodule_export]
    use crate::draft::Draft;
    #[pymodule_export]
    use crate::entry::{Entry, entry_from_json};
    #[pymodule_export]
    use crate::events::Events;
    #[pymodule_export]
    use crate::hub::Hub;
    #[pymodule_export]
    use crate::lease::Lease;
    #[pymodule_export]
    use crate::listing::{Entries, Keys};
    #[pymodule_export]
    use crate::live::Live;
    #[pymodule_export]
    use crate::open::close_all;
    #[pymodule_export]
    use crate::policy::ResetPolicy;
    #[pymodule_export]
    use crate::receipt::Receipt;
    #[pymodule_export]
    use crate::store::SessionStore;
    #[pymodule_export]
    use crate::watcher::Watcher;

    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::log::begin();
        Ok(())
    }
}

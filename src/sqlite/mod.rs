//! The databases in which the gateways keep their entries, read and never written, and a fresh one for the way back. The
//! only place that names `rusqlite`.

mod copy;
mod read;
mod write;

pub(crate) use read::{Reader, Row, is_one};
pub(crate) use write::{NewRow, write_routing};

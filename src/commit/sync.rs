//! What threads wait for and share. `tests/shuttle` compiles these files with primitives whose schedule it decides.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub(super) use crossbeam_channel::Sender;
pub(super) use parking_lot::{Condvar, Mutex, MutexGuard};

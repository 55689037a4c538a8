//! Export in the gateways' formats, and as lines of JSON.

mod file;
mod one;
mod options;
#[cfg(feature = "sqlite")]
mod table;
mod write;

pub use options::{ExportFormat, ExportOptions};
pub use write::ExportReport;
#[cfg(feature = "valkey")]
pub(crate) use write::write_all;

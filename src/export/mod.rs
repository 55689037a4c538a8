//! Export in the gateways' formats, and as lines of JSON.

mod file;
mod options;
mod write;

pub use options::{ExportFormat, ExportOptions};
pub use write::ExportReport;

//! Export in the gateways' formats.

use std::io::Write;
use std::iter::empty;

use super::caller::wait;
use super::store::ClusterStore;
use crate::error::Result;
use crate::export::{ExportFormat, ExportOptions, ExportReport, write_all};
use crate::sessions::Sessions;
use crate::unreadable::Unreadable;
use crate::zone::TimeZone;

impl ClusterStore {
    /// Writes all entries in key order, as [`SessionStore::export`](crate::SessionStore::export) does.
    ///
    /// They are not of one moment: each is whole, as it was when it was read, and one that comes or goes meanwhile is in it
    /// or not. There are no notes. Naive times are in the zone of the options; without one they are in this machine's with
    /// [`Hermes`](ExportFormat::Hermes), and otherwise in UTC. The keys of all entries are in memory.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if `output` fails, [`Error::LocalTimeZone`](crate::Error::LocalTimeZone), and those of
    /// the verbs of this store.
    pub fn export(&self, output: impl Write, options: &ExportOptions) -> Result<ExportReport> {
        let zone = match &options.zone {
            Some(zone) => zone.clone(),
            None if options.format == ExportFormat::Hermes => TimeZone::local()?,
            None => TimeZone::UTC,
        };
        let entries = wait(self.do_keys(""))?.into_iter().filter_map(|key| self.get_with_extras(&key).transpose());
        write_all(output, options.format, zone, Unreadable::default(), empty(), entries)
    }
}

//! Commands of embedded stores on a store of a cluster: they work on an embedded store beside it, in a temporary directory.

#[cfg(feature = "valkey")]
use std::fs::File;
#[cfg(feature = "valkey")]
use std::path::Path;

#[cfg(feature = "valkey")]
use anyhow::Context;
use anyhow::Result;
#[cfg(feature = "valkey")]
use cloakroom::backup::BackupOptions;
#[cfg(feature = "valkey")]
use cloakroom::cluster::ClusterStore;
#[cfg(feature = "valkey")]
use cloakroom::{Error, SessionStore, Sessions};

use super::Exit;
#[cfg(feature = "valkey")]
use super::options;
use super::source::Db;
#[cfg(feature = "valkey")]
use super::source::{Ask, open_cluster};

/// Works on an embedded store that nobody else has, which goes with this. What only that can do with the entries of a
/// cluster is done there.
#[cfg(feature = "valkey")]
fn beside<T>(db: &Db, work: impl FnOnce(&Db, &Path) -> Result<T>) -> Result<T> {
    let dir = tempfile::Builder::new().prefix("cloakroom-").tempdir().context("could not make a directory")?;
    let path = dir.path().join("store");
    work(&Db { path, ask: Ask::Never, cluster: None, shown: db.shown.clone() }, &dir.path().join("backup"))
}

/// A copy of a store on a cluster, for a command that reads an embedded one; any other is given as it is.
pub(super) fn with_copy(db: &Db, work: impl FnOnce(&Db) -> Result<Exit>) -> Result<Exit> {
    #[cfg(feature = "valkey")]
    if let Some(cluster) = &db.cluster {
        return beside(db, |embedded, file| {
            let store = open_cluster(db, cluster)?;
            let done = store.backup_to_file(file, BackupOptions::new(), |_| {});
            store.close()?;
            done?;
            SessionStore::restore(options(embedded), File::open(file)?, |_| {})?;
            work(embedded)
        });
    }
    work(db)
}

/// What a command puts into an embedded store goes into one on a cluster that there was not; any other is given as it is.
pub(super) fn with_load(db: &Db, work: impl FnOnce(&Db) -> Result<Exit>) -> Result<Exit> {
    #[cfg(feature = "valkey")]
    if let Some(cluster) = &db.cluster {
        match ClusterStore::open(cluster.clone()) {
            Err(Error::NotFound { .. }) => {}
            // One that was cut short is made again, and of any other the restore says so.
            Err(Error::OtherStore { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(store) => {
                store.close()?;
                anyhow::bail!("there is a store {} already, and this makes a new one: give another name", db.shown);
            }
        }
        return beside(db, |embedded, file| {
            let done = work(embedded);
            // A part of the file may be bad, and the rest be there; of a dry run there is nothing.
            if embedded.path.exists() {
                super::with_store(embedded, |store| Ok(store.backup_to_file(file, BackupOptions::new(), |_| {})?))?;
                ClusterStore::restore(cluster.clone(), File::open(file)?, |_| {})?;
            }
            done
        });
    }
    work(db)
}

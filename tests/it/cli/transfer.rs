//! `migrate`, `export`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Prepared, Ran, command, run};

/// A directory with a session file and a place for the store.
struct Move {
    dir: TempDir,
    file: PathBuf,
    db: PathBuf,
}

impl Move {
    fn of(content: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, db) = (dir.path().join("sessions.json"), dir.path().join("store"));
        fs::write(&file, content).unwrap();
        Self { dir, file, db }
    }

    fn migrate(&self, args: &[&str]) -> Ran {
        run(&self.db, &[&["migrate", self.file.to_str().unwrap()], args].concat())
    }

    /// Names of what is beside the file, sorted.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn entry(id: &str, updated_at: &str) -> Value {
    json!({"session_id": id, "created_at": "2026-06-01T10:00:00", "updated_at": updated_at, "platform": "discord"})
}

/// A Hermes file with two entries.
fn two() -> String {
    json!({
        "agent:main:discord:dm:1": entry("one", "2026-06-03T00:41:19.752658"),
        "agent:main:discord:dm:2": entry("two", "2026-06-02T00:00:00"),
    })
    .to_string()
}

/// The same with a bad entry on a line of its own.
fn one_bad() -> String {
    two().replacen('{', "{\n\"agent:main:discord:dm:bad\": {\"session_id\": \"a/b\", \"updated_at\": null},\n", 1)
}

#[test]
fn the_fixtures_go_in_and_out() {
    let fixtures = [
        ("hermes/discord-threads.json", "hermes"),
        ("hermes/profile.json", "hermes"),
        ("hermes/small.json", "hermes"),
        ("openclaw/discord-channels.json", "openclaw"),
        ("openclaw/empty.json", "openclaw"),
        ("openclaw/main.json", "openclaw"),
        ("openclaw/small.json", "openclaw"),
    ];
    for (name, format) in fixtures {
        let text = fs::read_to_string(fixture(name)).unwrap();
        let original: Value = serde_json::from_str(&text).unwrap();
        let entries = original.as_object().unwrap().keys().filter(|key| !key.starts_with('_')).count() as u64;
        let moving = Move::of(&text);
        let ran = moving.migrate(&["--timezone", "Europe/Berlin", "--json"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{name}: {}", ran.out);
        let report = ran.json();
        assert_eq!((&report["read"], &report["imported"]), (&json!(entries), &json!(entries)), "{name}");
        assert_eq!(report["format"], if entries > 0 { json!(format) } else { json!(null) }, "{name}");
        assert_eq!(run(&moving.db, &["verify"]).code, 0, "{name}");
        let listed = run(&moving.db, &["list", "--json", "--limit", "all"]);
        assert_eq!((listed.code, listed.keys().len() as u64), (0, entries), "{name}");
        for key in listed.keys().iter().take(10) {
            assert_eq!(run(&moving.db, &["show", key, "--json"]).json()["session_key"], key.as_str(), "{name}");
        }
        assert_eq!(run(&moving.db, &["export", "--format", format]).json(), original, "{name}");
        assert_eq!(run(&moving.db, &["prune", "--max-age-days", "36500"]).row("removed"), "0", "{name}");
    }
}

#[test]
fn migrate_says_what_it_did() {
    let moving = Move::of(two());
    let ran = moving.migrate(&["--timezone", "Asia/Kolkata"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.row("file"), moving.file.to_str().unwrap());
    assert_eq!(ran.row("format"), "Hermes");
    assert_eq!(ran.row("naive times are in"), "Asia/Kolkata");
    assert_eq!((ran.row("read"), ran.row("imported"), ran.row("updated")), ("2", "2", "0"));
    assert_eq!(ran.row("quarantined"), "0");
    assert!(ran.row("took").ends_with(" entries/s"));
    assert_eq!(moving.names(), ["sessions.json", "store"]);
    assert_eq!(fs::read_to_string(&moving.file).unwrap(), two(), "the file is only read");
    let list = run(&moving.db, &["list", "--json"]).json_lines();
    assert_eq!(list[0]["updated_at"], "2026-06-02T19:11:19.752658Z");
}

#[test]
fn migrate_as_json_has_every_documented_field() {
    let moving = Move::of(two());
    let report = moving.migrate(&["--timezone", "+02:00", "--json"]).json();
    let expected = json!({
        "file": moving.file.to_str().unwrap(), "db": moving.db.to_str().unwrap(), "format": "hermes",
        "zone": "+02:00", "dry_run": false, "bytes": two().len(), "read": 2, "imported": 2, "updated": 0, "skipped": 0,
        "kept": 0, "unchanged": 0, "changed_here": 0, "not_in_file": 0, "duplicates": 0, "quarantined": 0,
        "quarantine": null, "notes": 0, "notes_left_out": 0, "kept_zone": null, "clamped": 0, "skipped_hours": 0,
        "repeated_hours": 0, "without_time": 0, "unreadable_times": 0, "odd_values": 0, "repeated_fields": 0,
        "mirror_differs": 0, "mirror_only": 0, "problems": [], "damage": null, "seconds": report["seconds"], "entries_per_second": report["entries_per_second"],
    });
    assert_eq!(report, expected);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    let help = run(&moving.db, &["migrate", "--help"]).out;
    for name in expected.as_object().unwrap().keys() {
        assert!(help.contains(name.as_str()), "`migrate --help` does not tell {name}");
    }
}

#[test]
fn migrate_tells_of_fields_that_come_again() {
    let moving = Move::of(two().replacen("\"session_id\"", "\"session_id\": 1, \"session_id\"", 1));
    let ran = moving.migrate(&["--timezone", "+02:00"]);
    assert_eq!(ran.row("fields left out, the entry has them again further on"), "1");
}

#[test]
fn the_machines_zone_is_the_default() {
    for (args, zone) in [(&[][..], "America/New_York"), (&["--timezone", "local"], "America/New_York")] {
        let moving = Move::of(two());
        let mut command = command(&moving.db, &[&["migrate", moving.file.to_str().unwrap(), "--json"], args].concat());
        let ran = Ran::from(command.env("TZ", zone).output().unwrap());
        assert_eq!(ran.json()["zone"], zone);
    }
}

#[test]
fn bad_entries_go_to_the_quarantine() {
    let moving = Move::of(one_bad());
    let ran = moving.migrate(&["--json"]);
    assert_eq!(ran.code, 1);
    let quarantine = moving.dir.path().join("sessions.json.quarantine.jsonl");
    ran.error_line(&[
        "is not whole",
        "bad entries: 1",
        quarantine.to_str().unwrap(),
        "everything else is in the store",
    ]);
    let report = ran.json();
    assert_eq!((&report["read"], &report["imported"], &report["quarantined"]), (&json!(3), &json!(2), &json!(1)));
    assert_eq!(report["quarantine"], quarantine.to_str().unwrap());
    assert_eq!(report["problems"][0]["line"], 2);
    let line: Value = serde_json::from_str(&fs::read_to_string(&quarantine).unwrap()).unwrap();
    assert_eq!(line["key"], "agent:main:discord:dm:bad");
    assert_eq!(fs::metadata(&quarantine).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(&moving.db, &["list", "--json"]).keys().len(), 2);

    // Another run leaves the first one's file alone.
    let before = fs::read(&quarantine).unwrap();
    let ran = moving.migrate(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.row("quarantine").ends_with("sessions.json.quarantine.jsonl.2"));
    assert_eq!(ran.row("skipped, the same in the store"), "2");
    assert!(ran.out.contains("bad entry on line 2: "), "{}", ran.out);
    assert_eq!(fs::read(&quarantine).unwrap(), before);
}

#[test]
fn the_quarantine_may_be_named_and_replaces_nothing() {
    let moving = Move::of(one_bad());
    let named = moving.dir.path().join("bad.jsonl");
    let named = named.to_str().unwrap();
    assert_eq!(moving.migrate(&["--quarantine", named, "--json"]).json()["quarantine"], named);
    assert_eq!(moving.names(), ["bad.jsonl", "sessions.json", "store"]);
    moving.migrate(&["--quarantine", named]).failed(1, &[named, "exists", "--quarantine"]);
    moving.migrate(&["--quarantine", moving.file.to_str().unwrap()]).failed(1, &["exists"]);
    assert_eq!(fs::read_to_string(&moving.file).unwrap(), one_bad());
    let nowhere = moving.dir.path().join("no/where");
    let nowhere = nowhere.to_str().unwrap();
    moving.migrate(&["--quarantine", nowhere]).failed(1, &["quarantine", nowhere, "No such file"]);
}

#[test]
fn a_damaged_file_goes_in_up_to_the_damage() {
    let text = two();
    let cut = text.rfind("\"platform\"").unwrap();
    let moving = Move::of(&text[..cut]);
    let ran = moving.migrate(&["--json"]);
    assert_eq!(ran.code, 1);
    ran.error_line(&["is damaged at line 1, column", "everything else is in the store"]);
    let report = ran.json();
    assert_eq!(report["imported"], 1);
    assert_eq!(report["damage"]["byte"], cut);
    let ran = moving.migrate(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.lines().any(|line| line.starts_with("damaged at line 1, column ")), "{}", ran.out);
    assert_eq!(run(&moving.db, &["list", "--json"]).keys().len(), 1);
}

#[test]
fn a_dry_run_creates_nothing_and_changes_nothing() {
    let moving = Move::of(one_bad());
    let temporary = tempfile::tempdir().unwrap();
    let dry = |args: &[&str]| {
        let args = [&["migrate", moving.file.to_str().unwrap(), "--dry-run"], args].concat();
        Ran::from(command(&moving.db, &args).env("TMPDIR", temporary.path()).output().unwrap())
    };
    let ran = dry(&["--json"]);
    assert_eq!((ran.code, &ran.json()["imported"], &ran.json()["dry_run"]), (1, &json!(2), &json!(true)));
    assert_eq!(ran.json()["quarantine"], json!(null));
    assert_eq!(dry(&[]).row("would be imported"), "2");
    assert_eq!(moving.names(), ["sessions.json"]);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);

    // Where there is a store, it is that which counts.
    fs::write(&moving.file, two()).unwrap();
    assert_eq!(moving.migrate(&[]).code, 0);
    let more =
        two().replacen('{', &format!("{{\"agent:main:irc:dm:3\": {},", entry("three", "2026-06-04T00:00:00")), 1);
    fs::write(&moving.file, more).unwrap();
    let ran = dry(&["--json"]);
    assert_eq!((ran.code, &ran.json()["imported"], &ran.json()["kept"]), (0, &json!(1), &json!(2)));
    assert_eq!(run(&moving.db, &["list", "--json"]).keys().len(), 2);
}

#[test]
fn conflicts_are_resolved_as_told() {
    let newer = two().replace("2026-06-02T00:00:00", "2026-06-05T00:00:00").replace("\"two\"", "\"too\"");
    let older = two().replace("2026-06-02T00:00:00", "2026-06-01T00:00:00").replace("\"two\"", "\"too\"");
    let cases = [
        (&newer, &[][..], "too", (1, 1)),
        (&newer, &["--on-conflict", "newer"], "too", (1, 1)),
        (&older, &["--on-conflict", "newer"], "two", (0, 2)),
        (&newer, &["--on-conflict", "keep"], "two", (0, 2)),
        (&older, &["--on-conflict", "replace"], "too", (2, 0)),
    ];
    for (text, args, id, (updated, skipped)) in cases {
        let moving = Move::of(two());
        assert_eq!(moving.migrate(&["--timezone", "UTC"]).code, 0);
        fs::write(&moving.file, text).unwrap();
        let report = moving.migrate(&[&["--timezone", "UTC", "--json"], args].concat()).json();
        let shown = run(&moving.db, &["show", "agent:main:discord:dm:2", "--json"]).json();
        assert_eq!(shown["session_id"], id, "{args:?}");
        assert_eq!((&report["updated"], &report["skipped"]), (&json!(updated), &json!(skipped)), "{args:?}");
    }
}

#[test]
fn a_wrong_zone_is_told_and_corrected() {
    let moving = Move::of(two());
    let times = || run(&moving.db, &["export", "--format", "hermes"]).json()["agent:main:discord:dm:2"].clone();
    assert_eq!(moving.migrate(&["--timezone", "UTC"]).code, 0);
    let ran = moving.migrate(&["--timezone", "Asia/Tokyo"]);
    assert_eq!((ran.code, ran.row("skipped, the store's was active later")), (0, "2"));
    assert!(ran.out.contains("those of UTC") && ran.out.contains("--on-conflict replace"), "{}", ran.out);
    assert_eq!(times()["updated_at"], "2026-06-02T00:00:00");
    let ran = moving.migrate(&["--timezone", "Asia/Tokyo", "--on-conflict", "replace"]);
    assert!((ran.code, ran.row("updated")) == (0, "2") && !ran.out.contains("replace"), "{}", ran.out);
    assert_eq!(times()["updated_at"], "2026-06-02T00:00:00");
    let shown = run(&moving.db, &["show", "agent:main:discord:dm:2", "--json"]).json();
    assert_eq!(shown["updated_at"], "2026-06-01T15:00:00.000000Z");
}

#[test]
fn a_second_migration_says_what_became_of_each() {
    let moving = Move::of(two());
    assert_eq!(moving.migrate(&[]).code, 0);
    fs::write(
        &moving.file,
        two().replacen("\"platform\":\"discord\"", "\"platform\":\"discord\",\"suspended\":true", 1),
    )
    .unwrap();
    let ran = moving.migrate(&[]);
    assert_eq!((ran.row("updated"), ran.row("skipped, the same in the store")), ("1", "1"));
    assert_eq!(run(&moving.db, &["suspend", "agent:main:discord:dm:2"]).code, 0);
    let one: Value = serde_json::from_str(&two()).unwrap();
    let one = json!({"agent:main:discord:dm:2": one["agent:main:discord:dm:2"]});
    fs::write(&moving.file, one.to_string()).unwrap();
    let ran = moving.migrate(&[]);
    assert_eq!(ran.row("skipped, changed in the store since it was imported"), "1");
    assert_eq!(ran.row("in the store, and not in the file"), "1");
}

#[test]
fn standard_input_is_a_file_too() {
    let moving = Move::of("");
    let mut command = command(&moving.db, &["migrate", "-", "--json"]);
    command.current_dir(moving.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(one_bad().as_bytes()).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 1);
    ran.error_line(&["standard input is not whole", "stdin.quarantine.jsonl"]);
    assert_eq!((&ran.json()["imported"], &ran.json()["quarantine"]), (&json!(2), &json!("stdin.quarantine.jsonl")));
    assert!(moving.dir.path().join("stdin.quarantine.jsonl").exists());
}

#[test]
fn what_is_no_session_file_creates_no_store() {
    for (content, reason) in
        [("", "it is empty"), ("[1]", "not one JSON object"), ("\u{feff} x", "not one JSON object")]
    {
        let moving = Move::of(content);
        moving.migrate(&[]).failed(1, &["could not import", moving.file.to_str().unwrap(), reason]);
        assert_eq!(moving.names(), ["sessions.json"]);
    }
    let empty = Move::of("\u{feff}{}");
    assert_eq!(empty.migrate(&[]).row("read"), "0");
    assert_eq!(run(&empty.db, &["list"]).out.lines().last(), Some("0 of 0 entries"));
}

#[test]
fn only_a_regular_file_is_read() {
    let moving = Move::of(two());
    let at = |name: &str| moving.dir.path().join(name);
    let migrate = |path: &Path| run(&moving.db, &["migrate", path.to_str().unwrap()]);
    migrate(&at("missing")).failed(1, &["could not import", "missing", "No such file"]);
    migrate(moving.dir.path()).failed(1, &["not a regular file"]);
    symlink(at("loop"), at("loop")).unwrap();
    migrate(&at("loop")).failed(1, &["loop", "symbolic links"]);
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    migrate(&at("pipe")).failed(1, &["not a regular file"]);
    assert!(!moving.db.exists());
    symlink(&moving.file, at("link")).unwrap();
    assert_eq!(migrate(&at("link")).code, 0);
}

#[test]
fn migrate_refuses_a_place_that_is_taken() {
    let moving = Move::of(two());
    let file = moving.file.to_str().unwrap();
    run(&moving.file, &["migrate", file]).failed(1, &["is not a store: it is a file"]);
    assert_eq!(fs::read_to_string(&moving.file).unwrap(), two());
    run(moving.dir.path(), &["migrate", file]).failed(1, &["is not a store", "sessions.json"]);
    let store = Prepared::new();
    let open = store.open();
    for args in [&["migrate", file][..], &["migrate", file, "--dry-run"]] {
        store.run(args).failed(1, &[&format!("in use by process {}", std::process::id())]);
    }
    drop(open);
}

#[test]
fn wrong_arguments_are_told_apart() {
    let moving = Move::of(two());
    let file = moving.file.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["migrate"], "<FILE>"),
        (&["migrate", file, "--timezone", "Mars/Base"], "\"Mars/Base\" is no time zone"),
        (&["migrate", file, "--format", "csv"], "[possible values: auto, hermes, openclaw]"),
        (&["migrate", file, "--on-conflict", "both"], "[possible values: newer, keep, replace]"),
        (&["export"], "--format"),
        (&["export", "--format", "csv"], "[possible values: hermes, openclaw, jsonl"),
        (&["export", "--format", "hermes", "--timezone", "+99:00"], "is no time zone"),
        (&["export", "--format", "hermes", "--force"], "--output"),
    ];
    for (args, part) in cases {
        let ran = run(&moving.db, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{args:?}: {part:?} is not in {}", ran.err);
    }
    assert_eq!(moving.names(), ["sessions.json"]);
}

#[test]
fn export_needs_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (db, file) = (dir.path().join("store"), dir.path().join("out.json"));
    run(&db, &["export", "--format", "hermes"]).failed(1, &["there is no store at"]);
    run(&db, &["export", "--format", "hermes", "--output", file.to_str().unwrap()])
        .failed(1, &["there is no store at"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn export_to_a_file_replaces_only_by_force() {
    let moving = Move::of(two());
    assert_eq!(moving.migrate(&["--timezone", "Europe/Berlin"]).code, 0);
    let path = moving.dir.path().join("out.json");
    let file = path.to_str().unwrap();
    let ran = run(&moving.db, &["export", "--format", "hermes", "--output", file]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, format!("exported: 2 entries and 0 notes to {file}, naive times in Europe/Berlin\n"));
    let original: Value = serde_json::from_str(&two()).unwrap();
    let read = || -> Value { serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap() };
    assert_eq!(read(), original);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    fs::write(&path, "mine").unwrap();
    run(&moving.db, &["export", "--format", "hermes", "--output", file]).failed(1, &[file, "exists", "--force"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(run(&moving.db, &["export", "--format", "hermes", "--output", file, "--force"]).code, 0);
    assert_eq!(read(), original);
    assert_eq!(moving.names(), ["out.json", "sessions.json", "store"]);
}

#[test]
fn export_writes_the_zone_it_is_told() {
    let moving = Move::of(two());
    assert_eq!(moving.migrate(&["--timezone", "UTC"]).code, 0);
    let time = |args: &[&str]| {
        let ran = run(&moving.db, &[&["export", "--format", "hermes"], args].concat());
        ran.json()["agent:main:discord:dm:2"]["updated_at"].as_str().unwrap().to_owned()
    };
    assert_eq!(time(&[]), "2026-06-02T00:00:00");
    assert_eq!(time(&["--timezone", "+05:30"]), "2026-06-02T05:30:00");
}

#[test]
fn export_as_lines() {
    let moving = Move::of(two());
    assert_eq!(moving.migrate(&["--timezone", "UTC"]).code, 0);
    let ran = run(&moving.db, &["export", "--format", "jsonl"]);
    assert_eq!((ran.code, ran.keys().len()), (0, 2));
    assert_eq!(ran.json_lines()[1]["updated_at"], "2026-06-02T00:00:00.000000Z");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let moving = Move::of(one_bad());
    let ends = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command(&moving.db, args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        (ended.status.code().unwrap(), String::from_utf8(ended.stderr).unwrap())
    };
    let (code, err) = ends(&["migrate", moving.file.to_str().unwrap()]);
    assert_eq!(code, 1, "what was left out is not lost with the reader");
    assert!(err.contains("bad entries: 1"), "{err}");
    assert_eq!(run(&moving.db, &["list", "--json"]).keys().len(), 2);
    for format in ["hermes", "jsonl"] {
        assert_eq!(ends(&["export", "--format", format]), (0, String::new()));
    }
}

#[test]
fn an_entry_without_a_time_is_as_old_as_the_file() {
    let moving = Move::of(json!({"agent:main:main": {"sessionId": "one"}}).to_string());
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    fs::File::options().write(true).open(&moving.file).unwrap().set_modified(time).unwrap();
    let report = moving.migrate(&["--json"]).json();
    assert_eq!((&report["without_time"], &report["format"]), (&json!(1), &json!("openclaw")));
    let list = run(&moving.db, &["list", "--json"]).json_lines();
    assert_eq!(list[0]["updated_at"], "2023-11-14T22:13:20.000000Z");
}

#[test]
fn the_format_may_be_told() {
    for format in ["hermes", "openclaw"] {
        let moving = Move::of("{}");
        assert_eq!(moving.migrate(&["--format", format, "--json"]).json()["format"], format);
    }
    assert_eq!(Move::of("{}").migrate(&["--format", "auto", "--json"]).json()["format"], json!(null));
}

#[test]
fn a_dry_run_does_not_finish_an_interrupted_creation() {
    let moving = Move::of(two());
    fs::create_dir(&moving.db).unwrap();
    fs::write(moving.db.join("LOCK"), b"").unwrap();
    assert_eq!(moving.migrate(&["--dry-run", "--json"]).json()["imported"], 2);
    assert_eq!(fs::read_dir(&moving.db).unwrap().count(), 1);
}

#[test]
fn what_is_no_json_is_null_in_show_and_in_lines() {
    let file = two().replace("\"platform\"", "\"odd\": NaN, \"deep\": {\"n\": [-Infinity]}, \"platform\"");
    let moved = Move::of(file);
    assert_eq!(moved.migrate(&[]).code, 0);
    let shown = run(&moved.db, &["show", "agent:main:discord:dm:1", "--json"]).json();
    let lines = run(&moved.db, &["export", "--format", "jsonl"]).json_lines();
    for one in [&shown, &lines[0]] {
        assert_eq!(one["extras"], json!({"odd": null, "deep": null}));
    }
    // An export in the gateway's own format loses nothing.
    let whole = run(&moved.db, &["export", "--format", "hermes"]);
    assert!(whole.out.contains("NaN") && whole.out.contains("-Infinity"));
}

#[test]
fn a_migration_that_is_killed_and_started_again_ends_like_a_clean_one() {
    let entries = (0..2000).map(|n| {
        let mut entry = entry(&format!("s{n}"), &format!("2026-06-03T{:02}:{:02}:19", n * 7 % 24, n * 13 % 60));
        entry["metadata"] = json!({"x": "x".repeat([0, 10, 3000][n % 3])});
        (format!("agent:main:discord:dm:{}", n * 31 % 1700), entry)
    });
    // Duplicates too, so it is no map.
    let members: Vec<_> = entries.map(|(key, entry)| format!("{}: {entry}", json!(key))).collect();
    let file = format!("{{\"_note\": 1,\n{}}}", members.join(",\n"));
    let export = |moved: &Move| {
        let ran = run(&moved.db, &["export", "--format", "hermes"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    let clean = Move::of(&file);
    assert_eq!(clean.migrate(&[]).code, 0);
    let clean = export(&clean);
    let mut cut_short = 0;
    for round in 0..4_u64 {
        let moved = Move::of(&file);
        let mut child = command(&moved.db, &["migrate", moved.file.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Some are killed before they have made the store, some while they fill it.
        let found = std::time::Instant::now();
        while round > 0 && !moved.db.join("LOCK").exists() && found.elapsed().as_secs() < 20 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        child.kill().unwrap();
        cut_short += u32::from(!child.wait().unwrap().success());
        // It is there whole, or not at all.
        if moved.db.join("sled").exists() {
            assert!(export(&moved) == clean, "round {round}");
        }
        assert_eq!(moved.migrate(&[]).code, 0);
        let left = fs::read_dir(&moved.db)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("sled."));
        assert_eq!(left.count(), 0, "what the killed one left is swept");
        assert!(export(&moved) == clean, "round {round}");
        assert_eq!(fs::read_to_string(&moved.file).unwrap(), file, "the file is only read");
        assert_eq!(run(&moved.db, &["verify"]).code, 0);
    }
    assert!(cut_short >= 2, "only {cut_short} migrations were cut short");
}

/// Databases of the gateways, told by their first bytes.
#[cfg(feature = "sqlite")]
mod databases {
    use rusqlite::Connection;

    use super::*;

    fn of(fixture: &str) -> Move {
        let sql = fs::read_to_string(format!("{}/databases/{fixture}", self::fixture(""))).unwrap();
        let moving = Move::of("");
        fs::remove_file(&moving.file).unwrap();
        Connection::open(&moving.file).unwrap().execute_batch(&sql).unwrap();
        moving
    }

    #[test]
    fn a_database_goes_in_and_back() {
        let moving = of("hermes-0.22.2.sql");
        let tmp = moving.dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        Connection::open(&moving.file).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
        let args = ["migrate", moving.file.to_str().unwrap(), "--timezone", "+02:00", "--json"];
        let ran = Ran::from(command(&moving.db, &args).env("TMPDIR", &tmp).output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        let report = ran.json();
        assert_eq!((&report["read"], &report["format"]), (&json!(6), &json!("hermes")));
        assert_eq!(moving.names(), ["sessions.json", "store", "tmp"]);
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "the copy is gone");

        let back = moving.dir.path().join("back.db");
        let out = ["export", "--format", "hermes-table", "--output", back.to_str().unwrap()];
        let ran = run(&moving.db, &out);
        assert!(ran.code == 2 && ran.err.contains("--scope"), "{}", ran.err);
        let ran = run(&moving.db, &[&out[..], &["--scope", "/s"]].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.starts_with("exported: 6 entries"), "{}", ran.out);
        let rows = Connection::open(&back).unwrap().query_row("SELECT count(*) FROM gateway_routing", [], |r| r.get(0));
        assert_eq!(rows, Ok(6));
        run(&moving.db, &["export", "--format", "hermes-table", "--scope", "/s"]).error_line(&["--output"]);
        // Into the store that is there, by its scope.
        let again = |scope: &str| {
            let zone = ["--timezone", "+02:00", "--json"];
            run(&moving.db, &[&["migrate", back.to_str().unwrap(), "--scope", scope], &zone[..]].concat())
        };
        assert_eq!(again("/s").json()["unchanged"], 6);
        again("/t").error_line(&["no entry of the scope", "\"/s\""]);
    }

    #[test]
    fn what_is_wrong_with_a_database_is_told_by_rows() {
        let moving = of("openclaw-2026.9.6.sql");
        let sql = "UPDATE session_nodes SET entry_json = 'x' WHERE session_key LIKE '%:c2'";
        Connection::open(&moving.file).unwrap().execute(sql, []).unwrap();
        let ran = moving.migrate(&[]);
        assert_eq!(ran.code, 1);
        assert!(ran.out.contains("bad entry in row 3: it is not JSON"), "{}", ran.out);
        assert_eq!(ran.row("imported"), "3");
        assert_eq!(moving.names(), ["sessions.json", "sessions.json.quarantine.jsonl", "store"]);

        let whole = fs::read(&moving.file).unwrap();
        fs::write(&moving.file, &whole[..5000]).unwrap();
        let db = moving.dir.path().join("other");
        let ran = run(&db, &["migrate", moving.file.to_str().unwrap()]);
        assert_eq!((ran.code, db.exists()), (1, false), "{}", ran.out);
        ran.error_line(&["not a session file: "]);

        let text = Move::of(two());
        text.migrate(&["--scope", "/s"]).error_line(&["only a database has scopes"]);
    }
}

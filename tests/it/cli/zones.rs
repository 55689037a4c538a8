//! The machine's zone: what `list` shows, how `migrate` takes naive times and `export` writes them, and what the C
//! library says.

use std::path::Path;
use std::process::Command;

use super::*;

/// Values of `TZ`: names, rules, paths, and what lies beside the names.
const SETTINGS: [&str; 32] = [
    "",
    ":",
    "UTC",
    "UTC0",
    "UTC+2",
    "EST5",
    "NPT-5:45",
    "<+0330>-3:30",
    "EST5EDT,M3.2.0,M11.1.0",
    "CET-1CEST,M3.5.0,M10.5.0/3",
    ":CET-1CEST,M3.5.0,M10.5.0/3",
    "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1",
    "IST-2IDT,M3.4.4/26,M10.5.0",
    "NZST-12NZDT,M9.5.0,M4.1.0/3",
    "GMT0BST,M3.5.0/1,M10.5.0",
    "XXX3YYY,60/2,300/2",
    "WART4WARST,J60/0,J300/25",
    "EST5EDT",
    "Europe/Berlin",
    ":Europe/Berlin",
    "Asia/Kolkata",
    "America/St_Johns",
    "Africa/Casablanca",
    "Etc/GMT-14",
    "posix/Europe/Berlin",
    ":posix/Asia/Tokyo",
    "right/Europe/Berlin",
    "/usr/share/zoneinfo/Australia/Lord_Howe",
    ":/usr/share/zoneinfo/Asia/Kathmandu",
    "/usr/share/zoneinfo/posix/Pacific/Chatham",
    "/usr/share/zoneinfo/right/America/New_York",
    "/etc/localtime",
];

#[test]
fn list_migrate_and_export_agree_with_the_c_library() {
    if !Path::new("/usr/share/zoneinfo/right").exists() {
        return eprintln!("skipped: there is no /usr/share/zoneinfo/right");
    }
    for tz in SETTINGS {
        let date =
            Command::new("date").env("TZ", tz).args(["-d", "@1751371200", "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
        let local = String::from_utf8(date.stdout).unwrap().trim().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let (file, db) = (dir.path().join("sessions.json"), dir.path().join("store"));
        let entry = format!(r#"{{"session_id": "a", "created_at": "{local}", "updated_at": "{local}"}}"#);
        std::fs::write(&file, format!(r#"{{"agent:main:discord:dm:1": {entry}}}"#)).unwrap();
        let run = |args: &[&str]| Ran::from(command(&db, args).env("TZ", tz).output().unwrap());
        assert_eq!(run(&["migrate", file.to_str().unwrap()]).code, 0, "{tz:?}");

        let shown = run(&["list", "--json"]).json();
        assert!(shown["updated_at"].as_str().unwrap().starts_with("2025-07-01T12:00:00"), "{tz:?}: {shown}");
        let listed = run(&["list"]).out;
        assert!(listed.contains(&local.replace('T', " ")), "{tz:?}: {local} is not in {listed}");
        // Its zone is remembered, whatever is set later.
        let exported =
            Ran::from(command(&db, &["export", "--format", "hermes"]).env("TZ", "Asia/Tokyo").output().unwrap());
        assert_eq!(exported.json()["agent:main:discord:dm:1"]["updated_at"], local, "{tz:?}");
    }
}

#[test]
fn a_zone_that_nobody_knows_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, db) = (dir.path().join("sessions.json"), dir.path().join("store"));
    let hermes = r#"{"session_id": "a", "created_at": "2026-06-01T00:00:00", "updated_at": "2026-06-01T00:00:00"}"#;
    let openclaw = r#"{"sessionId": "a", "updatedAt": 1774868423845}"#;
    let run = |entry: &str, args: &[&str]| {
        std::fs::write(&file, format!(r#"{{"agent:main:discord:dm:1": {entry}}}"#)).unwrap();
        let args = [&["migrate", file.to_str().unwrap()], args].concat();
        Ran::from(command(&db, &args).env("TZ", "Mars/Base").output().unwrap())
    };
    let ran = run(hermes, &[]);
    assert_eq!(ran.code, 1);
    ran.error_line(&["TZ=\"Mars/Base\"", "--timezone"]);
    assert!(!db.exists());
    // Its times need none.
    assert_eq!(run(openclaw, &[]).code, 0);
    assert_eq!(run(hermes, &["--timezone", "Europe/Berlin", "--on-conflict", "replace"]).code, 0);
    let listed = Ran::from(command(&db, &["list"]).env("TZ", "Mars/Base").output().unwrap());
    assert!(listed.out.contains("2026-05-31 22:00:00Z"), "as the C library does: {}", listed.out);
}

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn local(text: &str) -> NaiveDateTime {
    text.parse().unwrap()
}

fn resolved(zone: &str, text: &str) -> (String, Hour) {
    let (micros, hour) = zone.parse::<TimeZone>().unwrap().resolve(local(text));
    (Timestamp::from_micros(micros).to_string(), hour)
}

#[test]
fn hours_that_the_clocks_skip_or_repeat() {
    let cases = [
        ("Europe/Berlin", "2026-01-01T12:00:00", "2026-01-01T11:00:00.000000Z", Hour::Plain),
        ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00.000000Z", Hour::Skipped),
        ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00.000000Z", Hour::Repeated),
        ("America/New_York", "2026-03-08T02:00:00", "2026-03-08T07:00:00.000000Z", Hour::Skipped),
        ("America/New_York", "2026-11-01T01:59:59", "2026-11-01T05:59:59.000000Z", Hour::Repeated),
        // Half an hour.
        ("Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:45:00.000000Z", Hour::Skipped),
        ("+05:30", "2026-01-01T12:00:00", "2026-01-01T06:30:00.000000Z", Hour::Plain),
        ("-0330", "2026-01-01T12:00:00", "2026-01-01T15:30:00.000000Z", Hour::Plain),
    ];
    for (zone, text, expected, hour) in cases {
        assert_eq!(resolved(zone, text), (expected.into(), hour), "{zone} {text}");
    }
}

#[test]
fn names_and_offsets_and_nothing_else() {
    for (text, name) in
        [("UTC", "UTC"), ("Z", "UTC"), ("Asia/Tokyo", "Asia/Tokyo"), ("+02", "+02:00"), ("-0230", "-02:30")]
    {
        assert_eq!(text.parse::<TimeZone>().map(|zone| zone.to_string()).unwrap_or_default(), name);
    }
    for bad in ["", "+", "+24:00", "+1:00", "+02:00:00:00", "Mars/Base", "02:00", "+0é", "é"] {
        assert!(bad.parse::<TimeZone>().is_err(), "{bad}");
    }
}

/// Values of `TZ` that are no names of zones.
const SETTINGS: &[&str] = &[
    "",
    ":",
    "UTC0",
    "UTC+2",
    "<UTC+2>-2",
    "EST5",
    "EST5EDT,M3.2.0,M11.1.0",
    "EST5EDT4,M3.2.0/2,M11.1.0/2:00:00",
    "EST+5EDT,M3.2.0/02:00,M11.1.0",
    "CET-1CEST,M3.5.0,M10.5.0/3",
    ":CET-1CEST,M3.5.0,M10.5.0/3",
    "<+0330>-3:30",
    "<+0330>-3:30<+0430>,J79/24,J263/24",
    "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1",
    "IST-2IDT,M3.4.4/26,M10.5.0",
    "NZST-12NZDT,M9.5.0,M4.1.0/3",
    "AEST-10AEDT,M10.1.0,M4.1.0/3",
    "GMT0BST,M3.5.0/1,M10.5.0",
    "IST-1GMT0,M10.5.0,M3.5.0/1",
    "WART4WARST,J60/0,J300/25",
    "XXX3YYY,60/2,300/2",
    "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45",
    "NPT-5:45",
    "LMT-0:53:28",
    "Europe/Berlin",
    ":Europe/Berlin",
    "Europe/../Europe/Berlin",
    "posix/Europe/Berlin",
    ":posix/Asia/Tokyo",
    "right/Europe/Berlin",
    "right/America/New_York",
    "right/Etc/UTC",
    "localtime",
    "posixrules",
    "/usr/share/zoneinfo/Australia/Lord_Howe",
    ":/usr/share/zoneinfo/Asia/Kathmandu",
    "/usr/share/zoneinfo/posix/Africa/Casablanca",
    "/usr/share/zoneinfo/right/Pacific/Apia",
    "/etc/localtime",
];

/// Why a comparison with the C library cannot be made here.
fn no_libc() -> Option<&'static str> {
    if !Path::new("/usr/share/zoneinfo/Europe/Berlin").exists() {
        return Some("there is no /usr/share/zoneinfo");
    }
    let dates = dates(Some("UTC0"), &[0]);
    (dates != ["1970-01-01T00:00:00"]).then_some("`date -f -` of this machine is not GNU's")
}

/// What the C library shows at each moment.
fn dates(tz: Option<&str>, moments: &[i64]) -> Vec<String> {
    let mut command = Command::new("date");
    command.args(["-f", "-", "+%Y-%m-%dT%H:%M:%S"]).env_remove("TZ").env_remove("TZDIR");
    command.envs(tz.map(|tz| ("TZ", tz)));
    let Ok(mut date) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else { return Vec::new() };
    let lines: String = moments.iter().map(|at| format!("@{at}\n")).collect();
    let mut input = date.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = date.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Moments up to 2037: some at even distances, and those at which a zone changes, with their neighbours.
fn moments(zone: &TimeZone, from: i64) -> Vec<i64> {
    let even = (from..2_114_380_800).step_by(131 * 86_400 + 12_345);
    let changes = zone.rules.changes(from, 2_114_380_800);
    even.chain(changes.into_iter().flat_map(|at| [at - 1, at, at + 1])).collect()
}

fn compare(tz: Option<&str>, zone: &TimeZone, from: i64) {
    let moments = moments(zone, from);
    let expected = dates(tz, &moments);
    assert_eq!(expected.len(), moments.len());
    for (at, expected) in moments.into_iter().zip(expected) {
        let ours = zone.local_time(Timestamp::from_micros(at * 1_000_000)).format("%Y-%m-%dT%H:%M:%S").to_string();
        // Within a leap second the C library shows a 60th second.
        assert!(ours == expected || expected.ends_with(":60"), "{tz:?} at {at}: {ours}, and libc {expected}");
        let back = zone.resolve(local(&ours));
        let repeated_or_same = back.0 == at * 1_000_000 || back.1 == Hour::Repeated;
        assert!(repeated_or_same || zone.rules.counts_leaps(), "{tz:?} at {at}: {ours} is {back:?}");
    }
    let again: TimeZone = zone.to_string().parse().unwrap();
    assert_eq!((&again, again.rules.agree(&zone.rules, from, 2_114_380_800)), (zone, true));
}

#[test]
fn the_machines_zone_is_what_the_c_library_takes() {
    if let Some(reason) = no_libc() {
        return eprintln!("skipped: {reason}");
    }
    let at = |tz: &str| machine::local(Some(tz.as_ref()), Path::new(LOCALTIME)).map(TimeZone::from);
    for tz in SETTINGS {
        if tz.contains("right/") && !Path::new("/usr/share/zoneinfo/right").exists() {
            eprintln!("skipped: {tz}, which is not here");
            continue;
        }
        let zone = at(tz).unwrap_or_else(|error| panic!("{tz}: {error:?}"));
        compare(Some(tz), &zone, 0);
    }
    let zone = machine::local(None, Path::new(LOCALTIME)).map(TimeZone::from).unwrap();
    compare(None, &zone, 0);
}

#[test]
fn every_file_of_zoneinfo_is_read_as_the_c_library_does() {
    if let Some(reason) = no_libc() {
        return eprintln!("skipped: {reason}");
    }
    let root = Path::new("/usr/share/zoneinfo");
    let mut names = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if std::fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"TZif")) {
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    let copies = |name: &str| name.starts_with("posix/") || name.starts_with("right/");
    let (copies, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| copies(name));
    assert!(names.len() > 300, "{}", names.len());
    // The copies are as many again, and the same but for leap seconds.
    for (n, name) in names.iter().chain(copies.iter().step_by(37)).enumerate() {
        let zone = machine::local(Some(name.as_ref()), Path::new(LOCALTIME)).map(TimeZone::from).unwrap();
        compare(Some(name), &zone, 0);
        // By its content alone, it has another name that says the same, or a text that finds it again.
        if n % 31 != 0 {
            continue;
        }
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(root.join(name), copy.path()).unwrap();
        let found = machine::local(None, copy.path()).map(TimeZone::from).unwrap();
        let again: TimeZone = found.to_string().parse().unwrap();
        assert!(again.rules.agree(&zone.rules, 946_684_800, 2_114_380_800), "{name} is found as {found}");
    }
}

#[test]
fn names_that_people_know_come_first() {
    for (name, expected) in [
        ("Europe/Berlin", "Europe/Berlin"),
        ("Europe/London", "Europe/London"),
        ("America/New_York", "America/New_York"),
        ("Asia/Kolkata", "Asia/Kolkata"),
        ("Etc/UTC", "UTC"),
    ] {
        let Ok(bytes) = std::fs::read(Path::new("/usr/share/zoneinfo").join(name)) else {
            return eprintln!("skipped: there is no /usr/share/zoneinfo/{name}");
        };
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(copy.path(), bytes).unwrap();
        let found = machine::local(None, copy.path()).map(TimeZone::from).unwrap();
        assert_eq!(found.to_string(), expected);
    }
}

#[test]
fn what_is_set_and_means_nothing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let none = path("none");
    for tz in [
        "Mars/Base",
        "XYZ",
        "XYZ5ABC",
        "CET-1CEST",
        "europe berlin",
        "Europe",
        "../../../etc/passwd",
        "/etc/passwd",
        "-5",
        "É",
        "UTC+99",
    ] {
        let error = machine::local(Some(tz.as_ref()), &none).unwrap_err();
        assert!(matches!(error, Error::LocalTimeZone { .. }), "{tz}: {error:?}");
    }
    assert_eq!(machine::local(None, &none).unwrap().0, "UTC");
    std::fs::write(path("damaged"), b"TZif2 and no more").unwrap();
    std::os::unix::fs::symlink(&none, path("dangling")).unwrap();
    for name in ["damaged", "dangling", "."] {
        assert!(matches!(machine::local(None, &path(name)), Err(Error::LocalTimeZone { .. })), "{name}");
    }
}

/// A rule that has no name is kept as a rule, and a content that has neither by its file, for as long as that is the
/// same.
#[test]
fn zones_without_a_name() {
    // Version 2 without any change, an offset of an hour, and a rule at its end.
    let header = |types: u8| {
        let counts = [0, 0, 0, 0, types, 4].into_iter().flat_map(|count| [0, 0, 0, count]);
        b"TZif2".iter().copied().chain([0; 15]).chain(counts).collect::<Vec<u8>>()
    };
    let file = |rule: &str| {
        let block = [&header(1)[..], &3600_i32.to_be_bytes(), &[0, 0], b"XXX\0"].concat();
        [&block[..], &block[..], b"\n", rule.as_bytes(), b"\n"].concat()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("localtime");
    let read = || machine::local(None, &path).map(TimeZone::from).unwrap();
    for (rule, expected) in [("XXX-1YYY,M2.2.0,M11.1.0", "XXX-1YYY,M2.2.0,M11.1.0"), ("XXX-0:59:58", "+00:59:58")] {
        std::fs::write(&path, file(rule)).unwrap();
        let zone = read();
        let again: TimeZone = zone.to_string().parse().unwrap();
        assert_eq!((zone.to_string().as_str(), &again), (expected, &zone));
    }
    std::fs::write(&path, file("")).unwrap();
    assert_eq!(read().utc_offset(Timestamp::MIN), 3600);

    let right = Path::new("/usr/share/zoneinfo/right/Asia/Tokyo");
    if !right.exists() {
        return eprintln!("skipped: there is no {}", right.display());
    }
    std::fs::copy(right, &path).unwrap();
    let text = read().to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    assert_eq!(text.parse::<TimeZone>().unwrap().utc_offset(Timestamp::from_micros(1_700_000_000_000_000)), 32_373);
    std::fs::write(&path, file("XXX-1")).unwrap();
    assert!(matches!(text.parse::<TimeZone>(), Err(Error::TimeZone { .. })), "its content is another");
}

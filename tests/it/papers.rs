//! What README.md and `docs/` say: the commands run, the pages are there, and the links work from the registry's page.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn pages() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    names
}

/// The commands of the first block of the README that `prefix` begins.
fn commands<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let block = text.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(|line| line.strip_prefix(prefix).unwrap()).collect()
}

#[cfg(feature = "cli")]
#[test]
fn the_first_commands_of_the_readme_work_in_a_clone() {
    let readme = read("README.md");
    let commands = commands(&readme, "$ cargo run --release -- ");
    assert_eq!(commands.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("tests"), dir.path().join("tests")).unwrap();
    for command in commands {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cloakroom"))
            .current_dir(dir.path())
            .args(command.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert!(output.stdout.len() > 200, "{command}: {output:?}");
    }
}

/// How to see a store at work, and what is seen then.
#[test]
fn the_readme_shows_a_running_store_in_two_commands() {
    let readme = read("README.md");
    let block = readme.split("## While it runs").nth(1).unwrap();
    assert_eq!(
        commands(block, "$ cargo run "),
        ["--example gateway -- gateway.db 600", "-- web --open --db gateway.db"],
        "the test of the page in a browser runs these"
    );
    let picture = block.split("<img src=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(fs::metadata(root().join(picture)).unwrap().len() > 10_000, "{picture}");
    // What they name is there: the example takes a path and seconds, and the program has the verb.
    assert!(read("Cargo.toml").contains("name = \"gateway\"\nrequired-features = [\"live\"]"));
    assert!(read("examples/gateway.rs").contains("arguments.next()"));
}

/// The targets of the links and pictures in a page.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect()
}

#[test]
fn links_work_wherever_a_page_is_shown() {
    // README.md is shown by the registry, the others by rustdoc too: a relative link is dead there.
    let shown = pages().into_iter().map(|page| format!("docs/{page}"));
    for page in shown.chain(["README.md".into(), "SECURITY.md".into()]) {
        for link in links(&read(&page)) {
            assert!(link.starts_with("https://"), "{page}: {link}");
        }
    }
}

#[test]
fn each_page_is_a_module_and_the_readme_leads_to_it() {
    let (readme, guide) = (read("README.md"), read("src/guide.rs"));
    for page in pages() {
        let stem = page.strip_suffix(".md").unwrap().replace('-', "_");
        assert!(guide.contains(&format!("#[doc = include_str!(\"../docs/{page}\")]\npub mod {stem} {{")), "{page}");
        assert!(readme.contains(&format!("/cloakroom/guide/{stem}/index.html)")), "{page}");
        assert!(readme.contains(&format!("`docs/{page}`")), "{page}");
    }
    for link in links(&readme) {
        let Some((_, page)) = link.split_once("/cloakroom/guide/") else { continue };
        let name = page.strip_suffix("/index.html").unwrap();
        assert!(guide.contains(&format!("pub mod {name} {{")), "{link}");
    }
}

#[test]
fn files_that_the_papers_name_are_there() {
    let mut papers: Vec<PathBuf> = pages().into_iter().map(|page| Path::new("docs").join(page)).collect();
    papers.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(PathBuf::from));
    for paper in papers {
        for quoted in read(paper.to_str().unwrap()).split('`').skip(1).step_by(2) {
            let is_ours =
                ["src/", "tests/", "docs/", "benches/", "examples/", ".ci/"].iter().any(|d| quoted.starts_with(d));
            if is_ours || (quoted.ends_with(".md") && !quoted.contains(' ')) {
                let path = quoted.split(' ').next().unwrap();
                assert!(root().join(path).exists(), "{}: {quoted}", paper.display());
            }
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 110, "{lines} lines: a screen and a half is enough; the rest belongs to docs/");
}

/// Cargo's own word for the oldest toolchain, and the papers'.
#[test]
fn the_papers_name_the_oldest_toolchain() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    for paper in ["README.md", "CHANGELOG.md", "docs/promises.md"] {
        assert!(read(paper).contains(version), "{paper} does not say {version}");
    }
    assert!(read("CHANGELOG.md").contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}

/// The command line adds what its flags can do about an error. A program with the library has no flags.
#[test]
fn texts_of_the_library_name_no_flags() {
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // Unit tests show no text to anybody.
            if path.ends_with("src/cli") || path.ends_with("src/main.rs") || path.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            for (at, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let is_flag = |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase());
                let names_one = line.contains('"') && line.split("--").skip(1).any(is_flag);
                let is_command =
                    line.contains("#[error(") && ["`migrate`", "`verify`", "`prune`"].iter().any(|c| line.contains(c));
                assert!(
                    line.trim_start().starts_with("//") || !(names_one || is_command),
                    "{}:{}: {line}",
                    path.display(),
                    at + 1
                );
            }
        }
    }
}

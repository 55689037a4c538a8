//! The layers of the code: imports go downward only, no two files import each other, and the engine and the encoding are
//! named in one place each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the crate root, lowest layer first. Modules of one layer may use each other.
const LAYERS: &[&[&str]] = &[
    &["fork", "key", "time", "json", "meter", "sync"],
    &["entry", "source"],
    &["codec"],
    &["error", "unreadable", "config", "feed", "zone", "outfile", "random", "socket"],
    &["gateway"],
    &["sqlite"],
    &["storage"],
    &["commit"],
    &[
        "answer",
        "clock_check",
        "extras",
        "healing",
        "how",
        "rules",
        "store",
        "keys",
        "rename",
        "put",
        "modify",
        "query",
        "remove_where",
        "resolve",
        "repair",
        "shared",
        "turns",
        "leases",
        "events",
        "listen",
    ],
    &["prune", "reset", "import", "export", "backup", "compact"],
    &["watcher", "sessions"],
    &["cluster"],
    &["live"],
    &["guide"],
    &["main", "cli"],
];
/// Crates that only one module may name.
const CONFINED: [(&str, &str); 5] =
    [("bincode", "codec"), ("rusqlite", "sqlite"), ("sled", "storage"), ("redis", "cluster"), ("rustls", "cluster")];
/// Files of the program: `crate` is another crate there, which sees the library's public items only.
const PROGRAM: [&str; 2] = ["main", "cli"];

#[test]
fn imports_go_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 20, "only {} files", files.len());
    let mut found = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap();
        found.extend(check(path, &fs::read_to_string(&file).unwrap()));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The head of a folder and what lies in it may know each other: it is their door.
#[test]
fn no_two_files_import_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let files = files.iter().map(|file| (file.strip_prefix(&src).unwrap(), fs::read_to_string(file).unwrap()));
    let files: BTreeMap<_, _> = files.map(|(path, text)| (module_of(path), text)).collect();
    assert_eq!(circles(&files), Vec::<String>::new());
}

/// The files that lead back to themselves, each with those it imports on the way.
fn circles(files: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let is_library = |module: &Vec<String>| module.first().is_some_and(|first| !PROGRAM.contains(&first.as_str()));
    let is_test = |module: &Vec<String>| module.iter().any(|part| part == "tests");
    let files = || files.iter().filter(|(module, _)| is_library(module) && !is_test(module));
    let modules: BTreeSet<&Vec<String>> = files().map(|(module, _)| module).collect();
    let mut uses: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = BTreeMap::new();
    for (module, text) in files() {
        let paths = paths_used(&without_tests(&tokens(text)), module);
        let targets = paths.iter().filter_map(|path| {
            let file = (1..=path.len()).rev().find_map(|end| modules.get(&path[..end].to_vec()));
            file.copied().filter(|file| !file.starts_with(module) && !module.starts_with(file))
        });
        uses.insert(module, targets.collect());
    }
    // What imports nothing that is left is in no circle.
    while let Some(free) = uses.iter().find_map(|(module, used)| used.is_empty().then_some(*module)) {
        uses.remove(free);
        for used in uses.values_mut() {
            used.remove(free);
        }
    }
    let shown = |module: &Vec<String>| module.join("/");
    let used = |used: &BTreeSet<&Vec<String>>| used.iter().map(|module| shown(module)).collect::<Vec<_>>().join(", ");
    uses.iter().map(|(module, targets)| format!("{} imports {}", shown(module), used(targets))).collect()
}

/// The files of Rust below a folder.
pub fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with the file at `path` below `src`.
fn check(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let is_test = path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests.rs" | "tests")));
    let Some(own) = module.first() else { return Vec::new() };
    if is_test {
        return Vec::new();
    }
    let tokens = without_tests(&tokens(text));
    let mut wrong = Vec::new();
    for (name, home) in CONFINED {
        if own != home && tokens.iter().any(|token| token == name) {
            wrong.push(format!("{}: names {name}, which belongs to {home}", path.display()));
        }
    }
    if PROGRAM.contains(&own.as_str()) {
        return wrong;
    }
    let Some(layer) = layer_of(own) else {
        wrong.push(format!("{}: {own} is in no layer", path.display()));
        return wrong;
    };
    for used in modules_used(&tokens, &module) {
        match layer_of(&used) {
            Some(other) if other <= layer => {}
            Some(other) => wrong.push(format!("{}: layer {layer} uses {used} of layer {other}", path.display())),
            None => wrong.push(format!("{}: uses crate::{used}, which is no module of a layer", path.display())),
        }
    }
    wrong
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `codec/index.rs` is `[codec, index]`, `codec/mod.rs` is `[codec]`, `lib.rs` is `[]`.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut parts: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

/// Words, `::` and single signs; comments and texts are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut n = 0;
    while n < chars.len() {
        match (at(n), at(n + 1)) {
            ('/', '/') => n += chars[n..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => {
                let mut depth = 1;
                n += 2;
                while depth > 0 && n < chars.len() {
                    match (at(n), at(n + 1)) {
                        ('/', '*') => (depth, n) = (depth + 1, n + 2),
                        ('*', '/') => (depth, n) = (depth - 1, n + 2),
                        _ => n += 1,
                    }
                }
            }
            ('r', '"' | '#') if !(n > 0 && is_word(at(n - 1))) => {
                let hashes = chars[n + 1..].iter().take_while(|c| **c == '#').count();
                n += 1 + hashes;
                if at(n) != '"' {
                    continue;
                }
                n += 1;
                while n < chars.len() && !(at(n) == '"' && (1..=hashes).all(|k| at(n + k) == '#')) {
                    n += 1;
                }
                n += 1 + hashes;
            }
            ('"', _) => {
                n += 1;
                while n < chars.len() && at(n) != '"' {
                    n += if at(n) == '\\' { 2 } else { 1 };
                }
                n += 1;
            }
            // A character, not a lifetime.
            ('\'', '\\') => n += 3 + chars[n + 3..].iter().take_while(|c| **c != '\'').count() + 1,
            ('\'', _) if at(n + 2) == '\'' => n += 3,
            (':', ':') => {
                tokens.push("::".into());
                n += 2;
            }
            (c, _) if is_word(c) => {
                let word: String = chars[n..].iter().take_while(|c| is_word(**c)).collect();
                n += word.chars().count();
                tokens.push(word);
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.into());
                }
                n += 1;
            }
        }
    }
    tokens
}

/// Without the items under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut n = 0;
    while n < tokens.len() {
        if !tokens[n..].iter().take(mark.len()).eq(mark.iter()) {
            kept.push(tokens[n].clone());
            n += 1;
            continue;
        }
        // To the `;` or the `}` that ends the item; a field or an argument ends with `,` or before `)` or `}`.
        n += mark.len();
        let mut depth = 0;
        while n < tokens.len() {
            match tokens[n].as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" if depth == 0 => break,
                "}" if depth == 1 => {
                    n += 1;
                    break;
                }
                "}" | ")" | "]" => depth -= 1,
                ";" | "," if depth == 0 => {
                    n += 1;
                    break;
                }
                _ => {}
            }
            n += 1;
        }
    }
    kept
}

/// Modules of the crate root that paths in `tokens` go through. An item that `lib.rs` exports counts as one, so that
/// nobody goes round the layers through it.
fn modules_used(tokens: &[String], module: &[String]) -> BTreeSet<String> {
    paths_used(tokens, module).into_iter().filter_map(|path| path.into_iter().next()).collect()
}

/// The paths in `tokens` that begin with `crate`, `self` or `super`, from the crate root on.
fn paths_used(tokens: &[String], module: &[String]) -> BTreeSet<Vec<String>> {
    let mut used = BTreeSet::new();
    let mut n = 0;
    while n < tokens.len() {
        let token = tokens[n].as_str();
        let after_path = n > 0 && tokens[n - 1] == "::";
        if after_path || !matches!(token, "crate" | "super" | "self") || next(tokens, n) != "::" {
            n += 1;
            continue;
        }
        // How far the leading `crate`, `self` and `super` reach up.
        let mut up = if token == "crate" { module.len() } else { 0 };
        while matches!(tokens[n].as_str(), "crate" | "self" | "super") && next(tokens, n) == "::" {
            up += usize::from(tokens[n] == "super");
            n += 2;
        }
        let base = &module[..module.len().saturating_sub(up)];
        branches(&tokens[n..], base, &mut used);
    }
    used
}

fn next(tokens: &[String], n: usize) -> &str {
    tokens.get(n + 1).map_or("", String::as_str)
}

/// All that a path's rest stands for, `a::b` or a group `{a::b, c::{d, e}}`, below `base`. Answers how many tokens it has.
fn branches(tokens: &[String], base: &[String], used: &mut BTreeSet<Vec<String>>) -> usize {
    match tokens.first().map(String::as_str) {
        Some("{") => {
            let mut n = 1;
            while n < tokens.len() && tokens[n] != "}" {
                n += if tokens[n] == "," { 1 } else { branches(&tokens[n..], base, used).max(1) };
            }
            n + 1
        }
        Some("self") => {
            used.insert(base.to_vec());
            1
        }
        Some(name) => {
            let path = [base, &[name.to_owned()]].concat();
            if next(tokens, 0) == "::" {
                return 2 + branches(&tokens[2..], &path, used);
            }
            used.insert(path);
            1
        }
        None => 0,
    }
}

// The checker itself.

fn wrong(path: &str, text: &str) -> usize {
    check(Path::new(path), text).len()
}

#[test]
fn planted_violations_are_found() {
    for text in [
        "use crate::store::SessionStore;",
        "use crate::{key::SessionKey, store};",
        "use crate::{key::{SessionKey, SessionId}, store::{self, Stats}};",
        "fn f(s: &crate::store::SessionStore) {}",
        "fn f() { let x = crate::commit::Receipt::new(); }",
        "use super::super::watcher::Watcher;",
        "use super::super::{key, store};",
        "use self::super::super::store;",
        "mod a { use crate :: store :: X; }",
        "use crate::SessionStore;",
        "use crate::*;",
        "use crate::{error, *};",
        "use crate::unheard_of::X;",
        "macro_rules! m { () => { crate::store::f() } }",
        "use bincode::config;",
        "fn f() { bincode::serde::encode(); }",
        "const C: char = '\"'; use crate::store;",
        "const C: char = '\\''; use crate::store;",
        "const C: &str = r#\"\"#; use crate::store;",
        "/* a /* b */ */ use crate::store;",
        "#[cfg(test)] use crate::store; use crate::watcher;",
        "#[cfg(test)] mod tests { fn f() {} } use crate::watcher;",
        "struct S { #[cfg(test)] a: Vec<u8>, b: crate::store::X }",
    ] {
        assert_eq!(wrong("storage/open.rs", text), 1, "{text}");
    }
    assert_eq!(wrong("codec/index.rs", "use sled::Tree;"), 1);
    assert_eq!(wrong("main.rs", "use sled::Tree;"), 1);
    assert_eq!(wrong("key.rs", "use super::time::Timestamp; use super::entry;"), 1);
    assert_eq!(wrong("odd.rs", "fn f() {}"), 1);
}

#[test]
fn planted_circles_are_found() {
    let found = |texts: &[(&str, &str)]| {
        let file = |(path, text): &(&str, &str)| (module_of(Path::new(path)), (*text).to_owned());
        circles(&texts.iter().map(file).collect()).len()
    };
    for (one, other) in [
        ("use super::b::X;", "use super::a::Y;"),
        ("use crate::m::{c, b::X};", "fn f() { crate::m::a::g() }"),
        ("use super::{b::{self, X}, c};", "use super::super::m::a;"),
    ] {
        assert_eq!(found(&[("m/a.rs", one), ("m/b.rs", other), ("m/c.rs", "")]), 2, "{one} {other}");
        assert_eq!(found(&[("m/a.rs", one), ("m/b.rs", ""), ("m/c.rs", "")]), 0, "{one}");
    }
    let round = [("a.rs", "use crate::b;"), ("b.rs", "use crate::m::c::X;"), ("m/c.rs", "use crate::a::Y;")];
    assert_eq!(found(&round), 3);
    let door = [("m/mod.rs", "pub use self::a::X; use crate::n::Z;"), ("m/a.rs", "use super::Y;"), ("n.rs", "")];
    assert_eq!(found(&door), 0);
    let in_tests = [("a.rs", "use crate::b::X;"), ("b.rs", "#[cfg(test)] mod tests { use crate::a::Y; }")];
    assert_eq!(found(&in_tests), 0);
}

#[test]
fn what_is_allowed_is_not_found() {
    for text in [
        "use crate::key::SessionKey; use crate::codec::{Hot, Cold};",
        "use super::store::X; use super::{watcher, Engine};",
        "use super::super::key::SessionKey;",
        "pub(crate) use write::Writer; pub(super) fn f() {} pub(in crate::storage) fn g() {}",
        "/// See [`SessionStore`](crate::SessionStore::verify) and `crate::store`.\nfn f() {}",
        "//! crate::store\n/* crate::store */ const T: &str = \"crate::store sled\";",
        "const T: &str = r#\"crate::store \" crate::store\"#;",
        "#[cfg(test)]\nmod tests { use crate::store::X; fn f() { crate::watcher::g(); } }",
        "#[cfg(test)] mod tests; #[cfg(test)] use crate::store::X;",
        "fn f<'a>(x: &'a str) -> &'a str { x } use sled::Tree;",
        "fn f() { std::crate_::store(); }",
    ] {
        assert_eq!(check(Path::new("storage/open.rs"), text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(wrong("lib.rs", "pub use store::X; use crate::watcher::Y;"), 0);
    assert_eq!(wrong("storage/tests.rs", "use crate::store::X;"), 0);
    assert_eq!(wrong("cli/list.rs", "use crate::output; use cloakroom::SessionStore;"), 0);
    assert_eq!(wrong("prune.rs", "use crate::reset::P; use crate::store::S;"), 0);
}

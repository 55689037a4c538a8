//! A rig for power cuts, failing I/O and kills.
//!
//! A child process works below one directory, the root, with a preload library
//! (`tests/shim/shim.rs`) that records, fails or stops its file operations.
//! `trace` reads the record, `rebuild` makes directories as they could look
//! after a power cut at any operation.
//!
//! Limits: Linux x86_64, no symbolic links, no writes through mmap. A program
//! that makes system calls without libc (the `rustix` crate, so also the
//! `tempfile` crate) is not seen: use `std::fs` in the child. To prove that
//! nothing was missed, compare the root with a rebuild under `Survival::All`.

pub mod file_model;
pub mod rebuild;
mod record;
pub mod trace;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;
use trace::Trace;

/// The environment variables that tell a child its part.
pub const CHILD_PART: &str = "RIG_CHILD_PART";
pub const CHILD_ROOT: &str = "RIG_CHILD_ROOT";

/// Which calls of the child are to fail, and how.
pub struct Failure<'a> {
    /// Counted from 1, among the calls of the kinds.
    pub at: u64,
    pub errno: i32,
    /// `write`, `sync`, `syncdir`, `rename`, `link`, `open`, `unlink`, `any`; comma separated.
    pub kinds: &'a str,
    /// `once`, `forever` or `short`.
    pub mode: &'a str,
}

/// What the shim has counted in the process that wrote last.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    /// All changing calls: the range for a kill.
    pub changes: u64,
    /// Calls of the kinds in `Failure` (all kinds if there is none).
    pub matches: u64,
}

/// One root directory and the files about it.
pub struct Rig {
    home: TempDir,
    root: PathBuf,
}

impl Rig {
    pub fn new() -> Rig {
        let home = crate::common::fast_dir();
        let root = home.path().canonicalize().expect("its path").join("root");
        fs::create_dir(&root).expect("the root");
        Rig { home, root }
    }

    /// The directory that is watched. It survives from child to child.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A program under the shim, with a new trace. What is below the root now
    /// counts as durable.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let base = self.base();
        if base.exists() {
            fs::remove_dir_all(&base).expect("remove the old base");
        }
        copy_tree(&self.root, &base).expect("copy the base");
        for file in [self.trace_path(), self.count_path()] {
            fs::write(file, b"").expect("an empty trace");
        }
        let mut command = Command::new(program.as_ref());
        command
            .env("LD_PRELOAD", shim())
            .env("SHIM_ROOT", &self.root)
            .env("SHIM_TRACE", self.trace_path())
            .env("SHIM_COUNT", self.count_path())
            .env(CHILD_ROOT, &self.root);
        command
    }

    /// This test binary again, running only the test `test`, which looks at
    /// `CHILD_PART` to know that it is the child.
    pub fn child(&self, test: &str, part: &str) -> Command {
        let mut command = self.command(std::env::current_exe().expect("own path"));
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD_PART, part);
        command
    }

    /// The record of the last child.
    pub fn trace(&self) -> Trace {
        Trace::load_on(&self.trace_path(), Some(&self.base())).expect("a readable trace")
    }

    pub fn counts(&self) -> Counts {
        let bytes = fs::read(self.count_path()).expect("the counters");
        let number = |at: usize| match bytes.get(at..at + 8) {
            Some(part) => u64::from_le_bytes(part.try_into().expect("8 bytes")),
            None => 0,
        };
        Counts { changes: number(0), matches: number(8) }
    }

    pub fn trace_path(&self) -> PathBuf {
        self.home.path().join("trace")
    }

    fn count_path(&self) -> PathBuf {
        self.home.path().join("count")
    }

    fn base(&self) -> PathBuf {
        self.home.path().join("base")
    }
}

/// Extra settings of a child.
pub trait Inject {
    fn fail(&mut self, failure: &Failure) -> &mut Self;
    /// SIGKILL just before the n-th changing call, counted from 1.
    fn kill_at(&mut self, n: u64) -> &mut Self;
}

impl Inject for Command {
    fn fail(&mut self, failure: &Failure) -> &mut Self {
        self.env("SHIM_FAIL_AT", failure.at.to_string())
            .env("SHIM_FAIL_ERRNO", failure.errno.to_string())
            .env("SHIM_FAIL_KIND", failure.kinds)
            .env("SHIM_FAIL_MODE", failure.mode)
    }

    fn kill_at(&mut self, n: u64) -> &mut Self {
        self.env("SHIM_KILL_AT", n.to_string())
    }
}

/// Compiles the shim once. The result is named after its source, so several
/// test processes share it.
pub fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let mut hash = DefaultHasher::new();
        include_str!("../../shim/shim.rs").hash(&mut hash);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(dir).expect("the directory for the shim");
        let library = dir.join(format!("libshim-{:016x}.so", hash.finish()));
        if library.exists() {
            return library;
        }
        let draft = dir.join(format!("libshim-draft-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/shim.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O"])
            .args(["-C", "panic=abort", "-o"])
            .arg(&draft)
            .arg(&source)
            .status()
            .expect("rustc runs");
        assert!(status.success(), "the shim does not compile");
        fs::rename(&draft, &library).expect("put the shim in place");
        library
    })
}

/// Copies a tree of directories and plain files to a new place.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if !entry.file_type()?.is_socket() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

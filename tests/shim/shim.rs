//! A preload library for Linux x86_64 that stands between a test child and the
//! kernel: it records, fails or cuts off file operations below one directory.
//!
//! Build: `rustc --edition 2024 --crate-type cdylib -O -C panic=abort`.
//!
//! Environment (all optional; without `SHIM_ROOT` every call is passed on):
//! * `SHIM_ROOT`: canonical absolute directory. Other paths are left alone.
//! * `SHIM_TRACE`: file outside the root; each effective change is appended.
//! * `SHIM_FAIL_AT=N`, `SHIM_FAIL_ERRNO`, `SHIM_FAIL_KIND`, `SHIM_FAIL_MODE`:
//!   the N-th matching call fails. Kinds, comma separated: `write` (also
//!   truncate and allocate), `sync`, `syncdir` (of directories only), `rename`
//!   (also link), `link`, `open` (every open below the root, also mkdir),
//!   `unlink` (also rmdir), `any`. Modes: `once`,
//!   `forever`, `short` (half of the bytes are written, then ENOSPC for ever),
//!   `kill` (it fails; if it is an fsync, SIGKILL comes before anybody hears).
//! * `SHIM_SPACE=BYTES`: the files below the root may take so much, in blocks of
//!   4 KiB by their lengths; a write beyond is cut short, then fails (ENOSPC).
//! * `SHIM_KILL_AT=N`: SIGKILL just before the N-th changing call.
//! * `SHIM_MODES=OCTAL`: a mount that keeps no modes: what is made below the root
//!   has this mode (files without the execute bits), and chmod changes nothing.
//!   It fails with `SHIM_CHMOD_ERRNO`, if that is set.
//! * `SHIM_CLOCK=SECONDS`: the time of day is that far from the real one.
//! * `SHIM_COUNT`: file; two u64 LE: changing calls and fail-matching calls.
//!
//! The file `acks` directly below the root is the test's own channel: it is
//! traced, but never failed and never counted.
//!
//! Order: the operation and its record happen under one lock, which holds
//! between threads and (by a file lock on the trace) between processes. The
//! counters of fail, kill and count belong to each process. A process that exits takes the lock for good; one that is
//! killed may leave an operation without its record.
//!
//! Not seen: raw system call instructions (rustix), writes through mmap, stdio
//! streams, truncate by path, reflinks (ioctl), inherited fds above 63. Symbolic links below the
//! root are not followed. What could be seen but not modelled is refused:
//! rename or link over the root's edge (EXDEV), O_TMPFILE and hole punching
//! (EOPNOTSUPP); in-kernel copies to a file below the root (ENOSYS, on which
//! std falls back to plain writes). The variadic functions are defined with
//! fixed arguments, which is the same calling convention on x86_64.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

unsafe extern "C" {
    fn syscall(n: i64, ...) -> i64;
    fn __errno_location() -> *mut i32;
    fn pthread_atfork(a: extern "C" fn(), b: extern "C" fn(), c: extern "C" fn()) -> i32;
}

const AT_FDCWD: i32 = -100;
const O_CREAT: i32 = 0o100;
const O_TRUNC: i32 = 0o1000;
const O_APPEND: i64 = 0o2000;
const O_DSYNC: i64 = 0o10000;
const O_TMPFILE: i32 = 0o20000000;
const EIO: i32 = 5;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

// Kinds of call, as bits for SHIM_FAIL_KIND.
const WRITE: u8 = 1;
const SYNC: u8 = 2;
const RENAME: u8 = 4;
const OPEN: u8 = 8;
const UNLINK: u8 = 16;
const LINK: u8 = 32;
const SYNC_DIR: u8 = 64;

// Kinds of record. Each record is: kind u8, inode u64, number u64, the lengths
// of two byte strings u32 and u32, then the strings. Little endian.
const R_CREATE: u8 = 1; // path
const R_OPEN: u8 = 2; // path; tells which inode an existing name has
const R_WRITE: u8 = 3; // number = offset; data
const R_SETLEN: u8 = 4; // number = length
const R_SYNC: u8 = 5;
const R_SYNC_FAILED: u8 = 6;
const R_RANGE_SYNC: u8 = 7;
const R_RENAME: u8 = 8; // from, to
const R_LINK: u8 = 9; // from, to
const R_UNLINK: u8 = 10; // path
const R_MKDIR: u8 = 11; // path
const R_RMDIR: u8 = 12; // path

struct Config {
    root: Vec<u8>,
    trace: i32,
    count: i32,
    fail_at: u64,
    fail_errno: i32,
    fail_kind: u8,
    fail_mode: u8, // b'o' once, b'f' forever, b's' short, b'k' kill
    kill_at: u64,
    /// 0: no limit.
    space: u64,
    /// 0: modes are kept.
    modes: u32,
    chmod_errno: i32,
    clock: i64,
}

static CONFIG: OnceLock<Config> = OnceLock::new();
static LOCKED: AtomicBool = AtomicBool::new(false);
static CHANGES: AtomicU64 = AtomicU64::new(0);
static MATCHES: AtomicU64 = AtomicU64::new(0);
/// Bytes that the files below the root take.
static USED: AtomicU64 = AtomicU64::new(0);

/// Per fd: the inode of a file below the root, or 0. The top bit marks `acks`.
static FDS: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
const ACKS: u64 = 1 << 63;

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let number = |name: &str| var(name).map_or(0, |v| v.parse().expect("a number"));
    let file = |name: &str, flags: i32| match var(name) {
        None => -1,
        Some(v) => {
            let path = std::ffi::CString::new(v).expect("a path");
            // write-only, create, close-on-exec
            let flags = flags | 0o1 | O_CREAT | 0o2000000;
            let fd = unsafe { syscall(257, AT_FDCWD, path.as_ptr(), flags, 0o644) } as i32;
            if fd < 0 {
                die("shim: cannot open its own file\n")
            }
            // Far from the low numbers, which a program might expect to get.
            let high = unsafe { syscall(72, fd, 1030, 900) } as i32;
            unsafe { syscall(3, fd) };
            high
        }
    };
    let Some(root) = var("SHIM_ROOT") else { return };
    let mode = var("SHIM_FAIL_MODE").map_or(b'o', |v| v.as_bytes()[0]);
    let kinds = var("SHIM_FAIL_KIND").unwrap_or_else(|| "any".into());
    let bits = kinds.split(',').map(|kind| match kind {
        "write" => WRITE,
        "sync" => SYNC,
        "rename" => RENAME,
        "open" => OPEN,
        "unlink" => UNLINK,
        "link" => LINK,
        "syncdir" => SYNC_DIR,
        "any" => 0xff,
        _ => die("shim: unknown SHIM_FAIL_KIND\n"),
    });
    let fail_errno = match number("SHIM_FAIL_ERRNO") as i32 {
        0 if mode == b's' => ENOSPC,
        0 => EIO,
        n => n,
    };
    let config = Config {
        root: root.trim_end_matches('/').into(),
        trace: file("SHIM_TRACE", O_APPEND as i32),
        count: file("SHIM_COUNT", 0),
        fail_at: number("SHIM_FAIL_AT"),
        fail_errno,
        fail_kind: bits.fold(0, |a, b| a | b),
        fail_mode: mode,
        kill_at: number("SHIM_KILL_AT"),
        space: number("SHIM_SPACE"),
        modes: var("SHIM_MODES").map_or(0, |v| u32::from_str_radix(&v, 8).expect("an octal number")),
        chmod_errno: number("SHIM_CHMOD_ERRNO") as i32,
        clock: var("SHIM_CLOCK").map_or(0, |v| v.parse().expect("a number")),
    };
    if config.space > 0 {
        USED.store(bytes_below(std::path::Path::new(&root)), SeqCst);
    }
    // A forked child must not inherit the lock from another thread.
    unsafe { pthread_atfork(take, release, release) };
    let _ = CONFIG.set(config);
    // Files below the root that came with exec, as a shell's redirections do.
    for fd in 0..64 {
        let mut link = [0u8; 4096];
        let name = format!("/proc/self/fd/{fd}\0");
        let n = unsafe { syscall(89, name.as_ptr(), link.as_mut_ptr(), link.len() - 1) };
        if n > 0
            && let Some(path) = unsafe { below(AT_FDCWD, link.as_ptr().cast()) }
        {
            let (inode, acks) = (stat(fd).0, path == b"acks");
            track(fd as i64, if acks { inode | ACKS } else { inode });
        }
    }
}

/// What the files below a directory take. Called before anything is watched.
fn bytes_below(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name() != "acks")
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => blocks(meta.len()),
            Err(_) => 0,
        })
        .sum()
}

/// A length in whole blocks.
fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(4096) * 4096
}

/// How many of the bytes there is space for, and how much they take.
fn fits(config: &Config, size: u64, at: u64, len: usize) -> (usize, u64) {
    let free = config.space.saturating_sub(USED.load(SeqCst));
    if config.space == 0 || blocks(at + len as u64) <= blocks(size) + free {
        return (len, blocks(at + len as u64).saturating_sub(blocks(size)));
    }
    let end = blocks(size) + free / 4096 * 4096;
    (end.saturating_sub(at) as usize, end - blocks(size))
}

/// What a file takes that goes when its last name does.
unsafe fn last_name(dir: i32, path: *const c_char) -> u64 {
    let mut buf = [0u64; 18];
    let found = unsafe { syscall(262, dir, path, buf.as_mut_ptr(), 0x100) } == 0;
    if found && buf[2] == 1 && buf[3] & 0o170000 == 0o100000 { blocks(buf[6]) } else { 0 }
}

fn die(text: &str) -> ! {
    unsafe {
        syscall(1, 2, text.as_ptr(), text.len());
        syscall(231, 99);
    }
    unreachable!()
}

extern "C" fn take() {
    while LOCKED.swap(true, SeqCst) {
        unsafe { syscall(24) }; // sched_yield
    }
}

/// When the process ends: an operation under way is recorded first, and none comes after it. So nothing is on the files that
/// the trace lacks.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = take;

extern "C" fn release() {
    LOCKED.store(false, SeqCst);
}

/// The one lock. Beside the spin lock it holds a POSIX lock on the trace.
struct Guard(&'static Config);

impl Guard {
    fn new(config: &'static Config) -> Guard {
        take();
        let guard = Guard(config);
        guard.file_lock(1);
        guard
    }

    fn file_lock(&self, kind: i16) {
        #[repr(C)]
        struct Flock(i16, i16, i64, i64, i32);
        if self.0.trace >= 0 {
            let lock = Flock(kind, 0, 0, 0, 0);
            unsafe { while syscall(72, self.0.trace, 7, &raw const lock) < 0 {} }
        }
    }

    fn kill(&self) -> ! {
        unsafe {
            syscall(62, syscall(39), 9);
            loop {
                syscall(34); // pause, with the lock held
            }
        }
    }

    /// Counts the call, kills the process or tells what to do with the call.
    fn gate(&self, kind: u8, changes: bool, exempt: bool) -> Gate {
        if exempt {
            return Gate::Go;
        }
        let config = self.0;
        if changes && CHANGES.fetch_add(1, SeqCst) + 1 == config.kill_at {
            self.kill();
        }
        let matches = config.fail_kind & kind != 0;
        let n = MATCHES.fetch_add(matches as u64, SeqCst) + 1;
        if config.count >= 0 {
            let both = [CHANGES.load(SeqCst), MATCHES.load(SeqCst)];
            unsafe { syscall(18, config.count, both.as_ptr(), 16usize, 0i64) };
        }
        let at = config.fail_at;
        match config.fail_mode {
            _ if at == 0 || !matches || n < at => Gate::Go,
            b's' if n == at => Gate::Short,
            b'o' | b'k' if n > at => Gate::Go,
            _ => Gate::Fail(config.fail_errno),
        }
    }

    fn record(&self, kind: u8, inode: u64, number: u64, one: &[u8], two: &[u8]) {
        if self.0.trace < 0 {
            return;
        }
        let mut head = vec![kind];
        head.extend(inode.to_le_bytes());
        head.extend(number.to_le_bytes());
        head.extend((one.len() as u32).to_le_bytes());
        head.extend((two.len() as u32).to_le_bytes());
        let parts = [&head[..], one, two].map(|part| (part.as_ptr(), part.len()));
        let total = head.len() + one.len() + two.len();
        let done = unsafe { syscall(20, self.0.trace, parts.as_ptr(), 3) };
        if done != total as i64 {
            die("shim: cannot write the trace\n");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.file_lock(2);
        release();
    }
}

enum Gate {
    Go,
    Short,
    Fail(i32),
}

fn fail(errno: i32) -> i64 {
    unsafe { *__errno_location() = errno };
    -1
}

/// The path below the root (without leading slash), or None if it is elsewhere.
unsafe fn below(dir: i32, path: *const c_char) -> Option<Vec<u8>> {
    let config = CONFIG.get()?;
    if path.is_null() {
        return None;
    }
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let mut full = Vec::new();
    if path.first() != Some(&b'/') {
        let link = match dir {
            AT_FDCWD => "/proc/self/cwd\0".to_string(),
            fd => format!("/proc/self/fd/{fd}\0"),
        };
        full = vec![0u8; 4096];
        let n = unsafe { syscall(89, link.as_ptr(), full.as_mut_ptr(), full.len()) };
        full.truncate(n.max(0) as usize);
    }
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => full.truncate(full.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            name => {
                full.push(b'/');
                full.extend(name);
            }
        }
    }
    match full.strip_prefix(&config.root[..])? {
        [] => Some(Vec::new()),
        [b'/', rest @ ..] => Some(rest.to_vec()),
        _ => None,
    }
}

fn slot(fd: i32) -> Option<&'static AtomicU64> {
    FDS.get(fd as usize)
}

fn track(fd: i64, value: u64) {
    if let Some(slot) = slot(fd as i32) {
        slot.store(value, SeqCst);
    }
}

struct File {
    config: &'static Config,
    inode: u64,
    acks: bool,
}

/// (inode, size) of an open file.
fn stat(fd: i32) -> (u64, u64) {
    let mut buf = [0u64; 18];
    match unsafe { syscall(5, fd, buf.as_mut_ptr()) } {
        0 => (buf[1], buf[6]),
        _ => (0, 0),
    }
}

fn is_directory(fd: i32) -> bool {
    let mut buf = [0u64; 18];
    unsafe { syscall(5, fd, buf.as_mut_ptr()) == 0 && buf[3] & 0o170000 == 0o040000 }
}

/// chmod, where the file is below the root.
fn change_mode(config: &Config, raw: impl Fn() -> i64) -> i32 {
    match (config.modes, config.chmod_errno) {
        (0, _) => raw() as i32,
        (_, 0) => 0,
        (_, errno) => fail(errno) as i32,
    }
}

/// What is known of an fd. libc may have closed it behind our back (closedir),
/// so the inode is compared.
fn known(fd: i32) -> Option<File> {
    let value = slot(fd)?.load(SeqCst);
    if value == 0 {
        return None;
    }
    let inode = value & !ACKS;
    if stat(fd).0 != inode {
        track(fd as i64, 0);
        return None;
    }
    Some(File {
        config: CONFIG.get()?,
        inode,
        acks: value & ACKS != 0,
    })
}

unsafe fn do_open(dir: i32, path: *const c_char, flags: i32, mode: u32) -> i32 {
    let raw = || unsafe { syscall(257, dir, path, flags, mode) };
    let Some(name) = (unsafe { below(dir, path) }) else {
        let fd = raw();
        track(fd, 0);
        return fd as i32;
    };
    let config = CONFIG.get().expect("set");
    let guard = Guard::new(config);
    let mut buf = [0u64; 18];
    let exists = unsafe { syscall(262, dir, path, buf.as_mut_ptr(), 0) } == 0;
    let creates = flags & O_CREAT != 0 && !exists;
    let empties = flags & O_TRUNC != 0 && exists;
    let acks = name == b"acks";
    match guard.gate(OPEN, creates || empties, acks) {
        Gate::Go => {}
        Gate::Short => return fail(ENOSPC) as i32,
        Gate::Fail(errno) => return fail(errno) as i32,
    }
    if flags & O_TMPFILE == O_TMPFILE {
        return fail(EOPNOTSUPP) as i32;
    }
    let fd = raw();
    if fd < 0 {
        return fd as i32;
    }
    if fd as usize >= FDS.len() {
        unsafe { syscall(3, fd) };
        return fail(EMFILE) as i32;
    }
    if creates && config.modes != 0 {
        unsafe { syscall(91, fd, config.modes & 0o666) };
    }
    let inode = stat(fd as i32).0;
    guard.record(
        if creates { R_CREATE } else { R_OPEN },
        inode,
        0,
        &name,
        b"",
    );
    if empties {
        guard.record(R_SETLEN, inode, 0, b"", b"");
    }
    track(fd, if acks { inode | ACKS } else { inode });
    fd as i32
}

type Buf = (*const u8, usize);

/// All writes. `offset` is None for the file's own position.
unsafe fn do_write(fd: i32, bufs: &[Buf], offset: Option<i64>, raw: impl Fn() -> i64) -> isize {
    let Some(file) = known(fd) else {
        return raw() as isize;
    };
    let guard = Guard::new(file.config);
    let mut data = Vec::new();
    for &(start, len) in bufs.iter().filter(|b| b.1 > 0) {
        data.extend_from_slice(unsafe { std::slice::from_raw_parts(start, len) });
    }
    let len = match guard.gate(WRITE, true, file.acks) {
        Gate::Go => data.len(),
        Gate::Short if data.len() > 1 => data.len() / 2,
        Gate::Short => return fail(ENOSPC) as isize,
        Gate::Fail(errno) => return fail(errno) as isize,
    };
    let flags = unsafe { syscall(72, fd, 3) }; // F_GETFL
    let size = stat(fd).1;
    let start = match offset {
        _ if flags & O_APPEND != 0 => size,
        Some(at) => at as u64,
        None => unsafe { syscall(8, fd, 0i64, 1) as u64 },
    };
    let (len, taken) = if file.acks { (len, 0) } else { fits(file.config, size, start, len) };
    if len == 0 && !data.is_empty() {
        return fail(ENOSPC) as isize;
    }
    USED.fetch_add(taken, SeqCst);
    let n = match offset {
        None => unsafe { syscall(1, fd, data.as_ptr(), len) },
        Some(at) => unsafe { syscall(18, fd, data.as_ptr(), len, at) },
    };
    if n <= 0 {
        return n as isize;
    }
    let at = match offset {
        // On Linux, pwrite to an O_APPEND file appends.
        Some(_) if flags & O_APPEND != 0 => stat(fd).1 as i64 - n,
        Some(at) => at,
        None => (unsafe { syscall(8, fd, 0i64, 1) }) - n,
    };
    guard.record(R_WRITE, file.inode, at as u64, &data[..n as usize], b"");
    if flags & O_DSYNC != 0 {
        guard.record(R_SYNC, file.inode, 0, b"", b"");
    }
    n as isize
}

/// A call on one fd; `record` is the kind and number to note on success.
fn on_fd(fd: i32, kind: u8, record: (u8, u64), raw: impl Fn() -> i64) -> i32 {
    let Some(file) = known(fd) else {
        return raw() as i32;
    };
    let guard = Guard::new(file.config);
    let size = stat(fd).1;
    let kind = if kind == SYNC && is_directory(fd) { SYNC | SYNC_DIR } else { kind };
    let done = match guard.gate(kind, true, file.acks) {
        Gate::Go => raw(),
        Gate::Short => fail(ENOSPC),
        Gate::Fail(errno) => fail(errno),
    };
    if done == 0 && record.0 == R_SETLEN {
        USED.fetch_add(blocks(record.1).wrapping_sub(blocks(size)), SeqCst);
    }
    if done == 0 {
        guard.record(record.0, file.inode, record.1, b"", b"");
    } else if record.0 == R_SYNC {
        let errno = unsafe { *__errno_location() };
        guard.record(R_SYNC_FAILED, file.inode, 0, b"", b"");
        if file.config.fail_mode == b'k' {
            guard.kill();
        }
        fail(errno);
    }
    done as i32
}

/// A call on one path.
unsafe fn on_path(
    dir: i32,
    path: *const c_char,
    kind: u8,
    record: u8,
    raw: impl Fn() -> i64,
) -> i32 {
    let Some(name) = (unsafe { below(dir, path) }) else {
        return raw() as i32;
    };
    let guard = Guard::new(CONFIG.get().expect("set"));
    let goes = if kind == UNLINK { unsafe { last_name(dir, path) } } else { 0 };
    let done = match guard.gate(kind, true, false) {
        Gate::Go => raw(),
        Gate::Short => fail(ENOSPC),
        Gate::Fail(errno) => fail(errno),
    };
    if done == 0 {
        USED.fetch_sub(goes, SeqCst);
        guard.record(record, 0, 0, &name, b"");
    }
    done as i32
}

type At = (i32, *const c_char);

/// Rename and link.
unsafe fn on_two(from: At, to: At, record: u8, raw: impl Fn() -> i64) -> i32 {
    let names = unsafe { (below(from.0, from.1), below(to.0, to.1)) };
    let (from, target, to) = match names {
        (Some(from), Some(name)) => (from, to, name),
        (None, None) => return raw() as i32,
        _ => return fail(EXDEV) as i32,
    };
    let guard = Guard::new(CONFIG.get().expect("set"));
    let goes = if record == R_RENAME { unsafe { last_name(target.0, target.1) } } else { 0 };
    let kind = if record == R_LINK { RENAME | LINK } else { RENAME };
    let done = match guard.gate(kind, true, false) {
        Gate::Go => raw(),
        Gate::Short => fail(ENOSPC),
        Gate::Fail(errno) => fail(errno),
    };
    if done == 0 {
        USED.fetch_sub(goes, SeqCst);
        guard.record(record, 0, 0, &from, &to);
    }
    done as i32
}

/// fallocate: only what makes a file longer can be modelled.
fn allocate(fd: i32, mode: i32, offset: i64, len: i64) -> i32 {
    let raw = || unsafe { syscall(285, fd, mode, offset, len) };
    match known(fd) {
        None => raw() as i32,
        Some(_) if mode == 0 => {
            let new = stat(fd).1.max((offset + len) as u64);
            on_fd(fd, WRITE, (R_SETLEN, new), raw)
        }
        Some(_) if mode == 1 => raw() as i32, // keeps the size: no content changes
        Some(_) => fail(EOPNOTSUPP) as i32,
    }
}

/// A copy of a tracked fd is tracked too.
fn copied(old: i32, new: i64) -> i32 {
    if new >= 0 && new != old as i64 {
        track(new, slot(old).map_or(0, |s| s.load(SeqCst)));
    }
    new as i32
}

macro_rules! exports {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unused_unsafe)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret { unsafe { $body } })*
    };
}

type P = *const c_char;
type Iov = *const Buf;

exports! {
    open(path: P, flags: i32, mode: u32) -> i32 { do_open(AT_FDCWD, path, flags, mode) }
    open64(path: P, flags: i32, mode: u32) -> i32 { do_open(AT_FDCWD, path, flags, mode) }
    openat(dir: i32, path: P, flags: i32, mode: u32) -> i32 { do_open(dir, path, flags, mode) }
    openat64(dir: i32, path: P, flags: i32, mode: u32) -> i32 { do_open(dir, path, flags, mode) }
    creat(path: P, mode: u32) -> i32 { do_open(AT_FDCWD, path, O_CREAT | O_TRUNC | 1, mode) }
    creat64(path: P, mode: u32) -> i32 { do_open(AT_FDCWD, path, O_CREAT | O_TRUNC | 1, mode) }
    close(fd: i32) -> i32 { track(fd as i64, 0); syscall(3, fd) as i32 }
    dup(fd: i32) -> i32 { copied(fd, syscall(32, fd)) }
    dup2(old: i32, new: i32) -> i32 { copied(old, syscall(33, old, new)) }
    dup3(old: i32, new: i32, flags: i32) -> i32 { copied(old, syscall(292, old, new, flags)) }
    fcntl(fd: i32, cmd: i32, arg: usize) -> i32 {
        let done = syscall(72, fd, cmd, arg);
        if cmd == 0 || cmd == 1030 { copied(fd, done) } else { done as i32 }
    }
    fcntl64(fd: i32, cmd: i32, arg: usize) -> i32 { fcntl(fd, cmd, arg) }
    write(fd: i32, buf: *const u8, len: usize) -> isize {
        do_write(fd, &[(buf, len)], None, || syscall(1, fd, buf, len))
    }
    pwrite(fd: i32, buf: *const u8, len: usize, at: i64) -> isize {
        do_write(fd, &[(buf, len)], Some(at), || syscall(18, fd, buf, len, at))
    }
    pwrite64(fd: i32, buf: *const u8, len: usize, at: i64) -> isize { pwrite(fd, buf, len, at) }
    writev(fd: i32, iov: Iov, n: i32) -> isize {
        let bufs = std::slice::from_raw_parts(iov, n.max(0) as usize);
        do_write(fd, bufs, None, || syscall(20, fd, iov, n))
    }
    pwritev(fd: i32, iov: Iov, n: i32, at: i64) -> isize {
        let bufs = std::slice::from_raw_parts(iov, n.max(0) as usize);
        do_write(fd, bufs, Some(at), || syscall(296, fd, iov, n, at, 0i64))
    }
    pwritev64(fd: i32, iov: Iov, n: i32, at: i64) -> isize { pwritev(fd, iov, n, at) }
    ftruncate(fd: i32, len: i64) -> i32 {
        on_fd(fd, WRITE, (R_SETLEN, len as u64), || syscall(77, fd, len))
    }
    ftruncate64(fd: i32, len: i64) -> i32 { ftruncate(fd, len) }
    fallocate(fd: i32, mode: i32, at: i64, len: i64) -> i32 { allocate(fd, mode, at, len) }
    fallocate64(fd: i32, mode: i32, at: i64, len: i64) -> i32 { allocate(fd, mode, at, len) }
    posix_fallocate(fd: i32, at: i64, len: i64) -> i32 {
        if allocate(fd, 0, at, len) == 0 { 0 } else { *__errno_location() }
    }
    posix_fallocate64(fd: i32, at: i64, len: i64) -> i32 { posix_fallocate(fd, at, len) }
    clock_gettime(clock: i32, time: *mut i64) -> i32 {
        let done = syscall(228, clock, time) as i32;
        if clock == 0 && done == 0 {
            *time += CONFIG.get().map_or(0, |config| config.clock);
        }
        done
    }
    fsync(fd: i32) -> i32 { on_fd(fd, SYNC, (R_SYNC, 0), || syscall(74, fd)) }
    fdatasync(fd: i32) -> i32 { on_fd(fd, SYNC, (R_SYNC, 0), || syscall(75, fd)) }
    sync_file_range(fd: i32, at: i64, len: i64, flags: u32) -> i32 {
        on_fd(fd, SYNC, (R_RANGE_SYNC, 0), || syscall(277, fd, at, len, flags))
    }
    rename(from: P, to: P) -> i32 { renameat(AT_FDCWD, from, AT_FDCWD, to) }
    renameat(a: i32, from: P, b: i32, to: P) -> i32 { renameat2(a, from, b, to, 0) }
    renameat2(a: i32, from: P, b: i32, to: P, flags: u32) -> i32 {
        if flags > 1 && (below(a, from).is_some() || below(b, to).is_some()) {
            return fail(EINVAL) as i32; // exchange and whiteout
        }
        on_two((a, from), (b, to), R_RENAME, || syscall(316, a, from, b, to, flags))
    }
    link(from: P, to: P) -> i32 { linkat(AT_FDCWD, from, AT_FDCWD, to, 0) }
    linkat(a: i32, from: P, b: i32, to: P, flags: i32) -> i32 {
        on_two((a, from), (b, to), R_LINK, || syscall(265, a, from, b, to, flags))
    }
    unlink(path: P) -> i32 { unlinkat(AT_FDCWD, path, 0) }
    rmdir(path: P) -> i32 { unlinkat(AT_FDCWD, path, 0x200) }
    unlinkat(dir: i32, path: P, flags: i32) -> i32 {
        let record = if flags & 0x200 != 0 { R_RMDIR } else { R_UNLINK };
        on_path(dir, path, UNLINK, record, || syscall(263, dir, path, flags))
    }
    mkdir(path: P, mode: u32) -> i32 { mkdirat(AT_FDCWD, path, mode) }
    mkdirat(dir: i32, path: P, mode: u32) -> i32 {
        on_path(dir, path, OPEN, R_MKDIR, || {
            let done = syscall(258, dir, path, mode);
            let modes = CONFIG.get().map_or(0, |config| config.modes);
            if done == 0 && modes != 0 && below(dir, path).is_some() {
                syscall(268, dir, path, modes);
            }
            done
        })
    }
    chmod(path: P, mode: u32) -> i32 { fchmodat(AT_FDCWD, path, mode, 0) }
    fchmodat(dir: i32, path: P, mode: u32, _flags: i32) -> i32 {
        let raw = || syscall(268, dir, path, mode);
        match CONFIG.get().filter(|_| below(dir, path).is_some()) {
            Some(config) => change_mode(config, raw),
            None => raw() as i32,
        }
    }
    fchmod(fd: i32, mode: u32) -> i32 {
        let raw = || syscall(91, fd, mode);
        match known(fd) {
            Some(file) => change_mode(file.config, raw),
            None => raw() as i32,
        }
    }
    copy_file_range(a: i32, x: *mut i64, b: i32, y: *mut i64, len: usize, flags: u32) -> isize {
        if known(b).is_some() { return fail(ENOSYS) as isize }
        syscall(326, a, x, b, y, len, flags) as isize
    }
    sendfile(out: i32, from: i32, at: *mut i64, len: usize) -> isize {
        if known(out).is_some() { return fail(ENOSYS) as isize }
        syscall(40, out, from, at, len) as isize
    }
    sendfile64(out: i32, from: i32, at: *mut i64, len: usize) -> isize { sendfile(out, from, at, len) }
    splice(a: i32, x: *mut i64, b: i32, y: *mut i64, len: usize, flags: u32) -> isize {
        if known(b).is_some() { return fail(EINVAL) as isize }
        syscall(275, a, x, b, y, len, flags) as isize
    }
}

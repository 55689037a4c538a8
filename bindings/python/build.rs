//! Has the library unwind by the system's `libgcc_s`, as the C library does.
//!
//! Where the interpreter ends while a thread is in a verb, `pthread_exit` unwinds that thread, Rust's frames included, and it does
//! so by `libgcc_s`. zig, which links the wheel that is shipped, would link an unwinder of its own into it: the two do not
//! understand each other, and the process crashes at its end.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const NAME: &str = "libgcc_s.so.1";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ZIGBUILD_TARGET");
    if env::var_os("CARGO_ZIGBUILD_TARGET").is_none() {
        return;
    }
    let Ok(found) = Command::new("gcc").arg(format!("-print-file-name={NAME}")).output() else { return };
    let Ok(found) = String::from_utf8(found.stdout) else { return };
    let Ok(directory) = env::var("OUT_DIR") else { return };
    // From a directory of its own: beside it lies a C library, newer than the one that is linked for.
    if fs::copy(found.trim(), Path::new(&directory).join(NAME)).is_ok() {
        println!("cargo::rustc-link-search=native={directory}");
        println!("cargo::rustc-link-lib=dylib:+verbatim={NAME}");
    }
}

//! A preload library for Linux x86_64: the time of day is `AHEAD` seconds ahead.
//!
//! Build: `rustc --edition 2024 --crate-type cdylib -O -C panic=abort`.
#![allow(clippy::missing_safety_doc)]

use std::sync::OnceLock;

unsafe extern "C" {
    fn syscall(n: i64, ...) -> i64;
}

fn ahead() -> i64 {
    static AHEAD: OnceLock<i64> = OnceLock::new();
    *AHEAD.get_or_init(|| std::env::var("AHEAD").ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut i64, zone: *mut u8) -> i32 {
    let done = unsafe { syscall(96, time, zone) as i32 };
    if done == 0 && !time.is_null() {
        unsafe { *time += ahead() };
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: i32, time: *mut i64) -> i32 {
    let done = unsafe { syscall(228, clock, time) as i32 };
    if clock == 0 && done == 0 {
        unsafe { *time += ahead() };
    }
    done
}

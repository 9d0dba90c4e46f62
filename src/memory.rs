//! How glibc's allocator keeps and returns memory; the one module with unsafe code.
//!
//! Measured beside mimalloc on the same proxy: 3.7 MiB idle in place of 10, 7.4 MiB after load in place of 57, 16 KiB
//! an idle TLS connection in place of 38, for some 8 per cent more CPU. Without these two settings glibc kept 35 MiB
//! after load. The settings can be made by environment variables as well, but those are the pod's, not ours.
//!
//! The threshold gives back the top of the heap alone. After a burst of 2,000 connections 97 MiB of free memory lay below
//! some last piece in use and stayed: [`keep_low`] looks every few seconds and gives such pages back.
#![allow(unsafe_code)]

use std::time::Duration;

/// Returns what is free at the top of the heap from this size on, in bytes.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 64 * 1024;

/// Sets the allocator up; to be called before any thread is started.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and no other thread is running yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// How often free memory is looked at; a look costs microseconds.
const LOOK: Duration = Duration::from_secs(5);
/// Free memory below this is kept: it will be needed again.
const KEPT: usize = 4 << 20;
/// A change of free memory that is worth the next round.
const CHANGE: usize = 1 << 20;

/// Gives back to the kernel what a burst has left free, for the life of the process. Runs on the control side; the
/// allocator is locked for about a millisecond for each 30 MiB given back.
pub async fn keep_low() {
    let mut given = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let free = free();
        if free >= KEPT && free.abs_diff(given) >= CHANGE {
            give_back();
            given = free;
        }
    }
}

/// Bytes that the allocator holds and nobody uses, those included that were given back.
#[cfg(target_env = "gnu")]
fn free() -> usize {
    // SAFETY: it takes nothing, returns numbers, and locks for itself.
    unsafe { libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it takes a number and locks for itself; pages in use are left alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn free() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

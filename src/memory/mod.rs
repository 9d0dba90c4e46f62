//! How glibc's allocator keeps and returns memory, and which pages of the binary stay mapped; the one module with unsafe
//! code. What workers keep at hand in front of it is in [`blocks`].
//!
//! Measured beside mimalloc on the same proxy: 3.7 MiB idle in place of 10, 7.4 MiB after load in place of 57, 16 KiB
//! an idle TLS connection in place of 38, for some 8 per cent more CPU. Without these two settings glibc kept 35 MiB
//! after load. The settings can be made by environment variables as well, but those are the pod's, not ours.
//!
//! The threshold gives back the top of the heap alone. After a burst of 2,000 connections 97 MiB of free memory lay below
//! some last piece in use and stayed: [`keep_low`], on the control side, looks each second and gives such pages back.
#![allow(unsafe_code)]

pub mod blocks;

use std::time::{Duration, Instant};

/// Returns what is free at the top of the heap from this size on, in bytes.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 64 * 1024;
/// Start is over by then: what only it needed of the binary is unmapped.
const STARTED: Duration = Duration::from_millis(400);
/// From one look to the next.
const EACH: Duration = Duration::from_secs(1);
/// Bytes beyond what is in use that are worth giving back.
const WORTH: usize = 2 << 20;
/// So much less in use than when memory was given back: then the last pieces on many a page may have gone, and it is tried
/// again. A burst ends with the small ones, long after most of it.
const LESS: usize = WORTH / 16;
/// Time between two times of unmapping the binary: a third of a millisecond, and as much to map again what runs.
const UNMAP_EACH: Duration = Duration::from_secs(30);
/// The same at most, when there was something to give back: what a burst ran through is mapped too.
const UNMAP_AFTER: Duration = Duration::from_secs(5);

/// Sets the allocator up; to be called before any thread is started.
pub fn configure() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and no other thread is running yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Gives memory back while the process runs, for ever. To be spawned on the control side.
pub async fn keep_low() {
    tokio::time::sleep(STARTED).await;
    trim();
    unmap_clean_code();
    // When the binary is unmapped next; what is given back meanwhile brings that forward.
    let mut unmap = Instant::now() + UNMAP_EACH;
    // Anonymous memory above which giving back is tried again.
    let mut above = 0;
    // What was in use then: when much less is, the pages that it shared with what was free are free now.
    let mut used_then = 0;
    let mut each = tokio::time::interval(EACH);
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        each.tick().await;
        let (Some(used), Some(resident)) = (in_use(), anonymous()) else { return };
        let limit = used + (used / 4).max(WORTH);
        if resident <= limit {
            above = 0;
        } else if resident > above || used + LESS <= used_then {
            trim();
            used_then = used;
            // What is left is scattered among pages in use: once more of it is not worth a look.
            above = anonymous().unwrap_or(resident) + WORTH;
            unmap = unmap.min(Instant::now() + UNMAP_AFTER);
        }
        if Instant::now() >= unmap {
            unmap_clean_code();
            unmap = Instant::now() + UNMAP_EACH;
        }
    }
}

/// Bytes that the allocator has given out.
fn in_use() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallinfo2 has no arguments and only reads the allocator's state, under its lock.
        let info = unsafe { libc::mallinfo2() };
        Some(info.uordblks + info.hblkhd)
    }
    #[cfg(not(target_env = "gnu"))]
    {
        None
    }
}

/// Bytes of resident memory that belong to no file.
fn anonymous() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|n| n.parse::<usize>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * page())
}

fn page() -> usize {
    // SAFETY: sysconf takes an integer and returns one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The allocator is locked for about a millisecond for each 30 MiB given back.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and gives back pages that nothing uses, under the allocator's lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps pages of the binary that nothing has written to. What runs is mapped again at once, from the page cache; what
/// was needed at start only stays out: some 4 of 7 MiB.
fn unmap_clean_code() {
    let Ok(binary) = std::env::current_exe() else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, end) in clean(&maps, &binary.to_string_lossy()) {
        // SAFETY: the range is a mapping of a file that has no write permission and no page that differs from the file.
        // Its pages are read from the file again when they are next used; no contents are lost.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
        }
    }
}

/// Mappings of `binary` in the text of `/proc/self/smaps` that cannot be written and have no page of their own.
///
/// A page of its own is one that is no longer the file's, which is what `Anonymous` counts. `Private_Dirty` counts also
/// pages of the file that are not on the disk yet: all of them, in the first half minute of a binary that was just written.
fn clean(smaps: &str, binary: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(range) = mapping(line, binary) {
            current = range;
        } else if let Some(own) = line.strip_prefix("Anonymous:")
            && let Some(range) = current.take()
            && own.trim() == "0 kB"
        {
            found.push(range);
        }
    }
    found
}

/// Some if the line begins a mapping; with its range if it is one of `binary` without write permission.
fn mapping(line: &str, binary: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    let permissions = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    Some((name == binary && permissions.starts_with('r') && !permissions.contains('w')).then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_mappings_when_looked_at_then_only_clean_read_only_ones_of_the_binary_are_found() {
        let smaps = "\
1000-2000 r--p 00000000 08:01 5 /bin/x
Size: 4 kB
Private_Dirty:         4 kB
Anonymous:             0 kB
2000-4000 r-xp 00001000 08:01 5 /bin/x
Anonymous:             0 kB
4000-5000 r--p 00003000 08:01 5 /bin/x
Anonymous:             4 kB
5000-6000 rw-p 00004000 08:01 5 /bin/x
Anonymous:             0 kB
6000-7000 r-xp 00000000 08:01 6 /lib/libc.so.6
Anonymous:             0 kB
7000-8000 rw-p 00000000 00:00 0
Anonymous:             0 kB
8000-9000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
";
        assert_eq!(clean(smaps, "/bin/x"), [(0x1000, 0x2000), (0x2000, 0x4000)]);
    }

    #[test]
    fn given_this_process_when_its_memory_is_given_back_then_it_still_runs() {
        let (used, resident) = (in_use(), anonymous());
        trim();
        unmap_clean_code();
        assert!(resident.is_some_and(|bytes| bytes > 0));
        assert!(cfg!(not(target_env = "gnu")) || used.is_some_and(|bytes| bytes > 0));
    }
}

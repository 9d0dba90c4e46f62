//! How much memory this process may use.
//!
//! Called once at start by roles that bound what callers can make them hold.
use std::fs;
use std::path::Path;

/// The limit of the cgroup in bytes; none without one.
#[must_use]
pub fn limit() -> Option<u64> {
    limit_in(Path::new("/sys/fs/cgroup"))
}

/// The same below `root`: version 2 of cgroups, else version 1. A container's own cgroup is the root that it sees.
fn limit_in(root: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    let text = read("memory.max").or_else(|| read("memory/memory.limit_in_bytes"))?;
    // Version 1 writes a number near 2^63 for no limit.
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 50)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_files_of_either_version_then_the_limit_is_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(limit_in(root.path()), None);
        fs::create_dir(root.path().join("memory")).unwrap();
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(limit_in(root.path()), None);
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "1048576\n").unwrap();
        assert_eq!(limit_in(root.path()), Some(1 << 20));
        fs::write(root.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(limit_in(root.path()), None);
        fs::write(root.path().join("memory.max"), "629145600\n").unwrap();
        assert_eq!(limit_in(root.path()), Some(600 << 20));
    }
}

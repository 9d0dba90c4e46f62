//! How many worker threads to start.
//!
//! Called once at start by each role, before any thread exists. [`workers`] is pure; [`Limits::of_this_process`] reads
//! `/proc` and `/sys/fs/cgroup`. Rules: `WORKER_THREADS` wins; else the quota of the cgroup, rounded (below 1.5 CPUs: one
//! thread, since more threads than quota is what throttles the Go components); else the CPUs that the process may use,
//! at most four.
use std::fs;
use std::path::Path;

/// Without a quota, more threads than this buy nothing for a sidecar.
const UNLIMITED_CAP: usize = 4;

/// What the machine grants to this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// CPU time per time, of the tightest cgroup; `None` without a limit.
    pub quota: Option<f64>,
    /// CPUs that the process may run on; at least 1.
    pub cpus: usize,
}

/// The number of worker threads, at least 1. `configured` is `WORKER_THREADS`.
pub fn workers(limits: Limits, configured: Option<u32>) -> usize {
    let cpus = limits.cpus.max(1);
    if let Some(configured) = configured {
        return (configured as usize).max(1);
    }
    match limits.quota {
        // A quota is a small positive number of CPUs; the cast saturates.
        Some(quota) => (quota.round() as usize).clamp(1, cpus),
        None => cpus.min(UNLIMITED_CAP),
    }
}

impl Limits {
    /// The limits of this process; what cannot be read counts as unlimited.
    pub fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = allowed_cpus(&read("/proc/self/status"))
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1);
        Self { quota: quota(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup")), cpus }
    }
}

/// The tightest quota between the process's cgroup and the root of the mount at `root`; `membership` is the content of
/// `/proc/self/cgroup`.
///
/// In a container with its own cgroup namespace the path is `/`; without one the mount may not contain the path, and
/// then only the directories that exist count.
pub fn quota(root: &Path, membership: &str) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    let mut consider = |found: Option<f64>| {
        if let Some(found) = found {
            tightest = Some(tightest.map_or(found, |so_far| so_far.min(found)));
        }
    };
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.is_empty() {
            ancestors(root, path, |directory| consider(read(directory, "cpu.max").as_deref().and_then(quota_v2)));
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            for mount in [controllers, "cpu", "cpu,cpuacct"] {
                ancestors(&root.join(mount), path, |directory| {
                    let quota = read(directory, "cpu.cfs_quota_us").unwrap_or_default();
                    let period = read(directory, "cpu.cfs_period_us").unwrap_or_default();
                    consider(quota_v1(&quota, &period));
                });
            }
        }
    }
    tightest
}

/// The quota in a `cpu.max` file of cgroup v2: `max 100000` or `50000 100000` (microseconds).
pub fn quota_v2(cpu_max: &str) -> Option<f64> {
    let mut fields = cpu_max.split_ascii_whitespace();
    quota_v1(fields.next()?, fields.next().unwrap_or("100000"))
}

/// The quota of the two files of cgroup v1, `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`.
pub fn quota_v1(quota_us: &str, period_us: &str) -> Option<f64> {
    let quota: f64 = quota_us.trim().parse::<u64>().ok()? as f64;
    let period: f64 = period_us.trim().parse::<u64>().ok()? as f64;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The number of CPUs in the line `Cpus_allowed_list: 0-3,7` of `/proc/self/status`.
pub fn allowed_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut count = 0_usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (count > 0).then_some(count)
}

fn ancestors(root: &Path, path: &str, mut visit: impl FnMut(&Path)) {
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().for_each(|part| visit(&root.join(part)));
}

fn read(directory: &Path, file: &str) -> Option<String> {
    fs::read_to_string(directory.join(file)).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_quota_cpus_and_setting_then_the_number_of_workers_follows_the_table() {
        for (quota, cpus, configured, expected) in [
            (None, 1, None, 1),
            (None, 2, None, 2),
            (None, 4, None, 4),
            (None, 64, None, 4),
            (None, 0, None, 1),
            (Some(0.1), 64, None, 1),
            (Some(1.0), 64, None, 1),
            (Some(1.49), 64, None, 1),
            (Some(1.5), 64, None, 2),
            (Some(2.4), 64, None, 2),
            (Some(8.0), 64, None, 8),
            (Some(8.0), 2, None, 2),
            (Some(0.1), 64, Some(3), 3),
            (None, 2, Some(16), 16),
            (None, 2, Some(0), 1),
        ] {
            assert_eq!(workers(Limits { quota, cpus }, configured), expected, "{quota:?} {cpus} {configured:?}");
        }
    }

    #[test]
    fn given_contents_of_cgroup_files_then_the_quota_is_their_ratio() {
        assert_eq!(quota_v2("max 100000\n"), None);
        assert_eq!(quota_v2("50000 100000\n"), Some(0.5));
        assert_eq!(quota_v2("150000"), Some(1.5));
        assert_eq!(quota_v2(""), None);
        assert_eq!(quota_v2("x y"), None);
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("200000\n", "100000\n"), Some(2.0));
        assert_eq!(quota_v1("200000", "0"), None);
    }

    #[test]
    fn given_a_list_of_allowed_cpus_then_they_are_counted() {
        for (list, expected) in
            [("0-3", Some(4)), ("0", Some(1)), ("0-1,4,6-7", Some(5)), ("", None), ("3-1", None), ("a", None)]
        {
            assert_eq!(allowed_cpus(&format!("Name:\tx\nCpus_allowed_list:\t{list}\n")), expected, "{list}");
        }
        assert_eq!(allowed_cpus("Name:\tx\n"), None);
    }

    #[test]
    fn given_nested_cgroups_then_the_tightest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("pod/container");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(root.path().join("pod/cpu.max"), "40000 100000\n").unwrap();
        fs::write(leaf.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/pod/container\n"), Some(0.4));
        assert_eq!(quota(root.path(), "0::/\n"), None);
        fs::write(root.path().join("cpu.max"), "20000 100000\n").unwrap();
        assert_eq!(quota(root.path(), "0::/../elsewhere\n"), Some(0.2));
    }

    #[test]
    fn given_cgroup_v1_then_the_cpu_controller_is_found_beside_the_others() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cpu,cpuacct");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cpu.cfs_quota_us"), "250000\n").unwrap();
        fs::write(directory.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota(root.path(), "12:memory:/\n4:cpu,cpuacct:/kubepods/x\n"), Some(2.5));
        assert_eq!(quota(root.path(), "12:memory:/\n"), None);
    }
}

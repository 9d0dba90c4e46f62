//! Q5: as many worker threads as the CPU quota allows.
use std::path::Path;

use crate::support::app::App;
use crate::support::binary::{Binary, Builder, queue};
use crate::support::client::get;

fn workers(mut binary: Binary) -> usize {
    assert_eq!(get(binary.http(), "/", "").status(), 200);
    binary.threads().iter().filter(|name| name.starts_with("worker")).count()
}

fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// The setting wins.
#[test]
fn given_a_number_of_workers_when_started_then_there_are_as_many() {
    let app = App::ok();
    for count in [1, 3] {
        assert_eq!(workers(queue(app.port()).env("WORKER_THREADS", count).start()), count);
    }
}

/// Without a quota: the CPUs that the process may run on, which `taskset` narrows.
#[test]
fn given_one_allowed_cpu_when_started_then_one_worker() {
    let app = App::ok();
    let first = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = first.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
    let cpu = list.split([',', '-']).next().unwrap().to_owned();
    assert_eq!(workers(queue(app.port()).under(&["taskset", "-c", &cpu]).start()), 1);
}

/// The quota of the cgroup, v1 and v2, as the process finds it under `/sys/fs/cgroup`: below 1.5 CPUs one thread, else
/// rounded, never more than CPUs. A directory of files takes the place of the mount, in a mount namespace of the child.
#[test]
fn given_a_quota_when_started_then_the_workers_follow_it() {
    if !namespaces() {
        eprintln!("no mount namespace for this user: the quota of a real process cannot be staged");
        return;
    }
    let app = App::ok();
    let cases = [
        ("10000", 1),
        ("100000", 1),
        ("149000", 1),
        ("150000", 2.min(cpus())),
        ("800000", 8.min(cpus())),
        ("max", cpus().min(4)),
    ];
    for (quota, expected) in cases {
        for version in [1, 2] {
            let root = tempfile::tempdir().unwrap();
            stage(root.path(), version, quota);
            let bind = format!("mount --bind {} /sys/fs/cgroup && exec \"$@\"", root.path().display());
            let builder: Builder = queue(app.port()).under(&["unshare", "--mount", "sh", "-c", &bind, "sh"]);
            assert_eq!(workers(builder.start()), expected, "quota {quota} of 100000, cgroup v{version}");
        }
    }
}

/// Whether a child may have mounts of its own.
fn namespaces() -> bool {
    let status =
        std::process::Command::new("unshare").args(["--mount", "true"]).stderr(std::process::Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The files of a quota at the root of every hierarchy, since the child's place in it is this process's.
fn stage(root: &Path, version: u8, quota: &str) {
    if version == 2 {
        std::fs::write(root.join("cpu.max"), format!("{quota} 100000\n")).unwrap();
        return;
    }
    let quota = if quota == "max" { "-1" } else { quota };
    for controllers in ["cpu", "cpu,cpuacct"] {
        let mount = root.join(controllers);
        std::fs::create_dir(&mount).unwrap();
        std::fs::write(mount.join("cpu.cfs_quota_us"), format!("{quota}\n")).unwrap();
        std::fs::write(mount.join("cpu.cfs_period_us"), "100000\n").unwrap();
    }
}

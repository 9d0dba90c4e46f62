//! `process_*`: this process as /proc shows it, with the names of Prometheus' Go client.

use std::fs;

use crate::telemetry::registry::{Family, Kind, single};

/// Ticks of the clock in /proc's times: USER_HZ, 100 on every Linux that Kubernetes runs on.
const TICKS: f64 = 100.0;
/// Bytes of the pages that /proc counts memory in. Where pages are larger, `statm` is not used (see [`resident`]).
const KIB: f64 = 1024.0;

/// What can be read; what can't is left out.
pub(crate) fn families() -> Vec<Family> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let net = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").map(|fds| fds.count().saturating_sub(1) as f64).ok();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let start = boot.zip(stat_field(&stat, 22)).map(|(boot, ticks)| boot + ticks / TICKS);
    let cpu = stat_field(&stat, 14).zip(stat_field(&stat, 15)).map(|(user, system)| (user + system) / TICKS);
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    [
        ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", counter, cpu),
        ("process_max_fds", "Maximum number of open file descriptors.", gauge, limit(&limits, "Max open files")),
        ("process_open_fds", "Number of open file descriptors.", gauge, open),
        (
            "process_network_receive_bytes_total",
            "Number of bytes received by the process over the network.",
            counter,
            octets(&net, "InOctets"),
        ),
        (
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process over the network.",
            counter,
            octets(&net, "OutOctets"),
        ),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", gauge, resident(&status)),
        ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", gauge, start),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", gauge, stat_field(&stat, 23)),
        (
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            gauge,
            limit(&limits, "Max address space"),
        ),
    ]
    .into_iter()
    .filter_map(|(name, help, kind, value)| Some(single(name, help, kind, value?)))
    .collect()
}

/// A field of `stat`, numbered from 1 as in proc(5). The second one, the name, may hold blanks and parentheses.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<f64>().ok()? * KIB)
}

/// The soft limit; unlimited is the largest number, as in Go.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// A column of the `IpExt` table: a line of names, then a line of values.
fn octets(net: &str, name: &str) -> Option<f64> {
    let mut lines = net.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let column = lines.next()?.split_ascii_whitespace().position(|column| column == name)?;
    lines.next()?.split_ascii_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_this_process_is_looked_at_then_all_nine_are_there() {
        let names: Vec<_> = families().iter().map(|family| family.name).collect();
        assert_eq!(names.len(), 9, "{names:?}");
    }

    #[test]
    fn given_a_name_with_blanks_when_stat_is_read_then_fields_keep_their_numbers() {
        let stat = "7 (a) b) c) S 4 5 6 7 8 9 10 11 12 13 140 150 16 17 18 19 20 21 220 230";
        assert_eq!((stat_field(stat, 14), stat_field(stat, 23)), (Some(140.0), Some(230.0)));
    }
}

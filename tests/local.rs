//! `lockkeeper local`: the first minute of a new user.
use std::process::Command;

use crate::support::binary::{Stream, command};

/// `local --check` passes and says what it verified.
#[test]
fn when_local_checks_itself_then_every_line_is_ok_and_the_exit_code_is_0() {
    let (code, log) = command(&["local", "--check", "--json"]).finish();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 24, "{log}");
    assert!(lines.iter().all(|line| line["ok"] == true), "{log}");
    assert_eq!(lines[0]["version"], "TLSv1_3");
}

/// The printed `curl` line works as it is, the leaf rotates, and Ctrl-C ends it with 0.
#[test]
fn given_local_runs_when_its_curl_line_is_run_then_it_works_and_an_interrupt_ends_it_well() {
    let mut local = command(&["local", "--json", "--rotate-every", "300ms"]).spawn();
    let started: serde_json::Value = serde_json::from_str(&local.logs(r#""started""#)).unwrap();
    local.logs(r#""rotated""#);

    for line in ["curl", "chain_curl", "cluster_local_curl"] {
        let line = started[line].as_str().unwrap();
        let output =
            Command::new("sh").args(["-c", &line.replacen("curl ", "curl --silent --show-error ", 1)]).output();
        let output = output.expect("a shell");
        let page = String::from_utf8_lossy(&output.stdout);
        assert!(page.starts_with("hello from the sample application"), "{line}\n{output:?}");
    }

    local.signal("INT");
    assert_eq!(local.exit().code(), Some(0));
    let ca = started["ca"].as_str().unwrap();
    assert!(!std::path::Path::new(ca).exists(), "nothing is left behind: {ca}");
    for process in ["queue_pid", "activator_pid", "gateway_pid"] {
        let process = started[process].as_u64().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists(), "{process} has ended");
    }
    assert!(!local.log.of(Stream::Stdout).is_empty());
}

/// The documented rotation of the CA: no request fails in any step, and the old one is refused afterwards.
#[test]
fn when_the_authority_is_rotated_then_no_request_fails_and_the_old_one_is_refused() {
    let (code, log) = command(&["local", "--rotate-ca", "--grace", "500ms", "--json"]).finish();
    assert_eq!(code, Some(0), "{log}");
    let steps: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(steps.len(), 9, "{log}");
    assert!(steps.iter().all(|step| step["failed"] == 0), "{log}");
    assert!(steps.iter().map(|step| step["requests"].as_u64().unwrap()).sum::<u64>() > 20, "{log}");
}

/// Certificates that cannot be used are named.
#[test]
fn given_a_directory_without_certificates_when_local_starts_then_it_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (code, log) = command(&["local", "--check", "--certs-dir", dir.path().to_str().unwrap()]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("ca.crt"), "{log}");
}

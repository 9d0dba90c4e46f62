//! `lockkeeper certs`, the real program: over every set in `certs-fixtures`, and over sets that it minted itself.
mod fixtures;
mod mint;
mod show;

use std::process::Command;

use crate::support::binary::executable;

/// Runs `lockkeeper certs` with these arguments: exit status, and what it printed. Without a deadline, since how long an
/// RSA key takes is a matter of luck; the command waits for nobody.
#[track_caller]
fn certs(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(executable()).arg("certs").args(args).output().expect("the executable starts");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

/// A path as an argument.
fn arg(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

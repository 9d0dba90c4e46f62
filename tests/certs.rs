//! `lockkeeper certs`, the real program: what it refuses, and with which exit status.
use crate::support::binary::command;

#[test]
fn given_a_file_without_pem_when_shown_then_it_fails_and_says_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk");
    std::fs::write(&junk, "nothing").unwrap();
    let (code, log) = command(&["certs", "show", junk.to_str().unwrap()]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("junk: no PEM block: expected certificates"), "{log}");
}

#[test]
fn given_no_namespace_when_minted_then_it_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (code, log) = command(&["certs", "mint", "--dir", dir.path().to_str().unwrap(), "--namespace", ""]).finish();
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("--namespace"), "{log}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

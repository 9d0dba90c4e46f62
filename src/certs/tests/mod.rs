//! Tests of TLS with real files, real sockets and real handshakes. They are here and not in `tls`, because they mint,
//! and `tls` knows nothing of minting.
mod directory;
mod handshake;
mod library;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The directory of a fixture.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs-fixtures").join(name)
}

/// Waits until `holds`; a test that waits in vain fails with `what`.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

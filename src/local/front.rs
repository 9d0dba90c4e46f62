//! The gateway of `local`, over the same manifests as the activator.
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::local::manifests::{Manifests, SYSTEM};
use crate::local::process::Process;
use crate::local::topology::NAMESPACE;

/// How long the Ingress may take to become ready.
const READY: Duration = Duration::from_secs(20);

/// A running gateway.
pub struct Front {
    gateway: Process,
    statuses: PathBuf,
    /// External rules, plain.
    pub http_port: u16,
    /// External rules, TLS.
    pub https_port: u16,
    /// Cluster-local rules, TLS.
    pub internal_https_port: u16,
}

impl Front {
    /// Starts it and waits until its listeners are open.
    ///
    /// # Errors
    /// Names what could not be started.
    pub fn start(manifests: &Manifests, state: &Path) -> io::Result<Self> {
        let statuses = state.join("status");
        std::fs::create_dir_all(&statuses)?;
        let mut env = vec![
            ("POD_NAME", "gateway-local".to_owned()),
            ("SYSTEM_NAMESPACE", SYSTEM.to_owned()),
            ("CLUSTER_DOMAIN", "cluster.local".to_owned()),
            ("LOCKKEEPER_MANIFEST_DIR", manifests.path().display().to_string()),
            ("LOCKKEEPER_STATUS_DIR", statuses.display().to_string()),
            ("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1".to_owned()),
            ("LOCKKEEPER_DRAIN_SETTLE", "0s".to_owned()),
            ("DRAIN_TIME_SECONDS", "5".to_owned()),
        ];
        env.extend(
            [
                "LOCKKEEPER_HTTP_PORT",
                "LOCKKEEPER_HTTPS_PORT",
                "LOCKKEEPER_INTERNAL_HTTP_PORT",
                "LOCKKEEPER_INTERNAL_HTTPS_PORT",
                "LOCKKEEPER_PROBE_HTTP_PORT",
                "LOCKKEEPER_PROBE_HTTPS_PORT",
                "LOCKKEEPER_ADMIN_PORT",
            ]
            .map(|port| (port, "0".to_owned())),
        );
        let mut gateway = Process::start("the gateway", &["gateway"], &env)?;
        let servers = ["Starting http server:", "Starting https server:", "Starting internal https server:"];
        let [http_port, https_port, internal_https_port] = gateway.await_ports(servers)?;
        Ok(Self { gateway, statuses, http_port, https_port, internal_https_port })
    }

    /// Waits until the Ingress is ready: the gateway has asked itself for each of its hosts.
    ///
    /// # Errors
    /// It takes too long; what its status says.
    pub async fn ready(&mut self) -> io::Result<()> {
        let path = self.statuses.join(format!("{NAMESPACE}.local.json"));
        let deadline = Instant::now() + READY;
        loop {
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            if is_ready(&status) {
                return Ok(());
            }
            if let Some(words) = self.gateway.ended()? {
                return Err(io::Error::other(words));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the Ingress is not ready after {READY:?}: {status}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The gateway's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.gateway.id()
    }

    /// Whether it has ended by itself: its last words.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn ended(&mut self) -> io::Result<Option<String>> {
        self.gateway.ended()
    }

    /// Drains it.
    ///
    /// # Errors
    /// When it does not leave well.
    pub fn stop(self) -> io::Result<()> {
        self.gateway.stop()
    }
}

fn is_ready(status: &str) -> bool {
    let Ok(status) = serde_json::from_str::<serde_json::Value>(status) else { return false };
    let conditions = status.get("conditions").and_then(serde_json::Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

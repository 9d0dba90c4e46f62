//! Which API server, and how it is spoken to.
use crate::config::env::Env;
use crate::kube::source::Flags;

/// An API server and the credentials for it.
#[derive(Debug)]
pub struct Cluster {}

impl Cluster {
    /// The API server that the settings name.
    ///
    /// # Errors
    /// None is named, or a file that belongs to its settings can't be used.
    pub fn find(env: &dyn Env, flags: &Flags) -> Result<Self, String> {
        let _ = (env, flags);
        Ok(Self {})
    }
}

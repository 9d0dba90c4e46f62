//! Where objects come from: the API server or a directory, chosen by the settings.
use std::fmt;
use std::path::PathBuf;

use crate::config::env::Env;
use crate::kube::api::{self, Client, cluster::Cluster};
use crate::kube::counters::Activity;
use crate::kube::dir::Directory;
use crate::kube::object::{Object, Selection};
use crate::kube::objects::Objects;

/// Names the directory of manifests that stands in for an API server.
pub const MANIFEST_DIR: &str = "LOCKKEEPER_MANIFEST_DIR";

/// Where objects come from. Clones share connections and watches of the file system.
#[derive(Clone, Debug)]
pub enum Source {
    /// The API server.
    Server(Client),
    /// A directory of manifests.
    Directory(Directory),
}

/// What the command line says of the API server; it goes before the environment. Names as in the Go components.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `-kubeconfig`: a file to read in place of `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// `-server`: the URL of the API server.
    pub server: Option<String>,
    /// `-cluster`: the cluster of the kubeconfig to use.
    pub cluster: Option<String>,
}

/// Why there is no source.
#[derive(Debug)]
pub enum Error {
    /// What the settings say of the API server is of no use.
    Settings(String),
    /// The API server gave no answer, or a bad one.
    Server(api::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(why) => f.write_str(why),
            Self::Server(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Settings(_) => None,
            Self::Server(error) => Some(error),
        }
    }
}

impl Source {
    /// The source that the settings name: [`MANIFEST_DIR`] before the API server, which is found as
    /// [`Cluster::find`] says. Connects to nothing yet.
    ///
    /// # Errors
    /// No API server is named, or a file that belongs to its settings can't be used.
    pub fn find(env: &dyn Env, flags: &Flags) -> Result<Self, Error> {
        if let Some(path) = env.var(MANIFEST_DIR).filter(|path| !path.is_empty()) {
            return Ok(Self::directory(path));
        }
        Ok(Self::Server(Client::new(Cluster::find(env, flags).map_err(Error::Settings)?)))
    }

    /// The manifests in a directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory(Directory::new(path))
    }

    /// The objects of one kind, from now on. Must be called within a `LocalSet`, on which the source works for as long
    /// as somebody holds the objects.
    pub fn objects<T: Object>(&self, selection: Selection) -> Objects<T> {
        match self {
            Self::Server(client) => client.objects(selection),
            Self::Directory(directory) => directory.objects(selection),
        }
    }

    /// What is read from it now, for metrics.
    pub fn activity(&self) -> &Activity {
        match self {
            Self::Server(client) => client.activity(),
            Self::Directory(directory) => directory.activity(),
        }
    }

    /// Checks that the API server is there and not older than `minimum` (`v1.34.0`). A directory is always new enough.
    ///
    /// # Errors
    /// No answer, or a version that is too old or none at all.
    pub async fn check_version(&self, minimum: &str) -> Result<(), Error> {
        match self {
            Self::Server(client) => client.check_version(minimum).await.map_err(Error::Server),
            Self::Directory(_) => Ok(()),
        }
    }
}

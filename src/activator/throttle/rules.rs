//! The settings of a throttle: what the configuration says for all revisions, and what a revision says of itself.

use std::sync::Arc;

/// Whether pods are addressed directly: `mesh-compatibility-mode` in config-network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshMode {
    /// Pods, if they answer probes; else the cluster IP.
    #[default]
    Auto,
    /// Only the cluster IP.
    Enabled,
    /// Only pods. One that Kubernetes calls ready is trusted without a probe.
    Disabled,
}

/// Which of the usable pods gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that runs the fewest of ours; among equals the one whose turn was the longest ago.
    #[default]
    LeastLoaded,
    /// Go's: without a limit the better of two random picks; up to three at once the first free one in the order of
    /// addresses; above, in turn.
    Original,
}

/// How pods are divided among activators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slicing {
    /// By rendezvous hashing with equal shares: few pods move when an activator comes or goes.
    #[default]
    Rendezvous,
    /// Go's: consecutive pods in the order of addresses.
    Original,
}

/// What holds for all revisions.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Default: automatic.
    pub mesh: MeshMode,
    /// `enable-mesh-pod-addressability`: pods can be addressed through the mesh, so there is no cluster IP fallback.
    /// Default: false.
    pub pod_addressability: bool,
    /// Default: least loaded.
    pub choice: Choice,
    /// Default: rendezvous.
    pub slicing: Slicing,
    /// Whether pods of other activators are used when all of ours are busy. Default: true.
    pub borrow: bool,
    /// Requests that may wait for one revision. Default: 10,000, which is what Go documents.
    pub queue_depth: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mesh: MeshMode::Auto,
            pod_addressability: false,
            choice: Choice::LeastLoaded,
            slicing: Slicing::Rendezvous,
            borrow: true,
            queue_depth: 10_000,
        }
    }
}

/// What holds for one revision.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The policy, shared by all revisions.
    pub policy: Arc<Policy>,
    /// `containerConcurrency`: requests that a pod runs at once; 0 is without limit.
    pub concurrency: u32,
    /// Whether a pod that Kubernetes does not call ready may take requests once its queue answers a probe: true unless
    /// the readiness probe is of kind `exec` or any container has a startup probe.
    pub probe_optimisation: bool,
}

impl Rules {
    /// Requests that a pod of ours may run at once.
    pub(super) fn own_limit(&self) -> u32 {
        if self.concurrency == 0 { u32::MAX } else { self.concurrency }
    }

    /// Requests that we may run at once on a pod that belongs to another of `activators`. A share, so that a pod that
    /// all others borrow gets less than twice what it may run, and its queue holds the rest.
    pub(super) fn borrowed_limit(&self, activators: usize) -> u32 {
        let activators = u32::try_from(activators.max(1)).unwrap_or(u32::MAX);
        self.own_limit().div_ceil(activators)
    }
}

//! The queue role: the sidecar in each revision's pod.

//! The reverse-proxy core; knows nothing of Knative.

//! Parts of the tests that a benchmark needs too: an API server in this process, and what is in it.
#![allow(dead_code, unreachable_pub, clippy::needless_pass_by_value, reason = "made for tests, of which some is used")]

#[path = "../../tests/support/apiserver/mod.rs"]
pub(crate) mod apiserver;
#[path = "../../tests/activator/autoscaler.rs"]
pub(crate) mod autoscaler;
#[path = "../../tests/support/objects.rs"]
pub(crate) mod objects;
#[path = "../../tests/support/port.rs"]
pub(crate) mod port;
#[path = "../../tests/support/wait.rs"]
pub(crate) mod wait;

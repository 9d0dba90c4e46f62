//! A request through the gateway, on one worker: [`decide`] finds its route or answers in its place, [`forward`] sends
//! it to one of the upstreams at the end of its [`way`], [`observe`] tells of it when its response has ended.
pub mod caller;
pub mod decide;
pub mod forward;
pub mod observe;
pub mod way;

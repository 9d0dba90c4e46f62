//! Kubernetes objects as state: the current set, and a stream of changes; knows nothing of Knative.
//!
//! A role asks a [`Source`] for the [`Objects`] of each kind that it uses, waits until they are synced and then follows
//! their changes. Control side only: one thread, a `LocalSet`, nothing here is `Send`. Objects are shared by `Arc`, so
//! that what is compiled from them may go to workers.
//!
//! There are two sources with the same promises: the API server ([`api`]) and a directory of manifests ([`dir`]). When
//! a source is lost, the last state stays. An object that can't be read costs that object and no other, and its last
//! good version stays.
//!
//! Kinds are small types of the roles' own ([`object::Object`]): what is not used is not kept, and mostly not even
//! parsed.
pub mod api;
pub mod counters;
pub mod dir;
pub mod key;
pub(crate) mod manifest;
pub mod object;
pub mod objects;
mod place;
pub mod source;

pub use counters::{Activity, Counters};
pub use key::Key;
pub use object::{Kind, Meta, Object, Selection};
pub use objects::{Change, Changes, Objects};
pub use source::Source;

//! Settings from outside, parsed once into typed values.
//!
//! A role calls its `Config::from_env` at the edge, before any thread starts; nothing else reads the environment.
//! [`env`] says where values come from and collects every mistake, [`value`] knows the formats, [`error`] prints the
//! mistakes as the Go components print them. Settings that come as files are noticed by [`directory`].
pub mod directory;
pub mod env;
pub mod error;
pub mod value;

pub use error::Errors;

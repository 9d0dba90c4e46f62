//! Settings from outside, parsed once into typed values.
pub mod env;

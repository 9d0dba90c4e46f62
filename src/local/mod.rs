//! The whole chain on one machine.

//! The `lockkeeper` binary: parse, dispatch, exit code.
fn main() {}

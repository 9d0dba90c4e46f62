//! The `lockkeeper` binary: allocator, parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockkeeper::memory::configure();
    lockkeeper::cli::run()
}

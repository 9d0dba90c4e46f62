//! The `lockkeeper` binary: allocator, parse, dispatch, exit code.

use std::process::ExitCode;

#[global_allocator]
static BLOCKS: lockkeeper::memory::blocks::Blocks = lockkeeper::memory::blocks::Blocks;

fn main() -> ExitCode {
    lockkeeper::memory::configure();
    lockkeeper::cli::run()
}

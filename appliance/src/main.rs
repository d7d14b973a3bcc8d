//! The `devpod` binary: parse, run, turn the outcome into an exit code.

use std::process::ExitCode;

/// musl's own allocator collapses under several threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Children of ours are this binary again; they must be handled before any thread exists.
    unpacker::container::dispatch();
    appliance::cli::main()
}

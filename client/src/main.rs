//! `muster`: the operator's command line. Everything is in the library; here is only the runtime.

use muster_client::{cli, summary};
use std::process::ExitCode;

/// The answers of tens of thousands of nodes are many small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One thread: there is one connection, and nothing to compute beside it.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(Box::pin(cli::run(std::env::args_os())))),
        Err(error) => {
            eprintln!("muster: cannot start: {error}");
            ExitCode::from(summary::EXIT_UNREACHABLE)
        }
    }
}

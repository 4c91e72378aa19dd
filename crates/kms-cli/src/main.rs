//! The program `kms`.

use std::process::ExitCode;

/// Wipes all memory that is freed: parsers, HTTP and TLS copy what passes through them, and do not wipe it.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    kms_cli::main_with(kms_dispatch::Registry::new())
}

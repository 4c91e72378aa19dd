//! The program `kms`, with the provider of this crate in addition to its own providers.

use std::process::ExitCode;

use kms_dispatch::Registry;
use own_provider::DirectoryBuilder;

/// Wipes all memory that is freed, as [`kms_cli::main_with`] asks: parsers copy what passes through them.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    match Registry::new().with::<DirectoryBuilder>(own_provider::PROVIDER) {
        Ok(registry) => kms_cli::main_with(registry),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

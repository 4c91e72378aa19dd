//! The program `kms`, with a clock that ends grace periods early: see [`kms_tests::clock`].

use std::{process::ExitCode, sync::Arc};

use kms_tests::clock::Hurried;

/// Wipes all memory that is freed, as the program itself does.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    kms_cli::main_with_timer(kms_dispatch::Registry::new(), Arc::new(Hurried::new()))
}

//! Tests that span crates: the program `kms` on real servers and in a virtual machine.
//!
//! One binary holds them all, so that the crates are linked once. `memory.rs` has its own, since it searches the memory
//! of its process.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod azure_cli;
mod escrow_cli;
mod escrow_stories;
mod k8s_secret_cli;
mod kmip_cli;
mod kmip_faults;
mod kmip_habits;
mod luks_cli;
mod migrate;
mod migrate_cluster;
mod migrate_terminal;
mod operator;
mod operator_clock;
mod operator_fleet;
mod operator_install;
mod operator_jobs;
mod operator_page;
mod recover_cli;
mod rook_cli;
mod rook_doctor;
mod rook_exports;
mod rook_inventory;
mod rook_inventory_page;
mod rook_recipes;
mod rook_rotation;
mod rotate_cli;
mod rotate_crash;
mod vault_cli;
mod vm;

//! What people see of the operator: files that are generated from the names of the metrics, and the server on real clients.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod access;
mod alerts;
mod browser;
mod dashboard;
mod fixed;
mod generated;
mod rules;
mod served;

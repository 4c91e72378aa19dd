//! What is generated from the names of the metrics: the rules of alerts, and the dashboard.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod dashboard;
mod generated;
mod rules;

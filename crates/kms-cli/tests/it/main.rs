//! Tests of the whole program.
#![cfg(all(feature = "k8s-secret", feature = "vault"))]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod check;
mod cmd;
mod codegen;
mod color;
mod deploy;
mod doctor;
mod exports;
mod kubernetes;

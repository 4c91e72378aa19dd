//! The tests of this crate that go through its public interface, in one program.

mod certificates;
mod clients;
mod common;
mod conformance;
mod deleted;
mod faults;
mod keys;

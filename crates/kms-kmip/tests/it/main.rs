//! The tests of this crate that go through its public interface, in one program.

mod common;
mod conformance;
mod connections;
mod crash;
mod fuzz;
mod live;
mod locate;
mod superseded;
mod wire;

//! The tests of this crate that go through its public interface, in one program.

mod batches;
mod common;
mod conformance;
mod connections;
mod crash;
mod fuzz;
mod habits;
mod labels;
mod live;
mod locate;
mod order;
mod races;
mod rook;
mod superseded;
mod wire;

//! The tests of this crate that go through its public interface, in one program.

mod handshake;
mod live;
mod pem;

//! Images with real LUKS headers, created and inspected by the program `cryptsetup` alone, and Rook's rotation on them.
//!
//! The code under test takes no part, so that its errors cannot hide themselves.
//! Slots need neither root nor a device-mapper; a test that uses them is
//! `#[ignore = "needs cryptsetup: cargo xtask it rotation"]`.

mod image;
mod rook;

pub use self::{
    image::{Image, Wrapper},
    rook::{Rook, RookStep, RookWatcher},
};

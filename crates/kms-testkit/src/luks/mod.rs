//! Images with real LUKS headers, made and looked at by the program `cryptsetup` alone, and Rook's rotation on them.
//!
//! None of the code under test takes part, so that both cannot be wrong alike.
//! Slots need neither root nor a device-mapper; a test that uses them is
//! `#[ignore = "needs cryptsetup: cargo xtask it rotation"]`.

mod image;
mod rook;

pub use self::{
    image::{Image, Wrapper},
    rook::Rook,
};

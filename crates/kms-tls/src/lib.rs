#![doc = include_str!("../README.md")]

pub mod certificate;
pub mod crypto;
pub mod fault;
#[cfg(test)]
mod go;
mod handshakes;
pub mod key;
pub mod options;
pub mod pem;
mod reach;
mod route;
pub mod source;
mod verify;

pub use crate::{
    handshakes::{Handshakes, SettingNames},
    key::Identity,
    options::{Roots, Tls, TlsOptions},
    reach::{Peer, unknown_host},
    route::{Address, Route},
};

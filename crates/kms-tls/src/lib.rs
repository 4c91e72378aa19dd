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

use std::time::Duration;

pub use crate::{
    handshakes::{Handshakes, SettingNames},
    key::Identity,
    options::{Roots, Tls, TlsOptions},
    reach::{Peer, unknown_host},
    route::{Address, Route, needs_proxy_credentials},
};

/// How long an idle connection over which KEKs pass stays open; it is closed before twice this time.
///
/// This is long enough for the requests of one operation. It is not longer because the buffers of a connection hold
/// what it has received last, which may be a KEK: a rotation waits for minutes after that.
pub const IDLE: Duration = Duration::from_secs(2);

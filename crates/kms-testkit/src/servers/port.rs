//! Free ports on loopback.
//!
//! A port is free when the kernel has just given it to us; between that and the server's own bind another process may
//! take it, so the caller retries with another port when the bind fails.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// The ports given out by this process, so that two tests that start at the same time do not get the same one.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a TCP port of 127.0.0.1 on which no process listens.
///
/// # Errors
///
/// If the kernel has no free port.
pub fn free() -> io::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // The kernel picks at random, so a few draws suffice; the listeners stay bound until we have one.
    let mut taken = Vec::new();
    for _ in 0..64 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
        taken.push(listener);
    }
    Err(io::Error::other("the kernel only gives ports that this process has used before"))
}

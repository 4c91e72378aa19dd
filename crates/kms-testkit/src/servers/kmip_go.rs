//! A KMIP server on OVHcloud's Go library, `tests/servers/kmip`: another author's TTLV, messages, batches and versions.
//!
//! It speaks 1.0 to 1.4, gives objects random UUIDs, and keeps them in memory.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};

use crate::servers::{
    pki::Pki,
    process::{Launch, Process, Scratch, Stop},
    relay::Relay,
    wait,
};

/// The word before the address in the server's log.
const LISTENING: &str = "listening on ";

/// A running server without objects.
#[derive(Debug)]
pub struct KmipGo {
    // Dropped in this order: the server writes its log into the folder.
    process: Process,
    pki: Arc<Pki>,
    address: SocketAddr,
    _folder: Scratch,
}

impl KmipGo {
    /// Starts a server with these habits as arguments: `-keep-last`, `-limit=N`, `-shuffle`, and `-pace=N` for a clock that
    /// goes N times as fast as real time.
    ///
    /// # Errors
    ///
    /// If there is no such program, or it ends or does not listen in time; the end of its log is in the message.
    pub async fn start(habits: &[&str]) -> Result<Self> {
        let program = crate::servers::setting(crate::servers::KMIP_GO)?;
        let folder = Scratch::new()?;
        let pki = Arc::new(Pki::new()?);
        let place = folder.path().join("pki");
        pki.write(&place)?;
        let mut process = Launch::new("kmip-go", program, folder.path())
            .arg("-pki")
            .arg(&place)
            .args(habits)
            .stop(Stop::Kill)
            .start()?;
        let address = wait::until("the KMIP server to listen", wait::START, async || {
            if process.exited()?.is_some() {
                bail!("the KMIP server does not start:\n{}", process.last_words());
            }
            let words = process.last_words();
            let address = words.lines().find_map(|line| line.strip_prefix(LISTENING));
            address.map(|address| address.parse().context("an address")).transpose()
        })
        .await?;
        Ok(Self { process, pki, address, _folder: folder })
    }

    /// Host and port, with an address that is in its certificate.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a relay in front of the server.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub async fn relay(&self) -> Result<Relay> {
        Ok(Relay::start(self.address).await?)
    }
}

//! The host of OSDs: a guest with `kms`. It fetches its keys over TLS from an OpenBao on this machine.
//!
//! The guest's `kms` has a clock on which a minute of a grace period takes half a second. That of the image has not.

#![allow(clippy::print_stdout, reason = "figures of each cut, and the seed that repeats them")]

mod cuts;
mod data;
mod image;
mod mapper;
mod race;

use std::path::Path;

use kms_testkit::servers::{OpenBao, OpenBaoConfig, Scratch};
use kms_tests::{
    machine::{self, Boot, Initramfs, Machine},
    secret, vault_security,
};

/// The name of the OSD's key.
const NAME: &str = "set1-data-0x7dwl";

/// The Ceph cluster.
const FSID: &str = "5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c";

/// A wrapper for the real program, with the arguments that an administrator passes.
const KMS: &str = "#!/bin/sh
exec /sbin/kms -f /etc/kms/cluster.yaml -f /etc/kms/token.yaml -f /etc/kms/ca.yaml \"$@\"
";

/// The parts that all boots of a host share.
struct Host {
    initramfs: Initramfs,
    server: OpenBao,
    folder: Scratch,
}

impl Host {
    /// Returns a host with its keys in KV version 1 or 2.
    async fn new(kv: u64) -> Self {
        let mut initramfs = machine::osd_host(Path::new(env!("CARGO_BIN_EXE_kms-hurried"))).unwrap();
        initramfs.file("bin/kms", 0o755, KMS);
        Self::with(initramfs, kv).await
    }

    /// Returns a host with this file system, to which it adds the settings.
    async fn with(mut initramfs: Initramfs, kv: u64) -> Self {
        let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
        let token = server.admin().rook_token().await.unwrap();
        let addr = format!("https://{}:{}", machine::HOST, server.port());
        let security = vault_security(&[
            ("VAULT_ADDR", &addr),
            ("VAULT_BACKEND_PATH", if kv == 1 { "rook" } else { "rookv2" }),
            ("VAULT_BACKEND", if kv == 1 { "v1" } else { "v2" }),
            ("VAULT_CACERT", "vault-ca"),
        ]);
        initramfs.file("etc/kms/cluster.yaml", 0o600, security);
        initramfs.file("etc/kms/token.yaml", 0o600, secret("vault-token", &[("token", &token)]));
        initramfs.file("etc/kms/ca.yaml", 0o600, secret("vault-ca", &[("cert", &server.pki().ca.cert)]));
        Self { initramfs, server, folder: machine::folder().unwrap() }
    }

    /// Returns a machine without disks that is still off.
    fn boot(&self) -> Boot<'_> {
        Boot::new(self.initramfs.clone(), self.folder.path())
    }
}

/// The numbers of the key slots that are in use.
fn slots(machine: &mut Machine, device: &str) -> Vec<u64> {
    let slots = machine.run(&format!("kms -o json slots {device}")).unwrap().want(0).json();
    slots["slots"].as_array().unwrap().iter().map(|slot| slot["slot"].as_u64().unwrap()).collect()
}

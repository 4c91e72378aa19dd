//! Real servers for tests, on free ports of the loopback, in scratch folders. They stop when they are dropped.
//!
//! A test starts servers by [`OpenBao::start`], [`Raft::start`], [`Kube::for_tests`],
//! [`PyKmip::start`] or [`KmipGo::start`]; a [`Browser`] shows pages.
//! `cargo xtask` provisions the programs and passes their paths in the `KMS_IT_*` variables; a test that needs one is
//! `#[ignore = "needs OpenBao: cargo xtask it vault"]`.
//!
//! Keep servers in local variables: statics are never dropped, so a server in one would outlive its test.

pub mod browser;
pub mod http;
pub mod kmip_go;
pub mod kube;
pub mod openbao;
pub mod pki;
pub mod port;
pub mod process;
pub mod pykmip;
pub mod relay;
pub mod wait;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

pub use self::{
    browser::Browser,
    http::{Http, Reply},
    kmip_go::KmipGo,
    kube::{Kube, KubeNamespace},
    openbao::{Admin, OpenBao, OpenBaoConfig, Raft},
    pki::{Identity, Pki},
    process::Scratch,
    pykmip::PyKmip,
    relay::Relay,
};

/// The `bao` program.
pub const BAO: &str = "KMS_IT_BAO";
/// The folder of the programs `etcd` and `kube-apiserver`.
pub const KUBE_BIN: &str = "KMS_IT_KUBE_BIN";
/// The folder of a running API server that all tests of a run share; see [`Kube::attach`].
pub const KUBE: &str = "KMS_IT_KUBE";
/// The program `kms` to run in end-to-end tests.
pub const KMS: &str = "KMS_IT_KMS";
/// The Python that has `pykmip` installed.
pub const PYKMIP: &str = "KMS_IT_PYKMIP";
/// The KMIP server on Go's libraries.
pub const KMIP_GO: &str = "KMS_IT_KMIP_GO";
/// The library `libfaketime.so.1`, which makes a program see another time.
pub const FAKETIME: &str = "KMS_IT_FAKETIME";
/// The program that drives Chromium.
pub const CHROMEDRIVER: &str = "KMS_IT_CHROMEDRIVER";
/// A folder for pictures of pages, for people who want to see them. Unset: none are kept.
pub const PICTURES: &str = "KMS_IT_PICTURES";
/// A folder for the documents that `kms` writes with `-o json`, which xtask validates by their schemas.
pub const DOCUMENTS: &str = "KMS_IT_DOCUMENTS";
/// A folder for what tests count: see [`figures`](crate::figures).
pub const FIGURES: &str = "KMS_IT_FIGURES";
/// The folder with the process id of each server, so that xtask can stop the servers of a killed test.
pub const PIDS: &str = "KMS_IT_PIDS";
/// How many times a test runs Rook's rotation beside ours at random moments; a fifth of it for each of some options of
/// ours. Unset: a few times.
pub const OVERLAPS: &str = "KMS_IT_OVERLAPS";
/// The seed of the first of these overlaps. The next one has the next seed.
pub const OVERLAPS_SEED: &str = "KMS_IT_OVERLAPS_SEED";
/// The variable that asks for whole tables: see [`sweeps`].
pub const SWEEP: &str = "KMS_IT_SWEEP";

/// The path in the environment variable `name`, one of the constants above, which `cargo xtask` sets.
///
/// # Errors
///
/// If the variable is not set, since the test does not run under xtask.
pub fn setting(name: &str) -> Result<PathBuf> {
    optional_setting(name).with_context(|| format!("{name} is not set: run under cargo xtask it"))
}

/// Whether the run takes the time for whole tables and a thousand races: `cargo xtask it kmip --sweep`, `migrate --sweep`.
#[must_use]
pub fn sweeps() -> bool {
    optional_setting(SWEEP).is_some()
}

/// The path in the environment variable `name`, if it is set.
#[must_use]
pub fn optional_setting(name: &str) -> Option<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the harness takes what xtask hands over"
    )]
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A name that no other test of this machine uses: `prefix`, this process' id and a count.
#[must_use]
pub fn unique(prefix: &str) -> String {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::{SystemTime, UNIX_EPOCH},
    };

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Process ids repeat within the life of a shared server, so the name has the time too.
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() % 1_000_000);
    format!("{prefix}-{}-{seconds}-{count}", std::process::id())
}

//! Rotates in separate processes, which are killed before and after every step, on every provider.
//!
//! The long run, with kills of the real program at any time, is `cargo xtask crash`.
use std::path::Path;

use kms_tests::{
    crash::{Dice, Kill, Subject},
    stores::{Store, Which},
};

/// Kills at every second announcement on one device, and at some on two and three; each time kills the next run as
/// well.
async fn sweep(which: Which) {
    let store = Store::start(which).await.unwrap();
    let worker = Path::new(env!("CARGO_BIN_EXE_crash"));
    let mut dice = Dice::new(7);
    let mut kills = 0;
    for (devices, stride) in [(1, 2), (2, 7), (3, 9)] {
        let subject = Subject::new(&store, worker, devices).await;
        // The provider determines the moments, so that all providers together cover every moment.
        let offset = Which::ALL.iter().position(|other| *other == which).unwrap() % stride;
        for first in (offset..).step_by(stride) {
            let second = dice.below(24 + 10 * devices);
            match subject.round(&[Kill::At(first), Kill::At(second)]).await {
                0 => break,
                killed => kills += killed,
            }
        }
    }
    assert!(kills >= 20, "{kills}");
}

// The doubles respond from threads of this process; the sweep blocks one of its threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn azure_loses_no_kek() {
    sweep(Which::Azure).await;
}

// The doubles respond from threads of this process; the sweep blocks one of its threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn key_protect_loses_no_kek() {
    sweep(Which::IbmKeyProtect).await;
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it rotation"]
async fn kubernetes_secrets_lose_no_kek() {
    sweep(Which::KubernetesSecret).await;
}

#[tokio::test]
#[ignore = "needs cryptsetup, a KMIP server and a Kubernetes API server: cargo xtask it rotation"]
async fn kmip_loses_no_kek() {
    sweep(Which::Kmip).await;
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn version_1_of_kv_loses_no_kek() {
    sweep(Which::VaultV1).await;
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it rotation"]
async fn version_2_of_kv_loses_no_kek() {
    sweep(Which::VaultV2).await;
}

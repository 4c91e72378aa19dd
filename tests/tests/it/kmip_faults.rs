//! Faults of the network at every request of create, get, update, delete and rotate on a KMIP server.
//!
//! A relay strikes one piece of the traffic: a request or its response is lost, cut in half or stalled. Afterwards the
//! device opens with what a read returns, and a second run ends what the first one has begun.
#![allow(clippy::print_stdout, reason = "the test shows what it has measured")]

use std::{path::Path, sync::Arc, time::Instant};

use kms_core::{DeleteMode, ErrorKind, Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_luks::Cryptsetup;
use kms_rotation::{Options, Osd, Silent, rotate};
use kms_testkit::{
    fake::kmip::{KmipDouble, Quirks},
    luks::Image,
    servers::{
        KmipGo, Relay,
        relay::Fault::{self, Cut, Half, Lost, Stalled},
    },
};
use kms_tests::{
    clock::Hurried,
    stores::{Store, arguments, provider},
};

/// What a process does when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Create,
    Get,
    Update,
    Delete,
    Rotate,
}

/// A KMIP server behind a relay, and a device for each key.
struct Scene {
    store: Store,
    relay: Relay,
    template: Image,
    kek: Kek,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new(store: Store, relay: Relay) -> Self {
        let kek = Kek::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { store, relay, template: Image::luks2(&kek), kek, folder }
    }

    /// A client as a new process has it: without connections, and without what an earlier one has found out.
    async fn client(&self) -> Arc<dyn KmsProvider> {
        provider(&arguments(&self.store.kms)).await.unwrap()
    }

    async fn read(&self, name: &KeyName) -> Option<Kek> {
        match self.client().await.get(name, Freshness::Fresh).await {
            Ok(stored) => Some(stored.kek),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Does the work once, with the KEK `new` for a create or an update.
    async fn run(&self, work: Work, name: &KeyName, new: &Kek, device: &Path) -> kms_core::Result<()> {
        let kms = self.client().await;
        match work {
            Work::Create => kms.put(name, new, PutMode::Create).await.map(drop),
            Work::Get => kms.get(name, Freshness::Any).await.map(drop),
            Work::Update => {
                let stored = kms.get(name, Freshness::Fresh).await?;
                kms.put(name, new, PutMode::Update(stored.version)).await.map(drop)
            }
            Work::Delete => kms.delete(name, DeleteMode::Destroy).await.map(drop),
            Work::Rotate => {
                let osd = Osd::new(name.clone(), Cryptsetup::new().devices([device.to_owned()])).unwrap();
                let mut options = Options::default().with_timer(Arc::new(Hurried::new()));
                options.grace = std::time::Duration::ZERO;
                rotate(&*kms, &osd, &options, &Silent).await.map(drop)
            }
        }
    }

    /// Lets a fault strike the piece with the number `at` while the work is done. `false` if the work ended before.
    async fn strike(&self, work: Work, fault: Fault, at: usize) -> bool {
        let what = format!("{work:?}, {fault:?} at piece {at}");
        let name: KeyName = format!("{work:?}-{fault:?}-{at}").to_lowercase().parse().unwrap();
        let device = self.folder.path().join(name.as_str());
        let image = self.template.copy(&device);
        if work != Work::Create {
            self.client().await.put(&name, &self.kek, PutMode::Create).await.unwrap();
        }
        // A device is formatted with the KEK that is created.
        let new = if work == Work::Create { self.kek.duplicate() } else { Kek::generate().unwrap() };
        self.relay.fault(at, fault);
        let first = self.run(work, &name, &new, &device).await;
        let struck = !self.relay.cancel_fault();
        let found = self.read(&name).await;
        match (work, &found) {
            (Work::Create, None) => assert!(first.is_err(), "{what}: the KEK was reported as stored"),
            (Work::Delete, None) => {}
            (_, None) => panic!("{what}: the KEK is lost"),
            (Work::Update, Some(kek)) if first.is_ok() => assert!(kek.ct_eq(&new), "{what}"),
            (Work::Update, Some(kek)) => assert!(kek.ct_eq(&new) || kek.ct_eq(&self.kek), "{what}"),
            (Work::Delete, Some(_)) => assert!(first.is_err(), "{what}: the KEK was reported as deleted"),
            (Work::Create | Work::Get | Work::Rotate, Some(kek)) => assert!(image.opens(kek), "{what}"),
        }
        // The second run, without a fault.
        match (work, self.run(work, &name, &new, &device).await) {
            (_, Ok(())) => {}
            (Work::Create, Err(error)) if error.kind() == ErrorKind::AlreadyExists => {}
            (Work::Delete, Err(error)) if error.kind() == ErrorKind::NotFound => {}
            (_, Err(error)) => panic!("{what}: the second run fails: {error}"),
        }
        match (work, self.read(&name).await) {
            (Work::Delete, None) => {}
            (Work::Update, Some(kek)) => assert!(kek.ct_eq(&new), "{what}"),
            (Work::Create | Work::Get | Work::Rotate, Some(kek)) => assert!(image.opens(&kek), "{what}"),
            (_, found) => panic!("{what}: at the end the key is {found:?}"),
        }
        struck
    }

    /// Strikes every piece of every work with every fault.
    #[expect(clippy::print_stdout, reason = "the duration of the sweep, for a person who reads the run")]
    async fn sweep(&self) {
        for work in [Work::Create, Work::Get, Work::Update, Work::Delete, Work::Rotate] {
            let (begin, mut count) = (Instant::now(), 0);
            for fault in [Cut, Lost, Half, Stalled] {
                let mut at = 0;
                while self.strike(work, fault, at).await {
                    at += 1;
                }
                count += at;
            }
            println!("{work:?}: {count} faults, {:.0?}", begin.elapsed());
            assert!(count >= 8, "{work:?}: only {count} faults");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs cryptsetup, a KMIP server and a Kubernetes API server: cargo xtask it kmip"]
async fn with_identifiers_in_secrets_no_fault_of_the_network_loses_a_kek() {
    let server = KmipGo::start(&["-keep-last"]).await.unwrap();
    let relay = server.relay().await.unwrap();
    let store = Store::on_kmip(&relay.addr().to_string(), server.pki(), true).await.unwrap();
    Scene::new(store, relay).await.sweep().await;
}

// A real server's clock would make each write wait for a second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs cryptsetup: cargo xtask it kmip"]
async fn without_an_index_no_fault_of_the_network_loses_a_kek() {
    let server = KmipDouble::start(Quirks { uuids: true, ..Quirks::default() }).await.unwrap();
    let relay = Relay::start(server.endpoint().parse().unwrap()).await.unwrap();
    let store = Store::on_kmip(&relay.addr().to_string(), server.pki(), false).await.unwrap();
    Scene::new(store, relay).await.sweep().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs cryptsetup and a Kubernetes API server: cargo xtask it kmip"]
async fn each_rotation_leaves_one_superseded_object_with_identifiers_in_secrets_and_without() {
    for with_index in [true, false] {
        let server = KmipDouble::start(Quirks { uuids: true, ..Quirks::default() }).await.unwrap();
        let endpoint = server.endpoint();
        let store = Store::on_kmip(&endpoint, server.pki(), with_index).await.unwrap();
        let relay = Relay::start(endpoint.parse().unwrap()).await.unwrap();
        let scene = Scene::new(store, relay).await;
        let (name, new) = ("a".parse().unwrap(), Kek::generate().unwrap());
        let device = scene.folder.path().join("a");
        let image = scene.template.copy(&device);
        scene.client().await.put(&name, &scene.kek, PutMode::Create).await.unwrap();
        for rotation in 1..=3 {
            scene.run(Work::Rotate, &name, &new, &device).await.unwrap();
            assert!(image.opens(&scene.read(&name).await.unwrap()));
            assert_eq!(server.objects(), rotation + 1, "index: {with_index}");
        }
    }
}

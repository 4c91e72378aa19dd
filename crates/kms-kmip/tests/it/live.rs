//! Tests on a real PyKMIP: other clients and their objects, TLS refusals, and the number of connections.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows what it has measured"
)]

use std::sync::Arc;

use crate::common::{Setup, kek, key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use kms_core::{DeleteMode, ErrorKind, Freshness, KmsProvider, KmsProviderExt as _, PutMode, Retry, layer};
use kms_kmip::MemoryIndex;
use kms_testkit::servers::{KmipGo, PyKmip, pykmip::Flavour};

const VERSIONS: [&str; 6] = ["1.0", "1.1", "1.2", "1.3", "1.4", "2.0"];
const NAME: &str = "rook-ceph-osd-encryption-key-a";

/// PyKMIP's own client.
const CLIENT: &str = include_str!("common/client.py");

async fn server() -> (PyKmip, Setup) {
    let server = PyKmip::start(Flavour::Tls13).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    (server, setup)
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn what_pykmips_client_registers_is_read_by_ours() {
    let (server, setup) = server().await;
    for (at, version) in VERSIONS.into_iter().enumerate() {
        let material: Vec<u8> = (0..128).map(|byte| byte + u8::try_from(at).unwrap()).collect();
        let hex: String = material.iter().map(|byte| format!("{byte:02x}")).collect();
        for kind in ["symmetric-key", "secret-data", "opaque"] {
            let name = format!("{NAME}-{}-{kind}", at);
            let uid = server.client(CLIENT, &["register", version, kind, &name, &hex]).await.unwrap();
            let uid = uid.trim();
            // Read the object by its identifier, as from a Secret.
            let index = Arc::new(MemoryIndex::new());
            index.set(&key("indexed"), uid);
            let kmip = setup.clone().version(version).index(index).build().await;
            let stored = kmip.get(&key("indexed"), Freshness::Any).await.unwrap();
            assert_eq!(
                stored.kek.expose_secret_text().unwrap(),
                STANDARD.encode(&material),
                "{version} {kind}"
            );
            // Read the object by its name.
            if kind != "opaque" {
                let kmip = setup.clone().version(version).build().await;
                let stored = kmip.get(&key(&format!("a-{at}-{kind}")), Freshness::Any).await.unwrap();
                assert_eq!(stored.version.as_str(), uid);
                kmip.delete(&key(&format!("a-{at}-{kind}")), DeleteMode::Destroy).await.unwrap();
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn what_ours_registers_is_read_and_destroyed_by_pykmips_client() {
    let (server, setup) = server().await;
    for version in VERSIONS {
        let kmip = setup.clone().version(version).build().await;
        let kek = kek();
        let uid = kmip.put(&key("a"), &kek, PutMode::Create).await.unwrap();
        let found = server.client(CLIENT, &["get", version, NAME]).await.unwrap();
        let material: String = STANDARD
            .decode(kek.expose_secret_text().unwrap())
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found.trim(), format!("{uid} SYMMETRIC_KEY AES 1024 {material}"), "{version}");
        server.client(CLIENT, &["destroy", version, uid.as_str()]).await.unwrap();
        let error = kmip.get(&key("a"), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn a_superseded_object_is_renamed_and_does_not_come_back_after_rook_has_destroyed_the_current_one() {
    let (server, setup) = server().await;
    for version in VERSIONS {
        for with_index in [false, true] {
            let what = format!("{version}, index: {with_index}");
            let index = Arc::new(MemoryIndex::new());
            let setup = setup.clone().version(version);
            let setup = if with_index { setup.index(index.clone()) } else { setup };
            let kmip = setup.build().await;
            let old = kek();
            let first = kmip.put(&key("a"), &old, PutMode::Create).await.unwrap();
            let second = kmip.put(&key("a"), &kek(), PutMode::Update(first.clone())).await.unwrap();
            // The material of the superseded object stays readable, for PyKMIP's own client too.
            let found =
                server.client(CLIENT, &["get", version, &format!("{NAME} superseded")]).await.unwrap();
            let material: String = STANDARD
                .decode(old.expose_secret_text().unwrap())
                .unwrap()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(found.trim(), format!("{first} SYMMETRIC_KEY AES 1024 {material}"), "{what}");
            server.client(CLIENT, &["destroy", version, second.as_str()]).await.unwrap();
            index.remove(&key("a"));
            let other = setup.build().await;
            for kmip in [&kmip, &other] {
                let error = kmip.get(&key("a"), Freshness::Any).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
            }
            let new = kek();
            other.put(&key("a"), &new, PutMode::Create).await.unwrap();
            assert!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&new), "{what}");
            kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
            let error = other.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn an_active_object_of_another_client_program_is_revoked_and_destroyed() {
    let (server, setup) = server().await;
    let kmip = setup.build().await;
    let uid = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    server.client(CLIENT, &["activate", "1.4", uid.as_str()]).await.unwrap();
    kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
    assert_eq!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn objects_of_another_client_are_not_seen_by_name_and_denied_by_identifier() {
    let (server, setup) = server().await;
    let ours = setup.build().await;
    let uid = ours.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    let theirs = setup.clone().client(&server.pki().client2);
    let error = theirs.build().await.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let index = Arc::new(MemoryIndex::new());
    index.set(&key("a"), uid.as_str());
    let theirs = theirs.index(index).build().await;
    for error in [
        theirs.get(&key("a"), Freshness::Any).await.unwrap_err(),
        theirs.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(text.contains("Could not locate object") && text.contains("Permission Denied"), "{text}");
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn a_hundred_gets_are_one_connection() {
    for flavour in [Flavour::Stock, Flavour::Tls13] {
        let server = PyKmip::start(flavour).await.unwrap();
        let relay = server.relay().await.unwrap();
        let setup = Setup::on(&relay.addr().to_string(), server.pki());
        let kmip = setup.index(Arc::new(MemoryIndex::new())).build().await;
        // The search and the first write of a process have a connection each.
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        assert_eq!(relay.accepted(), 2, "{flavour:?}");
        for _ in 0..100 {
            kmip.get(&key("a"), Freshness::Any).await.unwrap();
        }
        assert_eq!(relay.accepted(), 2, "{flavour:?}");
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn keys_survive_connections_that_are_cut_and_answers_that_are_lost() {
    let (server, _) = server().await;
    let relay = server.relay().await.unwrap();
    let setup = Setup::on(&relay.addr().to_string(), server.pki());
    for with_index in [false, true] {
        let name = key(&format!("a-{with_index}"));
        let setup =
            if with_index { setup.clone().index(Arc::new(MemoryIndex::new())) } else { setup.clone() };
        let kmip = setup.build().await;
        let options = kmip.layer_options(layer::LayerOptions::default());
        let kmip = layer::standard(Arc::new(kmip), &options);
        for lost in [true, false] {
            let break_it = || if lost { relay.lose_next_reply() } else { relay.cut() };
            break_it();
            let first = kek();
            let ensured = kmip.ensure(&name, first).await.unwrap();
            break_it();
            let read = kmip.get(&name, Freshness::Fresh).await.unwrap();
            assert!(read.kek.ct_eq(&ensured.stored.kek));
            break_it();
            let next = kek();
            let version = kmip.put(&name, &next, PutMode::Update(read.version)).await.unwrap();
            break_it();
            kmip.retire_superseded(&name, &version).await.unwrap();
            assert!(kmip.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&next));
            break_it();
            kmip.delete(&name, DeleteMode::Destroy).await.unwrap();
            let error = kmip.get(&name, Freshness::Fresh).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
    let left: Vec<_> = setup.build().await.list().try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn each_tls_refusal_is_an_error_of_its_own() {
    for flavour in [Flavour::Stock, Flavour::Tls13] {
        let server = PyKmip::start(flavour).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki());
        let pki = server.pki();
        for (what, setup, kind) in [
            ("other CA", setup.clone().ca(&pki.bad_ca.cert), ErrorKind::ConfigInvalid),
            ("other name", setup.clone().set("TLS_SERVER_NAME", "other"), ErrorKind::ConfigInvalid),
            ("client of another CA", setup.clone().client(&pki.bad_client), ErrorKind::Unauthenticated),
            ("expired client", setup.clone().client(&pki.expired_client), ErrorKind::Unauthenticated),
            ("server as client", setup.clone().client(&pki.server), ErrorKind::Unauthenticated),
        ] {
            let error = setup.build().await.get(&key("a"), Freshness::Any).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.retryable()),
                (kind, Retry::Never),
                "{flavour:?} {what}: {error}"
            );
            println!("{flavour:?} {what}: {error}");
        }
        setup.set("TLS_SERVER_NAME", "kmip.vault.test").build().await.list().try_next().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn a_probe_shows_what_there_is() {
    let (_server, setup) = server().await;
    let probe = setup.build().await.probed().await;
    println!("{probe:#?}");
    assert!(probe.failed.is_none(), "{probe:?}");
    let text = format!("{:?}", probe.passed);
    assert!(text.contains("KMIP 1.4 chosen") && text.contains("2.0, 1.4, 1.3, 1.2, 1.1, 1.0"), "{text}");
}

#[tokio::test]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn a_server_that_dies_and_one_that_freezes_are_told_apart() {
    let (mut server, _) = server().await;
    let relay = server.relay().await.unwrap();
    let setup = Setup::on(&relay.addr().to_string(), server.pki()).set("READ_TIMEOUT", "2s");
    let kmip = setup.set("KMIP_CONNECT_TIMEOUT", "2s").build().await;
    kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    relay.freeze(true);
    let error = kmip.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    relay.freeze(false);
    kmip.get(&key("a"), Freshness::Any).await.unwrap();
    server.kill();
    let error = kmip.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the KMIP server in Go: cargo xtask it kmip"]
async fn a_list_is_complete_on_the_server_in_go_that_cuts_its_answers_and_does_not_say_so() {
    let server = KmipGo::start(&["-limit=3", "-pace=20"]).await.unwrap();
    let mut names = Vec::new();
    let setup = Setup::on(&server.endpoint(), server.pki());
    let kmip = setup.build().await;
    // Without an index, each create waits for the second after its object.
    for number in 0..8 {
        let name = key(&format!("osd-{number}"));
        kmip.put(&name, &kek(), PutMode::Create).await.unwrap();
        names.push(name);
    }
    // Ranges of dates complete the list at 1.2, offsets at 1.4.
    for version in ["1.2", "1.4"] {
        let kmip = setup.clone().version(version).build().await;
        let mut listed: Vec<_> = kmip.list().map_ok(|info| info.name).try_collect().await.unwrap();
        listed.sort();
        assert_eq!(listed, names, "{version}");
    }
}

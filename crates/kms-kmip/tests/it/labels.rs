//! Tests of labels on servers that accept a Register and do not keep all of its attributes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crate::common::{CLUSTER, Setup, kek, key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{DeleteMode, ErrorKind, Freshness, HistoryMode, KmsProvider as _, PutMode, Retry};
use kms_kmip::MemoryIndex;
use kms_testkit::fake::kmip::{Keeps, KmipDouble, Quirks};

const NAME: &str = "rook-ceph-osd-encryption-key-a";
const REGISTER: u32 = 0x03;

/// Servers that keep less than they accept, or accept less.
fn losing() -> Vec<Quirks> {
    let plain = Quirks { uuids: true, ..Quirks::default() };
    let last = Keeps::Last;
    let nothing_but_names = Quirks { applications: Keeps::Nothing, groups: Keeps::Nothing, ..plain.clone() };
    vec![
        plain.clone(),
        Quirks { applications: last, ..plain.clone() },
        Quirks { applications: Keeps::First, ..plain.clone() },
        Quirks { applications: Keeps::Nothing, ..plain.clone() },
        Quirks { groups: Keeps::Nothing, ..plain.clone() },
        Quirks { no_group: true, ..plain.clone() },
        Quirks { no_group: true, applications: last, ..plain.clone() },
        Quirks { names: last, ..plain.clone() },
        Quirks { names: last, applications: last, groups: last, ..plain.clone() },
        Quirks { names: Keeps::First, applications: Keeps::Nothing, ..plain.clone() },
        Quirks { versions: vec![(1, 0)], applications: last, no_group: true, ..plain.clone() },
        Quirks { versions: vec![(1, 0)], ..nothing_but_names.clone() },
        Quirks { versions: vec![(2, 0)], applications: last, ..plain.clone() },
        Quirks { versions: vec![(2, 0)], groups: Keeps::Nothing, ..plain },
        nothing_but_names,
    ]
}

#[tokio::test]
async fn updates_work_and_replaced_keks_stay_visible_whatever_the_server_loses() {
    for quirks in losing() {
        for with_index in [false, true] {
            let what = format!("index: {with_index}, {quirks:?}");
            let server = KmipDouble::start(quirks.clone()).await.unwrap();
            let mut setup = Setup::on(&server.endpoint(), server.pki());
            if with_index {
                setup = setup.index(Arc::new(MemoryIndex::new()));
            }
            let kmip = setup.build().await;
            kmip.put(&key("other"), &kek(), PutMode::Create).await.unwrap();
            let mut version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
            for _ in 0..3 {
                // Each rotation is a process of its own.
                let kmip = setup.build().await;
                let next = kek();
                version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.expect(&what);
                let stored = setup.build().await.get(&key("a"), Freshness::Fresh).await.unwrap();
                assert!(stored.kek.ct_eq(&next) && stored.version == version, "{what}");
            }
            assert_eq!(server.objects(), 5, "{what}");
            let past = setup.build().await.history(&key("a"), HistoryMode::ReadOnly).await.unwrap();
            assert_eq!(past.len(), 4, "{what}");
            let retired = setup.build().await.retire_superseded(&key("a"), &version).await.unwrap();
            assert_eq!((retired, server.objects()), (3, 2), "{what}");
            setup.build().await.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap();
            setup.build().await.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
            assert_eq!(server.objects(), 1, "{what}");
            let error = setup.build().await.get(&key("a"), Freshness::Fresh).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_keeps_a_name_alone_needs_an_index_for_updates() {
    let quirks = Quirks {
        applications: Keeps::Nothing,
        groups: Keeps::Nothing,
        names: Keeps::First,
        ..Quirks::default()
    };
    let server = KmipDouble::start(quirks).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    let (kmip, stored) = (setup.build().await, kek());
    let version = kmip.put(&key("a"), &stored, PutMode::Create).await.unwrap();
    let error = kmip.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("use an index in Kubernetes"), "{error}");
    assert_eq!(server.objects(), 1);
    assert!(setup.build().await.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&stored));
}

#[tokio::test]
async fn with_an_index_no_name_is_needed_on_a_server_that_drops_names_and_refuses_rooks_form() {
    for version in [(1, 0), (1, 4), (2, 1)] {
        let quirks = Quirks { names: Keeps::Nothing, versions: vec![version], ..Quirks::default() };
        let server = KmipDouble::start(quirks).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki()).index(Arc::new(MemoryIndex::new()));
        let kmip = setup.build().await;
        let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let next = kek();
        let version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
        let stored = setup.build().await.get(&key("a"), Freshness::Fresh).await.unwrap();
        assert!(stored.kek.ct_eq(&next) && stored.version == version);
        assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
        setup.build().await.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!(server.objects(), 0);
    }
}

#[tokio::test]
async fn where_names_are_unique_a_key_is_created_once_and_updated_with_an_index_only() {
    let server = KmipDouble::start(Quirks { unique_names: true, ..Quirks::default() }).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    let kmip = setup.build().await;
    let created = futures_util::future::join_all((0..4).map(|_| async {
        let stored = kek();
        let result = setup.build().await.put(&key("a"), &stored, PutMode::Create).await;
        result.map(|_| stored).map_err(|error| error.kind())
    }));
    let (winners, losers): (Vec<_>, Vec<_>) = created.await.into_iter().partition(Result::is_ok);
    assert!(losers.iter().all(|kind| kind.as_ref().err() == Some(&ErrorKind::AlreadyExists)), "{losers:?}");
    let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert!(winners.len() == 1 && winners[0].as_ref().unwrap().ct_eq(&stored.kek));
    for mode in [PutMode::Update(stored.version.clone()), PutMode::Overwrite] {
        let error = kmip.put(&key("a"), &kek(), mode).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unsupported, Retry::Never), "{error}");
        assert!(error.to_string().contains("names are unique there"), "{error}");
    }
    let index = Arc::new(MemoryIndex::new());
    let indexed = setup.index(index).build().await;
    let version = indexed.get(&key("a"), Freshness::Fresh).await.unwrap().version;
    let next = kek();
    indexed.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
    assert!(indexed.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&next));
}

#[tokio::test]
async fn a_server_that_refuses_every_form_is_asked_again_only_if_it_cannot_process_requests_now() {
    const GENERAL_FAILURE: u32 = 0x100;
    const INTERNAL_SERVER_ERROR: u32 = 0x2a;
    for (reason, retry) in [(GENERAL_FAILURE, Retry::Never), (INTERNAL_SERVER_ERROR, Retry::IfIdempotent)] {
        let quirks = Quirks { register_fails: Some(reason), ..Quirks::default() };
        let server = KmipDouble::start(quirks).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki());
        for setup in [setup.clone(), setup.index(Arc::new(MemoryIndex::new()))] {
            let error = setup.build().await.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
            assert_eq!(error.retryable(), retry, "{error}");
            assert!(error.to_string().contains("refused forms"), "{error}");
        }
    }
}

#[tokio::test]
async fn the_form_that_the_server_keeps_is_found_out_once_a_process() {
    let quirks = Quirks { applications: Keeps::Nothing, ..Quirks::default() };
    let server = KmipDouble::start(quirks).await.unwrap();
    let kmip = Setup::on(&server.endpoint(), server.pki()).build().await;
    let registers = || server.operations().into_iter().filter(|known| *known == REGISTER).count();
    let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    assert_eq!((registers(), server.objects()), (3, 1));
    kmip.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap();
    kmip.put(&key("b"), &kek(), PutMode::Create).await.unwrap();
    assert_eq!((registers(), server.objects()), (5, 3));
}

/// What an earlier version has registered: two values of application specific information, of which the server may have
/// kept one.
#[tokio::test]
async fn keks_of_earlier_versions_are_read_replaced_and_destroyed_whatever_the_server_has_kept() {
    let cluster = ("rook-kms", CLUSTER);
    for keeps in [Keeps::All, Keeps::First, Keeps::Last] {
        for (with_index, renamed) in [(false, true), (true, true), (true, false)] {
            if !with_index && keeps != Keeps::All {
                // An earlier version has destroyed such an update itself.
                continue;
            }
            let what = format!("{keeps:?}, index: {with_index}, renamed: {renamed}");
            let server = KmipDouble::start(Quirks::default()).await.unwrap();
            let superseded = format!("{NAME} superseded");
            let old_name = if renamed { superseded.as_str() } else { NAME };
            let mut uid = server.insert(&[0; 128], &[old_name], &[cluster]);
            for generation in 1..4_u8 {
                let data = format!("{generation} {uid}");
                let both = [cluster, ("rook-kms-generation", &*data)];
                let kept = match keeps {
                    Keeps::First => &both[..1],
                    Keeps::Last => &both[1..],
                    _ => &both[..],
                };
                let name = if generation == 3 { NAME } else { old_name };
                uid = server.insert(&[generation; 128], &[name], kept);
            }
            // Objects of another cluster and of another key stay.
            server.insert(&[9; 128], &[NAME], &[("rook-kms", "other/cluster")]);
            server.insert(&[9; 128], &["rook-ceph-osd-encryption-key-b"], &[cluster]);
            let mut setup = Setup::on(&server.endpoint(), server.pki());
            let index = Arc::new(MemoryIndex::new());
            if with_index {
                index.set(&key("a"), &uid);
                setup = setup.index(index.clone());
            }
            let kmip = setup.build().await;
            let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
            assert_eq!(stored.kek.expose_secret_text().unwrap(), STANDARD.encode([3; 128]), "{what}");
            if renamed && keeps != Keeps::First {
                // The Secret was lost.
                index.remove(&key("a"));
                let found = setup.build().await.get(&key("a"), Freshness::Fresh).await.expect(&what);
                assert_eq!(found.version, stored.version, "{what}");
            }
            let version = kmip.put(&key("a"), &kek(), PutMode::Update(stored.version)).await.expect(&what);
            // Without their generations, the update has taken the old objects for those of crashed writers.
            let retired = kmip.retire_superseded(&key("a"), &version).await.unwrap();
            assert!(retired == 4 || (keeps == Keeps::First && !renamed), "{what}: {retired}");
            assert_eq!(server.objects(), 3, "{what}");
            kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
            assert_eq!(server.objects(), 2, "{what}");
        }
    }
}

#[tokio::test]
async fn objects_that_are_no_kek_of_ours_are_neither_the_key_nor_destroyed() {
    let cluster = ("rook-kms", CLUSTER);
    for with_index in [false, true] {
        let server = KmipDouble::start(Quirks::default()).await.unwrap();
        let mut setup = Setup::on(&server.endpoint(), server.pki());
        let index = Arc::new(MemoryIndex::new());
        if with_index {
            setup = setup.index(index.clone());
        }
        // A certificate, a public key and a template of the same name, with our label and without.
        let kinds = [1, 3, 6];
        let others = kinds.map(|kind| {
            server.insert_kind(kind, &[1; 128], &[NAME], &[cluster]);
            server.insert_kind(kind, &[1; 128], &[NAME], &[])
        });
        let kmip = setup.build().await;
        let error = kmip.get(&key("a"), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let error = kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let version = kmip.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap();
        assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!(server.objects(), 2 * kinds.len());
        if with_index {
            // A wrong Secret names a certificate, the KEK of another key, or that of another cluster.
            let b = server.insert(&[2; 128], &["rook-ceph-osd-encryption-key-b"], &[cluster]);
            let theirs = server.insert(&[3; 128], &[NAME], &[("rook-kms", "other/cluster")]);
            for uid in [&others[0], &b, &theirs] {
                index.set(&key("a"), uid);
                let error = kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
                assert!(error.to_string().contains("nothing was destroyed"), "{error}");
                assert_eq!(server.objects(), 2 * kinds.len() + 2);
            }
        }
    }
}

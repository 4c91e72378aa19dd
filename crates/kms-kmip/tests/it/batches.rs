//! Several operations in one request: how many requests a read takes, and servers that do not support it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, Kek, KmsProvider as _, KmsProviderExt as _, PutMode, Retry,
};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::fake::kmip::{Batch, Continuation, KmipDouble, Quirks, Trick};

use crate::{
    common::{Setup, kek, key},
    wire::{DISCOVER, REGISTER, count, get, indexed, plain, with},
};

/// Reads the key `a`, and returns the number of requests that it took.
async fn requests(server: &KmipDouble, kmip: &Kmip, freshness: Freshness) -> (Result<Kek, Error>, usize) {
    let before = server.requests();
    let kek = kmip.get(&key("a"), freshness).await.map(|stored| stored.kek);
    (kek, server.requests() - before)
}

/// Stores the key `a`, lets the second of its date pass, and returns its KEK.
async fn stored(server: &KmipDouble, setup: &Setup) -> Kek {
    let stored = kek();
    let storing = setup.build().await;
    storing.put(&key("a"), &stored, PutMode::Create).await.unwrap();
    server.advance(Duration::from_secs(60));
    stored
}

#[tokio::test]
async fn a_read_is_one_request_with_an_index_and_without_in_a_new_process_too() {
    let (server, setup) = plain().await;
    let old = stored(&server, &setup).await;
    for freshness in [Freshness::Any, Freshness::Fresh] {
        // Without an index.
        let kmip = setup.build().await;
        for _ in 0..3 {
            let (kek, requests) = requests(&server, &kmip, freshness).await;
            assert!(kek.unwrap().ct_eq(&old));
            assert_eq!(requests, 1, "{freshness:?}");
        }
        // With one.
        let kmip = indexed(&server, &setup).await;
        for _ in 0..3 {
            let (kek, requests) = requests(&server, &kmip, freshness).await;
            kek.unwrap();
            assert_eq!(requests, 1, "{freshness:?}");
        }
    }
    // The version from the settings needs no question.
    let kmip = setup.version("1.4").build().await;
    let asked = count(&server, DISCOVER);
    assert_eq!(requests(&server, &kmip, Freshness::Fresh).await.1, 1);
    assert_eq!(count(&server, DISCOVER), asked);
}

#[tokio::test]
async fn a_server_without_batches_or_without_the_placeholder_is_found_out_once() {
    let default = Quirks::default;
    // The requests of a later read: Locate, Get Attributes and Get; or Locate, and the other two together.
    for (quirks, later) in [
        (Quirks { batch: Batch::Unsupported, ..default() }, 3),
        (Quirks { batch: Batch::Invalid, ..default() }, 3),
        (Quirks { batch: Batch::FirstOnly, ..default() }, 3),
        (Quirks { batch: Batch::Closed, ..default() }, 3),
        (Quirks { batch: Batch::Unsupported, bare_errors: true, ..default() }, 3),
        (Quirks { batch_reversed: true, no_batch_ids: true, ..default() }, 3),
        (Quirks { no_placeholder: true, ..default() }, 2),
        (Quirks { no_placeholder: true, continuation: Continuation::Always, ..default() }, 2),
        (Quirks { batch_reversed: true, ..default() }, 1),
        (Quirks { no_batch_ids: true, ..default() }, 1),
        (Quirks { continuation: Continuation::Always, bare_errors: true, ..default() }, 1),
        (Quirks { versions: vec![(2, 1)], ..default() }, 1),
        (Quirks { versions: vec![(1, 2), (1, 1), (1, 0)], echo_version: true, ..default() }, 1),
        (Quirks { versions: vec![(1, 0)], ..default() }, 1),
        (Quirks { no_discovery: true, ..default() }, 1),
        (Quirks { versions: vec![(1, 2)], lenient_versions: true, batch: Batch::FirstOnly, ..default() }, 3),
    ] {
        let (server, setup) = with(quirks.clone()).await;
        let kek = stored(&server, &setup).await;
        let kmip = setup.build().await;
        for at in 0..4 {
            let (found, requests) = requests(&server, &kmip, Freshness::Fresh).await;
            assert!(found.unwrap().ct_eq(&kek), "{quirks:?}");
            assert!(at == 0 || requests == later, "read {at}: {requests} requests, {quirks:?}");
        }
        // A version from the settings leaves the client to find out the same by itself.
        if quirks.versions.contains(&(1, 4)) && !quirks.no_discovery {
            let kmip = setup.clone().version("1.4").build().await;
            for at in 0..3 {
                let (found, requests) = requests(&server, &kmip, Freshness::Fresh).await;
                assert!(found.unwrap().ct_eq(&kek), "{quirks:?}");
                assert!(at == 0 || requests == later, "read {at} at 1.4: {requests} requests, {quirks:?}");
            }
        }
        // The version is asked for in the form that the server understands.
        let version = kmip.probed().await.passed.into_iter().find(|(step, _)| *step == "versions").unwrap().1;
        let best = [(1, 4), (1, 2), (1, 0), (2, 1)].into_iter().find(|best| quirks.versions.contains(best));
        let (major, minor) = best.filter(|_| !quirks.no_discovery).unwrap_or((1, 0));
        assert!(version.starts_with(&format!("KMIP {major}.{minor} chosen")), "{version}: {quirks:?}");
    }
}

#[tokio::test]
async fn the_placeholder_decides_nothing_among_several_objects() {
    for continuation in [Continuation::AsAsked, Continuation::Always] {
        let (server, setup) = with(Quirks { continuation, ..Quirks::default() }).await;
        let name = "rook-ceph-osd-encryption-key-a";
        server.insert(&[1; 128], &[name], &[("rook-kms", "other/cluster")]);
        let old = stored(&server, &setup).await;
        server.insert(&[3; 128], &[name], &[("rook-kms", "other/cluster")]);
        server.advance(Duration::from_secs(60));
        let kmip = setup.build().await;
        for _ in 0..3 {
            // Locate, all attributes, and the KEK.
            let (kek, requests) = requests(&server, &kmip, Freshness::Fresh).await;
            assert!(kek.unwrap().ct_eq(&old));
            assert_eq!(requests, 3);
        }
    }
}

#[tokio::test]
async fn the_attributes_of_many_objects_are_few_requests() {
    let (server, setup) = plain().await;
    for at in 0..40 {
        let name = format!("rook-ceph-osd-encryption-key-k{at}");
        server.insert(&[7; 128], &[&name], &[("rook-kms", crate::common::CLUSTER)]);
    }
    let kmip = setup.build().await;
    let before = server.requests();
    let keys: Vec<_> = futures_util::TryStreamExt::try_collect(kmip.list()).await.unwrap();
    assert_eq!(keys.len(), 40);
    // The versions, Locate, and three requests of 16 objects at most.
    assert!(server.requests() - before <= 5, "{}", server.requests() - before);
}

#[tokio::test]
async fn an_object_that_only_an_active_state_opens_is_activated_after_a_batch_too() {
    let (server, setup) = with(Quirks { get_needs_active: true, ..Quirks::default() }).await;
    let kek = stored(&server, &setup).await;
    let kmip = setup.build().await;
    assert!(get(&kmip).await.unwrap().ct_eq(&kek));
    assert_eq!(requests(&server, &kmip, Freshness::Fresh).await.1, 1);
}

#[tokio::test]
async fn a_batch_that_meets_silence_is_not_sent_again() {
    let (server, setup) = plain().await;
    let kek = stored(&server, &setup).await;
    let kmip = setup.set("READ_TIMEOUT", "200ms").build().await;
    server.trick(0, Trick::Silence);
    assert_eq!(get(&kmip).await.unwrap_err().kind(), ErrorKind::Timeout);
    let operations = server.operations().len();
    assert!(get(&kmip).await.unwrap().ct_eq(&kek));
    // Discover Versions, Locate, Get Attributes, Get: each alone.
    assert_eq!(server.operations().len() - operations, 4);
}

#[tokio::test]
async fn what_the_server_has_kept_comes_back_with_the_registration() {
    // The requests of a create with an index: the search, Register, and a last look after the entry was written.
    for (quirks, expected) in [
        (Quirks::default(), 3),
        // Get Attributes takes a request of its own.
        (Quirks { no_placeholder: true, ..Quirks::default() }, 4),
        (Quirks { batch: Batch::FirstOnly, ..Quirks::default() }, 4),
        (Quirks { batch: Batch::Closed, ..Quirks::default() }, 4),
    ] {
        let (server, setup) = with(quirks.clone()).await;
        let kmip = setup.index(Arc::new(MemoryIndex::new())).build().await;
        // The first ones find out what the server does.
        for name in ["a", "b"] {
            kmip.put(&key(name), &kek(), PutMode::Create).await.unwrap();
        }
        let (registered, before) = (count(&server, REGISTER), server.requests());
        kmip.put(&key("c"), &kek(), PutMode::Create).await.unwrap();
        assert_eq!(server.requests() - before, expected, "{quirks:?}");
        assert_eq!((count(&server, REGISTER) - registered, server.objects()), (1, 3), "{quirks:?}");
    }
}

#[tokio::test]
async fn a_lost_response_to_a_registration_with_more_operations_leaves_the_outcome_unknown() {
    let (server, setup) = plain().await;
    let kmip = setup.build().await;
    for (trick, kind, objects) in [
        (Trick::Close, ErrorKind::Unavailable, 0),
        (Trick::DoAndClose, ErrorKind::Unavailable, 1),
        (Trick::Cut(4), ErrorKind::Unavailable, 1),
        (Trick::Cut(40), ErrorKind::Unavailable, 1),
        (Trick::Raw(b"\x42\x00\x7b\x01\0\0\0\0".to_vec()), ErrorKind::Protocol, 0),
    ] {
        server.trick_on(REGISTER, trick.clone());
        let registered = count(&server, REGISTER);
        let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::IfIdempotent), "{trick:?}: {error}");
        assert_eq!((count(&server, REGISTER) - registered, server.objects()), (1, objects), "{trick:?}");
        if objects > 0 {
            kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        }
    }
}

//! Tests of servers that return fewer identifiers than they have found: nothing that is missing counts as absent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use futures_util::TryStreamExt as _;
use kms_core::{DeleteMode, Error, ErrorKind, Freshness, KeyVersion, KmsProvider, PutMode, Retry};
use kms_kmip::Kmip;
use kms_testkit::fake::kmip::{Batch, Filter, KmipDouble, Order, Pace, Quirks};

use crate::common::{CLUSTER, Setup, kek, key};

const LOCATE: u32 = 0x08;
const REGISTER: u32 = 0x03;
const CERTIFICATE: u32 = 1;

fn object_name(name: &str) -> String {
    format!("rook-ceph-osd-encryption-key-{name}")
}

/// Adds a key of our cluster.
fn insert(server: &KmipDouble, name: &str) -> String {
    server.insert(&[7; 128], &[&object_name(name)], &[("rook-kms", CLUSTER)])
}

async fn server(quirks: Quirks) -> (KmipDouble, Setup) {
    let server =
        KmipDouble::start(Quirks { clock: Pace::Times(1_000), uuids: true, ..quirks }).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    (server, setup)
}

/// The names that a list shows, and the error with which it ends.
async fn listed(kmip: &Kmip) -> (BTreeSet<String>, Option<Error>) {
    let mut names = BTreeSet::new();
    let mut list = kmip.list();
    loop {
        match list.try_next().await {
            Ok(Some(info)) => assert!(names.insert(info.name.to_string()), "{} is listed twice", info.name),
            Ok(None) => return (names, None),
            Err(error) => return (names, Some(error)),
        }
    }
}

/// Servers that cut a response short, and let a client complete it.
fn completable() -> Vec<Quirks> {
    let cut = Quirks { locate_limit: Some(7), ..Quirks::default() };
    vec![
        Quirks::default(),
        cut.clone(),
        Quirks { order: Order::Newest, ..cut.clone() },
        Quirks { located_items: true, ..cut.clone() },
        Quirks { ignores_maximum: true, located_items: true, order: Order::Newest, ..cut.clone() },
        Quirks { ignores_offset: true, ..cut.clone() },
        Quirks { ignores_offset: true, located_items: true, ..cut.clone() },
        Quirks { ignores_offset: true, locate_not_found: true, order: Order::Newest, ..cut.clone() },
        // Each page of a server without an order repeats some objects and leaves out others.
        Quirks { order: Order::Random, ..cut.clone() },
        Quirks { ignores_offset: true, filter_type: Filter::Ignored, filter_state: Filter::Refused, ..cut },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_complete_wherever_the_servers_filters_allow_it() {
    for version in ["1.0", "1.2", "1.4", "2.0", "2.1"] {
        for quirks in completable() {
            let versions = vec![(2, 1), (2, 0), (1, 4), (1, 2), (1, 0)];
            let (server, setup) = server(Quirks { versions, ..quirks.clone() }).await;
            let mut expected = BTreeSet::new();
            for number in 0..40 {
                let name = format!("osd-{number:02}");
                insert(&server, &name);
                expected.insert(name);
                // Up to three objects in one second.
                if number % 3 == 0 {
                    server.advance(Duration::from_secs(1));
                }
                server.insert_kind(CERTIFICATE, &[1; 16], &["another program's"], &[]);
            }
            let kmip = setup.version(version).build().await;
            let (names, error) = listed(&kmip).await;
            let names_missing = expected.difference(&names).count();
            assert!(
                error.is_none() && names == expected,
                "{version}: {names_missing} missing, {error:?}: {quirks:?}"
            );
            for name in ["osd-00", "osd-39"] {
                kmip.get(&key(name), Freshness::Fresh).await.unwrap();
            }
        }
    }
}

/// A server that cuts a response short, and ignores everything that could complete it.
fn hopeless() -> Quirks {
    Quirks {
        locate_limit: Some(1_000),
        ignores_maximum: true,
        ignores_offset: true,
        filter_date: Filter::Ignored,
        filter_type: Filter::Ignored,
        filter_state: Filter::Ignored,
        ..Quirks::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_completed_says_so_after_the_keys_that_were_found() {
    let counts = Quirks { locate_limit: Some(5), located_items: true, ..hopeless() };
    for (quirks, objects, rest) in [(hopeless(), 1_000, 3), (counts, 5, 3)] {
        let (server, setup) = server(quirks).await;
        for number in 0..objects {
            server.insert_kind(CERTIFICATE, &[1; 16], &[&format!("other {number}")], &[]);
        }
        for number in 0..rest {
            insert(&server, &format!("osd-{number}"));
        }
        let kmip = setup.clone().build().await;
        let (names, error) = listed(&kmip).await;
        // The server filters by cluster.
        assert_eq!(names.len(), rest);
        let error = error.unwrap();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Incomplete, Retry::Never), "{error}");
        // The server filters by name.
        kmip.get(&key("osd-1"), Freshness::Fresh).await.unwrap();
        let error = kmip.get(&key("absent"), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_from_a_cut_response_is_not_absent() {
    let (server, setup) = server(Quirks { locate_ignores_filter: true, ..hopeless() }).await;
    for number in 0..1_000 {
        server.insert_kind(CERTIFICATE, &[1; 16], &[&format!("other {number}")], &[]);
    }
    insert(&server, "a");
    let kmip = setup.build().await;
    let (name, before) = (key("a"), server.objects());
    let results = [
        ("get", kmip.get(&name, Freshness::Fresh).await.map(drop)),
        ("create", kmip.put(&name, &kek(), PutMode::Create).await.map(drop)),
        ("overwrite", kmip.put(&name, &kek(), PutMode::Overwrite).await.map(drop)),
        ("update", kmip.put(&name, &kek(), PutMode::Update(KeyVersion::new("1"))).await.map(drop)),
        ("delete", kmip.delete(&name, DeleteMode::Destroy).await.map(drop)),
    ];
    for (operation, result) in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete, "{operation}: {error}");
    }
    assert_eq!(server.objects(), before);
    assert!(!server.operations().contains(&REGISTER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_larger_than_the_limit_is_split_or_an_error_that_no_retry_repeats() {
    for filter_date in [Filter::Honoured, Filter::Ignored] {
        let quirks = Quirks { locate_limit: None, filter_date, ..hopeless() };
        let (server, setup) = server(quirks).await;
        for number in 0..100 {
            insert(&server, &format!("osd-{number}"));
            server.advance(Duration::from_secs(60));
        }
        let kmip = setup.set("KMIP_MAX_RESPONSE_SIZE", "2048").build().await;
        let (names, error) = listed(&kmip).await;
        if filter_date == Filter::Honoured {
            assert!(error.is_none() && names.len() == 100, "{} keys: {error:?}", names.len());
            continue;
        }
        let error = error.unwrap();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Incomplete, Retry::Never));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("raise KMIP_MAX_RESPONSE_SIZE"), "{cause}");
        assert!(server.requests() < 20, "{} requests", server.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_costs_the_same_with_one_superseded_object_and_with_a_hundred() {
    let plain = Quirks { no_modify: true, ..Quirks::default() };
    for quirks in [
        Quirks::default(),
        plain.clone(),
        Quirks { born_active: true, locate_not_found: true, ..plain.clone() },
        Quirks { batch: Batch::Unsupported, ..plain },
    ] {
        let revokes = quirks.no_modify;
        let (server, setup) = server(quirks).await;
        let kmip = setup.clone().build().await;
        let mut version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let mut costs = Vec::new();
        for round in 1..=100 {
            server.advance(Duration::from_secs(60));
            let next = kek();
            version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
            if matches!(round, 1 | 100) {
                let reader = setup.build().await;
                let before = server.requests();
                let stored = reader.get(&key("a"), Freshness::Any).await.unwrap();
                assert!(stored.kek.ct_eq(&next) && stored.version == version);
                costs.push(server.requests() - before);
            }
        }
        let located = server.operations().iter().filter(|operation| **operation == LOCATE).count();
        assert!(located > 0);
        // Renamed objects cost nothing. On a server that revokes them, the two states and the time since the newest object
        // take three more searches, however many objects there are.
        let more = if revokes { 3 } else { 0 };
        assert!(costs[1] <= costs[0] + more, "requests with 1 and with 100 superseded objects: {costs:?}");
        // A current object that the server has deactivated by itself is still the KEK.
        server.deactivate(version.as_str());
        let stored = setup.build().await.get(&key("a"), Freshness::Fresh).await.unwrap();
        assert_eq!(stored.version, version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_a_read_agree_on_the_objects_of_a_cluster() {
    for version in ["1.0", "1.4", "2.1"] {
        let versions = vec![(2, 1), (1, 4), (1, 0)];
        let (server, setup) = server(Quirks { versions, ..Quirks::default() }).await;
        let generation = ("rook-kms-generation", "0 ");
        for (name, application) in [
            ("ours", vec![("rook-kms", CLUSTER)]),
            ("ours-in-two", vec![("rook-kms", CLUSTER), generation]),
            ("ours-in-one", vec![("rook-kms", "rook-ceph/rook-ceph 3 17")]),
            ("no-cluster", vec![("rook-kms", "-")]),
            ("name-only", vec![]),
            ("foreign-label", vec![("other program", "x")]),
            ("foreign", vec![("rook-kms", "other/cluster")]),
        ] {
            server.insert(&[7; 128], &[&object_name(name)], &application);
        }
        server.insert(&[7; 128], &[&object_name("second-name"), "-", "x rook-kms rook-ceph/rook-ceph"], &[]);
        let all = setup.version(version);
        for cluster in [Some(CLUSTER), Some("other/cluster"), Some("third/cluster"), None] {
            let kmip = all.clone().cluster(cluster).build().await;
            let (names, error) = listed(&kmip).await;
            assert!(error.is_none(), "{error:?}");
            for name in [
                "ours",
                "ours-in-two",
                "ours-in-one",
                "no-cluster",
                "name-only",
                "foreign-label",
                "foreign",
                "second-name",
            ] {
                let is_read = kmip.get(&key(name), Freshness::Fresh).await.is_ok();
                assert_eq!(is_read, names.contains(name), "{version}, {cluster:?}: {name}");
            }
            assert_eq!(names.contains("foreign"), cluster.is_none_or(|cluster| cluster == "other/cluster"));
        }
    }
}

//! Tests on the double: the requests and connections of the client, and its behaviour towards faulty servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kms_conformance::leak::{Canary, Recording};
use kms_core::{
    DeleteMode, Error, ErrorKind, Existing, Freshness, Kek, KeyIndex as _, KmsProvider, KmsProviderExt,
    PutMode, Retry,
};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::fake::kmip::{KmipDouble, Quirks, Trick};

use crate::common::{CLUSTER, Setup, kek, key};

pub(crate) const REGISTER: u32 = 0x03;
pub(crate) const GET: u32 = 0x0a;
const ACTIVATE: u32 = 0x12;
const REVOKE: u32 = 0x13;
const DESTROY: u32 = 0x14;
pub(crate) const DISCOVER: u32 = 0x1e;

pub(crate) async fn plain() -> (KmipDouble, Setup) {
    with(Quirks::default()).await
}

pub(crate) async fn with(quirks: Quirks) -> (KmipDouble, Setup) {
    let server = KmipDouble::start(quirks).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    (server, setup)
}

/// A provider whose index holds the key `a`, which the server holds in Rook's form.
pub(crate) async fn indexed(server: &KmipDouble, setup: &Setup) -> Kmip {
    let index = Arc::new(MemoryIndex::new());
    index.set(&key("a"), &server.insert_rooks(&[7; 128], 256));
    setup.clone().index(index).build().await
}

pub(crate) async fn get(kmip: &Kmip) -> Result<Kek, Error> {
    Ok(kmip.get(&key("a"), Freshness::Any).await?.kek)
}

pub(crate) fn count(server: &KmipDouble, operation: u32) -> usize {
    server.operations().into_iter().filter(|known| *known == operation).count()
}

#[tokio::test]
async fn a_hundred_gets_are_one_handshake_one_discovery_and_a_hundred_requests() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup).await;
    for _ in 0..100 {
        get(&kmip).await.unwrap();
    }
    assert_eq!(server.handshakes(), 1);
    assert_eq!((count(&server, DISCOVER), count(&server, GET), server.operations().len()), (1, 100, 101));
}

#[tokio::test]
async fn a_server_is_reached_by_its_ipv6_address() {
    let (server, setup) = plain().await;
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = server.endpoint();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    assert!(address.starts_with("[::1]:"));
    // The address is in the server's certificate, so it needs no other name.
    get(&indexed(&server, &setup.endpoint(&address)).await).await.unwrap();
}

#[tokio::test]
async fn many_at_once_share_few_connections() {
    let (server, setup) = plain().await;
    let kmip = Arc::new(indexed(&server, &setup.set("KMIP_MAX_CONNECTIONS", "3")).await);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let kmip = Arc::clone(&kmip);
            tokio::spawn(async move { get(&kmip).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(server.handshakes() <= 3, "{}", server.handshakes());
}

#[tokio::test]
async fn keys_of_rook_are_read_whatever_length_they_declare() {
    let (server, setup) = plain().await;
    let index = Arc::new(MemoryIndex::new());
    let kmip = setup.index(index.clone()).build().await;
    let kek = kek();
    let bytes =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, kek.expose_secret_text().unwrap())
            .unwrap();
    for bits in [128, 256, 1024] {
        index.set(&key("a"), &server.insert_rooks(&bytes, bits));
        assert!(get(&kmip).await.unwrap().ct_eq(&kek));
    }
    // The object has no name, and yet an update and a delete treat it as one of ours.
    let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
    let version = kmip.put(&key("a"), &crate::common::kek(), PutMode::Update(stored.version)).await.unwrap();
    assert_eq!(server.objects(), 4);
    assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
    kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
    // The two objects that no entry leads to remain.
    assert_eq!(server.objects(), 2);
}

#[tokio::test]
async fn a_secret_that_holds_a_kek_is_refused_and_never_sent() {
    let (server, setup) = plain().await;
    let index = Arc::new(MemoryIndex::new());
    let secret = kek();
    index.set(&key("a"), secret.expose_secret_text().unwrap());
    let kmip = setup.index(index).build().await;
    let recording = Recording::start().unwrap();
    let errors = [
        get(&kmip).await.unwrap_err(),
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err(),
        kmip.put(&key("a"), &kek(), PutMode::Overwrite).await.unwrap_err(),
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err(),
    ];
    let canary = Canary::new("the KEK", secret.expose_secret_text().unwrap());
    for error in errors {
        assert!(error.to_string().contains("holds a KEK and no identifier"), "{error}");
        assert_eq!(canary.found_in(&format!("{error:?}{kmip:?}")), None);
    }
    assert_eq!(canary.found_in(&recording.text()), None);
    assert_eq!(server.operations(), [0_u32; 0]);
}

#[tokio::test]
async fn a_key_is_found_when_the_index_has_lost_it_and_written_down_by_the_next_create() {
    let (server, setup) = plain().await;
    let index = Arc::new(MemoryIndex::new());
    let kmip = setup.index(index.clone()).build().await;
    let stored = kek();
    kmip.put(&key("a"), &stored, PutMode::Create).await.unwrap();
    index.remove(&key("a"));
    assert!(get(&kmip).await.unwrap().ct_eq(&stored));
    let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different));
    assert!(index.get(&key("a")).await.unwrap().is_some());
    assert_eq!(server.objects(), 1);
}

#[tokio::test]
async fn a_registration_whose_answer_is_lost_gets_its_entry_all_the_same() {
    let (server, setup) = plain().await;
    let index = Arc::new(MemoryIndex::new());
    let kmip = setup.index(index.clone()).build().await;
    kmip.probed().await;
    // The first request is a Locate, the second the Register.
    server.trick(1, Trick::DoAndClose);
    let stored = kek();
    let uid = kmip.put(&key("a"), &stored, PutMode::Create).await.unwrap();
    assert_eq!(*index.get(&key("a")).await.unwrap().unwrap().uid, uid.as_str());
    assert!(get(&kmip).await.unwrap().ct_eq(&stored));
    assert_eq!(server.objects(), 1);
    // The same for a request that never arrives: nothing is stored, and the error says that the outcome is unknown.
    server.trick(1, Trick::Close);
    let error = kmip.put(&key("b"), &stored, PutMode::Create).await.unwrap_err();
    assert_eq!(error.retryable(), Retry::IfIdempotent, "{error}");
    assert_eq!(server.objects(), 1);
}

#[tokio::test]
async fn an_entry_for_an_object_that_is_not_there_is_left_alone() {
    let (server, setup) = plain().await;
    let index = Arc::new(MemoryIndex::new());
    index.set(&key("a"), "4711");
    let kmip = setup.index(index.clone()).build().await;
    let error = get(&kmip).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("another server"), "{error}");
    let error = kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Unknown));
    assert_eq!(*index.get(&key("a")).await.unwrap().unwrap().uid, "4711");
    assert_eq!((server.objects(), count(&server, REGISTER)), (0, 0));
}

#[tokio::test]
async fn a_kek_that_is_no_base64_is_refused_before_any_request() {
    let (server, setup) = plain().await;
    let kmip = setup.build().await;
    for text in ["a passphrase", "QUJ="] {
        let error = kmip.put(&key("a"), &Kek::parse(text).unwrap(), PutMode::Overwrite).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
    assert_eq!(server.operations(), [0_u32; 0]);
}

#[tokio::test]
async fn the_best_common_version_is_spoken() {
    for (versions, chosen) in [
        (vec![(1, 0), (1, 1), (1, 2)], "KMIP 1.2 chosen"),
        (vec![(1, 4)], "KMIP 1.4 chosen"),
        (vec![(2, 1), (1, 4)], "KMIP 1.4 chosen"),
        (vec![(2, 0), (2, 1)], "KMIP 2.1 chosen"),
        (vec![(2, 0)], "KMIP 2.0 chosen"),
        (vec![(1, 0)], "KMIP 1.0 chosen"),
        (vec![(1, 1)], "KMIP 1.1 chosen"),
    ] {
        for echo_version in [false, true] {
            let quirks = Quirks { versions: versions.clone(), echo_version, ..Quirks::default() };
            let (_server, setup) = with(quirks).await;
            let probe = setup.build().await.probed().await;
            assert!(probe.failed.is_none(), "{probe:?}");
            let (_, found) = probe.passed.iter().find(|(step, _)| *step == "versions").unwrap();
            assert!(found.starts_with(chosen), "{versions:?}: {found}");
        }
    }
    let (_server, setup) = with(Quirks { no_discovery: true, ..Quirks::default() }).await;
    let kmip = setup.build().await;
    kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    let (_, found) = kmip.probed().await.passed.into_iter().find(|(step, _)| *step == "versions").unwrap();
    assert!(found.starts_with("KMIP 1.0 chosen"), "{found}");
    let quirks = Quirks { versions: vec![(1, 9)], lenient_versions: true, ..Quirks::default() };
    let (_server, setup) = with(quirks).await;
    let error = setup.build().await.get(&key("a"), Freshness::Any).await.unwrap_err().to_string();
    assert!(error.contains("no KMIP version in common") && error.contains("theirs: 1.9"), "{error}");
}

#[tokio::test]
async fn a_probe_shows_versions_server_and_both_certificates() {
    let (_server, setup) = plain().await;
    let probe = setup.clone().build().await.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    let text = format!("{:?}", probe.passed);
    for part in [
        "CN=client1",
        "issued by ",
        "CN=Test CA",
        "ends 2120-01-01",
        r#"certificate \"CN=localhost\" issued by "#,
        "for localhost",
        "verified with CA_CERT",
        "TLS 1.3, TLS13_",
        "key exchange X25519MLKEM768 (post-quantum), by AWS-LC ",
        r#"the server asks for a client certificate and gets \"CN=client1"#,
        "the server offers 2.0, 1.4",
        "The double",
        CLUSTER,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let expired = setup.endpoint("127.0.0.1:9").build().await.probed().await;
    assert_eq!(expired.failed.map(|(step, _)| step), Some("tcp"));
}

#[tokio::test]
async fn active_objects_are_revoked_before_they_are_destroyed_and_others_are_not() {
    for lifecycle_reason in [false, true] {
        let (server, setup) = with(Quirks { lifecycle_reason, ..Quirks::default() }).await;
        let kmip = setup.build().await;
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!((count(&server, REVOKE), count(&server, DESTROY)), (0, 1));

        server.change(|quirks| quirks.born_active = true);
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!((count(&server, REVOKE), server.objects()), (1, 0));

        server.change(|quirks| quirks.no_revoke = true);
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let before = count(&server, DESTROY);
        let error = kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("You may not revoke"), "{error}");
        assert_eq!((count(&server, DESTROY), server.objects()), (before + 1, 1));
        assert_eq!(count(&server, ACTIVATE), 0);
    }
}

#[tokio::test]
async fn what_a_server_takes_is_found_out_once() {
    for (quirks, tries) in [
        (Quirks::default(), 1),
        (Quirks { no_application: true, ..Quirks::default() }, 3),
        (Quirks { no_application: true, no_group: true, ..Quirks::default() }, 4),
        (Quirks { no_application: true, no_group: true, one_name: true, ..Quirks::default() }, 5),
    ] {
        let (server, setup) = with(quirks).await;
        let kmip = setup.build().await;
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        assert_eq!(count(&server, REGISTER), tries);
        kmip.put(&key("b"), &kek(), PutMode::Create).await.unwrap();
        assert_eq!(count(&server, REGISTER), tries + 1);
    }
    // The client refuses an update whose object could not be distinguished from its predecessor, and leaves no object.
    let quirks = Quirks { no_application: true, no_group: true, one_name: true, ..Quirks::default() };
    let (server, setup) = with(quirks).await;
    let kmip = setup.build().await;
    let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    let error = kmip.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap_err();
    assert!(error.to_string().contains("refused forms: "), "{error}");
    assert_eq!(server.objects(), 1);
}

#[tokio::test]
async fn of_many_objects_the_one_with_our_name_and_tag_is_taken() {
    let (server, setup) = with(Quirks { locate_ignores_filter: true, ..Quirks::default() }).await;
    let name = "rook-ceph-osd-encryption-key-a";
    server.insert(&[1; 128], &["rook-ceph-osd-encryption-key-b"], &[("rook-kms", CLUSTER)]);
    server.insert(&[2; 128], &[name], &[("rook-kms", "other/cluster")]);
    server.insert(&[3; 128], &[name], &[]);
    let kmip = setup.clone().build().await;
    let material = |kek: &Kek| kek.expose_secret_text().unwrap().to_owned();
    let of = |byte: u8| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [byte; 128]);
    assert_eq!(material(&get(&kmip).await.unwrap()), of(3));
    server.insert(&[4; 128], &[name], &[("rook-kms", CLUSTER)]);
    assert_eq!(material(&get(&kmip).await.unwrap()), of(4));
    // Another cluster sees its own object; without a cluster the error says that there are several.
    let other = setup.clone().cluster(Some("other/cluster")).build().await;
    assert_eq!(material(&get(&other).await.unwrap()), of(2));
    let error = get(&setup.cluster(None).build().await).await.unwrap_err();
    assert!(error.to_string().contains("several clusters"), "{error}");
}

#[tokio::test]
async fn an_object_of_another_program_is_rotated_and_deleted_with_the_key() {
    let (server, setup) = plain().await;
    for with_index in [false, true] {
        let setup =
            if with_index { setup.clone().index(Arc::new(MemoryIndex::new())) } else { setup.clone() };
        let kmip = setup.build().await;
        for retire in [true, false] {
            server.insert(&[9; 128], &["rook-ceph-osd-encryption-key-a"], &[]);
            let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
            let next = kek();
            let version = kmip.put(&key("a"), &next, PutMode::Update(stored.version)).await.unwrap();
            assert!(get(&kmip).await.unwrap().ct_eq(&next));
            if retire {
                assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
                assert_eq!(server.objects(), 1);
            }
            kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
            assert_eq!(server.objects(), 0);
            assert_eq!(get(&kmip).await.unwrap_err().kind(), ErrorKind::NotFound);
        }
    }
}

#[tokio::test]
async fn hostile_answers_are_errors_of_their_own() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup).await;
    get(&kmip).await.unwrap();
    let header = |length: u32| [&b"\x42\x00\x7b\x01"[..], &length.to_be_bytes()].concat();
    let deep = {
        let mut frame = Vec::new();
        for _ in 0..60 {
            let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
            frame = [&b"\x42\x00\x7b\x01"[..], &length, &frame].concat();
        }
        frame
    };
    let huge = [header(0x7fff_fff8), vec![0; 4096]].concat();
    for (what, trick, why) in [
        ("2 GiB", Trick::Raw(huge), "announced: 2147483640"),
        ("just above the cap", Trick::Raw(header(1024 * 1024 + 8)), "larger than KMIP_MAX_RESPONSE_SIZE"),
        (
            "HTTP",
            Trick::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            "a web server or a proxy has answered; check host and port in KMIP_ENDPOINT",
        ),
        (
            "a request",
            Trick::Raw(b"\x42\x00\x78\x01\0\0\0\0".to_vec()),
            "does not begin like a KMIP response",
        ),
        ("empty", Trick::Raw(header(0)), "it has no batch item"),
        ("garbage", Trick::Raw([header(16), vec![0xff; 16]].concat()), "it is not TTLV"),
        ("deep", Trick::Raw(deep), "it is not TTLV"),
        ("cut in the header", Trick::Cut(4), "closed in the middle of the response"),
        ("cut in the body", Trick::Cut(40), "closed in the middle of the response"),
    ] {
        server.trick(0, trick);
        let error = get(&kmip).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unavailable), "{what}: {error}");
        assert!(error.to_string().contains(why), "{what}: {error}");
        // The connection is not used again.
        get(&kmip).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_to_an_earlier_request_is_not_taken_for_that_of_the_next() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup.clone().set("READ_TIMEOUT", "200ms")).await;
    get(&kmip).await.unwrap();
    server.trick(0, Trick::Drip(Duration::from_millis(20)));
    let error = get(&kmip).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let handshakes = server.handshakes();
    get(&kmip).await.unwrap();
    assert_eq!(server.handshakes(), handshakes + 1);
}

async fn takes(least: u64, most: u64, call: impl Future<Output = Result<Kek, Error>>) -> Error {
    let start = Instant::now();
    let error = call.await.unwrap_err();
    let took = start.elapsed();
    let range = Duration::from_millis(least)..Duration::from_millis(most);
    assert!(range.contains(&took), "{took:?}: {error}");
    error
}

#[tokio::test]
async fn a_silent_server_is_given_up_on_within_the_limits() {
    let (server, setup) = plain().await;
    let setup = setup.set("READ_TIMEOUT", "300ms").set("KMIP_CONNECT_TIMEOUT", "300ms");
    let kmip = indexed(&server, &setup).await;
    get(&kmip).await.unwrap();
    server.trick(0, Trick::Silence);
    let error = takes(290, 3000, get(&kmip)).await;
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::IfIdempotent));
    assert!(error.to_string().contains("READ_TIMEOUT"), "{error}");

    // This server accepts a connection and never sends anything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let kmip = indexed(&server, &setup.clone().endpoint(&address)).await;
    let error = takes(290, 3000, get(&kmip)).await;
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::Always));
    assert!(error.to_string().contains("no TLS handshake"), "{error}");

    // Packets to this address are lost, or there is no route to it.
    let kmip = indexed(&server, &setup.clone().endpoint("192.0.2.1")).await;
    let error = takes(0, 3000, get(&kmip)).await;
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
    assert!(error.to_string().contains("192.0.2.1:5696"), "{error}");

    let kmip = indexed(&server, &setup.endpoint("kmip.invalid")).await;
    let error = takes(0, 5000, get(&kmip)).await;
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
}

#[tokio::test]
async fn each_tls_fault_is_an_error_of_its_own() {
    let (server, setup) = plain().await;
    let pki = server.pki();
    for (setup, kind, why) in [
        (setup.clone().ca(&pki.bad_ca.cert), ErrorKind::ConfigInvalid, "CA_CERT holds"),
        (setup.clone().set("TLS_SERVER_NAME", "kmip.other"), ErrorKind::ConfigInvalid, "TLS_SERVER_NAME"),
        (setup.clone().client(&pki.bad_client), ErrorKind::Unauthenticated, "CLIENT_CERT"),
        (setup.clone().client(&pki.expired_client), ErrorKind::Unauthenticated, "CLIENT_CERT has expired"),
    ] {
        let error = get(&indexed(&server, &setup).await).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (kind, Retry::Never), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // The override applies to the requested server name and to the verified one.
    get(&indexed(&server, &setup.clone().set("TLS_SERVER_NAME", "kmip.vault.test")).await).await.unwrap();
    // A server that speaks no TLS.
    let clear = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = setup.endpoint(&clear.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = clear.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = get(&indexed(&server, &setup).await).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS on this port; check KMIP_ENDPOINT"), "{error}");
}

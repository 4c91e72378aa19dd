//! Connections: which ones are kept, what a write may use, and what is said about lost ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use kms_core::{DeleteMode, ErrorKind, Freshness, KmsProvider, KmsProviderExt as _, PutMode, Retry, layer};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::{
    fake::kmip::{Quirks, Trick},
    servers::Relay,
};

use crate::{
    common::{kek, key},
    wire::{REGISTER, count, get, indexed, plain, with},
};

#[tokio::test]
async fn connections_that_the_server_closes_are_replaced_unseen() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup).await;
    get(&kmip).await.unwrap();
    // The server closes after a response: the client notices before the next request.
    server.trick(0, Trick::AnswerAndClose);
    get(&kmip).await.unwrap();
    let handshakes = server.handshakes();
    get(&kmip).await.unwrap();
    assert_eq!(server.handshakes(), handshakes + 1);
    // The server closes when a request arrives: the client repeats a read.
    server.trick(0, Trick::Close);
    get(&kmip).await.unwrap();
    server.trick(0, Trick::DoAndClose);
    get(&kmip).await.unwrap();
    // The client does not repeat a Register.
    let alone = setup.build().await;
    alone.probed().await;
    let before = count(&server, REGISTER);
    server.trick(1, Trick::DoAndClose);
    let error = alone.put(&key("b"), &kek(), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::IfIdempotent), "{error}");
    assert_eq!(count(&server, REGISTER), before + 1);
}

#[tokio::test]
async fn a_connection_that_has_carried_a_kek_is_closed_without_another_request() {
    let (server, setup) = plain().await;
    let relay = Relay::start(server.endpoint().parse().unwrap()).await.unwrap();
    let setup = setup.endpoint(&relay.addr().to_string()).set("KMIP_IDLE_TIMEOUT", "100ms");
    let kmip = indexed(&server, &setup).await;
    for _ in 0..2 {
        get(&kmip).await.unwrap();
        // Its buffers hold the KEK, and a rotation waits for minutes now.
        let closed = async {
            while relay.open() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the connection is closed");
    }
}

#[tokio::test]
async fn idle_connections_are_not_kept_longer_than_set() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup.set("KMIP_IDLE_TIMEOUT", "0")).await;
    for _ in 0..3 {
        get(&kmip).await.unwrap();
    }
    assert_eq!(server.handshakes(), 3);
}

#[tokio::test]
async fn a_server_that_closes_each_connection_after_its_response_loses_no_write() {
    for (late, with_index) in [(false, false), (false, true), (true, false), (true, true)] {
        let quirks = Quirks { closes_after_each_answer: !late, closes_late: late, ..Quirks::default() };
        let (server, setup) = with(quirks).await;
        let setup = if with_index { setup.index(Arc::new(MemoryIndex::new())) } else { setup };
        let kmip = setup.build().await;
        let stored = kek();
        let version = kmip.put(&key("a"), &stored, PutMode::Create).await.unwrap();
        assert!(get(&kmip).await.unwrap().ct_eq(&stored));
        let version = kmip.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap();
        kmip.retire_superseded(&key("a"), &version).await.unwrap();
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!(server.objects(), 0);
        // By now no connection is kept, so no request is sent twice.
        let (handshakes, requests) = (server.handshakes(), server.requests());
        let error = get(&kmip).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(server.handshakes() - handshakes, server.requests() - requests);
    }
}

#[tokio::test]
async fn after_a_loss_a_write_goes_out_on_a_new_connection() {
    let (server, setup) = plain().await;
    let kmip = setup.build().await;
    kmip.probed().await;
    let lost = async |kmip: &Kmip| {
        server.trick_on(REGISTER, Trick::DoAndClose);
        kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err()
    };
    let error = lost(&kmip).await;
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::IfIdempotent), "{error}");
    assert!(error.to_string().contains("KMIP_IDLE_TIMEOUT"), "{error}");
    // A search goes out on a new connection, and the write does not use that one, which has responded only once.
    let handshakes = server.handshakes();
    kmip.put(&key("b"), &kek(), PutMode::Create).await.unwrap();
    assert_eq!(server.handshakes(), handshakes + 2);
}

#[tokio::test]
async fn a_connection_that_is_dropped_in_silence_while_idle_carries_no_write() {
    let (server, setup) = plain().await;
    let relay = Relay::start(server.endpoint().parse().unwrap()).await.unwrap();
    let setup = setup.set("KMIP_IDLE_TIMEOUT", "1h").set("READ_TIMEOUT", "300ms");
    let kmip = setup.endpoint(&relay.addr().to_string()).build().await;
    let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    let idle = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(600)).await;
        tokio::time::resume();
        relay.forget();
    };
    // Several connections are idle, and all are dead; the client finds out once.
    futures_util::future::join_all((0..4).map(|_| get(&kmip))).await;
    idle().await;
    let error = get(&kmip).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::IfIdempotent), "{error}");
    get(&kmip).await.unwrap();
    // A write does not go out on a connection that has been idle.
    idle().await;
    let registered = count(&server, REGISTER);
    let destroyed = kmip.delete(&key("a"), DeleteMode::Destroy).await;
    assert_eq!(destroyed.unwrap_err().kind(), ErrorKind::Timeout);
    kmip.put(&key("b"), &kek(), PutMode::Create).await.unwrap();
    assert_eq!(count(&server, REGISTER), registered + 1);
    drop(version);
}

#[tokio::test]
async fn connections_that_the_server_closes_while_they_are_idle_cost_neither_a_read_nor_a_write() {
    let quirks = Quirks { idle_close: Some(Duration::from_secs(600)), ..Quirks::default() };
    let (server, setup) = with(quirks).await;
    let kmip = indexed(&server, &setup.set("KMIP_IDLE_TIMEOUT", "1h")).await;
    for round in 0..4 {
        futures_util::future::join_all((0..4).map(|_| get(&kmip))).await;
        server.advance(Duration::from_secs(600));
        get(&kmip).await.unwrap();
        server.advance(Duration::from_secs(600));
        let name = key(&format!("b-{round}"));
        kmip.put(&name, &kek(), PutMode::Create).await.unwrap();
        server.advance(Duration::from_secs(600));
        kmip.delete(&name, DeleteMode::Destroy).await.unwrap();
    }
    assert_eq!(server.objects(), 1);
}

#[tokio::test]
async fn a_server_that_reads_nothing_is_a_timeout_that_names_its_setting() {
    let (server, setup) = with(Quirks { deaf: true, ..Quirks::default() }).await;
    let kmip = indexed(&server, &setup.set("READ_TIMEOUT", "200ms").set("WRITE_TIMEOUT", "200ms")).await;
    let (read, written) = (get(&kmip).await, kmip.put(&key("b"), &kek(), PutMode::Create).await.map(drop));
    for error in [read.map(drop).unwrap_err(), written.unwrap_err()] {
        // The request is in a buffer of the network, so whether the server has read it is unknown.
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::IfIdempotent), "{error}");
        assert!(error.to_string().contains("READ_TIMEOUT"), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_front_end_whose_server_is_down_is_unavailable_and_does_not_blame_the_certificate() {
    let (server, setup) = plain().await;
    let kmip = indexed(&server, &setup).await;
    server.change(|quirks| quirks.dead_backend = true);
    let error = get(&kmip).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::IfIdempotent), "{error}");
    assert!(!error.to_string().contains("CLIENT_CERT"), "{error}");
    // The client asks again by itself, and gets the key once the server is back.
    let patient = layer::standard(Arc::new(kmip), &layer::LayerOptions::default());
    let name = key("a");
    let (read, ()) = tokio::join!(patient.get(&name, Freshness::Any), async {
        let handshakes = server.handshakes();
        while server.handshakes() < handshakes + 3 {
            tokio::task::yield_now().await;
        }
        server.change(|quirks| quirks.dead_backend = false);
    });
    read.unwrap();
}

//! Tests of what Rook leaves behind, and of what it cannot read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crate::common::{Setup, kek, key};
use kms_core::{DeleteMode, Error, ErrorKind, Existing, Freshness, KmsProvider as _, PutMode};
use kms_kmip::MemoryIndex;
use kms_testkit::{
    fake::kmip::{KmipDouble, Quirks},
    warnings::warnings,
};

#[tokio::test]
async fn after_rooks_destroy_every_operation_names_the_secret_to_delete() {
    let server = KmipDouble::start(Quirks::default()).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki()).index(Arc::new(MemoryIndex::default()));
    let version = setup.build().await.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    // Rook destroys the object, and leaves the Secret to the garbage collector.
    assert!(server.destroy_as_rook(version.as_str()));
    let advises = |error: &Error| {
        let text = format!("{error:?}");
        assert!(text.contains("kubectl delete secret --selector pvc_name=a"), "{text}");
    };
    let kmip = setup.build().await;
    for error in [
        kmip.get(&key("a"), Freshness::Fresh).await.unwrap_err(),
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        advises(&error);
    }
    let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Unknown), "{error}");
    advises(&error);
}

#[tokio::test]
async fn a_key_in_a_form_that_rook_cannot_read_is_stored_with_a_warning() {
    for (longest_key, expected) in [(None, 0), (Some(256), 1)] {
        let server = KmipDouble::start(Quirks { longest_key, ..Quirks::default() }).await.unwrap();
        let kmip = Setup::on(&server.endpoint(), server.pki()).build().await;
        let stored = kek();
        let (put, warned) = warnings(kmip.put(&key("a"), &stored, PutMode::Create)).await;
        let _version = put.unwrap();
        let about = warned.iter().filter(|warning| warning.contains("Rook cannot read")).count();
        assert_eq!(about, expected, "{longest_key:?}: {warned:?}");
        assert!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&stored));
    }
}

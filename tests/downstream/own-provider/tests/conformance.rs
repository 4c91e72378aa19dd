//! Runs the conformance suite on a provider outside the workspace.

use std::sync::Arc;

use kms_conformance::{Options, Subject};
use kms_core::{
    KmsProvider,
    layer::{self, LayerOptions},
};
use own_provider::Directory;

fn directory() -> (tempfile::TempDir, Arc<dyn KmsProvider>) {
    let directory = tempfile::tempdir().unwrap();
    let provider = Arc::new(Directory::new(directory.path()));
    (directory, provider)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes() {
    let (_directory, provider) = directory();
    kms_conformance::suite(provider).await.assert_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_with_all_that_it_can_be_given() {
    let (directory, provider) = directory();
    let subject = Subject::new(layer::standard(provider, &LayerOptions::default()))
        .with_second(Arc::new(Directory::new(directory.path())))
        .with_unreachable(Arc::new(Directory::new(directory.path().join("nosuch"))));
    let report = kms_conformance::run(&subject, &Options::default().with_prefix("Own.Provider_")).await;
    report.assert_ok();
    assert!(!report.skipped().contains(&"many_who_ensure_one_key_get_the_same_kek"), "{report}");
    assert!(!report.skipped().contains(&"an_unreachable_server_is_unavailable"), "{report}");
}

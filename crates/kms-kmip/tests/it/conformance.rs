//! Runs the shared suite on the double with the differences of other vendors, and on a real PyKMIP at each version of
//! the protocol, with an index and without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use kms_conformance::{Options, Report, Subject, run};
use kms_core::{KmsProvider, layer};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::{
    fake::kmip::{KmipDouble, Quirks},
    figures,
    servers::{KmipGo, PyKmip, pki::Identity, pykmip::Flavour},
};

use crate::common::Setup;

/// Runs the suite on two providers with these settings.
pub(crate) async fn report(setup: Setup, bad: &Identity, options: Options) -> Report {
    let wrap = |kmip: Kmip| -> Arc<dyn KmsProvider> {
        let options = kmip.layer_options(layer::LayerOptions::default());
        layer::standard(Arc::new(kmip), &options)
    };
    let subject = Subject::new(wrap(setup.build().await))
        .with_second(wrap(setup.build().await))
        .with_denied(Arc::new(setup.clone().client(bad).build().await))
        .with_unreachable(Arc::new(setup.clone().endpoint("127.0.0.1:9").build().await));
    run(&subject, &options.with_secret("the client key", &setup.client_key())).await
}

async fn suite(setup: Setup, bad: &Identity, with_index: bool, options: Options) {
    let setup = if with_index { setup.index(Arc::new(MemoryIndex::new())) } else { setup };
    figures::passed(&report(setup, bad, options).await);
}

/// Runs the suite on a real server. Races are cases of the double, where each costs less: here few writers race once.
async fn on_real(setup: Setup, bad: &Identity, with_index: bool) {
    let options = Options::default().with_racers(4).with_rounds(1).with_list_count(8);
    suite(setup, bad, with_index, options.with_case_limit(Duration::from_secs(300))).await;
}

async fn on_pykmip(version: &str, flavour: Flavour, with_index: bool) {
    let server = PyKmip::start(flavour).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki()).version(version);
    on_real(setup, &server.pki().bad_client, with_index).await;
}

async fn on_kmip_go(version: &str, habits: &[&str], with_index: bool) {
    let server = KmipGo::start(&[&["-pace=20"], habits].concat()).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki()).version(version);
    on_real(setup, &server.pki().bad_client, with_index).await;
}

async fn on_double(quirks: Quirks, with_index: bool) {
    let only_rooks = quirks.only_rooks;
    let server = KmipDouble::start(quirks).await.unwrap();
    let setup = Setup::on(&server.endpoint(), server.pki());
    suite(setup, &server.pki().bad_client, with_index, Options::default()).await;
    // Objects in Rook's form have no labels, so objects that another process has replaced cannot be found.
    assert!(server.objects() == 0 || only_rooks, "{} objects are left behind", server.objects());
}

/// Every difference between servers that the client can handle.
fn different() -> Quirks {
    Quirks { versions: vec![(2, 1), (2, 0), (1, 2)], locate_ignores_filter: true, ..Quirks::unlike_pykmip() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_plain_server() {
    on_double(Quirks::default(), false).await;
    on_double(Quirks::default(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_server_that_differs_in_everything() {
    on_double(different(), true).await;
    on_double(Quirks { destroy_twice: false, ..different() }, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_server_of_2_1_alone() {
    on_double(Quirks { versions: vec![(2, 1)], ..Quirks::default() }, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_server_that_takes_no_application_specific_information() {
    on_double(Quirks { no_application: true, get_needs_active: true, ..Quirks::default() }, false).await;
    on_double(Quirks { no_application: true, ..Quirks::default() }, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_server_that_knows_no_such_long_keys() {
    on_double(Quirks { longest_key: Some(256), ..Quirks::default() }, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_with_an_index_on_a_server_that_takes_what_rook_writes_and_nothing_else() {
    on_double(Quirks { only_rooks: true, no_names: true, ..Quirks::default() }, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn the_suite_passes_with_an_index_at_every_version() {
    for version in ["1.0", "1.2", "1.4", "2.0"] {
        on_pykmip(version, Flavour::Tls13, true).await;
    }
}

/// At the real clock of the shipped server, and at all other versions with a faster one: a writer spends most of the time
/// waiting for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a KMIP server: cargo xtask it kmip"]
async fn the_suite_passes_without_an_index_at_every_version() {
    use Flavour::{Fast, Stock};
    let versions = [("1.0", Fast), ("1.2", Fast), ("1.4", Stock), ("2.0", Fast)];
    join_all(versions.map(|(version, flavour)| on_pykmip(version, flavour, false))).await;
}

/// Each version, and the habits of other servers at one of them.
const ON_KMIP_GO: [(&str, &[&str]); 6] = [
    ("1.0", &[]),
    ("1.2", &[]),
    ("1.4", &[]),
    ("1.0", &["-keep-last"]),
    ("1.4", &["-keep-last"]),
    ("1.4", &["-shuffle"]),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the KMIP server in Go: cargo xtask it kmip"]
async fn the_suite_passes_on_kmip_go_with_an_index() {
    join_all(ON_KMIP_GO.map(|(version, habits)| on_kmip_go(version, habits, true))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the KMIP server in Go: cargo xtask it kmip"]
async fn the_suite_passes_on_kmip_go_without_an_index() {
    join_all(ON_KMIP_GO.map(|(version, habits)| on_kmip_go(version, habits, false))).await;
}

//! The shared suite on the double, with each behaviour of Key Protect that IBM does not document.

use std::sync::Arc;

use kms_conformance::{Cut, Options, Subject, run};
use kms_core::{KmsProvider, layer};
use kms_testkit::{
    fake::{
        http::{Interferer, Response},
        ibmkp::{API_KEY, CutWay, Destroyed, IbmKp, Switches, Total},
    },
    figures,
    ledger::LEDGER,
};

use crate::common::Setup;

async fn suite(change: impl FnOnce(&mut Switches), adapt: impl Fn(Setup<'_>) -> Setup<'_>) {
    let double = IbmKp::start().await.unwrap();
    double.switch(change);
    let setup = adapt(Setup::on(&double));
    let options = layer::LayerOptions::default();
    let wrap = |provider| -> Arc<dyn KmsProvider> { layer::standard(Arc::new(provider), &options) };
    let subject = Subject::new(wrap(setup.build().await))
        .with_second(wrap(setup.build().await))
        .with_denied(Arc::new(setup.clone().api_key("wrong-canary-api-key").build().await))
        .with_unreachable(Arc::new(setup.clone().set("IBM_KP_BASE_URL", "https://127.0.0.1:9").build().await))
        .with_misled(Arc::new(setup.build().await), interferer(&double))
        .with_cuts(double.cuts(CUTS));
    let options = Options::default()
        .with_exceptions(LEDGER.iter().copied())
        .with_secret("API key", API_KEY)
        .with_racers(16)
        .with_rounds(2);
    figures::passed(&run(&subject, &options).await);
}

/// The ways in which a service, or a proxy before it, cuts lists.
const CUTS: &[CutWay<Switches>] = &[
    ("pages that are shorter than asked for", Cut::Completed, |switches| switches.longest_page = 4),
    ("pages of one key", Cut::Completed, |switches| switches.longest_page = 1),
    ("no total", Cut::Completed, |switches| (switches.longest_page, switches.total) = (4, Total::Absent)),
    ("the total of all pages", Cut::Completed, |switches| {
        (switches.longest_page, switches.total) = (4, Total::OfList);
    }),
    ("an offset that is ignored", Cut::Detected, |switches| {
        (switches.longest_page, switches.ignores_offset) = (4, true);
    }),
    ("an offset that is ignored, on pages of one key", Cut::Detected, |switches| {
        (switches.longest_page, switches.ignores_offset) = (1, true);
    }),
];

/// Adds the responses that Key Protect or a part of it sends for another reason than an absent key.
fn interferer(double: &IbmKp) -> Arc<Interferer> {
    let interferer = double.interferer();
    let no_reason = r#"{"resources":[{"errorMsg":"Not Found: no such path"}]}"#;
    for (habit, response) in [
        ("a 404 without a reason", Response::json(404, no_reason)),
        ("a 410 without a reason", Response::json(410, no_reason)),
        ("a 404 without resources", Response::json(404, r#"{"metadata":{"collectionTotal":0}}"#)),
        ("a list that is missing", Response::json(200, r#"{"metadata":{"collectionTotal":1}}"#)),
        ("resources that are null", Response::json(200, r#"{"metadata":null,"resources":null}"#)),
    ] {
        interferer.add(habit, response);
    }
    interferer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_where_destroyed_keys_are_gone() {
    suite(|_| {}, |setup| setup.page_size(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_where_destroyed_keys_are_shown_and_keep_their_aliases() {
    suite(
        |switches| {
            switches.destroyed = Destroyed::Shown;
            switches.alias_stays = true;
        },
        |setup| setup.cluster("rook-ceph/rook-ceph"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_in_an_instance_too_large_to_search() {
    suite(
        |switches| {
            switches.search_limit = 3;
            switches.alias_stays = true;
            switches.create_returns_payload = true;
        },
        |setup| setup.page_size(10).set("IBM_KP_KEY_RING", "default"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_where_lists_and_metadata_show_no_aliases() {
    suite(
        |switches| {
            switches.destroyed = Destroyed::Shown;
            switches.hides_aliases = true;
            switches.delete_by_alias = true;
        },
        |setup| setup.cluster("rook-ceph/rook-ceph").page_size(1000),
    )
    .await;
}

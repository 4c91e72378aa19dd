//! The shared suite on the double, with each policy for soft-deleted names.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use kms_conformance::{Cut, Options, Report, Subject, run};
use kms_core::{KmsProvider, layer};
use kms_testkit::{
    fake::{
        azure::{Azure, CutWay, Links, Switches},
        http::{Interferer, Response},
    },
    figures,
    ledger::LEDGER,
};

use crate::common::Setup;

async fn suite(change: impl FnOnce(&mut Switches), adapt: impl Fn(Setup<'_>) -> Setup<'_>) -> Report {
    let double = Azure::start().await.unwrap();
    double.switch(change);
    // Most of the suite would be pauses.
    let _time = double.pass_time();
    let setup = adapt(Setup::on(&double));
    let provider = setup.build().await;
    let options = provider.layer_options(layer::LayerOptions::default());
    let wrap = |provider| -> Arc<dyn KmsProvider> { layer::standard(Arc::new(provider), &options) };
    let stranger =
        [include_str!("../certificates/other-key.pem"), include_str!("../certificates/other-cert.pem")]
            .concat();
    let subject = Subject::new(wrap(provider))
        .with_second(wrap(setup.build().await))
        .with_denied(Arc::new(setup.clone().certificate(stranger).build().await))
        .with_unreachable(Arc::new(setup.clone().set("AZURE_VAULT_URL", "https://127.0.0.1:9").build().await))
        .with_misled(Arc::new(setup.build().await), interferer(&double))
        .with_cuts(double.cuts(CUTS));
    let secret: String = double.service_principal().lines().skip(1).take(3).collect();
    let options = Options::default()
        .with_exceptions(LEDGER.iter().copied())
        .with_secret("private key", &secret)
        .with_racers(16)
        .with_rounds(2);
    run(&subject, &options).await
}

/// Adds the responses that Key Vault or a part of it sends for another reason than an absent secret.
fn interferer(double: &Azure) -> Arc<Interferer> {
    let interferer = double.interferer();
    for (habit, response) in [
        ("a 404 without a code", Response::json(404, r#"{"error":{"message":"not found"}}"#)),
        ("a 404 whose error is null", Response::json(404, r#"{"error":null}"#)),
        (
            "a secret without a value",
            Response::json(200, r#"{"id":"https://v/secrets/a/1","attributes":{}}"#),
        ),
    ] {
        interferer.add(habit, response);
    }
    interferer
}

/// The ways in which a vault, or a proxy before it, cuts lists.
const CUTS: &[CutWay<Switches>] = &[
    ("short pages", Cut::Completed, |switches| switches.page = 4),
    ("links to another host", Cut::Completed, |switches| {
        (switches.page, switches.links) = (4, Links::Elsewhere)
    }),
    ("links that are lost", Cut::Detected, |switches| (switches.page, switches.links) = (4, Links::Lost)),
    ("a link that leads back", Cut::Detected, |switches| (switches.page, switches.links) = (4, Links::Back)),
    ("links that lead back, each unlike the last", Cut::Detected, |switches| {
        (switches.page, switches.links) = (4, Links::BackAnew);
    }),
    ("pages without a list", Cut::Detected, |switches| (switches.page, switches.bare_pages) = (4, true)),
];

/// The case that passes only where soft-deleted names are purged.
const CREATED_AGAIN: &str = "a_softly_deleted_key_can_be_created_again";

#[tokio::test]
async fn the_suite_passes_with_the_policy_recover() {
    figures::passed(&suite(|_| {}, |setup| setup.page_size(7)).await);
}

#[tokio::test]
async fn the_suite_passes_with_the_policy_purge_and_delays() {
    let report = suite(
        |switches| {
            switches.delay = Duration::from_millis(30);
            switches.page = 3;
            switches.codes = false;
        },
        |setup| setup.set("AZURE_SOFT_DELETED", "purge"),
    )
    .await;
    // The ledger excuses one case for the other policy; with this one it passes.
    assert!(report.failed().is_empty(), "{report}");
    let problems = report.ledger_problems();
    assert!(problems.len() == 1 && problems[0].contains(CREATED_AGAIN), "{problems:?}");
}

#[tokio::test]
async fn the_suite_passes_on_a_server_that_says_as_little_as_it_may() {
    let report = suite(
        |switches| {
            switches.sparse = true;
            switches.codes = false;
            switches.page = 5;
        },
        |setup| setup,
    )
    .await;
    figures::passed(&report);
}

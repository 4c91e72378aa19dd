//! The shared suite on a real PyKMIP, at each version of the protocol, with an index and without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::Setup;
use kms_core::{KmsProvider, layer};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::{
    conformance::{Options, Subject, run},
    servers::{PyKmip, pykmip::Flavour},
};

async fn suite(version: &str, flavour: Flavour, with_index: bool) {
    let server = PyKmip::start(flavour).await.unwrap();
    let mut setup = Setup::on(&server.endpoint(), server.pki()).version(version);
    if with_index {
        setup = setup.index(Arc::new(MemoryIndex::new()));
    }
    let wrap = |kmip: Kmip| -> Arc<dyn KmsProvider> {
        let options = kmip.layer_options(layer::LayerOptions::default());
        layer::standard(Arc::new(kmip), &options)
    };
    let bad = server.pki().bad_client.clone();
    let subject = Subject::new(wrap(setup.build().await))
        .with_second(wrap(setup.build().await))
        .with_denied(Arc::new(setup.clone().client(&bad).build().await))
        .with_unreachable(Arc::new(setup.clone().endpoint("127.0.0.1:9").build().await));
    let key = setup.client_key();
    let version = if with_index { "index" } else { "alone" };
    // PyKMIP does some 200 registrations a second; the machine may do other things as well.
    let options = Options::default()
        .with_server_version(version)
        .with_secret("the client key", &key)
        .with_racers(12)
        .with_rounds(3);
    let report = run(&subject, &options).await;
    println!("{report}");
    report.assert_ok();
}

macro_rules! suites {
    ($($name:ident = $version:literal, $flavour:ident, $index:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "needs a KMIP server: cargo xtask it kmip"]
        async fn $name() {
            suite($version, Flavour::$flavour, $index).await;
        }
    )*};
}

suites! {
    the_suite_passes_at_1_0_with_an_index = "1.0", Tls13, true;
    the_suite_passes_at_1_0_without_an_index = "1.0", Tls13, false;
    the_suite_passes_at_1_2_with_an_index = "1.2", Tls13, true;
    the_suite_passes_at_1_2_without_an_index = "1.2", Stock, false;
    the_suite_passes_at_1_4_with_an_index = "1.4", Tls13, true;
    the_suite_passes_at_1_4_without_an_index = "1.4", Stock, false;
    the_suite_passes_at_2_0_with_an_index = "2.0", Tls13, true;
    the_suite_passes_at_2_0_without_an_index = "2.0", Tls13, false;
}

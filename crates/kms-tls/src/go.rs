//! Compares what this crate accepts with what Go's own library accepts: see `tests/go/tls`.

use std::{sync::Arc, time::Duration};

use kms_testkit::answers::Answers;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::UnixTime;
use serde_json::Value;

use crate::{Handshakes, Identity, Roots, SettingNames, TlsOptions, fault::fault, pem::certificates};

const TABLE: &str = include_str!("../../../tests/go/tls/cases.json");
const NAMES: SettingNames = SettingNames::new("X_CA", "X_CERT", "X_NAME", "X_ADDR");

/// The time by which the table judges dates: 2026-06-15 12:00 UTC.
const NOW: Duration = Duration::from_secs(1_781_524_800);

/// Reasons for a refusal.
const SHORT_RSA: &str = "an RSA key of fewer than 2,048 bits";
const P224: &str = "the curve P-224, which no provider of rustls has";
const NOT_NAMED: &str = "a CA as the server's certificate, which the settings do not name";

/// What we refuse and Go accepts: the case, a part of our message, and the reason.
const STRICTER: [(&str, &str, &str); 12] = [
    ("weak/ca-rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("weak/ca-p224", "P-224", P224),
    ("pinned/issued-ca/root-only", "exactly this certificate in X_CA", NOT_NAMED),
    ("pinned/issued-signs/root-only", "exactly this certificate in X_CA", NOT_NAMED),
    ("date/since-1955", "before 1970", "a date before 1970"),
    ("client/algorithm/rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("client/form/pkcs1/rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("client/label/pkcs1-as-pkcs8/rsa1024", "RSA key of 1024 bits", SHORT_RSA),
    ("client/algorithm/p224", "P-224", P224),
    ("client/form/sec1/p224", "P-224", P224),
    ("client/label/sec1-as-pkcs8/p224", "P-224", P224),
    ("client/form/sec1-with-parameters/p224", "P-224", P224),
];

/// What we accept and Go refuses; decision 0014 has the reasons.
const LAXER: [&str; 12] = [
    "chain/garbage-behind",
    "chain/root-path-0/one-below",
    "chain/intermediate-no-cert-sign",
    "chain/expired-root",
    "purpose/root/code",
    "purpose/root/client",
    "extension/root/unknown-critical",
    "serial/negative",
    "serial/negative/root",
    "bundle/cr",
    "bundle/byte-order-mark",
    "bundle/indented",
];

/// Our answer: `Ok` if we accept the certificates of a case as far as no handshake is needed.
fn judge(texts: &Value, case: &Value) -> Result<(), String> {
    let text = |name: &str| {
        let at = case[name].as_u64().and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| texts[at].as_str()).unwrap_or_default()
    };
    let mut options = TlsOptions::named(NAMES);
    let roots = certificates(text("ca").as_bytes()).map_err(|error| format!("X_CA: {error}"))?;
    options.roots = Roots::Only(roots);
    let handshakes = Arc::new(Handshakes { names: NAMES, ..Handshakes::default() });
    let verifier = options.verifier(Arc::clone(&handshakes)).map_err(|error| format!("X_CA: {error}"))?;
    if case["client_chain"].is_u64() {
        let identity = Identity::from_pem(text("client_chain").as_bytes(), text("client_key").as_bytes());
        identity.map_err(|error| format!("X_CERT and X_KEY: {error}"))?;
    }
    let chain = certificates(text("chain").as_bytes()).unwrap();
    let host = case["host"].as_str().unwrap().try_into().unwrap();
    let now = UnixTime::since_unix_epoch(NOW);
    let verdict = verifier.verify_server_cert(&chain[0], &chain[1..], &host, &[], now);
    verdict.map(drop).map_err(|cause| fault(&cause, &handshakes, kms_core::Retry::Never).to_string())
}

#[test]
fn what_go_accepts_is_accepted_but_for_the_list_of_the_decision() {
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let mut answers = Answers::default();
    let mut wrong = Vec::new();
    for case in table["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        // Only a handshake shows these.
        if name.starts_with("limit/") {
            continue;
        }
        let go = case["go"].as_array().unwrap().iter().any(|accepted| accepted == true);
        let ours = judge(&table["texts"], case);
        // Go's server judges the certificates of clients; we only have to read them.
        if name.starts_with("client/") && !go && ours.is_ok() {
            continue;
        }
        let stricter = STRICTER.iter().find(|(listed, ..)| *listed == name);
        answers.add(go, ours.as_ref().map(drop).map_err(|_error| stricter.map_or("", |(.., reason)| reason)));
        let is_right = match (&ours, stricter) {
            (Err(error), Some((_, words, _))) => go && error.contains(words),
            (_, Some(_)) => false,
            (Ok(()), None) => go != LAXER.contains(&name),
            (Err(_), None) => !go && !LAXER.contains(&name),
        };
        if !is_right {
            wrong.push(format!("{name}: Go {go} {}, we {ours:?}", case["why"]));
        }
        // A refusal is in words and names a setting or what to do.
        if let Err(error) = &ours {
            for unwanted in ["OtherError", "Context", "[6, ", "1.2.840", "1.3.6"] {
                if error.contains(unwanted) {
                    wrong.push(format!("{name}: {unwanted:?} in {error:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    answers.check("tls/answers.json");
}

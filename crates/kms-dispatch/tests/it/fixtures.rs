//! Turns the environment of Rook's pods back into the `security` block that Rook made it from.
//!
//! Rook's own operator code has printed the fixtures.

use std::{collections::BTreeMap, path::Path};

use kms_core::{SecretSource, SecuritySpec};
use kms_dispatch::{Options, Provider, check, keys::is_setting};
use kms_source::{Manifests, PodEnvironment};
use serde_json::Value;

const CASES: [(&str, Provider); 7] = [
    ("azure", Provider::AzureKeyVault),
    ("default", Provider::KubernetesSecret),
    ("ibm", Provider::IbmKeyProtect),
    ("kmip", Provider::Kmip),
    ("vault-kubernetes", Provider::Vault),
    ("vault-tls", Provider::Vault),
    ("vault-token", Provider::Vault),
];

/// The stand-in for the value of a `secretKeyRef`.
const FROM_SECRET: &str = "from-a-secret\n";

fn fixture(case: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case).join(file);
    std::fs::read_to_string(path).unwrap()
}

fn environment(case: &str) -> Vec<(String, String)> {
    let variables: Vec<Value> = serde_json::from_str(&fixture(case, "env.json")).unwrap();
    let pair = |variable: &Value| {
        let value = variable["value"].as_str().unwrap_or(FROM_SECRET);
        (variable["name"].as_str().unwrap().to_owned(), value.to_owned())
    };
    variables.iter().map(pair).collect()
}

/// The settings in the form in which both sides are equal: names of TLS Secrets and paths of their files have the same
/// content, and Rook writes the default of `VAULT_BACKEND_PATH`.
fn effective(spec: &SecuritySpec) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<String, String> = spec
        .kms
        .connection_details
        .iter()
        .map(|(name, value)| {
            let file = matches!(name, "VAULT_CACERT" | "VAULT_CLIENT_CERT" | "VAULT_CLIENT_KEY");
            (name.to_owned(), if file { "the content" } else { value }.to_owned())
        })
        .collect();
    if Provider::of(spec).unwrap() == Provider::Vault {
        settings.entry("VAULT_BACKEND_PATH".to_owned()).or_insert_with(|| "secret/".to_owned());
    }
    settings
}

#[tokio::test]
async fn the_environment_of_a_pod_leads_back_to_the_block() {
    for (case, provider) in CASES {
        let json = fixture(case, "security.json");
        let block = format!("{{\"security\": {json}}}");
        let manifests = Manifests::parse([("security.json", block.as_bytes())]).unwrap();
        let block = manifests.security().unwrap();

        let mount = tempfile::tempdir().unwrap();
        let pairs = environment(case);
        let pairs = || pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let pod = PodEnvironment::new(pairs(), mount.path(), is_setting);

        assert_eq!(effective(pod.security()), effective(block), "{case}");
        assert_eq!(pod.passed_over().count(), 0, "{case}");
        let token = &block.kms.token_secret_name;
        let pod_token = &pod.security().kms.token_secret_name;
        assert_eq!(token.is_empty(), pod_token.is_empty(), "{case}");
        for spec in [block, pod.security()] {
            assert_eq!(
                check(spec, &Options::default().with_environment(pairs())).unwrap(),
                provider,
                "{case}"
            );
        }

        let key = match provider {
            Provider::IbmKeyProtect => "IBM_KP_SERVICE_API_KEY",
            Provider::Vault if !token.is_empty() => "token",
            _ => continue,
        };
        let secret = pod.secret(pod_token).await.unwrap();
        assert_eq!(secret.bytes(key).unwrap(), FROM_SECRET.as_bytes(), "{case}");
    }
}

#[test]
fn a_check_changes_nothing() {
    for (case, _) in CASES {
        let block = format!("{{\"security\": {}}}", fixture(case, "security.json"));
        let manifests = Manifests::parse([("security.json", block.as_bytes())]).unwrap();
        let spec = manifests.security().unwrap();
        let all = |spec: &SecuritySpec| -> Vec<(String, String)> {
            spec.kms.connection_details.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let before = (all(spec), spec.kms.token_secret_name.clone());
        let environment = [("VAULT_BACKEND_PATH", "other"), ("AZURE_CLIENT_ID", "other")];
        check(spec, &Options::default().with_environment(environment)).unwrap();
        assert_eq!(before, (all(spec), spec.kms.token_secret_name.clone()));
    }
}

#[test]
fn a_provider_that_is_not_named_is_not_guessed() {
    let pod = |pairs: &[(&str, &str)]| {
        PodEnvironment::new(pairs.iter().copied(), Path::new("/nonexistent"), is_setting)
    };
    let forgotten = pod(&[("VAULT_ADDR", "https://v"), ("VAULT_PORT", "x")]);
    assert!(Provider::of(forgotten.security()).is_err());
    // The webhook of Azure's workload identity adds these variables to every pod, whatever its contents.
    let unrelated = pod(&[("AZURE_CLIENT_ID", "x"), ("AZURE_TENANT_ID", "x"), ("VAULT_PORT", "x")]);
    assert_eq!(Provider::of(unrelated.security()).unwrap(), Provider::KubernetesSecret);
    assert!(Provider::of(pod(&[("KMS_PROVIDER", "Vault")]).security()).is_err());
}

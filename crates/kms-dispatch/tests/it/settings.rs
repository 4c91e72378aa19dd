//! What `kms explain` and the table "stricter than Rook" say of settings is what the checks do.

use std::collections::BTreeMap;

use kms_core::{
    ErrorKind, Result, SecuritySpec,
    config::{Setting, Stricter, Support},
};
use kms_dispatch::{Options, Provider, check};
use serde_json::{Value, json};

/// Settings of each provider that are accepted.
fn accepted(provider: Provider) -> BTreeMap<&'static str, &'static str> {
    let own: &[(&str, &str)] = match provider {
        Provider::AzureKeyVault => &[
            ("AZURE_VAULT_URL", "https://name.vault.azure.net"),
            ("AZURE_TENANT_ID", "tenant.example"),
            ("AZURE_CLIENT_ID", "22222222-2222-2222-2222-222222222222"),
            ("AZURE_CERT_SECRET_NAME", "cert"),
        ],
        Provider::IbmKeyProtect => &[
            ("IBM_KP_SERVICE_INSTANCE_ID", "11111111-2222-3333-4444-555555555555"),
            ("IBM_KP_BASE_URL", "https://eu-de.kms.cloud.ibm.com"),
        ],
        Provider::Kmip => &[("KMIP_ENDPOINT", "kmip.example:5696")],
        Provider::Vault => &[("VAULT_ADDR", "https://vault.example:8200")],
        _ => return BTreeMap::new(),
    };
    own.iter().copied().chain([("KMS_PROVIDER", provider.as_str())]).collect()
}

/// Checks a block with these settings, and with another field beside them.
fn answer(details: &BTreeMap<&str, &str>, field: Option<(&str, &str)>) -> Result<Provider> {
    let mut kms = json!({"connectionDetails": details, "tokenSecretName": "token"});
    if let Some((name, value)) = field {
        kms.as_object_mut().unwrap().insert(name.to_owned(), Value::from(value));
    }
    let spec: SecuritySpec = serde_json::from_value(json!({ "kms": kms })).unwrap();
    check(&spec, &Options::default())
}

/// Checks that the input of a row, and nothing else, is refused with the words of the row.
fn assert_refused(provider: Provider, row: &Stricter) {
    let mut details = accepted(provider);
    assert_eq!(answer(&details, None).unwrap(), provider);
    let (name, value) = row.input;
    let answer = if row.setting == format!("kms.{name}") {
        answer(&details, Some(row.input))
    } else {
        details.insert(name, value);
        answer(&details, None)
    };
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{row:?}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("{} ", row.setting)), "{row:?}: {text}");
    assert!(text.contains(row.reason) && text.ends_with(row.remedy), "{row:?}: {text}");
    assert!(!value.contains("://") || !text.contains(value), "{text}");
    assert!(!row.rook.is_empty() && !row.why.is_empty(), "{row:?}");
}

#[test]
fn each_row_of_the_table_stricter_than_rook_is_refused_with_its_words() {
    for row in SecuritySpec::STRICTER {
        assert_refused(Provider::Vault, row);
    }
    let mut rows = 0;
    for provider in Provider::ALL {
        for row in provider.stricter().unwrap() {
            assert_refused(provider, &row);
            rows += 1;
        }
    }
    assert!(rows >= 20, "{rows} rows");
}

/// What a setting needs beside itself.
const BESIDE: [(&str, (&str, &str)); 4] = [
    ("AZURE_CLIENT_SECRET", ("AZURE_CREDENTIAL", "client-secret")),
    ("AZURE_CREDENTIAL", ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token")),
    ("VAULT_CLIENT_CERT", ("VAULT_CLIENT_KEY", "key")),
    ("VAULT_CLIENT_KEY", ("VAULT_CLIENT_CERT", "cert")),
];

#[test]
fn every_setting_has_every_fact_and_its_example_is_accepted() {
    let mut settings = 0;
    for provider in Provider::ALL {
        for Setting { name, meaning, facts, support, .. } in provider.settings().unwrap() {
            for text in [meaning, facts.values, facts.default, facts.rook, facts.example] {
                assert!(!text.trim().is_empty(), "{name}: {facts:?}");
            }
            let mut details = accepted(provider);
            details.extend(BESIDE.iter().filter(|(one, _)| *one == name).map(|(_, beside)| *beside));
            details.insert(name, facts.example);
            let answer = answer(&details, None);
            let refused = matches!(support, Support::Refused(_));
            assert_eq!(answer.is_err(), refused, "{name}: {}: {answer:?}", facts.example);
            settings += 1;
        }
    }
    assert!(settings >= 70, "{settings} settings");
}

//! `check` and `connect` without a server.

use kms_core::{ConnectionDetails, ErrorKind, KmsSpec, SecuritySpec, secret::SecretMap};
use kms_dispatch::{Options, Provider, check, connect};

fn spec(details: &[(&str, &str)], token_secret: &str) -> SecuritySpec {
    SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), token_secret))
}

const IBM: [(&str, &str); 2] = [("KMS_PROVIDER", "ibmkeyprotect"), ("IBM_KP_SERVICE_INSTANCE_ID", "1")];
const KMIP: [(&str, &str); 2] = [("KMS_PROVIDER", "kmip"), ("KMIP_ENDPOINT", "kmip:5696")];
const AZURE: [(&str, &str); 5] = [
    ("KMS_PROVIDER", "azure-kv"),
    ("AZURE_VAULT_URL", "https://v.vault.azure.net"),
    ("AZURE_TENANT_ID", "t"),
    ("AZURE_CLIENT_ID", "c"),
    ("AZURE_CERT_SECRET_NAME", "s"),
];

#[tokio::test]
async fn a_provider_that_is_not_in_this_build_is_named_with_its_feature() {
    for (spec, provider) in [
        (spec(&AZURE, ""), Provider::AzureKeyVault),
        (spec(&IBM, "t"), Provider::IbmKeyProtect),
        (spec(&KMIP, "t"), Provider::Kmip),
    ] {
        if provider.is_compiled() {
            continue;
        }
        assert_eq!(check(&spec, &Options::default()).unwrap(), provider);
        let error = connect(&spec, &SecretMap::new("a test"), Options::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disabled);
        let expected =
            format!("this build lacks the provider for {provider} (feature: {})", provider.feature());
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn settings_of_a_provider_that_is_not_in_this_build_are_checked_first() {
    let error =
        connect(&spec(&AZURE[..4], ""), &SecretMap::new("a test"), Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.to_string().contains("AZURE_CERT_SECRET_NAME"), "{error}");
}

#[test]
fn a_token_without_connection_details_names_no_kms() {
    // As Rook takes it; it is warned of.
    assert_eq!(check(&spec(&[], "t"), &Options::default()).unwrap(), Provider::KubernetesSecret);
    assert_eq!(check(&spec(&[], ""), &Options::default()).unwrap(), Provider::KubernetesSecret);
}

#[cfg(feature = "kmip")]
#[tokio::test]
async fn kmip_takes_what_is_missing_from_the_environment_with_the_prefix_of_rook() {
    let bare = [("KMS_PROVIDER", "kmip")];
    let error = check(&spec(&bare, ""), &Options::default()).unwrap_err();
    for part in ["KMIP_ENDPOINT", "tokenSecretName"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // A name without the prefix means nothing in an environment.
    let options = |name: &str| Options::default().with_environment([(name, "kmip:5696")]);
    assert!(check(&spec(&bare, "t"), &options("KMIP_ENDPOINT")).is_err());
    assert_eq!(check(&spec(&bare, "t"), &options("KMIP_KMIP_ENDPOINT")).unwrap(), Provider::Kmip);
    let error = connect(&spec(&KMIP, "t"), &SecretMap::new("a test"), Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("\"t\""), "{error}");
}

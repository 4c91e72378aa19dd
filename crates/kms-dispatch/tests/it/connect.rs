//! Tests `check` and `connect` with the providers of this workspace.

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

#[cfg(feature = "azure")]
#[tokio::test]
async fn every_problem_with_the_settings_of_key_vault_is_reported_at_once() {
    let wrong = [
        ("KMS_PROVIDER", "azure-kv"),
        ("AZURE_VAULT_URL", "http://canary"),
        ("AZURE_ENVIRONMENT", "canary"),
        ("AZURE_CLIENTID", "canary"),
    ];
    let options = Options::default().with_environment([("AZURE_TENANT_ID", "tenant.example")]);
    let error = connect(&spec(&wrong, ""), &SecretMap::new("a test"), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let text = error.to_string();
    for problem in [
        "AZURE_CLIENTID is not a known setting; did you mean AZURE_CLIENT_ID?",
        "AZURE_CLIENT_ID is missing",
        "AZURE_CERT_SECRET_NAME is missing",
        "AZURE_VAULT_URL",
        "AZURE_ENVIRONMENT",
    ] {
        assert!(text.contains(problem), "{problem:?} is not in: {text}");
    }
    assert!(!text.contains("canary") && !text.contains("AZURE_TENANT_ID"), "{text}");
    assert_eq!(check(&spec(&AZURE, ""), &Options::default()).unwrap(), Provider::AzureKeyVault);
}

/// A block whose settings are not all strings, which only a document can have.
#[cfg(any(feature = "k8s-secret", feature = "vault"))]
fn block(text: &str) -> kms_source::Manifests {
    let parsed = kms_source::Manifests::parse([("a.yaml", text.as_bytes())]);
    parsed.expect("it is valid")
}

#[cfg(feature = "vault")]
#[tokio::test]
async fn problems_of_the_block_of_the_settings_and_of_the_secrets_are_in_one_error() {
    let manifests = block(
        "security:
  kmss: {}
  kms:
    connectionDetails:
      KMS_PROVIDER: vault
      VAULT_ADRR: https://canary
      VAULT_SKIP_VERFIY: true
      VAULT_CACERT: nosuch-ca
    tokenSecretName: nosuch-token
",
    );
    let spec = manifests.security().expect("it is there");
    let error = connect(spec, &manifests, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let text = error.to_string();
    let problems = [
        "7 problems: security.kmss is not known; did you mean kms?; ",
        "VAULT_SKIP_VERFIY is a boolean, and every setting has to be a string",
        "VAULT_SKIP_VERFIY is not a known setting; did you mean VAULT_SKIP_VERIFY?",
        "VAULT_ADRR is not a known setting; did you mean VAULT_ADDR?",
        "VAULT_ADDR is missing",
        "tokenSecretName: Secret \"nosuch-token\" was not found in a.yaml",
        "VAULT_CACERT: Secret \"nosuch-ca\" was not found in a.yaml",
    ];
    for problem in problems {
        assert!(text.contains(problem), "{problem:?} is not in: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

#[cfg(feature = "vault")]
#[tokio::test]
async fn problems_with_settings_are_reported_even_if_secrets_cannot_be_read() {
    #[derive(Debug)]
    struct Refused;

    #[async_trait::async_trait]
    impl kms_core::SecretSource for Refused {
        async fn secret(&self, _: &str) -> kms_core::Result<kms_core::SecretData> {
            Err(kms_core::Error::new(ErrorKind::PermissionDenied, "you may not get secrets"))
        }
    }

    let wrong = [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", "https://v"), ("VAULT_SKIP_VERIFY", "canary")];
    let error = connect(&spec(&wrong, "t"), &Refused, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let text = error.to_string();
    assert!(text.starts_with("2 problems: VAULT_SKIP_VERIFY is neither"), "{text}");
    assert!(text.contains("; you may not get secrets (setting: tokenSecretName)"), "{text}");

    let error = connect(&spec(&wrong[..2], "t"), &Refused, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[cfg(feature = "k8s-secret")]
#[tokio::test]
async fn a_misspelt_block_is_not_taken_for_kubernetes_secrets() {
    let manifests = block("security: {kmss: {connectionDetails: {KMS_PROVIDER: vault}}}");
    let spec = manifests.security().expect("it is there");
    let error = connect(spec, &manifests, Options::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "security.kmss is not known; did you mean kms?");
}

#[test]
fn a_token_without_connection_details_names_no_kms() {
    // Rook accepts it too; this logs a warning.
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
    // A variable without the prefix is not a setting.
    let options = |name: &str| Options::default().with_environment([(name, "kmip:5696")]);
    assert!(check(&spec(&bare, "t"), &options("KMIP_ENDPOINT")).is_err());
    assert_eq!(check(&spec(&bare, "t"), &options("KMIP_KMIP_ENDPOINT")).unwrap(), Provider::Kmip);
    let error = connect(&spec(&KMIP, "t"), &SecretMap::new("a test"), Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("\"t\""), "{error}");
}

#[cfg(feature = "vault")]
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_connection_follows_the_deadline() {
    // It takes connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let details = [("KMS_PROVIDER", "vault"), ("VAULT_ADDR", &address), ("VAULT_BACKEND", "v2")];
    let mut secrets = SecretMap::new("a test");
    secrets.insert(kms_core::SecretData::new("t").with("token", b"s.token".to_vec()));
    for (deadline, limit) in [(None, 10), (Some(600), 100)] {
        let mut options = Options::default().with_attempts(1);
        if let Some(deadline) = deadline {
            options = options.with_deadline(std::time::Duration::from_secs(deadline));
        }
        let kms = connect(&spec(&details, "t"), &secrets, options).await.unwrap();
        let begin = tokio::time::Instant::now();
        let error = kms.get(&"a".parse().unwrap(), kms_core::Freshness::Any).await.unwrap_err();
        assert_eq!((error.kind(), begin.elapsed().as_secs()), (ErrorKind::Timeout, limit), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}

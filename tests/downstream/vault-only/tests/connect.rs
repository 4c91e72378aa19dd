//! Typed errors and typed providers, as a downstream crate sees them.

use kms_core::{ErrorKind, Retry};
use vault_only::open;

const TOKEN: &str = "s.7hR2kkq0Zr9sWq81mB4vTnXc";

#[tokio::test]
async fn every_problem_of_the_settings_is_in_one_error() {
    let settings = [
        ("KMS_PROVIDER", "vault"),
        ("VAULT_ADRR", "https://canary.example:8200"),
        ("VAULT_CLIENT_TIMEOUT", "canary"),
        ("VAULT_RATE_LIMIT", "canary"),
        ("VAULT_SKIP_VERIFY", "canary"),
    ];
    let error = open(&settings, TOKEN).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::ConfigInvalid, Retry::Never));
    let text = error.to_string();
    let problems = [
        "did you mean VAULT_ADDR?",
        "VAULT_ADDR is missing",
        "VAULT_CLIENT_TIMEOUT is",
        "VAULT_RATE_LIMIT is",
        "VAULT_SKIP_VERIFY is",
    ];
    for problem in problems {
        assert!(text.contains(problem), "{problem:?} is not in {text:?}");
    }
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn other_providers_say_which_feature_they_need() {
    let kmip = [("KMS_PROVIDER", "kmip"), ("KMIP_ENDPOINT", "kmip.example:5696")];
    for (settings, feature) in [(&kmip[..], "kmip"), (&[], "k8s-secret")] {
        let error = open(settings, TOKEN).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disabled, "{error}");
        assert!(error.contexts().any(|(name, value)| name == "feature" && value == feature), "{error}");
    }
}

#[tokio::test]
async fn vault_is_there_and_shows_no_token() {
    let settings = [
        ("KMS_PROVIDER", "vault"),
        ("VAULT_ADDR", "https://vault.example:8200"),
        ("VAULT_BACKEND_PATH", "rook"),
        ("VAULT_BACKEND", "v2"),
    ];
    // Connecting sends nothing before the first operation.
    let kms = open(&settings, TOKEN).await.unwrap();
    assert_eq!(kms.provider(), "vault");
    assert!(kms.capability().max_kek_bytes >= 172);
    assert!(!format!("{kms:#?}").contains(&TOKEN[2..10]));
}

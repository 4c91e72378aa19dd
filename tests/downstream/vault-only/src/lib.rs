//! An example of an operator that uses [`kms_dispatch`]: it has the `security` block of a CephCluster and the token,
//! and connects to the KMS.

use std::sync::Arc;

use kms_core::{
    ConnectionDetails, KmsProvider, KmsSpec, Result, SecuritySpec,
    secret::{SecretData, SecretMap},
};
use kms_dispatch::Options;

/// The name of the Secret that holds the token.
pub const TOKEN_SECRET: &str = "rook-vault-token";

/// Connects to the KMS of these settings, with this token.
///
/// # Errors
///
/// Those of [`kms_dispatch::connect`].
pub async fn open(settings: &[(&str, &str)], token: &str) -> Result<Arc<dyn KmsProvider>> {
    let details: ConnectionDetails = settings.iter().copied().collect();
    let token_secret_name = if settings.is_empty() { "" } else { TOKEN_SECRET };
    let spec = SecuritySpec::new(KmsSpec::new(details, token_secret_name));
    let mut secrets = SecretMap::new("the memory of this program");
    secrets.insert(SecretData::new(TOKEN_SECRET).with("token", token.as_bytes().to_vec()));
    kms_dispatch::connect(&spec, &secrets, Options::default()).await
}

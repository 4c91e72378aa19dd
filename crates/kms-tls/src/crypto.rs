//! The crypto provider: the one place that chooses it, for TLS, for certificates and for signatures.

use std::sync::{Arc, OnceLock};

use rustls::{
    crypto::{CryptoProvider, aws_lc_rs as chosen},
    sign::SigningKey,
};
use rustls_pki_types::PrivateKeyDer;

/// The name and version of the crypto module, as the module itself says.
pub fn module() -> String {
    format!("AWS-LC {}", aws_lc_rs::awslc_version())
}

/// Returns the provider that every TLS connection uses.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(made())))
}

/// Makes the provider the default of the process, for libraries that look for one there. A default that is set already
/// stays.
pub fn install() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may install one first, which is as good.
        let _ = made().install_default();
    }
}

/// The provider with every key exchange that Go offers and the library has.
fn made() -> CryptoProvider {
    let mut provider = chosen::default_provider();
    provider.kx_groups.push(chosen::kx_group::SECP256R1MLKEM768);
    provider
}

/// Makes a signer from a private key.
///
/// # Errors
///
/// If the key is malformed, or of a type or size that the provider does not support.
pub fn signer(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    chosen::sign::any_supported_type(key)
}

#[cfg(test)]
mod tests {
    /// With CPU jitter, the start of every program takes tens of milliseconds more (decision 0014).
    #[test]
    fn aws_lc_is_built_without_cpu_jitter() {
        assert_eq!(option_env!("AWS_LC_SYS_NO_JITTER_ENTROPY"), Some("1"), "see .cargo/config.toml");
    }
}

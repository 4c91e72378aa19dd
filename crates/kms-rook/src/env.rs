//! The KMS part of a pod's environment (rook-behaviour §13.1).

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, SecretKeySelector};
use kms_core::{Result, SecuritySpec};
use kms_dispatch::Provider;

use crate::volumes::{VAULT_FILES, VAULT_MOUNT};

/// The path of the KV mount that Rook assumes.
const DEFAULT_BACKEND_PATH: (&str, &str) = ("VAULT_BACKEND_PATH", "secret/");

/// The settings that are credentials. Rook writes them into the pod in clear text, where every account that may get pods
/// reads them (rook-behaviour W27). A pod without them takes them from the CephCluster.
const CREDENTIALS: [&str; 7] = [
    "AZURE_CIENT_CERT_PASSWORD",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_CERT_PASSWORD",
    "AZURE_CLIENT_SECRET",
    "IBM_KP_SERVICE_API_KEY",
    "VAULT_APPROLE_SECRET_ID",
    "VAULT_TOKEN",
];

/// The settings of KMIP that are whole PEM files. No pod has them in its environment.
const KMIP_FILES: [&str; 3] = ["CA_CERT", "CLIENT_CERT", "CLIENT_KEY"];

/// The environment for a `security` block.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct KmsEnv {
    /// The variables, ordered by name.
    pub vars: Vec<EnvVar>,
    /// The settings that hold credentials in clear text. They are left out of the variables, unlike in Rook. Empty if the
    /// credentials are in a Secret, where they belong.
    pub withheld: Vec<String>,
}

/// Turns `connectionDetails` into the variables that Rook gives its pods (rook-behaviour §13.1).
///
/// The block is not changed, so the same block always gives the same variables. Rook changes its copy during a reconcile,
/// so its pods differ from one reconcile to the next (rook-behaviour W4, W10).
///
/// # Errors
///
/// `ConfigInvalid` if the block does not name a known provider.
pub fn env(security: &SecuritySpec) -> Result<KmsEnv> {
    let provider = Provider::of(security)?;
    let details = &security.kms.connection_details;
    let token_secret = security.kms.token_secret_name.as_str();
    let mut env = KmsEnv::default();
    for (name, value) in details.iter() {
        match provider {
            Provider::Kmip if KMIP_FILES.contains(&name) => {}
            Provider::Kmip => env.vars.push(plain(format!("KMIP_{name}"), value)),
            Provider::IbmKeyProtect if name == "IBM_KP_SERVICE_API_KEY" => {}
            Provider::Vault if name == "VAULT_TOKEN" && !token_secret.is_empty() => {}
            Provider::Vault if VAULT_FILES.iter().any(|file| file.setting == name) => {}
            Provider::Vault if name == DEFAULT_BACKEND_PATH.0 && value.trim().is_empty() => {}
            _ if CREDENTIALS.iter().any(|known| known.eq_ignore_ascii_case(name)) => {
                env.withheld.push(name.to_owned())
            }
            _ => env.vars.push(plain(name, value)),
        }
    }
    match provider {
        Provider::Vault => {
            let (name, value) = DEFAULT_BACKEND_PATH;
            if details.get(name).is_none_or(|path| path.trim().is_empty()) {
                env.vars.push(plain(name, value));
            }
            if !token_secret.is_empty() {
                env.vars.push(from_secret("VAULT_TOKEN", token_secret, "token"));
            }
            let given = |setting: &str| details.get(setting).is_some_and(|name| !name.trim().is_empty());
            let files = VAULT_FILES.iter().filter(|file| given(file.setting));
            env.vars.extend(files.map(|file| plain(file.setting, format!("{VAULT_MOUNT}/{}", file.path))));
        }
        Provider::IbmKeyProtect if !token_secret.is_empty() => {
            env.vars.push(from_secret("IBM_KP_SERVICE_API_KEY", token_secret, "IBM_KP_SERVICE_API_KEY"));
        }
        _ => {}
    }
    env.vars.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(env)
}

pub(crate) fn plain(name: impl Into<String>, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

pub(crate) fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

//! The settings of Vault, as operators know them (spec 1.8, and the variables of Vault's own clients).

use std::{fmt, str::FromStr};

use kms_core::{
    Error,
    config::{ConfigKey, Support},
};

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $secret:literal, $support:expr;)*) => {
        /// A setting of Vault.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum VaultConfigKey {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl ConfigKey for VaultConfigKey {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                &[]
            }

            fn is_secret(self) -> bool {
                match self {
                    $(Self::$variant => $secret,)*
                }
            }

            fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                }
            }

            fn support(self) -> Support {
                match self {
                    $(Self::$variant => $support,)*
                }
            }
        }
    };
}

keys! {
    /// URL of the server, `https://host:8200`; a path in it is kept. Required.
    Addr = "VAULT_ADDR", false, Support::Supported;
    /// URL of a Vault Agent to talk to in place of `VAULT_ADDR`.
    AgentAddr = "VAULT_AGENT_ADDR", false, Support::Supported;
    /// Version of the KV mount: `kv` or `v1`, `kv-v2` or `v2`. Without it the server is asked once.
    Backend = "VAULT_BACKEND", false, Support::Supported;
    /// Path of the KV mount. Default `secret`.
    BackendPath = "VAULT_BACKEND_PATH", false, Support::Supported;
    /// Secret engine of object stores.
    SecretEngine = "VAULT_SECRET_ENGINE", false, Support::NoEffect("keys of OSDs are always kept in KV; the setting decides about object stores only");
    /// Namespace of the KV mount, and of the login unless `VAULT_AUTH_NAMESPACE` says otherwise.
    Namespace = "VAULT_NAMESPACE", false, Support::Supported;
    /// Namespace of the login, where it is another one. Not known to Rook.
    AuthNamespace = "VAULT_AUTH_NAMESPACE", false, Support::Supported;
    /// `token` (default), `kubernetes`, `approle`, `cert`, or `agent` (an agent adds the token). A token Secret beats it, as in Rook.
    AuthMethod = "VAULT_AUTH_METHOD", false, Support::Supported;
    /// Path of the auth method's mount. Default: the name of the method.
    AuthMountPath = "VAULT_AUTH_MOUNT_PATH", false, Support::Supported;
    /// Role for Kubernetes auth. Required there.
    AuthKubernetesRole = "VAULT_AUTH_KUBERNETES_ROLE", false, Support::Supported;
    /// File with the service account token, read again at each login. Default `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    AuthKubernetesTokenPath = "VAULT_AUTH_KUBERNETES_TOKEN_PATH", false, Support::Supported;
    /// Role id for AppRole auth. Required there.
    ApproleRoleId = "VAULT_APPROLE_ROLE_ID", false, Support::Supported;
    /// Secret id for AppRole auth. Better kept in the token Secret's key `secret_id`.
    ApproleSecretId = "VAULT_APPROLE_SECRET_ID", true, Support::Supported;
    /// Name of the certificate role for `cert` auth; without it the server tries all. Not known to Rook.
    AuthCertName = "VAULT_AUTH_CERT_NAME", false, Support::Supported;
    /// The token itself. Better kept in the token Secret's key `token`.
    Token = "VAULT_TOKEN", true, Support::Supported;
    /// CA certificates: name of a Secret with the key `cert`, or a file.
    CaCert = "VAULT_CACERT", false, Support::Supported;
    /// CA certificates as PEM text. Beats `VAULT_CACERT`.
    CaCertBytes = "VAULT_CACERT_BYTES", false, Support::Supported;
    /// Folder with CA certificates, each a PEM file. Not in a CephCluster of Rook, which refuses it.
    CaPath = "VAULT_CAPATH", false, Support::Supported;
    /// Client certificate: name of a Secret with the key `cert`, or a file.
    ClientCert = "VAULT_CLIENT_CERT", false, Support::Supported;
    /// Key of the client certificate: name of a Secret with the key `key`, or a file.
    ClientKey = "VAULT_CLIENT_KEY", false, Support::Supported;
    /// Whether any server certificate will do. Warned of at every start.
    SkipVerify = "VAULT_SKIP_VERIFY", false, Support::Supported;
    /// Name that is asked for and that the server's certificate has to bear.
    TlsServerName = "VAULT_TLS_SERVER_NAME", false, Support::Supported;
    /// Time limit of one try: seconds, or `1m30s`. Default 20 s.
    ClientTimeout = "VAULT_CLIENT_TIMEOUT", false, Support::Supported;
    /// How often a failed request is repeated; 0 for never. Default: until the deadline, 11 times at most.
    MaxRetries = "VAULT_MAX_RETRIES", false, Support::Supported;
    /// Most requests a second that we send, `rate` or `rate:burst`.
    RateLimit = "VAULT_RATE_LIMIT", false, Support::Supported;
    /// Proxy for every request. Beats `HTTPS_PROXY` and the like.
    ProxyAddr = "VAULT_PROXY_ADDR", false, Support::Supported;
    /// The same under its older name; `VAULT_PROXY_ADDR` beats it.
    HttpProxy = "VAULT_HTTP_PROXY", false, Support::Supported;
    /// Whether the redirect of a standby is an error instead of being followed.
    DisableRedirects = "VAULT_DISABLE_REDIRECTS", false, Support::Supported;
    /// Only `false`: DNS SRV records are not looked up; give the address itself.
    SrvLookup = "VAULT_SRV_LOOKUP", false, Support::Supported;
    /// Whether `http://` addresses are allowed, over which everybody on the way reads token and keys. Not known to Rook.
    AllowHttp = "VAULT_ALLOW_HTTP", false, Support::Supported;
    /// Deletion mode of ceph-csi.
    DestroyKeys = "VAULT_DESTROY_KEYS", false, Support::NoEffect("it belongs to ceph-csi; a delete destroys all versions unless a soft one is asked for");
    /// Response wrapping.
    WrapTtl = "VAULT_WRAP_TTL", false, Support::Refused("wrapped answers hold no key; leave it out");
    /// Second factor.
    Mfa = "VAULT_MFA", false, Support::Refused("nobody can type a second factor when an OSD starts; use a login without one");
    /// Output format of `vault`.
    Format = "VAULT_FORMAT", false, Support::NoEffect("it belongs to Vault's own command line");
    /// Log level of `vault`.
    LogLevel = "VAULT_LOG_LEVEL", false, Support::NoEffect("it belongs to Vault's own command line");
    /// Colours of `vault`.
    CliNoColor = "VAULT_CLI_NO_COLOR", false, Support::NoEffect("it belongs to Vault's own command line");
}

impl FromStr for VaultConfigKey {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::find(name).ok_or_else(|| Error::config(format!("{name} is not a setting of Vault")))
    }
}

impl fmt::Display for VaultConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_setting() {
        for key in VaultConfigKey::ALL {
            assert_eq!(key.to_string().parse::<VaultConfigKey>().unwrap(), *key);
            assert_eq!(key.as_str().to_lowercase().parse::<VaultConfigKey>().unwrap(), *key);
            assert!(key.doc().trim().ends_with('.'), "{key}");
        }
        assert!("VAULT_ADRR".parse::<VaultConfigKey>().is_err());
    }
}

//! The settings of Vault, as operators know them (rook-behaviour §1.8, and the variables of Vault's own clients).

use kms_core::config::Support;

kms_core::config_keys! {
    /// A setting of Vault.
    pub enum VaultConfigKey of "Vault" {
        /// URL of the server, `https://host:8200`; a path in it is kept. Required.
        Addr = "VAULT_ADDR";
        /// URL of a Vault Agent to talk to in place of `VAULT_ADDR`.
        AgentAddr = "VAULT_AGENT_ADDR";
        /// Version of the KV mount: `kv` or `v1`, `kv-v2` or `v2`. Without it, or with another word, the provider asks the server once. If the mount is of another version, that counts, with a warning; with `kv-v2` on a v1 mount the keys are in its folder `data`, as Rook keeps them.
        Backend = "VAULT_BACKEND";
        /// Path of the KV mount, without `data/`. Default `secret`.
        BackendPath = "VAULT_BACKEND_PATH";
        /// Secret engine of object stores.
        SecretEngine = "VAULT_SECRET_ENGINE", Support::NoEffect("OSD keys are always in KV; the setting is for object stores only");
        /// Namespace of the KV mount, and of the login unless `VAULT_AUTH_NAMESPACE` says otherwise. `/` is the root namespace.
        Namespace = "VAULT_NAMESPACE";
        /// Namespace of the login, if it differs from `VAULT_NAMESPACE`. Not known to Rook.
        AuthNamespace = "VAULT_AUTH_NAMESPACE";
        /// `token` (default), `kubernetes`, `approle`, `cert`, or `agent` (an agent adds the token). `VAULT_TOKEN` and a token Secret take precedence, as in Rook.
        AuthMethod = "VAULT_AUTH_METHOD";
        /// Path of the auth method's mount. Default: the name of the method.
        AuthMountPath = "VAULT_AUTH_MOUNT_PATH";
        /// Role for Kubernetes auth. Required there.
        AuthKubernetesRole = "VAULT_AUTH_KUBERNETES_ROLE";
        /// File with the service account token, read again at each login. Default `/var/run/secrets/kubernetes.io/serviceaccount/token`.
        AuthKubernetesTokenPath = "VAULT_AUTH_KUBERNETES_TOKEN_PATH";
        /// Role id for AppRole auth. Required there.
        ApproleRoleId = "VAULT_APPROLE_ROLE_ID";
        /// Secret id for AppRole auth. Better kept in the token Secret's key `secret_id`.
        ApproleSecretId = secret "VAULT_APPROLE_SECRET_ID";
        /// Name of the certificate role for `cert` auth; without it the server tries every role. Not known to Rook.
        AuthCertName = "VAULT_AUTH_CERT_NAME";
        /// The token itself. Takes precedence over the token Secret, as in Rook; from the environment, only where there is no other credential.
        Token = secret "VAULT_TOKEN";
        /// CA certificates: name of a Secret with the key `cert`, or a file.
        CaCert = "VAULT_CACERT";
        /// CA certificates as PEM text. Takes precedence over `VAULT_CACERT`.
        CaCertBytes = "VAULT_CACERT_BYTES";
        /// Folder with CA certificates, each a PEM file. Not in a CephCluster of Rook, which refuses it.
        CaPath = "VAULT_CAPATH";
        /// Client certificate: name of a Secret with the key `cert`, or a file.
        ClientCert = "VAULT_CLIENT_CERT";
        /// Key of the client certificate: name of a Secret with the key `key`, or a file.
        ClientKey = "VAULT_CLIENT_KEY";
        /// Whether to accept any server certificate. Every start logs a warning.
        SkipVerify = "VAULT_SKIP_VERIFY";
        /// Server name to request by SNI and to verify in the server's certificate.
        TlsServerName = "VAULT_TLS_SERVER_NAME";
        /// Time limit of one attempt, at most an hour: seconds, or `1m30s`. Default 20 s, also for 0.
        ClientTimeout = "VAULT_CLIENT_TIMEOUT";
        /// Maximum number of retries; 0 for none. Default: until the deadline.
        MaxRetries = "VAULT_MAX_RETRIES";
        /// Maximum number of requests per second, `rate` or `rate:burst`.
        RateLimit = "VAULT_RATE_LIMIT";
        /// Proxy for every request. Takes precedence over `HTTPS_PROXY` and similar variables.
        ProxyAddr = "VAULT_PROXY_ADDR";
        /// Older name of `VAULT_PROXY_ADDR`, which takes precedence.
        HttpProxy = "VAULT_HTTP_PROXY";
        /// Whether a redirect from a standby is an error. By default the provider follows it.
        DisableRedirects = "VAULT_DISABLE_REDIRECTS";
        /// Only `false`: the provider does not look up DNS SRV records; set the address itself.
        SrvLookup = "VAULT_SRV_LOOKUP";
        /// Whether `http://` addresses are allowed. Anyone on the network path can then read the token and the keys. Not known to Rook.
        AllowHttp = "VAULT_ALLOW_HTTP";
        /// Deletion mode of ceph-csi.
        DestroyKeys = "VAULT_DESTROY_KEYS", Support::NoEffect("it belongs to ceph-csi; kms delete destroys all versions only with --destroy");
        /// Response wrapping.
        WrapTtl = "VAULT_WRAP_TTL", Support::Refused("a wrapped response holds no key; remove the setting");
        /// Second factor.
        Mfa = "VAULT_MFA", Support::Refused("an OSD starts unattended and cannot enter a second factor; use a login without one");
        /// Output format of `vault`.
        Format = "VAULT_FORMAT", Support::NoEffect("it belongs to Vault's own command line");
        /// Log level of `vault`.
        LogLevel = "VAULT_LOG_LEVEL", Support::NoEffect("it belongs to Vault's own command line");
        /// Colours of `vault`.
        CliNoColor = "VAULT_CLI_NO_COLOR", Support::NoEffect("it belongs to Vault's own command line");
    }
}

#[cfg(test)]
mod tests {
    use kms_core::config::ConfigKey as _;

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

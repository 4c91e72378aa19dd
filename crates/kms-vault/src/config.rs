//! The settings of Vault, as operators know them (rook-behaviour §1.8, and the variables of Vault's own clients).

use kms_core::config::{Facts, Stricter, Support};

/// What Rook does with the variables of Vault's own client.
const PODS: &str =
    "passes it to OSD pods, where Vault's client reads the environment; its operator ignores it";

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const PROXY: Stricter = Stricter { setting: "VAULT_PROXY_ADDR", input: ("VAULT_PROXY_ADDR", "socks5://proxy.example:1080"), rook: PODS, reason: "is not the address of an HTTP proxy", why: "`kms` speaks to HTTP proxies only", remedy: "give a URL such as http://proxy:3128" };

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const SRV_LOOKUP: Stricter = Stricter { setting: "VAULT_SRV_LOOKUP", input: ("VAULT_SRV_LOOKUP", "true"), rook: PODS, reason: "is not supported, since DNS SRV records are not looked up", why: "`kms` looks up addresses only", remedy: "set VAULT_ADDR to the address itself" };

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const MOUNT_PATH: Stricter = Stricter { setting: "VAULT_BACKEND_PATH", input: ("VAULT_BACKEND_PATH", "rook/../other"), rook: "resolves the dots, if `VAULT_BACKEND` is `kv` or `kv-v2`", reason: "is not the path of a mount", why: "policies of Vault match the path as it is written", remedy: "write the path of one without . and .., such as rook or rook/ver1" };

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const NAMESPACE: Stricter = Stricter { setting: "VAULT_NAMESPACE", input: ("VAULT_NAMESPACE", "téam"), rook: "sends it as it is", reason: "is not the path of a namespace", why: "a header holds ASCII only", remedy: "write it in ASCII and without blanks, such as team or team/storage" };

/// What this provider refuses and Rook takes, beside the settings that are not supported.
#[rustfmt::skip]
pub const STRICTER: &[Stricter] = &[
    Stricter { setting: "VAULT_ADDR", input: ("VAULT_ADDR", "http://vault.example:8200"), rook: "connects without TLS", reason: "is an http address, which would expose token and keys on the network", why: "the network could read the token and the keys", remedy: "use https, or allow http with VAULT_ALLOW_HTTP: \"true\" (for one call of kms, and not for pods: --allow-http)" },
    Stricter { setting: "VAULT_ADDR", input: ("VAULT_ADDR", "https://user:password@vault.example:8200"), rook: "takes the address as it is", reason: "has user information in it", why: "credentials in an address end up in logs", remedy: "put credentials into the token Secret" },
    Stricter { setting: "VAULT_ADDR", input: ("VAULT_ADDR", "https://vault.example:8200?x=1"), rook: "ignores the query", reason: "has a query or a fragment", why: "each request has a query of its own", remedy: "remove it" },
    Stricter { setting: "VAULT_AGENT_ADDR", input: ("VAULT_AGENT_ADDR", "unix:///run/vault-agent.sock"), rook: PODS, reason: "is neither an https nor an http address", why: "`kms` connects by TCP only", remedy: "set one such as https://vault.example:8200" },
    PROXY,
    SRV_LOOKUP,
    MOUNT_PATH,
    NAMESPACE,
];

kms_core::config_keys! {
    /// A setting of Vault.
    pub enum VaultConfigKey of "Vault" {
        /// URL of the server, `https://host:8200`; a path in it is kept.
        Addr = "VAULT_ADDR" { values: "a URL", default: "none; required", rook: "reads it in the same way, and `http://` too", example: "https://vault.example:8200" };
        /// URL of a Vault Agent to talk to in place of `VAULT_ADDR`.
        AgentAddr = "VAULT_AGENT_ADDR" { values: "a URL", default: "none", rook: PODS, example: "https://localhost:8100" };
        /// Version of the KV mount: `kv` or `v1`, `kv-v2` or `v2`. Without it, or with another word, the provider asks the server once. If the mount is of another version, that counts, with a warning; with `kv-v2` on a v1 mount the keys are in its folder `data`, as Rook keeps them.
        Backend = "VAULT_BACKEND" { values: "`kv`, `v1`, `kv-v2` or `v2`", default: "the version that the server names", rook: "reads `kv` and `kv-v2`, and asks the server for every other word", example: "kv-v2" };
        /// Path of the KV mount, without `data/`.
        BackendPath = "VAULT_BACKEND_PATH" { values: "a path", default: "`secret`", rook: Facts::SAME, example: "rook" };
        /// Secret engine of object stores.
        SecretEngine = "VAULT_SECRET_ENGINE" { values: "`kv` or `transit`", default: "none", rook: "finds out the version of the mount if it is `kv`; OSD keys are in KV whatever it says", example: "kv" }, Support::NoEffect("OSD keys are always in KV; the setting is for object stores only");
        /// Namespace of the KV mount, and of the login unless `VAULT_AUTH_NAMESPACE` says otherwise. `/` is the root namespace.
        Namespace = "VAULT_NAMESPACE" { values: "a path", default: "the root namespace", rook: Facts::SAME, example: "team/storage" };
        /// Namespace of the login, if it differs from `VAULT_NAMESPACE`.
        AuthNamespace = "VAULT_AUTH_NAMESPACE" { values: "a path", default: "`VAULT_NAMESPACE`", rook: Facts::UNKNOWN, example: "admin" };
        /// `token` (default), `kubernetes`, `approle`, `cert`, or `agent` (an agent adds the token). `VAULT_TOKEN` and a token Secret take precedence, as in Rook.
        AuthMethod = "VAULT_AUTH_METHOD" { values: "`token`, `kubernetes`, `approle`, `cert` or `agent`", default: "`token`", rook: "reads `token` and `kubernetes`; a token in its environment takes precedence over both", example: "kubernetes" };
        /// Path of the auth method's mount.
        AuthMountPath = "VAULT_AUTH_MOUNT_PATH" { values: "a path", default: "the name of the method", rook: "reads it for `kubernetes`", example: "kubernetes-prod" };
        /// Role for Kubernetes auth.
        AuthKubernetesRole = "VAULT_AUTH_KUBERNETES_ROLE" { values: "a name", default: "none; required for `kubernetes`", rook: Facts::SAME, example: "rook-ceph" };
        /// File with the service account token, read again at each login.
        AuthKubernetesTokenPath = "VAULT_AUTH_KUBERNETES_TOKEN_PATH" { values: "a file", default: "`/var/run/secrets/kubernetes.io/serviceaccount/token`", rook: Facts::SAME, example: "/var/run/secrets/vault/token" };
        /// Role id for AppRole auth.
        ApproleRoleId = "VAULT_APPROLE_ROLE_ID" { values: "an id", default: "none; required for `approle`", rook: "never uses it, since it demands a token Secret", example: "00000000-1111-2222-3333-444444444444" };
        /// Secret id for AppRole auth. Better kept in the token Secret's key `secret_id`.
        ApproleSecretId = secret "VAULT_APPROLE_SECRET_ID" { values: "an id", default: "none", rook: "never uses it, since it demands a token Secret", example: "55555555-6666-7777-8888-999999999999" };
        /// Name of the certificate role for `cert` auth; without it the server tries every role.
        AuthCertName = "VAULT_AUTH_CERT_NAME" { values: "a name", default: "every role that fits", rook: Facts::UNKNOWN, example: "rook-ceph" };
        /// The token itself. Takes precedence over the token Secret, as in Rook; from the environment, only where there is no other credential.
        Token = secret "VAULT_TOKEN" { values: "a token", default: "the key `token` of the token Secret", rook: "reads it first, also from the environment of the operator", example: "s.example" };
        /// CA certificates: name of a Secret with the key `cert`, or a file.
        CaCert = "VAULT_CACERT" { values: Facts::SECRET_OR_FILE, default: "the CAs of the operating system", rook: "reads a Secret; a value with `/etc/vault` in it is a file", example: "vault-ca" };
        /// CA certificates as PEM text. Takes precedence over `VAULT_CACERT`.
        CaCertBytes = "VAULT_CACERT_BYTES" { values: "PEM text", default: "none", rook: PODS, example: "-----BEGIN CERTIFICATE-----…" };
        /// Folder with CA certificates, each a PEM file. Not in a CephCluster of Rook, which refuses it.
        CaPath = "VAULT_CAPATH" { values: "a folder", default: "none", rook: "refuses it", example: "/etc/vault/ca" };
        /// Client certificate: name of a Secret with the key `cert`, or a file.
        ClientCert = "VAULT_CLIENT_CERT" { values: Facts::SECRET_OR_FILE, default: "none", rook: "reads a Secret; a value with `/etc/vault` in it is a file", example: "vault-client-cert" };
        /// Key of the client certificate: name of a Secret with the key `key`, or a file.
        ClientKey = "VAULT_CLIENT_KEY" { values: Facts::SECRET_OR_FILE, default: "none", rook: "reads a Secret; a value with `/etc/vault` in it is a file", example: "vault-client-key" };
        /// Whether to accept any server certificate. Every start logs a warning.
        SkipVerify = "VAULT_SKIP_VERIFY" { values: Facts::BOOLEAN, default: "`false`", rook: Facts::SAME, example: "false" };
        /// Server name to request by SNI and to verify in the server's certificate.
        TlsServerName = "VAULT_TLS_SERVER_NAME" { values: "a host name", default: "the host of `VAULT_ADDR`", rook: Facts::SAME, example: "vault.example" };
        /// Time limit of one attempt, at most an hour: seconds, or `1m30s`.
        ClientTimeout = "VAULT_CLIENT_TIMEOUT" { values: Facts::DURATION, default: "20 s, also for `0`", rook: PODS, example: "30s" };
        /// Maximum number of retries; 0 for none.
        MaxRetries = "VAULT_MAX_RETRIES" { values: "a whole number", default: "until the deadline", rook: PODS, example: "5" };
        /// Maximum number of requests per second, `rate` or `rate:burst`.
        RateLimit = "VAULT_RATE_LIMIT" { values: "`rate` or `rate:burst`", default: "no limit", rook: PODS, example: "100:20" };
        /// Proxy for every request. Takes precedence over `HTTPS_PROXY` and similar variables.
        ProxyAddr = "VAULT_PROXY_ADDR" { values: "a URL", default: "`HTTPS_PROXY`", rook: PODS, example: "http://proxy.example:3128" };
        /// Older name of `VAULT_PROXY_ADDR`, which takes precedence.
        HttpProxy = "VAULT_HTTP_PROXY" { values: "a URL", default: "`HTTPS_PROXY`", rook: PODS, example: "http://proxy.example:3128" };
        /// Whether a redirect from a standby is an error. By default the provider follows it.
        DisableRedirects = "VAULT_DISABLE_REDIRECTS" { values: Facts::BOOLEAN, default: "`false`", rook: PODS, example: "true" };
        /// Only `false`: the provider does not look up DNS SRV records; set the address itself.
        SrvLookup = "VAULT_SRV_LOOKUP" { values: "`false`", default: "`false`", rook: PODS, example: "false" };
        /// Whether `http://` addresses are allowed. Anyone on the network path can then read the token and the keys.
        AllowHttp = "VAULT_ALLOW_HTTP" { values: Facts::BOOLEAN, default: "`false`", rook: "does not know it, and always allows `http://`", example: "true" };
        /// Deletion mode of ceph-csi.
        DestroyKeys = "VAULT_DESTROY_KEYS" { values: Facts::BOOLEAN, default: "none", rook: "does not read it; its delete destroys all versions", example: "true" }, Support::NoEffect("it belongs to ceph-csi; kms delete destroys all versions only with --destroy");
        /// Response wrapping.
        WrapTtl = "VAULT_WRAP_TTL" { values: Facts::DURATION, default: "none", rook: PODS, example: "5m" }, Support::Refused("a wrapped response holds no key; remove the setting");
        /// Second factor.
        Mfa = "VAULT_MFA" { values: "a method and its passcode", default: "none", rook: PODS, example: "totp:123456" }, Support::Refused("an OSD starts unattended and cannot enter a second factor; use a login without one");
        /// Output format of `vault`.
        Format = "VAULT_FORMAT" { values: "`table`, `json` or `yaml`", default: "none", rook: PODS, example: "json" }, Support::NoEffect("it belongs to Vault's own command line");
        /// Log level of `vault`.
        LogLevel = "VAULT_LOG_LEVEL" { values: "a level", default: "none", rook: PODS, example: "info" }, Support::NoEffect("it belongs to Vault's own command line");
        /// Colours of `vault`.
        CliNoColor = "VAULT_CLI_NO_COLOR" { values: Facts::BOOLEAN, default: "none", rook: PODS, example: "true" }, Support::NoEffect("it belongs to Vault's own command line");
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

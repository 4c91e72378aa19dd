//! The settings of KMIP (rook-behaviour §1.8), and a few of our own.

use kms_core::config::{Facts, Stricter};

/// The message of the refusal stands in this row.
#[rustfmt::skip]
pub(crate) const TOO_LONG: Stricter = Stricter { setting: "READ_TIMEOUT", input: ("READ_TIMEOUT", "2h"), rook: "takes it for 10", reason: "is more than an hour, and an OSD waits for the response", why: "an OSD waits for the response", remedy: "set less" };

/// What this provider refuses and Rook takes, beside the settings that are not supported.
#[rustfmt::skip]
pub const STRICTER: &[Stricter] = &[
    Stricter { setting: "READ_TIMEOUT", input: ("READ_TIMEOUT", "ten"), rook: "takes it for 10", reason: "is not a duration", why: "the limit would be another one than meant", remedy: "write one such as 60, 60s, 1m30s or 1.5s" },
    Stricter { setting: "WRITE_TIMEOUT", input: ("WRITE_TIMEOUT", "-1"), rook: "takes it for 255", reason: "is negative", why: "the limit would be another one than meant", remedy: "give a duration such as 60s, or leave it out" },
    TOO_LONG,
    Stricter { setting: "KMIP_ENDPOINT", input: ("KMIP_ENDPOINT", "kmip.example:https"), rook: "looks up the name of the port", reason: "has an invalid port", why: "images differ in the names of ports that they know", remedy: "it is a host with or without port, such as kmip.example:5696 or [2001:db8::1]:5696" },
    Stricter { setting: "KMIP_ENDPOINT", input: ("KMIP_ENDPOINT", ":5696"), rook: "connects to this host, if `TLS_SERVER_NAME` is set", reason: "has no valid host", why: "in a pod that is the pod itself", remedy: "it is a host with or without port, such as kmip.example:5696 or [2001:db8::1]:5696" },
];

kms_core::config_keys! {
    /// A setting of KMIP.
    pub enum KmipConfigKey of "KMIP" {
        /// Host of the server, with or without port: `kmip.example`, `kmip.example:5696`, `[2001:db8::1]:5696`.
        Endpoint = "KMIP_ENDPOINT" { values: "a host with or without port", default: "none; required. Without a port: 5696", rook: "reads it, and needs a port", example: "kmip.example:5696" };
        /// Name that is asked for and that the server's certificate has to bear.
        TlsServerName = "TLS_SERVER_NAME" { values: "a host name or an address", default: "the host of `KMIP_ENDPOINT`", rook: Facts::SAME, example: "kmip.example" };
        /// How long an answer may take: seconds, or `1m30s`. `0`: no limit of its own.
        ReadTimeout = "READ_TIMEOUT" { values: Facts::DURATION, default: "10 s", rook: "reads whole seconds up to 255, and takes anything else for 10", example: "30" };
        /// How long the sending of a request may take: seconds, or `1m30s`. `0`: no limit of its own.
        WriteTimeout = "WRITE_TIMEOUT" { values: Facts::DURATION, default: "10 s", rook: "reads whole seconds up to 255, and takes anything else for 10; it limits the read", example: "30" };
        /// CA certificates that are trusted, and no others: PEM text, or a file (with a slash in its path). Usually the key `CA_CERT` of the token Secret.
        CaCert = "CA_CERT" { values: "PEM text or a file", default: "the key of this name of the token Secret", rook: "reads the token Secret", example: "-----BEGIN CERTIFICATE-----…" };
        /// Client certificate, with its chain behind it: PEM text or a file. Usually the key `CLIENT_CERT` of the token Secret.
        ClientCert = "CLIENT_CERT" { values: "PEM text or a file", default: "the key of this name of the token Secret", rook: "reads the token Secret", example: "-----BEGIN CERTIFICATE-----…" };
        /// Key of the client certificate: PEM text or a file. Usually the key `CLIENT_KEY` of the token Secret.
        ClientKey = secret "CLIENT_KEY" { values: "PEM text or a file", default: "the key of this name of the token Secret", rook: "reads the token Secret", example: "-----BEGIN PRIVATE KEY-----…" };
        /// Version of the protocol, `1.0` to `1.4`, `2.0` or `2.1`, to be spoken without asking the server.
        ProtocolVersion = "KMIP_PROTOCOL_VERSION" { values: "`1.0` to `1.4`, `2.0` or `2.1`", default: "what the server names", rook: "does not know it, and speaks 1.4", example: "1.4" };
        /// How long a TCP connection, and the TLS handshake after it, may take each.
        ConnectTimeout = "KMIP_CONNECT_TIMEOUT" { values: Facts::DURATION, default: "5 s", rook: "does not know it, and has no limit", example: "10s" };
        /// How long an idle connection is kept: less than the server keeps it. `0`: it is closed after each request. Its buffers may hold a KEK.
        IdleTimeout = "KMIP_IDLE_TIMEOUT" { values: Facts::DURATION, default: "2 s", rook: "does not know it, and closes each connection", example: "0" };
        /// Most connections at a time, 1 to 64.
        MaxConnections = "KMIP_MAX_CONNECTIONS" { values: "a number from 1 to 64", default: "4", rook: Facts::UNKNOWN, example: "8" };
        /// Largest answer that is read, in bytes, from 1024 to 67108864.
        MaxResponseSize = "KMIP_MAX_RESPONSE_SIZE" { values: "a number of bytes from 1024 to 67108864", default: "1048576", rook: "does not know it, and reads up to 4 GiB", example: "4194304" };
    }
}

#[cfg(test)]
mod tests {
    use kms_core::config::ConfigKey as _;

    use super::*;

    #[test]
    fn every_name_leads_back_to_its_setting() {
        for key in KmipConfigKey::ALL {
            assert_eq!(key.to_string().parse::<KmipConfigKey>().unwrap(), *key);
            assert_eq!(key.as_str().to_lowercase().parse::<KmipConfigKey>().unwrap(), *key);
            assert!(key.doc().trim().ends_with('.'), "{key}");
        }
        assert!("KMIP_ENDPIONT".parse::<KmipConfigKey>().is_err());
    }
}

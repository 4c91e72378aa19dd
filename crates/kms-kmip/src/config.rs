//! The settings of KMIP (rook-behaviour §1.8), and a few of our own.

kms_core::config_keys! {
    /// A setting of KMIP.
    pub enum KmipConfigKey of "KMIP" {
        /// Host of the server, with or without port: `kmip.example`, `kmip.example:5696`, `[2001:db8::1]:5696`. Default port 5696. Required.
        Endpoint = "KMIP_ENDPOINT";
        /// Name that is asked for and that the server's certificate has to bear. Default: the host of `KMIP_ENDPOINT`.
        TlsServerName = "TLS_SERVER_NAME";
        /// How long an answer may take: seconds, or `1m30s`. `0`: no limit of its own. Default 10.
        ReadTimeout = "READ_TIMEOUT";
        /// How long the sending of a request may take: seconds, or `1m30s`. `0`: no limit of its own. Default 10.
        WriteTimeout = "WRITE_TIMEOUT";
        /// CA certificates that are trusted, and no others: PEM text, or a file (with a slash in its path). Usually the key `CA_CERT` of the token Secret.
        CaCert = "CA_CERT";
        /// Client certificate, with its chain behind it: PEM text or a file. Usually the key `CLIENT_CERT` of the token Secret.
        ClientCert = "CLIENT_CERT";
        /// Key of the client certificate: PEM text or a file. Usually the key `CLIENT_KEY` of the token Secret.
        ClientKey = secret "CLIENT_KEY";
        /// Version of the protocol, `1.0` to `1.4`, `2.0` or `2.1`, to be spoken without asking the server. Not known to Rook.
        ProtocolVersion = "KMIP_PROTOCOL_VERSION";
        /// How long a TCP connection, and the TLS handshake after it, may take each. Default 5 s. Not known to Rook.
        ConnectTimeout = "KMIP_CONNECT_TIMEOUT";
        /// How long an idle connection is kept: less than the server keeps it. `0`: it is closed after each request. Default 2 s, since its buffers may hold a KEK. Not known to Rook.
        IdleTimeout = "KMIP_IDLE_TIMEOUT";
        /// Most connections at a time, 1 to 64. Default 4. Not known to Rook.
        MaxConnections = "KMIP_MAX_CONNECTIONS";
        /// Largest answer that is read, in bytes, from 1024 to 67108864. Default 1048576. Not known to Rook.
        MaxResponseSize = "KMIP_MAX_RESPONSE_SIZE";
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

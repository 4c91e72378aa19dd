//! The settings of KMIP.

use kms_core::{
    KmsSpec,
    config::{ConfigKey, Problems, Settings},
};

use super::{KMS_PROVIDER, Row, config_key};

/// A setting of KMIP.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum KmipConfigKey {
    /// `CA_CERT`
    CaCert,
    /// `CLIENT_CERT`
    ClientCert,
    /// `CLIENT_KEY`
    ClientKey,
    /// `KMIP_ENDPOINT`
    Endpoint,
    /// `READ_TIMEOUT`
    ReadTimeout,
    /// `TLS_SERVER_NAME`
    TlsServerName,
    /// `WRITE_TIMEOUT`
    WriteTimeout,
}

impl KmipConfigKey {
    const fn row(self) -> Row {
        match self {
            Self::CaCert => Row::new(
                "CA_CERT",
                "The CA of the server, as PEM text; usually in the Secret that `tokenSecretName` names.",
            ),
            Self::ClientCert => {
                Row::new("CLIENT_CERT", "The client certificate, as PEM text; usually in the same Secret.")
            }
            Self::ClientKey => {
                Row::new("CLIENT_KEY", "Its private key, as PEM text; usually in the same Secret.").secret()
            }
            Self::Endpoint => {
                Row::new("KMIP_ENDPOINT", "The server as `host:port`; there is no default port. Required.")
            }
            Self::ReadTimeout => {
                Row::new("READ_TIMEOUT", "How long to wait for an answer, 1 to 255 seconds; 10 by default.")
            }
            Self::TlsServerName => {
                Row::new("TLS_SERVER_NAME", "The name in the server's certificate, if it is not the host.")
            }
            Self::WriteTimeout => {
                Row::new("WRITE_TIMEOUT", "How long sending may take, 1 to 255 seconds; 10 by default.")
            }
        }
    }
}

config_key!(
    KmipConfigKey,
    [CaCert, ClientCert, ClientKey, Endpoint, ReadTimeout, TlsServerName, WriteTimeout]
);

/// Notes everything that is wrong with the settings.
pub(crate) fn check(spec: &KmsSpec, problems: &mut Problems) {
    let settings = Settings::from_pairs(spec.connection_details.iter(), &[KMS_PROVIDER], problems);
    if let Some(endpoint) = settings.required(KmipConfigKey::Endpoint, problems)
        && !is_host_and_port(endpoint)
    {
        problems.add("KMIP_ENDPOINT is not of the form host:port");
    }
    for key in [KmipConfigKey::ReadTimeout, KmipConfigKey::WriteTimeout] {
        // Rook keeps the number in one byte, and takes the default for what is no number (spec 1.8).
        if settings.text(key).is_some()
            && settings.number(key, problems).is_some_and(|seconds| !(1..=255).contains(&seconds))
        {
            problems.add(format!("{} is not from 1 to 255 seconds", key.as_str()));
        }
    }
    let inline = [KmipConfigKey::CaCert, KmipConfigKey::ClientCert, KmipConfigKey::ClientKey]
        .into_iter()
        .all(|key| settings.text(key).is_some());
    if spec.token_secret_name.trim().is_empty() && !inline {
        problems.add(
            "tokenSecretName is missing: it names the Secret with the keys CA_CERT, CLIENT_CERT and CLIENT_KEY",
        );
    }
}

fn is_host_and_port(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain = !host.is_empty() && !host.contains([':', '/', '@', '[', ']']);
    (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use kms_core::ConnectionDetails;

    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for endpoint in ["kmip:5696", "10.0.0.1:5696", "[2001:db8::1]:5696", "kmip.example.com:1"] {
            assert!(is_host_and_port(endpoint), "{endpoint}");
        }
        for endpoint in [
            "",
            "kmip",
            "kmip:",
            ":5696",
            "kmip:0",
            "kmip:70000",
            "2001:db8::1:5696",
            "tls://kmip:5696",
            "[]:1",
        ] {
            assert!(!is_host_and_port(endpoint), "{endpoint}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_at_once() {
        let details = [
            ("KMS_PROVIDER", "kmip"),
            ("KMIP_ENDPOINT", "canary"),
            ("READ_TIMEOUT", "-1"),
            ("WRITE_TIMEOUT", "256"),
            ("KMIP_READ_TIMEOUT", "5"),
        ];
        let spec = KmsSpec::new(details.into_iter().collect::<ConnectionDetails>(), "");
        let mut problems = Problems::new();
        check(&spec, &mut problems);
        assert_eq!(
            problems.iter().collect::<Vec<_>>(),
            [
                "KMIP_READ_TIMEOUT is not a known setting of this provider",
                "KMIP_ENDPOINT is not of the form host:port",
                "READ_TIMEOUT is not a whole number from 0 up",
                "WRITE_TIMEOUT is not from 1 to 255 seconds",
                "tokenSecretName is missing: it names the Secret with the keys CA_CERT, CLIENT_CERT and CLIENT_KEY",
            ]
        );
    }
}

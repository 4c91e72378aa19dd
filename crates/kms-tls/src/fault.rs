//! Says in words why a handshake failed.

use kms_core::{Error, ErrorKind, Retry};
use rustls::{AlertDescription, CertificateError};

use crate::{
    certificate::{Described, date, one_line},
    handshakes::{Handshakes, SettingNames},
    verify::Refused,
};

/// How many names of CAs a message shows.
const CAS: usize = 4;

/// Makes the error for a fault of TLS. Its kind is `Unauthenticated` only if the server refuses our client certificate,
/// or misses one.
pub fn fault(cause: &rustls::Error, handshakes: &Handshakes, retry: Retry) -> Error {
    let error = explained(cause, handshakes, retry);
    // The message says all about a certificate, and the library's text has object identifiers.
    if let rustls::Error::InvalidCertificate(_) = cause { error } else { error.source(cause.clone()) }
}

fn explained(cause: &rustls::Error, handshakes: &Handshakes, retry: Retry) -> Error {
    let SettingNames { server_name, address, .. } = handshakes.names;
    let protocol = |message: String| Error::new(ErrorKind::Protocol, message);
    match cause {
        rustls::Error::InvalidCertificate(certificate) => refused(certificate, handshakes),
        rustls::Error::AlertReceived(alert) => alerted(*alert, handshakes, retry),
        rustls::Error::InvalidMessage(_) => Error::config(format!(
            "the server does not speak TLS on this port; check {address}: is it meant to be http, or another port?"
        )),
        rustls::Error::PeerIncompatible(_) => protocol(format!(
            "client and server have no TLS version, cipher suite or key exchange in common: {OFFERED}; the server is too \
             old, or limited to others"
        )),
        rustls::Error::PeerMisbehaved(_) => protocol("the server violates the TLS protocol".to_owned()),
        rustls::Error::NoCertificatesPresented => protocol("the server shows no certificate".to_owned()),
        rustls::Error::UnsupportedNameType => {
            Error::config(format!("the name of the server is not a host name; set {server_name}"))
        }
        _ => Error::new(ErrorKind::Unavailable, "TLS failed").retry(retry),
    }
}

/// What the client offers, for messages.
const OFFERED: &str = "we offer TLS 1.3 and 1.2 with AES-GCM and ChaCha20-Poly1305, and X25519, P-256 and P-384, the first two also with ML-KEM-768";

/// The error for an alert of the server.
fn alerted(alert: AlertDescription, handshakes: &Handshakes, retry: Retry) -> Error {
    let SettingNames { client, server_name, .. } = handshakes.names;
    let refuses = |why: String| {
        let message = format!("the server refused the TLS connection: {why}");
        Error::new(ErrorKind::Unauthenticated, message)
    };
    let protocol = |why: String| {
        Error::new(ErrorKind::Protocol, format!("the server refused the TLS connection: {why}"))
    };
    let missing = || format!("it asks for a client certificate; set {client} and its key");
    match alert {
        // Without a client certificate, an alert about certificates is about the missing one.
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::HandshakeFailure
            if handshakes.has_been_asked() && !handshakes.has_identity =>
        {
            refuses(missing())
        }
        AlertDescription::CertificateRequired if handshakes.has_identity => refuses(format!(
            "it has not received our client certificate: it may accept no signature of that type of key; check {client}"
        )),
        AlertDescription::CertificateRequired => refuses(missing()),
        AlertDescription::UnknownCA => refuses(format!("{client} is signed by a CA that it does not know")),
        AlertDescription::CertificateExpired => {
            refuses(format!("{client} has expired (or is not valid yet, by the server's clock)"))
        }
        AlertDescription::UnsupportedCertificate => refuses(format!(
            "it does not accept this type of certificate; check that {client} is for client authentication"
        )),
        AlertDescription::CertificateRevoked => refuses(format!("{client} has been revoked")),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => refuses(format!("it does not accept {client}")),
        AlertDescription::HandshakeFailure if handshakes.has_been_asked() => refuses(format!(
            "the handshake failed after it asked for a client certificate, so it probably does not accept {client}"
        )),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => protocol(format!(
            "it has no cipher suite, key exchange or signature in common with us: {OFFERED}"
        )),
        AlertDescription::ProtocolVersion => {
            protocol(format!("it supports no version of TLS that we do: {OFFERED}"))
        }
        AlertDescription::UnrecognisedName => Error::config(format!(
            "the server refused the TLS connection: it knows no host of this name; set {server_name} to a name that it \
             knows"
        )),
        AlertDescription::InternalError => {
            Error::new(ErrorKind::Unavailable, "the server ended the TLS connection with an internal error")
                .retry(retry)
        }
        _ => {
            Error::new(ErrorKind::Protocol, "the server ended the TLS connection with an alert").retry(retry)
        }
    }
}

/// The error for a certificate of the server that this client refuses.
fn refused(cause: &CertificateError, handshakes: &Handshakes) -> Error {
    let names = &handshakes.names;
    let why = match cause {
        CertificateError::Other(other) => {
            other.0.downcast_ref::<Refused>().map(|refused| refused.explain(names))
        }
        CertificateError::BadSignature => Some(
            "the server does not hold the certificate's private key: the signature of the handshake is wrong"
                .to_owned(),
        ),
        CertificateError::Expired | CertificateError::NotValidYet => Some(
            "by the clock of this host it has expired or is not valid yet: check the clock, then the certificate".to_owned(),
        ),
        _ => None,
    };
    let why = why.unwrap_or_else(|| "it is not valid".to_owned());
    Error::config(format!("the server's certificate is refused: {why}"))
}

impl Refused {
    /// The reason in words, with what the server presented, what was expected, and the setting to change.
    fn explain(&self, names: &SettingNames) -> String {
        let SettingNames { ca, server_name, address, .. } = names;
        if self.cause == webpki::Error::BadDerTime {
            return "it, or a CA in its chain, has a date that is malformed or before 1970; issue a new one"
                .to_owned();
        }
        let Some(Some(leaf)) = self.presented.first() else {
            return "it is malformed; issue a new one for the server".to_owned();
        };
        let subject = &leaf.subject;
        if let Some(weak) = self.weak_key() {
            return weak;
        }
        match &self.cause {
            webpki::Error::CertExpired { time, not_after } => format!(
                "the certificate {} ended on {} (the clock of this host: {}); check the clock, or renew the certificate",
                self.find(|one| one.not_after == *not_after),
                date(*not_after),
                date(*time)
            ),
            webpki::Error::CertNotValidYet { time, not_before } => format!(
                "the certificate {} is not valid yet: it begins on {}; check the clock of this host, which says {}",
                self.find(|one| one.not_before == *not_before),
                date(*not_before),
                date(*time)
            ),
            webpki::Error::CertNotValidForName(_) if leaf.names.is_empty() => format!(
                "it has no name in the extension subjectAltName, only the subject {subject}, and the client needs the \
                 name {:?}; issue one with subjectAltName",
                self.name
            ),
            webpki::Error::CertNotValidForName(_) => format!(
                "it is for other names: {}; the client needs {:?}; use one of its names in {address}, or set \
                 {server_name} to it",
                leaf.shown_names(),
                self.name
            ),
            webpki::Error::UnknownIssuer => self.unknown_issuer(leaf, ca),
            webpki::Error::CaUsedAsEndEntity => format!(
                "{subject} is a CA certificate (CA:TRUE), issued by {}; give exactly this certificate in {ca}, or issue \
                 one for the server that is no CA",
                leaf.issuer
            ),
            webpki::Error::EndEntityUsedAsCa => format!(
                "its issuer {} is not a CA (CA:FALSE); issue it by a CA, or give exactly the server's certificate in \
                 {ca}",
                leaf.issuer
            ),
            webpki::Error::PathLenConstraintViolated => format!(
                "a CA in its chain allows fewer CAs below it than there are (path length): {}",
                self.chain()
            ),
            webpki::Error::NameConstraintViolation => format!(
                "a CA in its chain may not issue for these names (name constraints): {}; chain: {}",
                leaf.shown_names(),
                self.chain()
            ),
            webpki::Error::EmptyEkuExtension | webpki::Error::RequiredEkuNotFoundContext(_) => format!(
                "it, or a CA in its chain, is not for servers (extended key usage without server authentication): {}; \
                 issue one for servers",
                self.chain()
            ),
            webpki::Error::InvalidSignatureForPublicKey => format!(
                "the signature of a certificate in its chain does not fit the CA of that name: {}; the CA may have a new \
                 key: check {ca}",
                self.chain()
            ),
            webpki::Error::UnsupportedSignatureAlgorithmContext(_)
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                let issuers: Vec<_> = self.presented.iter().flatten().map(|one| &one.issuer).collect();
                let roots = self.trusted.iter().filter(|one| issuers.contains(&&one.subject));
                let algorithms =
                    self.presented.iter().flatten().chain(roots).map(|one| {
                        format!("{} has {} and is signed by {}", one.subject, one.key, one.signature)
                    });
                format!(
                    "it, or a CA in its chain, is signed in a way that we do not accept: {}; issue it with RSA of 2,048 \
                     bits or more or ECDSA, and SHA-256 or better",
                    algorithms.collect::<Vec<_>>().join(", ")
                )
            }
            webpki::Error::UnsupportedCertVersion => {
                format!(
                    "{subject} is a certificate of version 1, without names of hosts; issue one of version 3"
                )
            }
            webpki::Error::UnsupportedCriticalExtension => {
                format!("{subject} or its chain has a critical extension that we do not know")
            }
            webpki::Error::MaximumPathBuildCallsExceeded
            | webpki::Error::MaximumPathDepthExceeded
            | webpki::Error::MaximumSignatureChecksExceeded
            | webpki::Error::MaximumNameConstraintComparisonsExceeded => {
                "its chain is too long or too complex".to_owned()
            }
            webpki::Error::InvalidCertValidity => format!("{subject} or its chain ends before it begins"),
            _ => format!("{subject} or its chain is malformed; issue a new one for the server"),
        }
    }

    fn unknown_issuer(&self, leaf: &Described, ca: &str) -> String {
        let expected = if self.trusted.is_empty() {
            format!("the operating system does not trust that CA; name the server's CA in {ca}")
        } else {
            let more = if self.trusted.len() > CAS { ", …" } else { "" };
            let known: Vec<_> = self.trusted.iter().take(CAS).map(|one| one.subject.as_str()).collect();
            format!("{ca} holds {}{more}", known.join(", "))
        };
        let last = self.presented.iter().flatten().last().unwrap_or(leaf);
        if leaf.is_self_issued() {
            return format!(
                "{} is self-signed, and not one of our CA certificates: {expected}; give this certificate there",
                leaf.subject
            );
        }
        let chain = if last.is_self_issued() {
            "not signed by a CA that we trust".to_owned()
        } else {
            format!("the server sends no certificate of {}, and it is not among ours", last.issuer)
        };
        let same_name = self.trusted.iter().find(|one| one.subject == last.issuer);
        let same_name = match same_name {
            Some(one) if !one.may_sign => {
                "; that certificate of ours is not a CA (CA:FALSE), so it vouches for itself only"
            }
            Some(_) => "; the CA of that name may have a new key",
            None => "",
        };
        format!("{} is issued by {}, {chain}: {expected}{same_name}", leaf.subject, leaf.issuer)
    }

    /// The first presented certificate of which `is_it` is true.
    fn find(&self, is_it: impl Fn(&Described) -> bool) -> &str {
        self.presented.iter().flatten().find(|one| is_it(one)).map_or("of its chain", |one| &one.subject)
    }

    fn chain(&self) -> String {
        let names: Vec<_> = self.presented.iter().flatten().map(|one| one.subject.as_str()).collect();
        let root = self.presented.iter().flatten().last().map(|one| one.issuer.as_str());
        one_line(&format!("{} issued by {}", names.join(" issued by "), root.unwrap_or("an unknown CA")))
    }

    /// The message for a key whose type or size the crypto provider refuses.
    fn weak_key(&self) -> Option<String> {
        let one = self.presented.iter().flatten().chain(&self.trusted).find(|one| !one.key.is_supported())?;
        let about_chain = matches!(
            self.cause,
            webpki::Error::UnknownIssuer
                | webpki::Error::InvalidSignatureForPublicKey
                | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        );
        about_chain.then(|| {
            format!(
                "{} has {}; we accept RSA keys of 2,048 to 8,192 bits, EC P-256, P-384 and P-521, and Ed25519: issue the \
                 certificate with such a key",
                one.subject, one.key
            )
        })
    }
}

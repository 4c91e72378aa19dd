//! Assertions for the SDK's `ClientAssertionCredential`, which prove our identity to Entra ID.

use std::{fs, path::PathBuf};

use async_trait::async_trait;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kms_core::{Error, ErrorKind, Result, Retry};
use serde::Serialize;

use crate::{
    certificate::{Certificate, SCHEMES, hex, now},
    error::wrapped,
};

/// How long an assertion is valid, in seconds.
const LIFETIME: i64 = 600;
/// How many seconds our clock may be ahead of Entra ID's.
const SKEW: i64 = 60;

/// Creates assertions that are signed with a certificate's key.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) certificate: std::sync::Arc<Certificate>,
    pub(crate) client: String,
    /// The address of Entra ID that receives the assertion.
    pub(crate) audience: String,
    pub(crate) send_chain: bool,
}

#[derive(Serialize)]
struct Header {
    alg: &'static str,
    typ: &'static str,
    x5t: String,
    #[serde(rename = "x5t#S256")]
    x5t_s256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: String,
    nbf: i64,
    iat: i64,
    exp: i64,
}

impl Signed {
    /// Creates an assertion with a new id, since Entra ID accepts each id once.
    pub(crate) fn assertion(&self, now: i64) -> Result<String> {
        let Certificate { signer, chain, sha1, sha256, .. } = &*self.certificate;
        let cannot = || Error::new(ErrorKind::Unexpected, "the assertion cannot be signed");
        let (signer, alg, half) = SCHEMES
            .into_iter()
            .find_map(|(scheme, name, half)| {
                signer.choose_scheme(&[scheme]).map(|signer| (signer, name, half))
            })
            .ok_or_else(cannot)?;
        let header = Header {
            alg,
            typ: "JWT",
            x5t: URL_SAFE_NO_PAD.encode(sha1),
            x5t_s256: URL_SAFE_NO_PAD.encode(sha256),
            x5c: self
                .send_chain
                .then(|| chain.iter().map(|certificate| STANDARD.encode(certificate)).collect()),
        };
        let mut id = [0_u8; 16];
        getrandom::fill(&mut id).map_err(|_cause| cannot())?;
        let claims = Claims {
            aud: &self.audience,
            iss: &self.client,
            sub: &self.client,
            jti: hex(&id),
            nbf: now - SKEW,
            iat: now,
            exp: now + LIFETIME,
        };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_cause| cannot())
        };
        let mut token = part(serde_json::to_vec(&header))?;
        token.push('.');
        token.push_str(&part(serde_json::to_vec(&claims))?);
        let mut signature = signer.sign(token.as_bytes()).map_err(|_cause| cannot())?;
        if half > 0 {
            signature = fixed(&signature, half).ok_or_else(cannot)?;
        }
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

/// Converts an ECDSA signature from the DER form of TLS to two numbers of `half` bytes each (RFC 7518 §3.4).
fn fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let (&[0x30, _], mut rest) = der.split_first_chunk::<2>()? else { return None };
    let mut out = Vec::with_capacity(2 * half);
    for _ in 0..2 {
        let (&[0x02, length], number) = rest.split_first_chunk::<2>()? else { return None };
        let (number, after) = number.split_at_checked(usize::from(length))?;
        let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let number = number.get(first..)?;
        out.resize(out.len() + half.checked_sub(number.len())?, 0);
        out.extend_from_slice(number);
        rest = after;
    }
    rest.is_empty().then_some(out)
}

#[async_trait]
impl ClientAssertion for Signed {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.assertion(now()).map_err(wrapped)
    }
}

/// The token file of a service account, which the kubelet renews. Each exchange reads it again (field-reports UP-17).
#[derive(Debug)]
pub(crate) struct Federated {
    pub(crate) file: PathBuf,
}

impl Federated {
    fn read(&self) -> Result<String> {
        let text = fs::read_to_string(&self.file).map_err(|cause| {
            Error::config("the file of AZURE_FEDERATED_TOKEN_FILE cannot be read").source(cause)
        })?;
        match text.trim() {
            // The kubelet is replacing the file; a moment later the file holds a token again.
            "" => Err(Error::new(ErrorKind::Unavailable, "the file of AZURE_FEDERATED_TOKEN_FILE is empty")
                .retry(Retry::Always)),
            text => Ok(text.to_owned()),
        }
    }
}

#[async_trait]
impl ClientAssertion for Federated {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.read().map_err(wrapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_signature_get_their_full_length() {
        assert_eq!(fixed(&[0x30, 7, 2, 2, 0, 0x80, 2, 1, 5], 3).unwrap(), [0, 0, 0x80, 0, 0, 5]);
        for wrong in [&[][..], &[0x30], &[0x30, 3, 2, 9, 1], &[0x30, 6, 2, 1, 1, 2, 1, 1, 9], &[0x31, 0]] {
            assert_eq!(fixed(wrong, 3), None);
        }
        assert_eq!(fixed(&[0x30, 8, 2, 3, 1, 1, 1, 2, 1, 1], 2), None);
    }

    fn signed(files: &[&str], send_chain: bool) -> (serde_json::Value, serde_json::Value, String, Vec<u8>) {
        let certificate = std::sync::Arc::new(Certificate::parse(files.concat().as_bytes(), "").unwrap());
        let audience = "https://login.example/t/oauth2/v2.0/token".to_owned();
        let signed = Signed { certificate, client: "c".to_owned(), audience, send_chain };
        let (one, other) = (signed.assertion(1_000).unwrap(), signed.assertion(1_000).unwrap());
        assert_ne!(one, other, "each has an id of its own");
        let (text, signature) = one.rsplit_once('.').unwrap();
        let (header, claims) = text.split_once('.').unwrap();
        let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        (json(header), json(claims), text.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
    }

    #[test]
    fn an_assertion_has_the_claims_and_thumbprints_that_entra_asks_for() {
        let files =
            [include_str!("../tests/certificates/key.pem"), include_str!("../tests/certificates/cert.pem")];
        let (header, claims, _, signature) = signed(&files, true);
        assert_eq!((header["alg"].as_str(), header["x5c"].as_array().unwrap().len()), (Some("RS256"), 1));
        // openssl x509 -in cert.pem -outform der | openssl sha1 -binary | base64
        let der = STANDARD.decode(header["x5c"][0].as_str().unwrap()).unwrap();
        use sha1::Digest as _;
        assert_eq!(header["x5t"], URL_SAFE_NO_PAD.encode(sha1::Sha1::digest(&der)));
        assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&der)));
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("c"), Some("c")));
        assert_eq!(claims["aud"], "https://login.example/t/oauth2/v2.0/token");
        assert_eq!((claims["nbf"].as_i64(), claims["exp"].as_i64()), (Some(940), Some(1_600)));
        assert_eq!(signature.len(), 256);
    }

    #[test]
    fn an_ec_key_signs_es256_in_the_form_of_jose() {
        let pem = include_str!("../tests/certificates/ec-cert.pem");
        let (header, _, text, signature) =
            signed(&[include_str!("../tests/certificates/ec-key.pem"), pem], false);
        assert_eq!((header["alg"].as_str(), header.get("x5c")), (Some("ES256"), None));
        assert_eq!(signature.len(), 64);
        let mut body = Vec::new();
        for half in signature.chunks(32) {
            let mut number: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
            if number[0] >= 0x80 {
                number.insert(0, 0);
            }
            body.extend([0x02, u8::try_from(number.len()).unwrap()]);
            body.extend(number);
        }
        let mut der = vec![0x30, u8::try_from(body.len()).unwrap()];
        der.extend(body);
        use rustls_pki_types::pem::PemObject as _;
        let certificate = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        let key = &parsed.public_key().subject_public_key.data;
        let provider = kms_tls::crypto::provider().signature_verification_algorithms;
        use rustls::SignatureScheme;
        let es256 =
            provider.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
        let valid =
            es256.unwrap().1.iter().any(|one| one.verify_signature(key, text.as_bytes(), &der).is_ok());
        assert!(valid);
    }

    #[test]
    fn a_token_file_is_read_anew_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let federated = Federated { file: folder.path().join("token") };
        assert_eq!(federated.read().unwrap_err().kind(), ErrorKind::ConfigInvalid);
        fs::write(&federated.file, "a\n").unwrap();
        assert_eq!(federated.read().unwrap(), "a");
        fs::write(&federated.file, "").unwrap();
        assert_eq!(federated.read().unwrap_err().retryable(), Retry::Always);
        fs::write(&federated.file, "b").unwrap();
        assert_eq!(federated.read().unwrap(), "b");
    }
}

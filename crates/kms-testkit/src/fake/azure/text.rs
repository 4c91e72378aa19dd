//! Parts of tokens, certificates, signatures and errors.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::fake::http::Response;

/// The certificate of the service principal that Entra ID knows, and its key.
pub(super) const SERVICE_PRINCIPAL: &str = include_str!("sp.pem");

/// A response with an error of Key Vault.
pub(super) fn refused(status: u16, code: &str, message: &str, inner: Option<&str>) -> Response {
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    Response::value(status, json!({"error": error}))
}

/// A part of a token.
pub(super) fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// The bytes of base64url, with or without padding.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// A keyed hash of a text: the double's own signature.
pub(super) fn seal(key: &str, text: &str) -> String {
    // The key is prefix and suffix, so an attacker cannot extend the text.
    let digest = Sha256::new().chain_update(key).chain_update(text).chain_update(key).finalize();
    URL_SAFE_NO_PAD.encode(digest)
}

/// Whether this is the certificate's thumbprint, in either form.
pub(super) fn is_thumbprint(certificate: &[u8], sha1: Option<&str>, sha256: Option<&str>) -> bool {
    let fits = |text: &str, digest: &[u8]| unbase64(text).is_some_and(|bytes| bytes == digest);
    (sha1.is_some() || sha256.is_some())
        && sha1.is_none_or(|text| fits(text, &Sha1::digest(certificate)))
        && sha256.is_none_or(|text| fits(text, &Sha256::digest(certificate)))
}

/// The first certificate of a PEM text.
pub(super) fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Whether the owner of the certificate has signed this.
pub(super) fn is_signed(certificate: &[u8], algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
    let (scheme, signature) = match algorithm {
        "RS256" => (SignatureScheme::RSA_PKCS1_SHA256, signature.to_vec()),
        "PS256" => (SignatureScheme::RSA_PSS_SHA256, signature.to_vec()),
        "ES256" => (SignatureScheme::ECDSA_NISTP256_SHA256, der(signature)),
        _ => return false,
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let key = &parsed.public_key().subject_public_key.data;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    algorithms
        .mapping
        .iter()
        .filter(|(known, _)| *known == scheme)
        .flat_map(|(_, list)| list.iter())
        .any(|algorithm| algorithm.verify_signature(key, message, &signature).is_ok())
}

/// An ECDSA signature as DER, of its two numbers.
fn der(signature: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for half in signature.chunks(signature.len().max(2) / 2) {
        let mut number: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
        if number.first().is_none_or(|byte| *byte >= 0x80) {
            number.insert(0, 0);
        }
        body.extend([0x02, u8::try_from(number.len()).unwrap_or(0)]);
        body.extend(number);
    }
    let mut out = vec![0x30, u8::try_from(body.len()).unwrap_or(0)];
    out.extend(body);
    out
}

//! Service account tokens signed by us with the API server's own key (ES256, RFC 7518 section 3.4).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

/// The issuer of tokens, and their default audience.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc";

/// A token of the account `name` that expires in `seconds` from now.
pub(super) fn mint(
    key: &KeyPair,
    kube_namespace: &str,
    name: &str,
    uid: &str,
    seconds: i64,
) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let claims = json!({
        "aud": [ISSUER],
        "iss": ISSUER,
        "iat": now - 3600,
        "nbf": now - 3600,
        "exp": now + seconds,
        "sub": format!("system:serviceaccount:{kube_namespace}:{name}"),
        "kubernetes.io": {"namespace": kube_namespace, "serviceaccount": {"name": name, "uid": uid}},
    });
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({"alg": "ES256"})), part(claims));
    let signature = fixed(&key.sign(text.as_bytes())?).context("the signature is not in DER")?;
    Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// The two numbers of an ECDSA signature in DER, each in 32 bytes, as JWS wants them.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    // SEQUENCE { INTEGER r, INTEGER s }; with P-256 every length fits in one byte.
    let [0x30, _, 0x02, rest @ ..] = der else { return None };
    let (length, rest) = rest.split_first()?;
    let (r, rest) = rest.split_at_checked(usize::from(*length))?;
    let [0x02, length, s @ ..] = rest else { return None };
    let mut out = [0; 64];
    for (number, place) in [(r, 32), (s.get(..usize::from(*length))?, 64)] {
        // A leading zero keeps a number positive; leading zeros of the number itself are left out.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        out.get_mut(place - number.len().min(32)..place)?
            .copy_from_slice(number.get(..number.len().min(32))?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_padded_and_stripped_to_32_bytes() {
        // r has 33 bytes with its sign byte, s is short.
        let r: Vec<u8> = [0].into_iter().chain((0..32).map(|n| 0x80 + n)).collect();
        let mut der = vec![0x30, 0x25, 0x02, 0x21];
        der.extend(&r);
        der.extend([0x02, 0x02, 0x01, 0x02]);
        let out = fixed(&der).unwrap();
        assert_eq!(out[..32], r[1..]);
        assert_eq!(out[32..62], [0; 30]);
        assert_eq!(out[62..], [1, 2]);
        assert_eq!(fixed(&der[..20]), None);
        assert_eq!(fixed(b"nonsense"), None);
    }

    #[test]
    fn a_token_has_three_parts_and_its_claims() {
        let key = KeyPair::generate().unwrap();
        let token = mint(&key, "ns", "sa", "uid", 60).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims: Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:ns:sa");
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    }
}

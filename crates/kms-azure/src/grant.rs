//! Converts Entra ID's token response to the form that the SDK reads.

use kms_core::{Error, ErrorKind, ExposeSecret, Result};
use kms_http::json::parse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{certificate::now, stored::Secret};

/// The assumed lifetime, in seconds, of a token whose response names no lifetime.
const DEFAULT_LIFETIME: i64 = 300;

/// A token response (RFC 6749 section 5.1). Older services write numbers as strings, or only the time of expiry.
#[derive(Deserialize)]
struct Grant {
    #[serde(default)]
    access_token: Option<Secret>,
    #[serde(default)]
    expires_in: Option<Value>,
    #[serde(default)]
    expires_on: Option<Value>,
}

#[derive(Serialize)]
struct SdkGrant<'a> {
    token_type: &'static str,
    expires_in: i64,
    access_token: &'a str,
}

/// Converts the response to the one form that the SDK reads.
///
/// # Errors
///
/// `Protocol` if the response is not JSON or holds no token.
pub(crate) fn normalize(body: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let Grant { access_token, expires_in, expires_on } = parse(body)?;
    let token = access_token.filter(|Secret(token)| !token.expose_secret().is_empty());
    let Some(Secret(token)) = token else {
        return Err(Error::new(ErrorKind::Protocol, "Entra ID's response holds no token"));
    };
    let left = seconds(expires_in).or_else(|| seconds(expires_on).map(|end| end.saturating_sub(now())));
    let token = token.expose_secret();
    let mut json = Zeroizing::new(Vec::with_capacity(2 * token.len() + 128));
    let grant = SdkGrant {
        token_type: "Bearer",
        // The SDK adds the lifetime to the present time, and the sum must not overflow.
        expires_in: left.unwrap_or(DEFAULT_LIFETIME).clamp(0, 366 * 86_400),
        access_token: token,
    };
    serde_json::to_writer(&mut *json, &grant)
        .map_err(|_cause| Error::new(ErrorKind::Unexpected, "the token cannot be passed to the SDK"))?;
    Ok(json)
}

#[allow(clippy::cast_possible_truncation, reason = "whole seconds are meant, and clamped")]
fn seconds(value: Option<Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_texts_and_may_be_missing() {
        let read = |text: &str| -> i64 {
            let json: Value = serde_json::from_slice(&normalize(text.as_bytes()).unwrap()).unwrap();
            assert_eq!(
                (json["access_token"].as_str(), json["token_type"].as_str()),
                (Some("t"), Some("Bearer"))
            );
            json["expires_in"].as_i64().unwrap()
        };
        for (text, expected) in [
            (r#"{"access_token":"t","expires_in":3599,"token_type":"bearer"}"#, 3_599),
            (r#"{"access_token":"t","expires_in":"3599","ext_expires_in":"x"}"#, 3_599),
            (r#"{"access_token":"t","expires_in":3599.5}"#, 3_599),
            (r#"{"access_token":"t","expires_in":-5}"#, 0),
            (r#"{"access_token":"t","expires_in":1e300}"#, 366 * 86_400),
            (r#"{"access_token":"t","expires_in":null}"#, DEFAULT_LIFETIME),
            (r#"{"access_token":"t"}"#, DEFAULT_LIFETIME),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        let left = read(&format!(r#"{{"access_token":"t","expires_on":"{}"}}"#, now() + 1_000));
        assert!((990..=1_000).contains(&left), "{left}");
    }

    #[test]
    fn a_response_without_a_token_is_malformed() {
        for text in ["{}", r#"{"access_token":""}"#, r#"{"access_token":["canary"]}"#, "canary", "[]"] {
            let error = normalize(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
            assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
        }
    }
}

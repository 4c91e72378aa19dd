//! Addresses and ids of the settings: their shape, before anybody is asked.

use kms_core::config::Problems;
use kms_http::http::HeaderValue;
use tracing::warn;
use url::Url;

use crate::{config::IbmKpConfigKey as Key, name::is_uuid};

/// The domain of the regional addresses.
const DOMAIN: &str = "kms.cloud.ibm.com";

pub(crate) fn address(key: Key, text: &str, allow_http: bool, problems: &mut Problems) -> Option<Url> {
    let mut wrong = |why: &str| {
        problems.add(format!("{key} {why}"));
        None
    };
    let Ok(url) = Url::parse(text) else {
        return wrong("is not a URL such as https://eu-de.kms.cloud.ibm.com (is the scheme missing?)");
    };
    match url.scheme() {
        "https" => {}
        "http" if allow_http => warn!("{key} is an http address: API key and keys can be read on the way"),
        "http" => {
            return wrong(
                "is an http address, over which everybody on the way can read API key and keys; use https, or allow it \
                 with IBM_KP_ALLOW_HTTP: \"true\" or --allow-http",
            );
        }
        _ => return wrong("is neither an https nor an http address (is the scheme missing?)"),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return wrong("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("has user information in it; credentials belong into the token Secret");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has a query or a fragment; give the address alone");
    }
    Some(url)
}

/// The address with `/api/v2` at its end.
pub(crate) fn base_url(mut url: Url, problems: &mut Problems) -> Option<Url> {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let wrong = if host == DOMAIN || host == format!("private.{DOMAIN}") {
        Some("has no region in it; give that of the instance, such as https://eu-de.kms.cloud.ibm.com")
    } else if host.ends_with(".cloud.ibm.com") && !host.ends_with(&format!(".{DOMAIN}")) {
        Some("is not an address of Key Protect, which are such as https://eu-de.kms.cloud.ibm.com")
    } else if url.path().contains("/api/") {
        Some("has the path of the API in it; give the address alone, such as https://eu-de.kms.cloud.ibm.com")
    } else {
        None
    };
    if let Some(why) = wrong {
        problems.add(format!("{} {why}", Key::BaseUrl));
        return None;
    }
    let path = format!("{}/api/v2", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

/// The address of IAM is taken as it is, with its path.
pub(crate) fn token_path(url: Url, problems: &mut Problems) -> Option<Url> {
    if url.path().trim_matches('/').is_empty() {
        problems.add(format!(
            "{} has no path; give the whole address, such as https://iam.cloud.ibm.com/identity/token",
            Key::TokenUrl
        ));
        return None;
    }
    Some(url)
}

pub(crate) fn instance(text: &str, problems: &mut Problems) -> Option<HeaderValue> {
    if !is_uuid(text) {
        let hint = if text.starts_with("crn:") {
            "is the CRN of the instance; give its GUID, the last but two of the parts between colons"
        } else {
            "is not a GUID such as 11111111-2222-3333-4444-555555555555"
        };
        problems.add(format!("{} {hint}", Key::ServiceInstanceId));
        return None;
    }
    HeaderValue::from_str(text).ok()
}

pub(crate) fn key_ring(text: &str, problems: &mut Problems) -> Option<HeaderValue> {
    let valid = (2..=100).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match HeaderValue::from_str(text) {
        Ok(value) if valid => Some(value),
        _ => {
            problems
                .add(format!("{} is not the id of a key ring: 2 to 100 letters, digits and -", Key::KeyRing));
            None
        }
    }
}

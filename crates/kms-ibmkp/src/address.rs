//! Checks the form of addresses and ids in the settings.

use kms_core::config::Problems;
use kms_http::http::HeaderValue;
use url::Url;

use crate::{config::IbmKpConfigKey as Key, name::is_uuid};

/// The domain of the regional addresses.
const DOMAIN: &str = "kms.cloud.ibm.com";

/// Appends `/api/v2` to the address of Key Protect.
pub(crate) fn base_url(mut url: Url, problems: &mut Problems) -> Option<Url> {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let wrong = if host == DOMAIN || host == format!("private.{DOMAIN}") {
        Some("has no region in it; set the region of the instance, as in https://eu-de.kms.cloud.ibm.com")
    } else if host.ends_with(".cloud.ibm.com") && !host.ends_with(&format!(".{DOMAIN}")) {
        Some("is not an address of Key Protect such as https://eu-de.kms.cloud.ibm.com")
    } else if url.path().contains("/api/") {
        Some("has the path of the API in it; set the address alone, such as https://eu-de.kms.cloud.ibm.com")
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

/// Checks that the address of IAM has a path.
pub(crate) fn token_path(url: Url, problems: &mut Problems) -> Option<Url> {
    if url.path().trim_matches('/').is_empty() {
        problems.add(format!(
            "{} has no path; set the whole address, such as https://iam.cloud.ibm.com/identity/token",
            Key::TokenUrl
        ));
        return None;
    }
    Some(url)
}

/// Parses the GUID of the instance.
pub(crate) fn instance(text: &str, problems: &mut Problems) -> Option<HeaderValue> {
    if !is_uuid(text) {
        let hint = if text.starts_with("crn:") {
            "is the CRN of the instance; set the GUID, the last but two of the parts between colons"
        } else {
            "is not a GUID such as 11111111-2222-3333-4444-555555555555"
        };
        problems.add(format!("{} {hint}", Key::ServiceInstanceId));
        return None;
    }
    HeaderValue::from_str(text).ok()
}

/// Parses the id of a key ring.
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

//! Decides whether a redirect is one of a standby, which names the active server for the same request.

use kms_core::{Error, ErrorKind, Result};
use url::Url;

use crate::{client::HttpClient, send::endpoint};

impl HttpClient {
    /// Returns the address at which to repeat a request, with its token and body, after a redirect.
    ///
    /// A standby names another server, and nothing else: path and query stay the same. The other server must pass the
    /// same check as the first: with verified TLS, a certificate of the same CA; otherwise it must be the same host.
    ///
    /// # Errors
    ///
    /// `Protocol` for every other redirect, which may lead a token and a KEK to an attacker.
    pub fn redirect_target(&self, asked: &Url, location: Option<&str>) -> Result<Url> {
        target(asked, location, self.verifies()).map_err(|why| {
            Error::new(ErrorKind::Protocol, format!("the server's redirect is not followed: {why}"))
                .context("server", endpoint(asked))
        })
    }
}

fn target(asked: &Url, location: Option<&str>, verifies: bool) -> Result<Url, &'static str> {
    let named = location.and_then(|location| asked.join(location).ok()).filter(Url::has_host);
    let mut named = named.ok_or("it has no valid address")?;
    if !named.username().is_empty() || named.password().is_some() {
        return Err("its address has credentials in it");
    }
    match (asked.scheme(), named.scheme()) {
        ("https" | "http", "https") | ("http", "http") => {}
        ("https", "http") => return Err("it leads from https to http, which would expose the token"),
        _ => return Err("it leads neither to https nor to http"),
    }
    if (named.path(), named.query()) != (asked.path(), asked.query()) {
        return Err("it leads to another path, and a standby only names another server");
    }
    let is_verified = asked.scheme() == "https" && verifies;
    if !is_verified && named.host() != asked.host() {
        return Err(
            "it leads to another host, and no certificate was verified: use https, and verify certificates",
        );
    }
    named.set_fragment(None);
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_redirect_of_a_standby_is_followed() {
        let asked = Url::parse("https://a.example:8200/v1/secret/data/k?version=1").unwrap();
        let same = "/v1/secret/data/k?version=1";
        for (location, target_of_location) in [
            (format!("https://b.example:8200{same}"), Some("https://b.example:8200")),
            (format!("https://b.example{same}#x"), Some("https://b.example")),
            (format!("//b.example:8200{same}"), Some("https://b.example:8200")),
            (same.to_owned(), Some("https://a.example:8200")),
            (format!("http://a.example:8200{same}"), None),
            (format!("ftp://a.example:8200{same}"), None),
            (format!("https://user@b.example:8200{same}"), None),
            ("https://b.example:8200/v1/secret/data/k".to_owned(), None),
            ("https://b.example:8200/v1/secret/data/k?version=2".to_owned(), None),
            ("https://b.example:8200/v1/secret/data/other?version=1".to_owned(), None),
            (format!("https://b.example:8200/base{same}"), None),
            ("https://login.example/".to_owned(), None),
            ("::".to_owned(), None),
        ] {
            let expected = target_of_location.map(|server| format!("{server}{same}"));
            let found = target(&asked, Some(&location), true).ok().map(String::from);
            assert_eq!(found, expected, "{location}");
        }
        assert!(target(&asked, None, true).is_err());
    }

    #[test]
    fn without_a_verified_certificate_only_the_same_host_gets_the_token() {
        for (asked, location, verifies, followed) in [
            ("http://127.0.0.1:8200/v1/k", "http://127.0.0.1:8210/v1/k", true, true),
            ("http://127.0.0.1:8200/v1/k", "https://127.0.0.1:8210/v1/k", true, true),
            ("http://127.0.0.1:8200/v1/k", "http://b.example:8200/v1/k", true, false),
            ("http://127.0.0.1:8200/v1/k", "https://b.example:8200/v1/k", true, false),
            ("https://a.example/v1/k", "https://a.example:8200/v1/k", false, true),
            ("https://a.example/v1/k", "https://b.example/v1/k", false, false),
            ("https://a.example/v1/k", "https://b.example/v1/k", true, true),
        ] {
            let found = target(&Url::parse(asked).unwrap(), Some(location), verifies);
            assert_eq!(found.is_ok(), followed, "{asked} {location} {verifies}: {found:?}");
        }
    }
}

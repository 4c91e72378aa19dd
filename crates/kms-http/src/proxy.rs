//! The proxies that requests go through.

use std::fmt;

use kms_core::{Error, ProxyRules, Result};
use url::{Host, Url};

/// The proxy for every request, in messages.
const OF_SETTINGS: &str = "the proxy in the settings";

/// The proxies that requests go through. The caller passes the environment; nothing here reads it.
#[derive(Clone, Default)]
pub struct Proxies {
    /// The proxy for every request. It takes precedence over the others, and `NO_PROXY` does not apply to it.
    all: Option<String>,
    rules: ProxyRules,
}

impl Proxies {
    /// Uses no proxy.
    pub fn none() -> Self {
        Self::default()
    }

    /// Uses this proxy for every request.
    pub fn all(url: impl Into<String>) -> Self {
        Self { all: Some(url.into()), ..Self::default() }
    }

    /// Uses the proxies that the environment names, as [`ProxyRules`] says. `NO_PROXY` may have international names.
    pub fn from_environment<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs: Vec<(&str, String)> = pairs
            .into_iter()
            .map(|(name, value)| match name {
                "NO_PROXY" | "no_proxy" => (name, in_ascii(value)),
                _ => (name, value.to_owned()),
            })
            .collect();
        let rules = ProxyRules::from_environment(pairs.iter().map(|(name, value)| (*name, value.as_str())));
        Self { all: None, rules }
    }

    /// Whether a request may go through a proxy.
    pub fn is_some(&self) -> bool {
        self.all.is_some() || self.rules.is_some()
    }

    /// Returns the proxy for a request; `None` if the request goes to the server directly.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the address of the proxy is not that of an HTTP proxy, and as [`ProxyRules::proxy_for`]. The
    /// error does not show the address, which may hold a password.
    pub fn for_url(&self, url: &Url) -> Result<Option<Url>> {
        let setting = self.setting_for(url);
        if let Some(given) = &self.all {
            return proxy_url(setting, given).map(Some);
        }
        let host = url.host_str().unwrap_or_default();
        let proxy =
            self.rules.proxy_for(url.scheme(), host, url.port_or_known_default().unwrap_or_default())?;
        proxy.map(|text| proxy_url(setting, text)).transpose()
    }

    /// What names the proxy for a request: the settings, or a variable of the environment.
    pub(crate) fn setting_for(&self, url: &Url) -> &'static str {
        match (&self.all, url.scheme()) {
            (Some(_), _) => OF_SETTINGS,
            (None, "https") => "HTTPS_PROXY",
            (None, _) => "HTTP_PROXY",
        }
    }

    /// Checks the proxy for every request. A proxy of the environment is checked when it applies to a request: another
    /// program may use it.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if its address is not that of an HTTP proxy.
    pub fn check(&self) -> Result<()> {
        self.all.as_deref().map_or(Ok(()), |given| proxy_url(OF_SETTINGS, given).map(|_| ()))
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        let Self { all, rules } = self;
        f.debug_struct("Proxies").field("all", &all.is_some()).field("rules", rules).finish()
    }
}

/// Parses the address of an HTTP proxy. An address without a scheme means one.
fn proxy_url(what: &str, text: &str) -> Result<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some()).ok_or_else(|| {
        Error::config(format!(
            "{what} is not the address of an HTTP proxy; give a URL such as http://proxy:3128"
        ))
    })
}

/// Replaces the international names of a `NO_PROXY` by their form in ASCII. Leaves entries that are not names as they are.
fn in_ascii(exclusions: &str) -> String {
    let entries = exclusions.split(',').map(|entry| {
        let entry = entry.trim();
        let (name, port) = entry.rsplit_once(':').unwrap_or((entry, ""));
        let bare = name.trim_start_matches('*').trim_start_matches('.');
        match Host::parse(bare) {
            Ok(Host::Domain(ascii)) if !entry.is_ascii() => {
                let before = name.strip_suffix(bare).unwrap_or_default();
                let colon = if port.is_empty() { "" } else { ":" };
                format!("{before}{ascii}{colon}{port}")
            }
            _ => entry.to_owned(),
        }
    });
    entries.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kms_core::ErrorKind;
    use kms_testkit::answers::Answers;

    use super::*;
    use crate::HttpClientBuilder;

    /// The answers of Go's own library: see `tests/go/httpproxy`.
    const GO: &str = include_str!("../../../tests/go/httpproxy/cases.json");

    #[derive(serde::Deserialize)]
    struct Case {
        env: BTreeMap<String, String>,
        url: String,
        proxy: Option<String>,
        refused: bool,
    }

    #[test]
    fn requests_go_where_the_library_of_go_sends_them() {
        let cases: Vec<Case> = serde_json::from_str(GO).unwrap();
        assert!(cases.len() >= 60, "{} cases", cases.len());
        let mut answers = Answers::default();
        for Case { env, url, proxy, refused } in cases {
            let proxies =
                Proxies::from_environment(env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let found = proxies.for_url(&Url::parse(&url).unwrap());
            let expected = proxy.map(|proxy| Url::parse(&proxy).unwrap());
            answers.add(!refused, found.as_ref().map(drop).map_err(|_error| "a SOCKS proxy"));
            let socks = expected.as_ref().is_some_and(|proxy| proxy.scheme().starts_with("socks5"));
            match found {
                Ok(found) => assert_eq!((found, false), (expected, refused || socks), "{url} with {env:?}"),
                Err(error) => {
                    assert!(refused || socks, "{url} with {env:?}: {error}");
                    assert!(refused || error.to_string().ends_with("give a URL such as http://proxy:3128"));
                }
            }
        }
        answers.check("httpproxy/answers.json");
    }

    #[test]
    fn a_malformed_proxy_is_refused_without_echoing_it() {
        let error = HttpClientBuilder::new().with_proxies(Proxies::all("canary:::")).build().unwrap_err();
        assert!(error.to_string().contains("proxy"), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");

        for wrong in ["canary:::", "socks5://canary:1080", "http://", "http://a b"] {
            let proxies = Proxies::from_environment([("HTTPS_PROXY", wrong), ("NO_PROXY", "direct.example")]);
            let error = proxies.for_url(&Url::parse("https://kms.example").unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
            assert!(!format!("{error:?}{proxies:?}").contains("canary"), "{error:?}");
            // A proxy that does not apply is no reason to fail.
            for direct in ["https://direct.example", "https://localhost:8200", "http://kms.example"] {
                assert_eq!(proxies.for_url(&Url::parse(direct).unwrap()).unwrap(), None, "{direct}");
            }
        }
    }
}

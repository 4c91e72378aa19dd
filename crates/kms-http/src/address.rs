//! Parses the server addresses in settings.

use kms_core::config::Problems;
use tracing::warn;
use url::{ParseError, Url};

/// The rules for the address of one kind of server.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "each provider states every rule")]
pub struct AddressRules {
    /// An example of a valid address, for error messages.
    pub example: &'static str,
    /// What cleartext would expose, such as "token and keys".
    pub exposed: &'static str,
    /// The setting that allows `http://` addresses.
    pub allow_http_setting: &'static str,
    /// Whether `http://` addresses are allowed.
    pub allow_http: bool,
}

impl AddressRules {
    /// Parses the address that `setting` gives. `None` if it breaks a rule, which is then in `problems`.
    ///
    /// The address has a host and may have a port and a path, but no user information, query or fragment.
    pub fn parse(&self, setting: &str, text: &str, problems: &mut Problems) -> Option<Url> {
        match self.check(setting, text) {
            Ok(url) => Some(url),
            Err(why) => {
                problems.add(format!("{setting} {why}"));
                None
            }
        }
    }

    fn check(&self, setting: &str, text: &str) -> Result<Url, String> {
        let Self { example, exposed, allow_http_setting, allow_http } = self;
        let wrong = |why: &str| Err(why.to_owned());
        let url = Url::parse(text).map_err(|cause| {
            let cause = match cause {
                ParseError::RelativeUrlWithoutBase => "is the scheme missing?".to_owned(),
                // Its words are fixed ones, such as "invalid port number".
                cause => cause.to_string(),
            };
            format!("is not a URL ({cause}); set one such as {example}")
        })?;
        match url.scheme() {
            "https" => {}
            "http" if *allow_http => {
                warn!("{setting} is an http address, which exposes {exposed} on the network");
            }
            "http" => {
                return Err(format!(
                    "is an http address, which would expose {exposed} on the network; use https, or allow http with \
                     {allow_http_setting}: \"true\" (for one call of kms, and not for pods: --allow-http)"
                ));
            }
            _ => {
                return Err(format!(
                    "is neither an https nor an http address (is the scheme missing?); set one such as {example}"
                ));
            }
        }
        if url.host_str().is_none_or(str::is_empty) {
            return wrong("has no host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("has user information in it; put credentials into the token Secret");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("has a query or a fragment; remove it");
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_breaks_a_rule_is_reported_without_its_value() {
        let rules = AddressRules {
            example: "https://kms.example",
            exposed: "keys",
            allow_http_setting: "ALLOW_HTTP",
            allow_http: false,
        };
        for (text, why) in [
            ("http://kms", "is an http address"),
            ("kms.example", "scheme"),
            ("kms:8200", "scheme"),
            ("https://canary:99999", "invalid port number"),
            ("https://", "empty host"),
            ("https://user:canary@kms", "user information"),
            ("https://kms?canary", "query"),
            ("https://kms#canary", "query"),
        ] {
            let mut problems = Problems::new();
            assert_eq!(rules.parse("ADDR", text, &mut problems), None);
            let error = problems.into_result().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{text}: {error}");
        }
        let allowed = AddressRules { allow_http: true, ..rules };
        assert!(allowed.parse("ADDR", "http://kms:1/base", &mut Problems::new()).is_some());
    }
}

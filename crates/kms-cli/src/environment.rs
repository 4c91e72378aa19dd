//! The environment of the process. No other module reads it.

use std::fmt;

use zeroize::Zeroizing;

/// The variables whose values are text. They are wiped on drop, since some are credentials.
#[derive(Default)]
pub(crate) struct Environment(Vec<(String, Zeroizing<String>)>);

impl Environment {
    /// Reads all variables.
    #[expect(
        clippy::disallowed_methods,
        reason = "the program is who may read its environment, and here it does"
    )]
    pub(crate) fn read() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, Zeroizing::new(value.into_string().ok()?)))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// The value of a variable. `None` if it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }

    /// The variables that choose a proxy.
    pub(crate) fn only_proxies(&self) -> Self {
        let proxies = self.pairs().filter(|(name, _)| is_about_proxies(name));
        Self(proxies.map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned()))).collect())
    }

    /// All variables.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether a variable takes part in the choice of a proxy.
pub(crate) fn is_about_proxies(name: &str) -> bool {
    name.to_ascii_uppercase().ends_with("_PROXY") || name == "REQUEST_METHOD"
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(pairs) = self;
        f.debug_set().entries(pairs.iter().map(|(name, _)| name)).finish()
    }
}

//! Known exceptions from the suite.

/// A case that a provider fails because its server cannot do better.
///
/// An exception whose case passes fails the run, so that lists of exceptions stay true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Exception {
    /// The name of the provider, as [`KmsProvider::provider`](kms_core::KmsProvider::provider) gives it.
    pub provider: &'static str,
    /// The version of the server, or its beginning (`2.4` for `2.4.1`). Empty means every version.
    pub server_version: &'static str,
    /// The name of the case.
    pub case: &'static str,
    /// Why the case cannot pass.
    pub reason: &'static str,
}

impl Exception {
    /// Excuses a case on every version of the server.
    ///
    /// # Panics
    ///
    /// If the reason is empty.
    pub const fn new(provider: &'static str, case: &'static str, reason: &'static str) -> Self {
        assert!(!reason.is_empty(), "an exception needs a reason");
        Self { provider, server_version: "", case, reason }
    }

    /// Restricts the exception to this version of the server and to versions that begin with it and a dot.
    #[must_use]
    pub const fn of_version(mut self, server_version: &'static str) -> Self {
        self.server_version = server_version;
        self
    }

    /// Whether the exception applies to this provider and server version.
    pub fn concerns(&self, provider: &str, server_version: &str) -> bool {
        let version = server_version
            .strip_prefix(self.server_version)
            .is_some_and(|rest| self.server_version.is_empty() || rest.is_empty() || rest.starts_with('.'));
        self.provider == provider && version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_is_for_its_provider_and_version() {
        let every = Exception::new("vault", "a_case", "a reason");
        assert!(every.concerns("vault", "") && every.concerns("vault", "2.4.1"));
        assert!(!every.concerns("kmip", "2.4.1"));
        let some = every.of_version("2.4");
        assert!(some.concerns("vault", "2.4") && some.concerns("vault", "2.4.1"));
        assert!(
            !some.concerns("vault", "2.40")
                && !some.concerns("vault", "")
                && !some.concerns("vault", "2.5.0")
        );
    }
}

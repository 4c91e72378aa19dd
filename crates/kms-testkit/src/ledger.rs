//! The exceptions from the conformance suite that are known.
//!
//! An exception is for what a server cannot do, never for what we have not done.
//! One whose case passes all the same fails the run, so that the list stays true.

/// A case that a provider is known to fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Exception {
    /// The name of the provider, as [`KmsProvider::provider`](kms_core::KmsProvider::provider) gives it.
    pub provider: &'static str,
    /// The version of the server, or how it begins (`2.4` for `2.4.1`). Empty: every version.
    pub server_version: &'static str,
    /// The name of the case.
    pub case: &'static str,
    /// Why it cannot pass.
    pub reason: &'static str,
}

impl Exception {
    /// An exception for every version of the server.
    ///
    /// # Panics
    ///
    /// If there is no reason.
    pub const fn new(provider: &'static str, case: &'static str, reason: &'static str) -> Self {
        assert!(!reason.is_empty(), "an exception needs a reason");
        Self { provider, server_version: "", case, reason }
    }

    /// The same for some versions of the server only: this one, or all that begin with it and a dot.
    #[must_use]
    pub const fn of_version(mut self, server_version: &'static str) -> Self {
        self.server_version = server_version;
        self
    }

    /// Whether it is about this provider and server.
    pub fn concerns(&self, provider: &str, server_version: &str) -> bool {
        let version = server_version
            .strip_prefix(self.server_version)
            .is_some_and(|rest| self.server_version.is_empty() || rest.is_empty() || rest.starts_with('.'));
        self.provider == provider && version
    }
}

/// The exceptions of the providers of this workspace.
pub const LEDGER: &[Exception] = &[
    Exception::new(
        "ibmkeyprotect",
        "delete_destroys_a_key",
        "Key Protect keeps every deleted key for 30 days and lets nobody purge one before 4 hours have passed",
    ),
    Exception::new(
        "azure-kv",
        "a_softly_deleted_key_can_be_created_again",
        "a soft-deleted secret keeps its name: it comes back with its old KEK, unless AZURE_SOFT_DELETED is purge",
    ),
];

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

    #[test]
    fn every_entry_names_a_case_and_gives_a_reason() {
        for Exception { case, reason, provider, .. } in LEDGER {
            assert!(crate::conformance::case_names().any(|name| name == *case), "{provider}: {case}");
            assert!(reason.len() >= 20, "{provider}: {case}: {reason}");
        }
    }
}

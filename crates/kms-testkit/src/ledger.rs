//! Exceptions of the providers of this workspace from the conformance suite.
//!
//! An exception is for a limit of a server, never for work that is not done.

use kms_conformance::Exception;

/// The cases that our providers cannot pass, each with its reason.
pub const LEDGER: &[Exception] = &[
    Exception::new(
        "ibmkeyprotect",
        "delete_destroys_a_key",
        "Key Protect keeps every deleted key for 30 days and refuses to purge a key in the first 4 hours",
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
    fn every_entry_names_a_case_and_gives_a_reason() {
        for Exception { case, reason, provider, .. } in LEDGER {
            assert!(kms_conformance::case_names().any(|name| name == *case), "{provider}: {case}");
            assert!(reason.len() >= 20, "{provider}: {case}: {reason}");
        }
    }
}

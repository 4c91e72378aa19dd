//! The change of a CephCluster that switches it to another KMS, as a diff.

use std::collections::BTreeMap;

use kms_core::SecuritySpec;

/// The text in place of a credential.
const HIDDEN: &str = "(a credential, not shown)";
const DETAILS: &str = "connectionDetails";
const TOKEN: &str = "tokenSecretName";

/// The lines of the diff of two `security` blocks. `is_credential` says of which settings the values are not shown.
pub(super) fn diff(
    before: &SecuritySpec,
    after: &SecuritySpec,
    is_credential: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let settings = |spec: &SecuritySpec| -> BTreeMap<String, String> {
        let of = |(name, value): (&str, &str)| {
            let shown = if is_credential(name) { HIDDEN } else { value };
            // JSON's strings are YAML's too.
            (name.to_owned(), serde_json::to_string(shown).unwrap_or_default())
        };
        spec.kms.connection_details.iter().map(of).collect()
    };
    let (old, new) = (settings(before), settings(after));
    let mut lines: Vec<String> =
        ["  spec:", "    security:", "      kms:"].into_iter().map(str::to_owned).collect();
    let mut add =
        |sign: char, indent: usize, text: String| lines.push(format!("{sign} {:indent$}{text}", ""));
    let block = |map: &BTreeMap<_, _>| (!map.is_empty()).then(|| format!("{DETAILS}:"));
    pair(block(&old), block(&new), |sign, text| add(sign, 6, text));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let line = |map: &BTreeMap<String, String>| map.get(name).map(|value| format!("{name}: {value}"));
        pair(line(&old), line(&new), |sign, text| add(sign, 8, text));
    }
    let token = |spec: &SecuritySpec| {
        let name = &spec.kms.token_secret_name;
        (!name.is_empty()).then(|| format!("{TOKEN}: {name}"))
    };
    pair(token(before), token(after), |sign, text| add(sign, 6, text));
    lines
}

/// Adds a line once if both sides have it, otherwise each side's own.
fn pair(old: Option<String>, new: Option<String>, mut add: impl FnMut(char, String)) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => add(' ', old),
        (old, new) => {
            old.into_iter().for_each(|line| add('-', line));
            new.into_iter().for_each(|line| add('+', line));
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::{ConnectionDetails, KmsSpec};

    use super::*;

    fn spec(details: &[(&str, &str)], token: &str) -> SecuritySpec {
        SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details.iter().copied()), token))
    }

    #[test]
    fn a_diff_shows_what_changes_and_no_credential() {
        let before = spec(&[], "");
        let after = spec(&[("KMS_PROVIDER", "vault"), ("VAULT_TOKEN", "canary")], "rook-vault-token");
        let is_credential = |name: &str| name == "VAULT_TOKEN";
        assert_eq!(
            diff(&before, &after, &is_credential),
            [
                "  spec:",
                "    security:",
                "      kms:",
                "+       connectionDetails:",
                "+         KMS_PROVIDER: \"vault\"",
                "+         VAULT_TOKEN: \"(a credential, not shown)\"",
                "+       tokenSecretName: rook-vault-token",
            ]
        );
        let back = diff(&after, &before, &is_credential);
        assert!(back[3..].iter().all(|line| line.starts_with("- ")), "{back:?}");
        let other = spec(&[("KMS_PROVIDER", "vault"), ("VAULT_TOKEN", "other")], "rook-vault-token");
        let lines = diff(&after, &other, &is_credential);
        assert!(lines.iter().all(|line| line.starts_with("  ")), "{lines:?}");
    }
}

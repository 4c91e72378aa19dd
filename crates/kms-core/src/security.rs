//! The `security` block of a CephCluster (rook-behaviour §1.1).

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use zeroize::Zeroizing;

use crate::config::{Problems, Stricter, nearest};

/// `spec.security` of a CephCluster: the fields about the keys of OSDs.
#[derive(Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase", expecting = "a map of kms and keyRotation")]
pub struct SecuritySpec {
    /// Which KMS keeps the keys. Absent or empty: Kubernetes Secrets.
    #[serde(default, deserialize_with = "null_is_default")]
    pub kms: KmsSpec,
    /// Whether keys are rotated, and when.
    #[serde(default, deserialize_with = "null_is_default")]
    pub key_rotation: KeyRotationSpec,
    #[serde(flatten)]
    unknown: BTreeMap<String, Ignored>,
}

/// `spec.security.kms`.
#[derive(Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase", expecting = "a map of connectionDetails and tokenSecretName")]
pub struct KmsSpec {
    /// The settings of the provider.
    #[serde(default, deserialize_with = "null_is_default")]
    pub connection_details: ConnectionDetails,
    /// The Secret with the credentials.
    #[serde(default, deserialize_with = "null_is_default")]
    pub token_secret_name: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, Ignored>,
}

impl KmsSpec {
    /// A `kms` block of its two parts.
    pub fn new(connection_details: ConnectionDetails, token_secret_name: impl Into<String>) -> Self {
        Self { connection_details, token_secret_name: token_secret_name.into(), unknown: BTreeMap::new() }
    }
}

/// `spec.security.keyRotation`.
#[derive(Debug, Default, Deserialize)]
#[non_exhaustive]
#[serde(rename_all = "camelCase", expecting = "a map of enabled and schedule")]
pub struct KeyRotationSpec {
    /// Whether keys are rotated.
    #[serde(default, deserialize_with = "null_is_default")]
    pub enabled: bool,
    /// When keys are rotated, in cron syntax. Empty: `@weekly`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub schedule: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, Ignored>,
}

impl SecuritySpec {
    /// What every provider refuses in a block, and Rook does not. The examples are for a block of Vault.
    pub const STRICTER: &[Stricter] = &[
        Stricter {
            setting: "kms.tokenSecret",
            input: ("tokenSecret", "vault-token"),
            rook: "never sees it: the API server drops a field that the CephCluster does not have",
            reason: "is not known",
            why: "a misspelt field would leave the credentials out",
            remedy: "did you mean tokenSecretName?",
        },
        Stricter {
            setting: "VAULT_SKIP_VERFIY",
            input: ("VAULT_SKIP_VERFIY", "true"),
            rook: "ignores it, and passes it to OSD pods",
            reason: "is not a known setting",
            why: "a misspelt setting would silently have no effect",
            remedy: "did you mean VAULT_SKIP_VERIFY?",
        },
        Stricter {
            setting: "KMIP_ENDPOINT",
            input: ("KMIP_ENDPOINT", "kmip.example:5696"),
            rook: "ignores it, and passes it to OSD pods",
            reason: "is not a known setting of this provider",
            why: "a setting of another provider hints at a wrong `KMS_PROVIDER`",
            remedy: "remove it",
        },
        Stricter {
            setting: "VAULT_ADDR",
            input: ("vault_addr", "https://other.example:8200"),
            rook: "reads the name in upper case alone",
            reason: "is given twice, with different values",
            why: "either of the two may be the wrong one",
            remedy: "remove one of them",
        },
    ];

    /// A `security` block with a `kms` block alone.
    pub fn new(kms: KmsSpec) -> Self {
        Self { kms, key_rotation: KeyRotationSpec::default(), unknown: BTreeMap::new() }
    }

    /// Reports unknown fields, and settings that are not strings.
    pub fn check(&self, problems: &mut Problems) {
        unknown_fields("security", &self.unknown, &["kms", "keyRotation", "cephx"], problems);
        unknown_fields("kms", &self.kms.unknown, &["connectionDetails", "tokenSecretName"], problems);
        unknown_fields("keyRotation", &self.key_rotation.unknown, &["enabled", "schedule"], problems);
        for (key, kind) in &self.kms.connection_details.not_text {
            problems.add(format!(
                "{key} is {kind}, and every setting has to be a string: put its value in quotes"
            ));
        }
    }
}

fn unknown_fields(
    block: &str,
    unknown: &BTreeMap<String, Ignored>,
    known: &[&'static str],
    problems: &mut Problems,
) {
    // `cephx` is about the keys of Ceph's own users, which this program does not manage.
    for field in unknown.keys().filter(|field| !known.contains(&field.as_str())) {
        match nearest(field, known.iter().copied()) {
            Some(near) => problems.add(format!("{block}.{field} is not known; did you mean {near}?")),
            None => problems.add(format!("{block}.{field} is not known; known are: {}", known.join(", "))),
        }
    }
}

/// Skips a value. `IgnoredAny` itself has no `Debug`.
#[derive(Clone, Copy, Deserialize)]
struct Ignored(IgnoredAny);

impl fmt::Debug for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// `spec.security.kms.connectionDetails`: the settings verbatim, not trimmed.
///
/// Some users put credentials here, so the values are wiped on drop, and `Debug` does not show them.
#[derive(Default)]
pub struct ConnectionDetails {
    values: BTreeMap<String, Zeroizing<String>>,
    not_text: Vec<(String, &'static str)>,
}

impl ConnectionDetails {
    /// The value of a setting, verbatim.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.as_str())
    }

    /// All settings, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The names of the settings that have no value because they are not strings.
    pub fn not_text(&self) -> impl Iterator<Item = &str> {
        self.not_text.iter().map(|(key, _)| key.as_str())
    }

    /// Whether there are no settings, which means Kubernetes Secrets.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_text.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for ConnectionDetails {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let values = pairs.into_iter().map(|(key, value)| (key.into(), Zeroizing::new(value.into())));
        Self { values: values.collect(), not_text: Vec::new() }
    }
}

impl fmt::Debug for ConnectionDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { values, not_text } = self;
        f.debug_set().entries(values.keys()).entries(not_text.iter().map(|(key, _)| key)).finish()
    }
}

impl<'de> Deserialize<'de> for ConnectionDetails {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Details;

        impl<'de> Visitor<'de> for Details {
            type Value = ConnectionDetails;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of settings to strings")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(ConnectionDetails::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut details = ConnectionDetails::default();
                while let Some((key, scalar)) = map.next_entry::<String, Scalar>()? {
                    match scalar {
                        Scalar::Text(text) => {
                            details.values.insert(key, text);
                        }
                        Scalar::Other(kind) => details.not_text.push((key, kind)),
                    }
                }
                Ok(details)
            }
        }

        deserializer.deserialize_map(Details)
    }
}

/// The value of a setting: a string, or the name of its type if it is not a string.
enum Scalar {
    Text(Zeroizing<String>),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(Zeroizing::new(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(Zeroizing::new(text)))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other("a boolean"))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Scalar, E> {
                Ok(Scalar::Other("a number"))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Scalar, E> {
                Ok(Scalar::Other("a number"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other("a number"))
            }

            // Go reads null as the empty string.
            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::Text(Zeroizing::default()))
            }

            fn visit_none<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar::Text(Zeroizing::default()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other("a map"))
            }
        }

        deserializer.deserialize_any(Value)
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_empty_string_as_in_go() {
        let block = r#"{"kms": {"connectionDetails": {"VAULT_NAMESPACE": null, "VAULT_ADDR": "https://v"}}}"#;
        let spec: SecuritySpec = serde_json::from_str(block).unwrap();
        let mut problems = Problems::new();
        spec.check(&mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(spec.kms.connection_details.get("VAULT_NAMESPACE"), Some(""));
    }
}

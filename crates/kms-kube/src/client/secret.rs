//! A Secret and its values.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_core::Kek;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A value of a Secret in base64, wiped on drop. It has no `Debug`.
pub struct Base64(Zeroizing<String>);

impl Base64 {
    /// Encodes a KEK.
    pub fn of(kek: &Kek) -> Self {
        Self::encode(kek.expose_secret_bytes())
    }

    /// Encodes a text or other bytes.
    pub fn encode(plain: impl AsRef<[u8]>) -> Self {
        // The buffer has the exact size: one that grows leaves copies behind.
        Self(Zeroizing::new(STANDARD.encode(plain)))
    }

    /// The base64 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The decoded bytes, in a buffer of the exact size; `None` if the text is not base64.
    pub fn decoded(&self) -> Option<Vec<u8>> {
        let mut buffer = Zeroizing::new(vec![0; base64::decoded_len_estimate(self.0.len())]);
        let length = STANDARD.decode_slice(self.0.as_bytes(), &mut buffer).ok()?;
        buffer.get(..length).map(<[u8]>::to_vec)
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a base64 text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                Ok(Base64(Zeroizing::new(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// A Secret. Its data is wiped on drop, and it has no `Debug`.
///
/// The `Secret` of `k8s-openapi` shows its data in `Debug` and leaves it in memory.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Secret {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// The metadata.
    pub metadata: ObjectMeta,
    /// The `type`.
    #[serde(default, rename = "type")]
    pub secret_type: String,
    /// Whether the data cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    /// The values by their keys.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub data: BTreeMap<String, Base64>,
}

impl Secret {
    /// A Secret of this type with this data.
    pub fn new(metadata: ObjectMeta, secret_type: &str, data: BTreeMap<String, Base64>) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
            metadata,
            secret_type: secret_type.to_owned(),
            immutable: None,
            data,
        }
    }

    /// Whether the object is a Secret. An object of another kind has no KEK either.
    pub(super) fn is_secret(&self) -> bool {
        self.kind == "Secret"
    }
}

/// Reads null as an empty map, since Go writes an empty map as null.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kek_is_written_as_rook_writes_it_and_read_back() {
        for text in ["QUJD", "a", "ab", "ein Satz ß"] {
            let encoded = Base64::of(&Kek::parse(text).unwrap());
            assert_eq!(encoded.as_str(), STANDARD.encode(text));
            assert_eq!(encoded.decoded().unwrap(), text.as_bytes());
        }
        assert!(serde_json::from_str::<Base64>(r#""no base64!""#).unwrap().decoded().is_none());
    }

    #[test]
    fn a_secret_goes_back_as_it_came() {
        let text = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"annotations":{"a":"b"},"labels":{"c":"d"},"managedFields":[{"fieldsV1":{"f:data":{}},"manager":"m"}],"name":"s","ownerReferences":[{"apiVersion":"v","blockOwnerDeletion":true,"controller":true,"kind":"k","name":"n","uid":"u"}],"resourceVersion":"1","uid":"u"},"type":"t","immutable":true,"data":{"k":"QQ==","other":"Qg=="}}"#;
        let secret: Secret = serde_json::from_str(text).unwrap();
        let before: serde_json::Value = serde_json::from_str(text).unwrap();
        let after: serde_json::Value = serde_json::to_value(&secret).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn a_secret_without_data_is_read() {
        for text in [r#"{"metadata":{}}"#, r#"{"metadata":{},"data":null}"#] {
            assert!(serde_json::from_str::<Secret>(text).unwrap().data.is_empty());
        }
    }
}

//! Lenient deserialization of fields: a value of another type is treated as absent.

use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// Reads a field; a value of another type is treated as absent.
pub(crate) fn valid_or_absent<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Lenient<T> {
        Valid(T),
        Other(IgnoredAny),
    }

    Ok(match Lenient::deserialize(deserializer)? {
        Lenient::Valid(value) => Some(value),
        Lenient::Other(_) => None,
    })
}

/// Reads a field; a value of another type, including null, becomes the default. An absent field stays `None`.
pub(crate) fn valid_or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Some(valid_or_absent(deserializer)?.unwrap_or_default()))
}

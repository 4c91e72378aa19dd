//! The names of mappings.

use std::{fmt, str::FromStr};

use kms_core::{Error, Result};

/// The longest name that the kernel accepts, in bytes.
const MOST_BYTES: usize = 127;

/// The role of a device in an OSD (rook-behaviour §8.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The data.
    Block,
    /// The metadata.
    Db,
    /// The write-ahead log.
    Wal,
}

impl DeviceKind {
    /// All kinds, in the order in which an OSD names its devices.
    pub const ALL: [Self; 3] = [Self::Block, Self::Db, Self::Wal];

    /// The name of a mapping in an OSD's pod, as Rook sets it: `<PVC of this device>-block-dmcrypt` and so on.
    ///
    /// # Errors
    ///
    /// As [`MappingName::new`].
    pub fn mapping_of(self, pvc: &str) -> Result<MappingName> {
        let kind = match self {
            Self::Block => "block",
            Self::Db => "db",
            Self::Wal => "wal",
        };
        MappingName::new(format!("{pvc}-{kind}-dmcrypt"))
    }
}

/// The name of a mapping.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MappingName(String);

impl MappingName {
    /// A name of at most 127 letters, digits and `#+-.:=@_`, which device-mapper does not escape.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for any other name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
        let refuse = |why: String| Err(Error::config(format!("not a valid name of a mapping: {why}")));
        if name.is_empty() {
            return refuse("it is empty".to_owned());
        }
        if name.len() > MOST_BYTES {
            return refuse(format!("it has {} bytes, at most {MOST_BYTES} are allowed", name.len()));
        }
        if !name.bytes().all(allowed) {
            return refuse("only letters, digits and #+-.:=@_ are allowed".to_owned());
        }
        // /dev/mapper/control is the node of device-mapper itself.
        if name.starts_with(['-', '.']) || name == "control" {
            return refuse("it must not be control or begin with - or .".to_owned());
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MappingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MappingName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_named_as_rook_names_them() {
        let names = DeviceKind::ALL.map(|kind| kind.mapping_of("set1-data-0x7dwl").unwrap().to_string());
        assert_eq!(
            names,
            ["set1-data-0x7dwl-block-dmcrypt", "set1-data-0x7dwl-db-dmcrypt", "set1-data-0x7dwl-wal-dmcrypt"]
        );
    }

    #[test]
    fn names_that_device_mapper_escapes_or_reserves_are_refused() {
        let long = "x".repeat(128);
        for name in ["", "-a", ".", "..", "a/b", "a b", "ä", "control", "a\n", &long] {
            assert!(MappingName::new(name).is_err(), "{name}");
        }
        assert!(MappingName::new("x".repeat(127)).is_ok());
    }
}

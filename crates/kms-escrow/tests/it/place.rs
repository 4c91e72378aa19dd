//! A KMS with keys, recipients with their identities, and a folder.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use age::{secrecy::ExposeSecret as _, x25519::Identity};
use kms_core::{Kek, KeyName, KmsProvider, PutMode, memory::Memory};
use kms_escrow::{About, HeaderCopy, Identities, Recipients};
use tempfile::TempDir;

/// An identity and its recipient, by their number.
pub(crate) fn pair(number: usize) -> (String, String) {
    static PAIRS: OnceLock<[(String, String); 2]> = OnceLock::new();
    let new = || {
        let identity = Identity::generate();
        (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
    };
    PAIRS.get_or_init(|| [new(), new()])[number].clone()
}

pub(crate) fn recipients(pair: usize) -> Recipients {
    Recipients::parse(&self::pair(pair).1).unwrap()
}

pub(crate) fn identities(pair: usize) -> Identities {
    Identities::parse(self::pair(pair).0.as_bytes()).unwrap()
}

pub(crate) fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

pub(crate) fn about() -> About {
    About::new("memory", Some("rook-ceph/my".to_owned()), None)
}

/// A KMS and a folder.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) kms: Memory,
    pub(crate) keks: Vec<(KeyName, Kek)>,
}

impl Place {
    /// A KMS with these keys.
    pub(crate) async fn with(names: &[&str]) -> Self {
        let (kms, mut keks) = (Memory::new(), Vec::new());
        for text in names {
            let kek = Kek::generate().unwrap();
            kms.put(&name(text), &kek, PutMode::Create).await.unwrap();
            keks.push((name(text), kek));
        }
        Self { folder: tempfile::tempdir().unwrap(), kms, keks }
    }

    pub(crate) fn names(&self) -> Vec<KeyName> {
        self.keks.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn escrow(&self) -> PathBuf {
        self.folder.path().join("escrow")
    }
}

/// A header that only its own text makes different from others.
pub(crate) fn header(text: &str, uuid: &str, bytes: &[u8]) -> HeaderCopy {
    HeaderCopy {
        name: name(text),
        device: format!("/dev/{text}"),
        luks: 2,
        uuid: uuid.to_owned(),
        slots: vec![0],
        bytes: bytes.to_vec(),
    }
}

//! Copies of whole headers, tried in memory and restored.

use std::fs;

use kms_core::ErrorKind;
use kms_luks::{Cryptsetup, Device, Slot};

use crate::common::{Image, kek};

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_copy_is_that_of_cryptsetup_and_opens_in_memory() {
    let (current, other) = (kek(), kek());
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        let copy = image.device().copy_header().unwrap();
        let backup = image.beside("backup");
        let path = backup.display().to_string();
        assert_eq!(image.cryptsetup(&["luksHeaderBackup", "--header-backup-file", &path], &[]), 0);
        let backup = fs::read(&backup).unwrap();
        // That of LUKS1 ends with the last slot, and ours where the data begin.
        assert!(copy.starts_with(&backup), "{} and {} bytes", copy.len(), backup.len());

        let in_memory = Device::in_memory(Cryptsetup::new(), &copy).unwrap();
        let header = in_memory.header().await.unwrap();
        assert_eq!(header.uuid(), image.device().header().await.unwrap().uuid());
        assert_eq!(in_memory.find(&header, &current).await.unwrap(), Some(Slot::CURRENT));
        assert_eq!(in_memory.find(&header, &other).await.unwrap(), None);
        // Two copies in memory at once have paths of their own.
        let again = Device::in_memory(Cryptsetup::new(), &copy).unwrap();
        assert_ne!(again.path(), in_memory.path());
        assert!(again.opens(None, &current).await.unwrap() && in_memory.opens(None, &current).await.unwrap());
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_restored_header_opens_with_the_kek_of_its_time() {
    let (old, new) = (kek(), kek());
    for image in [Image::luks1(&old), Image::luks2(&old)] {
        let device = image.device();
        let copy = device.copy_header().unwrap();
        device.add(Some(Slot::CURRENT), &old, Slot::OTHER, &new).await.unwrap();
        let proof = device.verify(Slot::OTHER, &new).await.unwrap();
        device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
        assert!(!device.opens(None, &old).await.unwrap());

        device.restore_header(&copy).await.unwrap();
        assert!(device.opens(Some(Slot::CURRENT), &old).await.unwrap());
        assert!(!device.opens(None, &new).await.unwrap());
        assert_eq!(device.copy_header().unwrap(), copy);
        let error = device.restore_header(b"not a header").await.unwrap_err();
        assert!(error.to_string().contains("the copy has no LUKS header"), "{error}");
        // The device of another header stays as it is; one whose header is lost gets it back.
        let other = Image::luks2(&new);
        let error = other.device().restore_header(&copy).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            other.device().opens(None, &new).await.unwrap() && error.to_string().contains("another UUID")
        );
        let mut bytes = image.bytes();
        bytes[..copy.len()].fill(0);
        fs::write(image.path(), bytes).unwrap();
        device.restore_header(&copy).await.unwrap();
        assert!(device.opens(Some(Slot::CURRENT), &old).await.unwrap());
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_damaged_header_is_not_copied() {
    let current = kek();
    let image = Image::luks2(&current);
    let good = image.bytes();
    for (change, kind) in [
        // One copy of the metadata differs from the other.
        (4096..4097, ErrorKind::Protocol),
        (0..32 << 10, ErrorKind::ConfigInvalid),
    ] {
        let mut bytes = good.clone();
        bytes[change].fill(b'x');
        fs::write(image.path(), &bytes).unwrap();
        let error = image.device().copy_header().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&image.path().display().to_string()), "{error}");
    }
    fs::write(image.path(), &good[..1 << 20]).unwrap();
    let error = image.device().copy_header().unwrap_err();
    assert!(error.to_string().contains("ends within its LUKS header"), "{error}");
}

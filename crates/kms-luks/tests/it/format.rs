//! Devices are formatted and labelled by the real cryptsetup.

use std::{fs, os::unix::fs::FileExt};

use kms_core::ErrorKind;
use kms_luks::{FormatOptions, Identity, Labelled, LuksVersion, Slot, SlotKdf};

use crate::common::{Image, kek, slots};

const FSID: &str = "5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c";

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn an_empty_device_is_formatted_as_ceph_volume_does_it() {
    let current = kek();
    let image = Image::blank();
    let device = image.device();
    let identity = Identity::new("set1-data-0x7dwl", FSID);
    device.format(&current, &FormatOptions::new().with_identity(identity)).await.unwrap();
    let header = device.header().await.unwrap();
    assert_eq!(header.version(), LuksVersion::Luks2);
    assert_eq!(header.label(), Some("pvc_name=set1-data-0x7dwl"));
    assert_eq!(header.subsystem(), Some(format!("ceph_fsid={FSID}").as_str()));
    let slot = header.slot(Slot::CURRENT).unwrap();
    assert_eq!(slot.kdf, SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 });
    assert_eq!(slots(&device).await, [0]);
    assert!(image.opens(0, &current));
    // Twice 256 bits for XTS.
    assert_eq!(image.volume_key(&current).len(), 64);
    let text = String::from_utf8_lossy(&image.bytes()[4096..16384]).into_owned();
    assert!(text.contains(r#""encryption":"aes-xts-plain64""#), "{text}");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_device_that_is_not_empty_is_left_alone_unless_forced() {
    let (current, new) = (kek(), kek());
    let (first, last) = (Image::blank(), Image::blank());
    for (image, at) in [(&first, 1000), (&last, (17 << 20) - 1)] {
        fs::File::options().write(true).open(image.path()).unwrap().write_at(b"x", at).unwrap();
    }
    let used = [
        (Image::luks1(&current), "LUKS header"),
        (Image::luks2(&current), "LUKS header"),
        (first, "not all zeros"),
        (last, "not all zeros"),
    ];
    for (image, what) in used {
        let device = image.device();
        let before = image.bytes();
        let error = device.format(&new, &FormatOptions::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(what) && error.to_string().contains("--force"), "{error}");
        assert!(image.bytes() == before);
        device.format(&new, &FormatOptions::new().with_force(true)).await.unwrap();
        assert!(image.opens(0, &new) && !image.opens(0, &current));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_header_is_labelled_once_and_never_while_another_process_is_at_work() {
    let current = kek();
    let image = Image::luks2(&current);
    let device = image.device();
    let long = Identity::new(&"p".repeat(60), FSID);

    let lock = image.device();
    let lock = lock.lock().await.unwrap();
    let before = image.bytes();
    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Busy);
    assert!(image.bytes() == before);
    drop(lock);

    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Done);
    let labelled = image.bytes();
    assert_eq!(device.set_label(&long).await.unwrap(), Labelled::Unchanged);
    assert!(image.bytes() == labelled);
    let header = device.header().await.unwrap();
    assert_eq!(header.label().map(str::len), Some(47));
    // The label is cut as cryptsetup 2.6 cuts Rook's own label.
    let rooks = Image::luks2(&current);
    let label = format!("pvc_name={}", "p".repeat(60));
    assert_eq!(rooks.cryptsetup(&["config", "--label", &label], &[]), 0);
    assert_eq!(rooks.device().header().await.unwrap().label(), header.label());

    assert_eq!(Image::luks1(&current).device().set_label(&long).await.unwrap(), Labelled::Luks1);
}

//! Devices that are missing, damaged or of the wrong kind.

use std::fs;

use kms_core::ErrorKind;
use kms_luks::{Cryptsetup, Device, Slot};
use kms_rotation::Refusal;

use crate::common::{Image, kek, slots};

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn every_error_names_the_device_and_what_is_wrong_with_it() {
    let current = kek();
    let good = Image::luks2(&current);
    let (blank, cut, damaged) = (Image::blank(), Image::luks2(&current), Image::luks2(&current));
    fs::File::options().write(true).open(cut.path()).unwrap().set_len(2000).unwrap();
    let mut bytes = damaged.bytes();
    bytes[4096..32768].fill(b'x');
    fs::write(damaged.path(), bytes).unwrap();
    let missing = good.beside("missing");
    let folder = good.beside("");

    let cases = [
        (blank.path(), ErrorKind::ConfigInvalid, "no LUKS header", Some(Refusal::Header)),
        (cut.path(), ErrorKind::ConfigInvalid, "ends within its LUKS2 header", Some(Refusal::Header)),
        (damaged.path(), ErrorKind::Unexpected, "not a valid LUKS device", Some(Refusal::Header)),
        (missing, ErrorKind::ConfigInvalid, "no such device", None),
        (folder, ErrorKind::ConfigInvalid, "neither a block device nor an image", None),
    ];
    for (path, kind, what, refusal) in cases {
        let device = Device::new(Cryptsetup::new(), &path);
        let errors = [
            device.header().await.unwrap_err(),
            device.opens(Some(Slot::CURRENT), &current).await.unwrap_err(),
            device.verify(Slot::CURRENT, &current).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), Refusal::of(&error)), (kind, refusal), "{error}");
            let text = error.to_string();
            assert!(text.contains(what) && text.contains(&path.display().to_string()), "{text}");
            assert!(!text.contains(&current.expose_secret_text().unwrap()[..20]), "{text}");
        }
        assert!(device.add(None, &current, Slot::OTHER, &kek()).await.is_err());
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_device_with_one_damaged_copy_of_its_header_works() {
    let (current, new) = (kek(), kek());
    for damaged in [0..4096, 4096..16384, 16384..20480] {
        let image = Image::luks2(&current);
        let mut bytes = image.bytes();
        bytes[damaged].fill(0);
        fs::write(image.path(), bytes).unwrap();
        let device = image.device();
        assert_eq!(slots(&device).await, [0]);
        assert!(device.opens(Some(Slot::CURRENT), &current).await.unwrap());
        device.add(Some(Slot::CURRENT), &current, Slot::OTHER, &new).await.unwrap();
        let proof = device.verify(Slot::OTHER, &new).await.unwrap();
        device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
        assert_eq!(slots(&device).await, [1]);
    }
}

//! The list of an OSD's devices: whether it is complete, and what a rotation does while that is not known.

use std::fs;

use kms_core::{KmsProvider, PutMode, memory::Memory};
use kms_rotation::{Osd, Outcome, Silent, is_same_device, rotate};

use crate::{
    bench::{at_once, kek, name},
    memory::Device,
};

#[tokio::test]
async fn superseded_versions_stay_while_a_device_may_have_been_left_out() {
    let (kms, first) = (Memory::new(), kek());
    kms.put(&name(), &first, PutMode::Create).await.unwrap();
    let devices = [Device::formatted(0, &first), Device::formatted(1, &first)];
    let osd = || Osd::new(name(), devices.clone()).unwrap();
    let mut options = at_once();
    options.destroy_superseded = true;

    let report = rotate(&kms, &osd(), &options, &Silent).await.unwrap();
    assert_eq!((report.outcome, report.confirmed, report.retired), (Outcome::Rotated, false, None));
    let warned = |part: &str| report.warnings.iter().any(|warning| warning.contains(part));
    assert!(warned("superseded versions were not destroyed"), "{:?}", report.warnings);
    let paths: Vec<_> = report.devices.iter().map(|device| device.path.display().to_string()).collect();
    let list = format!("no other device than {}", paths.join(", "));
    assert!(warned(&list), "{list}: {:?}", report.warnings);

    let report = rotate(&kms, &osd().confirmed(), &options, &Silent).await.unwrap();
    assert_eq!((report.confirmed, report.retired, report.warnings.len()), (true, Some(2), 0), "{report:?}");
}

#[test]
fn two_paths_of_one_device_are_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let [image, other, missing] = ["image", "other", "missing"].map(|file| folder.path().join(file));
    fs::write(&image, "").unwrap();
    fs::hard_link(&image, &other).unwrap();
    assert!(is_same_device(&image, &other) && !is_same_device(&image, &missing));
    assert!(is_same_device(&missing, &missing));
    let cryptsetup = kms_luks::Cryptsetup::new();
    let error = Osd::new(name(), cryptsetup.devices([image.clone(), other])).unwrap_err();
    assert!(error.to_string().contains("is named twice"), "{error}");
}

//! Runs the program on LUKS devices whose KEK is in a real OpenBao, as an OSD's init containers run it.
use std::{fs, path::Path};

use kms_core::Kek;
use kms_luks::{Cryptsetup, Device, Slot};
use kms_testkit::servers::openbao::{OpenBao, OpenBaoConfig};
use kms_tests::{Kms, Ran};
use serde_json::json;

const NAME: &str = "set1-data-0x7dwl";
const FSID: &str = "5ff0d1c5-0c5b-4a2c-8e53-0b5a37a3ed3c";

async fn kms(server: &OpenBao) -> Kms {
    let token = server.admin().rook_token().await.unwrap();
    Kms::new().on_vault(server, &token, "rookv2", &[])
}

/// Creates an image of zeros in the folder of the program.
fn image(kms: &Kms, name: &str) -> Device {
    let path = kms.folder().join(name);
    fs::File::create(&path).unwrap().set_len(17 << 20).unwrap();
    Device::new(Cryptsetup::new(), path)
}

/// The KEK that the KMS holds. Fails if the output of the program so far contains it.
fn kek(kms: &Kms, printed: &[&Ran]) -> Kek {
    let text = kms.run(&["get", NAME]).want(0).stdout;
    assert!(printed.iter().all(|ran| !ran.text().contains(&text[..16])));
    Kek::parse(text).unwrap()
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it luks"]
async fn a_device_is_formatted_with_the_kek_of_its_name() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let kms = kms(&server).await;
    let device = image(&kms, "data");

    let formatted = kms.run(&["-o", "json", "format", NAME, "data", "--fsid", FSID]).want(0);
    let document = formatted.json();
    assert_eq!((&document["created"], &document["slot"]), (&json!(true), &json!(0)));
    let kek_of_device = kek(&kms, &[&formatted]);
    assert_eq!(document["fingerprint"], json!(kek_of_device.fingerprint()));
    device.verify(Slot::CURRENT, &kek_of_device).await.unwrap();

    let slots = kms.run(&["-o", "json", "slots", "data"]).want(0).json();
    assert_eq!(slots["uuid"], document["uuid"]);
    assert_eq!(slots["label"], json!(format!("pvc_name={NAME}")));
    assert_eq!(slots["subsystem"], json!(format!("ceph_fsid={FSID}")));
    assert_eq!(
        slots["slots"],
        json!([{
            "slot": 0, "owner": "unknown", "opens_data": true, "ignored": false, "kdf": "pbkdf2",
            "hash": "sha256", "iterations": 1000, "passes": null, "memory_kib": null, "threads": null,
        }])
    );
    let text = kms.run(&["slots", "data"]).want(0).stdout;
    assert!(text.contains("0     pbkdf2-sha256  -           1000  -        unknown"), "{text}");

    // A run that is repeated finds what the first one has made, and changes nothing.
    let before = fs::read(device.path()).unwrap();
    let again = kms.run(&["-o", "json", "format", NAME, "data", "--fsid", FSID]).want(0).json();
    assert_eq!((&again["outcome"], &again["created"]), (&json!("already-formatted"), &json!(false)));
    assert_eq!((&again["uuid"], &again["slot"]), (&document["uuid"], &json!(0)));
    // kms creates no key for a device with a header, and says whether the key that it finds opens the header.
    let refused = kms.run(&["format", "other", "data"]).want(1);
    assert!(refused.stderr.contains("there is no KEK of this name"), "{}", refused.stderr);
    let _ = kms.run(&["get", "other"]).want(3);
    let _ = kms.run(&["create", "other"]).want(0);
    let refused = kms.run(&["format", "other", "data"]).want(1);
    assert!(refused.stderr.contains("the KEK does not open it"), "{}", refused.stderr);
    assert!(fs::read(device.path()).unwrap() == before);

    // Another device of the OSD gets the same KEK; so does the first device with `--force`, which destroys its data.
    let metadata = image(&kms, "metadata");
    for args in [["format", NAME, "metadata"].as_slice(), &["format", NAME, "data", "--force"]] {
        let ran = kms.run(args).want(0);
        assert!(ran.stdout.contains("with the existing KEK"), "{}", ran.stdout);
    }
    let same = kek(&kms, &[]);
    assert!(same.ct_eq(&kek_of_device));
    for device in [device, metadata] {
        device.verify(Slot::CURRENT, &same).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it luks"]
async fn a_kernel_without_device_mapper_is_named_and_one_with_it_opens_the_devices() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let kms = kms(&server).await.env("DM_DISABLE_UDEV", "1");
    image(&kms, "data");
    let _ = kms.run(&["format", NAME, "data"]).want(0);
    let mapper = format!("kms-tests-{}", std::process::id());
    let open = ["open", NAME, "data", "--mapper", &mapper];
    let ran = kms.run(&open);
    if !Path::new("/sys/class/misc/device-mapper").exists() {
        let ran = ran.want(2);
        assert!(ran.stderr.contains("the kernel has no device-mapper"), "{}", ran.stderr);
        assert!(ran.stderr.contains(&mapper) && ran.stderr.contains("data"), "{}", ran.stderr);
        let _ = kek(&kms, &[&ran]);
    } else if ran.code == 0 {
        assert!(kms.run(&open).want(0).stdout.contains("already-open"));
        let _ = kms.run(&["status", &mapper]).want(0);
        let _ = kms.run(&["resize", &mapper]).want(0);
        let _ = kms.run(&["close", &mapper]).want(0);
        let _ = kms.run(&["status", &mapper]).want(3);
    } else {
        // Not every user may open devices.
        assert!(ran.stderr.contains("data"), "{}", ran.stderr);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup and a Vault server: cargo xtask it luks"]
async fn a_host_without_cryptsetup_gets_an_error_that_says_so() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let kms = kms(&server).await;
    image(&kms, "data");
    let _ = kms.run(&["format", NAME, "data"]).want(0);
    // The search path finds this cryptsetup first, and it is too old.
    let old = kms.file(
        "bin/cryptsetup",
        "#!/bin/sh\n[ \"$1\" = --version ] && { echo cryptsetup 2.0.4; exit; }\nexit 1\n",
    );
    let chmod = std::process::Command::new("chmod").arg("755").arg(&old).status().unwrap();
    assert!(chmod.success());
    let kms = kms.env("PATH", &old.parent().unwrap().display().to_string());
    let ran = kms.run(&["slots", "data"]).want(2);
    assert!(ran.stderr.contains("cryptsetup 2.0 is too old: install 2.4 or newer"), "{}", ran.stderr);
}

//! Tries every known way to lose a slot that is still needed. Each must fail.

use std::fs;

use kms_core::ErrorKind;
use kms_luks::{Cryptsetup, Slot};

use crate::common::{CHEAP, Image, kek, slot, slots};

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn the_last_slot_is_never_removed() {
    let current = kek();
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        let device = image.device();
        let proof = device.verify(Slot::CURRENT, &current).await.unwrap();
        let before = image.bytes();
        let error = device.kill(Slot::CURRENT, &proof, &current).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains("proven to open"), "{error}");
        assert!(image.bytes() == before);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_proof_of_a_slot_that_has_gone_proves_nothing() {
    let current = kek();
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        // The same KEK in both, as in the middle of Rook's rotation: cryptsetup itself would remove the last slot.
        image.slot(&current, 1, &current, &CHEAP);
        let device = image.device();
        let proof = device.verify(Slot::OTHER, &current).await.unwrap();
        let key = image.key_file(&current);
        assert_eq!(image.cryptsetup(&["luksKillSlot", "--batch-mode", "--key-file", &key], &["1"]), 0);
        let before = image.bytes();
        let error = device.kill(Slot::CURRENT, &proof, &current).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("has gone"), "{error}");
        assert!(image.bytes() == before && image.opens(0, &current));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_proof_is_of_one_device_only() {
    let (current, other) = (kek(), kek());
    let (one, two) = (Image::luks2(&current), Image::luks2(&current));
    for image in [&one, &two] {
        image.slot(&current, 1, &other, &CHEAP);
    }
    let proof = one.device().verify(Slot::OTHER, &other).await.unwrap();
    let error = two.device().kill(Slot::CURRENT, &proof, &other).await.unwrap_err();
    assert!(error.to_string().contains("of another device"), "{error}");
    assert_eq!(slots(&two.device()).await, [0, 1]);

    // The proof belongs to the device that was there, not to its replacement.
    fs::copy(two.path(), one.path()).unwrap();
    let error = one.device().kill(Slot::CURRENT, &proof, &other).await.unwrap_err();
    assert!(error.to_string().contains("another LUKS device"), "{error}");
    assert_eq!(slots(&one.device()).await, [0, 1]);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_kek_that_opens_nothing_that_remains_removes_nothing() {
    let (current, other) = (kek(), kek());
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        image.slot(&current, 1, &other, &CHEAP);
        let device = image.device();
        let proof = device.verify(Slot::OTHER, &other).await.unwrap();
        let before = image.bytes();
        // The KEK of the victim, and a KEK that opens nothing.
        for wrong in [&current, &kek()] {
            let error = device.kill(Slot::CURRENT, &proof, wrong).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
        }
        assert!(image.bytes() == before);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_slot_without_the_volume_key_is_no_slot_to_remain() {
    let (current, other) = (kek(), kek());
    let image = Image::luks2(&current);
    image.slot(&current, 1, &other, &[CHEAP.as_slice(), &["--unbound", "--key-size", "512"]].concat());
    let device = image.device();
    let header = device.header().await.unwrap();
    assert!(!header.slot(Slot::OTHER).unwrap().opens_data);
    // The trap works: the program itself passes the slot.
    assert!(image.opens(1, &other));
    assert!(!device.opens(Some(Slot::OTHER), &other).await.unwrap());
    assert!(!device.opens(None, &other).await.unwrap() && device.opens(None, &current).await.unwrap());
    assert!(device.verify(Slot::OTHER, &other).await.is_err());
    assert_eq!(device.find(&header, &other).await.unwrap(), None);
}

/// A token that opens the device by itself makes cryptsetup say of any passphrase that it is right.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_token_is_no_proof() {
    let current = kek();
    let image = Image::luks2(&current);
    let description = format!("kms-luks-test-{}", image.path().display());
    let token = ["token", "add", "--key-description", &description, "--key-slot", "0"];
    assert_eq!(image.cryptsetup(&token, &[]), 0);
    // The passphrase of the token goes into a keyring that a script shares with the cryptsetup that it becomes.
    let key = image.key_file(&current);
    let join = image.script(
        "with-keyring",
        &format!(
            "exec python3 -c 'import ctypes, os, sys\n\
             c = ctypes.CDLL(None, use_errno=True)\n\
             key = open(\"{key}\", \"rb\").read()\n\
             assert c.syscall(250, 1, None) > 0\n\
             assert c.syscall(248, b\"user\", b\"{description}\", key, len(key), ctypes.c_int(-3)) > 0\n\
             os.execvp(\"cryptsetup\", [\"cryptsetup\"] + sys.argv[1:])' \"$@\""
        ),
    );
    let wrong = image.key_file(&kek());
    // The trap works: without our precaution the wrong key passes.
    let status = std::process::Command::new(&join)
        .env("PATH", "/usr/sbin:/usr/local/bin:/usr/bin:/bin")
        .args(["open", "--test-passphrase", "--key-slot", "0", "--key-file", &wrong])
        .arg(image.path())
        .status();
    assert_eq!(status.unwrap().code(), Some(0));

    let device = image.device_by(Cryptsetup::new().with_program(join));
    assert!(!device.opens(Some(Slot::CURRENT), &kek()).await.unwrap());
    assert!(!device.opens(None, &kek()).await.unwrap());
    assert!(device.verify(Slot::CURRENT, &kek()).await.is_err());
    assert!(device.opens(Some(Slot::CURRENT), &current).await.unwrap());
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn foreign_slots_and_tokens_stay_as_they_are() {
    let (current, recovery, new) = (kek(), kek(), kek());
    let image = Image::luks2(&current);
    image.slot(&current, 4, &recovery, &CHEAP);
    fs::write(image.beside("token"), r#"{"type":"foreign","keyslots":["4"],"x":"y"}"#).unwrap();
    let token = image.beside("token").display().to_string();
    assert_eq!(image.cryptsetup(&["token", "import", "--json-file", &token], &[]), 0);
    // The area of slot 4 on the disk: the second one that was made, after 32 KiB of headers and the area of slot 0.
    let area = |bytes: &[u8]| bytes[32768 + 258_048..][..258_048].to_vec();
    let before = area(&image.bytes());
    assert!(before.iter().any(|byte| *byte != 0));

    let device = image.device();
    device.add(Some(Slot::CURRENT), &current, Slot::OTHER, &new).await.unwrap();
    let proof = device.verify(Slot::OTHER, &new).await.unwrap();
    device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
    let foreign: Vec<_> = device.header().await.unwrap().foreign().map(|slot| slot.slot).collect();
    assert_eq!(foreign, [slot(4)]);
    assert!(image.opens(4, &recovery));
    assert_eq!(image.cryptsetup(&["token", "export", "--token-id", "0"], &[]), 0);
    assert!(area(&image.bytes()) == before);
}

//! Rotations without any disturbance.

use std::path::PathBuf;

use kms_core::{ErrorKind, KmsProvider, PutMode};
use kms_luks::Cryptsetup;
use kms_rotation::{Osd, Outcome, Refusal, Silent, Verified, verify};
use kms_testkit::{
    fake::Operation,
    luks::{Image, Wrapper},
};

use crate::bench::{Bench, Notes, at_once, kek, name};

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn the_new_kek_opens_every_device_and_the_old_one_none() {
    for devices in 1..=3 {
        let bench = Bench::cheap(devices).await;
        let old = bench.current().await;
        let volume_keys: Vec<_> = bench.images.iter().map(|image| image.volume_key(&old)).collect();
        let report = bench.rotate(&at_once()).await.unwrap();
        let new = bench.converged("after").await;
        assert!(!new.ct_eq(&old));
        for (image, volume_key) in bench.images.iter().zip(&volume_keys) {
            assert!(!image.opens(&old));
            assert_eq!(&image.volume_key(&new), volume_key, "the data is still readable");
        }
        assert_eq!(report.outcome, Outcome::Rotated);
        assert_eq!((report.from_version.as_str(), report.to_version.as_str()), ("1", "2"));
        assert_eq!(report.generation, Some(2));
        assert_eq!(
            (&report.from_fingerprint, &report.to_fingerprint),
            (&old.fingerprint(), &new.fingerprint())
        );
        for device in &report.devices {
            assert_eq!((device.slot.number(), device.pending), (1, None));
            assert_eq!(device.removed.iter().map(|slot| slot.number()).collect::<Vec<_>>(), [0]);
        }
        // No part of it is key material.
        let shown = format!("{report:?}");
        for kek in [&old, &new] {
            assert!(!shown.contains(&kek.expose_secret_text().unwrap()[..16]), "{shown}");
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_rotation_of_one_device_runs_cryptsetup_six_times_and_asks_the_kms_four_times() {
    let wrapper = Wrapper::new();
    let mut bench = Bench::cheap(1).await;
    bench.cryptsetup = Cryptsetup::new().with_program(wrapper.program());
    bench.rotate(&at_once()).await.unwrap();
    bench.converged("after").await;
    let calls = wrapper.calls();
    let actions: Vec<&str> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(actions, ["luksDump", "luksAddKey", "open", "open", "luksDump", "luksKillSlot"], "{calls:?}");
    let count = |operation| bench.kms.count(operation);
    assert_eq!((count(Operation::Get), count(Operation::Put), count(Operation::Rights)), (2, 1, 1));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn what_is_announced_is_all_that_happens() {
    let bench = Bench::cheap(1).await;
    let notes = Notes::default();
    bench.observed(&at_once(), &notes).await.unwrap();
    assert_eq!(
        notes.done(),
        [
            "lock DEVICE",
            "read the KEK",
            "read the header of DEVICE",
            "ask whether it may be updated",
            "add the new KEK in slot 1 of DEVICE",
            "prove slot 1 of DEVICE",
            "store the new KEK",
            "read it back",
            "prove slot 1 of DEVICE",
            "read the header of DEVICE",
            "remove slot 0 of DEVICE",
        ]
    );
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn twenty_rotations_leave_one_slot_and_others_keys_alone() {
    let bench = Bench::cheap(1).await;
    let image = &bench.images[0];
    let first = bench.current().await;
    let volume_key = image.volume_key(&first);
    let recovery = [kek(), kek()];
    image.add(&first, 2, &recovery[0]);
    image.add(&first, 7, &recovery[1]);
    for round in 0..20 {
        let report = bench.rotate(&at_once()).await.unwrap();
        let foreign: Vec<u8> = report.devices[0].foreign.iter().map(|slot| slot.number()).collect();
        assert_eq!(foreign, [2, 7]);
        let slot = if round % 2 == 0 { 1 } else { 0 };
        assert_eq!(image.slots(), [slot, 2, 7]);
        bench.holds("after a round").await;
    }
    assert!(image.opens_slot(2, &recovery[0]) && image.opens_slot(7, &recovery[1]));
    assert_eq!(image.volume_key(&bench.current().await), volume_key);
    assert_eq!(bench.version().await, "21");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn luks1_is_rotated_too() {
    let kek = kek();
    let bench = Bench::with(&kek, vec![Image::luks1(&kek)]).await;
    for slot in [1, 0] {
        let old = bench.current().await;
        bench.rotate(&at_once()).await.unwrap();
        let new = bench.holds("after").await;
        assert!(bench.images[0].opens_slot(slot, &new) && !bench.images[0].opens(&old));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_costly_slot_is_unlocked_once_and_replaced_by_a_cheap_one() {
    let kek = kek();
    let wrapper = Wrapper::new();
    let mut bench = Bench::with(&kek, vec![Image::argon2id(&kek)]).await;
    bench.cryptsetup = Cryptsetup::new().with_program(wrapper.program());
    bench.rotate(&at_once()).await.unwrap();
    let new = bench.converged("after").await;
    // Slot 0 is the costly one: only the call that adds slot 1 unlocks it.
    let calls = wrapper.calls();
    let unlocks = |call: &&String| call.contains("--key-slot 0");
    assert_eq!(calls.iter().filter(unlocks).count(), 1, "{calls:?}");
    assert!(calls.iter().filter(|call| call.starts_with("open")).all(|call| call.contains("--key-slot 1")));
    let header = bench.osd().devices()[0].table().await.unwrap();
    assert_eq!(header.slots().map(|slot| slot.kdf.name().to_owned()).collect::<Vec<_>>(), ["pbkdf2"]);
    assert!(bench.images[0].opens_slot(1, &new));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_kek_in_another_slot_moves_to_the_pair_and_the_old_slot_is_reported() {
    let bench = Bench::cheap(1).await;
    let image = &bench.images[0];
    let old = bench.current().await;
    image.add(&old, 5, &old);
    image.kill(&old, 0);
    let report = bench.rotate(&at_once()).await.unwrap();
    let new = bench.holds("after").await;
    assert_eq!(image.slots(), [0, 5]);
    assert!(image.opens_slot(0, &new) && image.opens_slot(5, &old));
    assert!(report.warnings.iter().any(|warning| warning.contains("key slot 5")), "{:?}", report.warnings);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_pair_that_belongs_to_others_is_refused_and_left_alone() {
    let bench = Bench::cheap(1).await;
    let image = &bench.images[0];
    let current = bench.current().await;
    let (one, two) = (kek(), kek());
    image.add(&current, 4, &current);
    image.kill(&current, 0);
    image.add(&current, 0, &one);
    image.add(&current, 1, &two);
    let before = bench.bytes();
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("free one of them"), "{error}");
    assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "1"));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_wrong_kek_in_the_kms_changes_nothing() {
    for devices in 1..=2 {
        let bench = Bench::cheap(devices).await;
        let right = bench.current().await;
        bench.kms.inner().put(&name(), &kek(), PutMode::Overwrite).await.unwrap();
        let before = bench.bytes();
        let error = bench.rotate(&at_once()).await.unwrap_err();
        assert_eq!((error.kind(), Refusal::of(&error)), (ErrorKind::Conflict, Some(Refusal::Kek)));
        assert!(
            error.to_string().contains("opens no key slot") && error.to_string().contains("image"),
            "{error}"
        );
        assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "2"));
        assert!(bench.images.iter().all(|image| image.opens(&right)));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn one_device_of_another_kek_keeps_all_of_them_from_being_written_to() {
    for odd in 0..3 {
        let mut bench = Bench::cheap(3).await;
        bench.images[odd] = Image::luks2(&kek());
        let before = bench.bytes();
        let error = bench.rotate(&at_once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&bench.images[odd].path().display().to_string()), "{error}");
        assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "1"), "device {odd}");
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_rehearsal_writes_nothing_and_says_what_would_be_done() {
    let bench = Bench::cheap(2).await;
    let before = bench.bytes();
    let mut options = at_once();
    options.dry_run = true;
    let report = bench.rotate(&options).await.unwrap();
    assert_eq!((report.outcome, report.from_version == report.to_version), (Outcome::DryRun, true));
    assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "1"));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn superseded_versions_are_retired_when_asked_for() {
    let bench = Bench::cheap(1).await;
    let mut options = at_once();
    options.destroy_superseded = true;
    assert_eq!(bench.rotate(&options).await.unwrap().retired, Some(1));
    assert_eq!(bench.rotate(&at_once()).await.unwrap().retired, None);
    assert_eq!(bench.rotate(&options).await.unwrap().retired, Some(2));
    bench.converged("after").await;
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn verify_tells_each_device_apart() {
    let mut bench = Bench::cheap(3).await;
    let current = bench.current().await;
    bench.images[0].add(&current, 1, &kek());
    bench.images[0].add(&current, 3, &kek());
    bench.images[1] = Image::luks2(&kek());
    std::fs::write(bench.images[2].path(), "no device").unwrap();
    let found = verify(&*bench.kms, &bench.osd(), &Silent).await.unwrap();
    let slot = |at: usize| found.devices[at].slot.as_ref().map(|slot| slot.number()).ok();
    assert_eq!((slot(0), slot(1), slot(2)), (Some(0), None, None));
    assert_eq!(found.devices[0].leftovers.len(), 1);
    assert_eq!(found.devices[0].foreign.len(), 1);
    let seen = |found: &Verified, at: usize| Refusal::of(found.devices[at].slot.as_ref().unwrap_err());
    assert_eq!((seen(&found, 1), seen(&found, 2)), (Some(Refusal::Kek), Some(Refusal::Header)));
    // A device that cannot be read says nothing about the KEK, and does not hide the one that the KEK does not open.
    std::fs::remove_file(bench.images[2].path()).unwrap();
    bench.images.rotate_left(2);
    let found = verify(&*bench.kms, &bench.osd(), &Silent).await.unwrap();
    assert_eq!((seen(&found, 0), seen(&found, 2)), (None, Some(Refusal::Kek)));
    let failure = found.failure().unwrap();
    assert!(failure.to_string().contains("opens no key slot"), "{failure}");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_rotation_says_that_the_header_of_a_device_is_gone_and_writes_nothing() {
    let bench = Bench::cheap(2).await;
    let bytes = bench.images[1].bytes();
    std::fs::write(bench.images[1].path(), vec![0; bytes.len()]).unwrap();
    let before = bench.bytes();
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(Refusal::of(&error), Some(Refusal::Header), "{error}");
    assert_eq!((bench.bytes(), bench.version().await.as_str()), (before, "1"));
}

#[test]
fn an_osd_has_one_to_three_devices_each_once() {
    let osd = |paths: &[&str]| {
        let paths = paths.iter().map(PathBuf::from);
        Osd::new("a".parse().unwrap(), Cryptsetup::new().devices(paths))
    };
    assert_eq!(osd(&["x", "y", "z"]).unwrap().devices().len(), 3);
    for (paths, why) in
        [(&[][..], "not 0"), (&["a", "b", "c", "d"], "not 4"), (&["/", "a", "/."], "named twice")]
    {
        assert!(osd(paths).unwrap_err().to_string().contains(why), "{why}");
    }
}

//! Recovery of devices whose current KEK does not open them.

use std::sync::Arc;

use kms_core::{
    DeleteMode, ErrorKind, Freshness, HistoryMode, Kek, KmsProvider, PutMode, Result, memory::Memory,
};
use kms_rotation::{Origin, Osd, Recovery};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

use crate::{
    bench::{Other, kek, name},
    memory::Device,
};

/// A KMS in which each of these KEKs was current in turn.
async fn kms(keks: &[&Kek]) -> Memory {
    let kms = Memory::new();
    for kek in keks {
        kms.put(&name(), kek, PutMode::Overwrite).await.unwrap();
    }
    kms
}

fn osd(devices: &[&Device]) -> Osd {
    Osd::new(name(), devices.iter().map(|device| (*device).clone())).unwrap()
}

async fn find(kms: &dyn KmsProvider, osd: &Osd, given: &[Kek]) -> Result<Recovery> {
    Recovery::find(kms, osd, given, HistoryMode::ReadOnly).await
}

async fn holds(kms: &dyn KmsProvider, kek: &Kek) -> bool {
    kms.get(&name(), Freshness::Fresh).await.is_ok_and(|stored| stored.kek.ct_eq(kek))
}

#[tokio::test]
async fn an_old_version_that_opens_all_devices_is_found_and_made_current_only_if_asked() {
    let (oldest, good, bad) = (kek(), kek(), kek());
    let kms = kms(&[&oldest, &good, &bad]).await;
    let devices = [Device::formatted(0, &good), Device::formatted(1, &good)];
    let osd = osd(&[&devices[0], &devices[1]]);
    let recovery = find(&kms, &osd, &[]).await.unwrap();
    let found = recovery.found().unwrap();
    assert!(matches!(&found.origin, Origin::Version { version, .. } if version.as_str() == "2"), "{found:?}");
    assert_eq!(found.slots.len(), 2);
    assert!(recovery.candidates[2].slots.is_empty(), "a newer one opens every device");
    assert!(!recovery.is_current() && holds(&kms, &bad).await, "nothing is changed");
    let version = recovery.write(&kms, &osd).await.unwrap();
    assert!(version.as_str() == "4" && holds(&kms, &good).await);
    let again = find(&kms, &osd, &[]).await.unwrap();
    assert!(again.is_current());
    assert_eq!(again.write(&kms, &osd).await.unwrap(), version, "no write is needed");
    assert!(!format!("{again:?}").contains(&good.expose_secret_text().unwrap()[..16]));
}

#[tokio::test]
async fn the_write_is_refused_if_the_key_has_changed_since() {
    let (good, bad, theirs) = (kek(), kek(), kek());
    let device = Device::formatted(0, &good);
    let osd = osd(&[&device]);
    let kms = kms(&[&good, &bad]).await;
    let recovery = find(&kms, &osd, &[]).await.unwrap();
    kms.put(&name(), &theirs, PutMode::Overwrite).await.unwrap();
    assert_eq!(recovery.write(&kms, &osd).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(holds(&kms, &theirs).await);

    let absent = Memory::new();
    let recovery = find(&absent, &osd, &[good.duplicate()]).await.unwrap();
    absent.put(&name(), &theirs, PutMode::Create).await.unwrap();
    assert_eq!(recovery.write(&absent, &osd).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(holds(&absent, &theirs).await);
}

#[tokio::test]
async fn keks_that_open_a_part_each_are_shown_and_not_written() {
    let (one, two) = (kek(), kek());
    let devices = [Device::formatted(0, &one), Device::formatted(1, &two)];
    let osd = osd(&[&devices[0], &devices[1]]);
    let kms = kms(&[&one, &two]).await;
    let recovery = find(&kms, &osd, &[kek()]).await.unwrap();
    let opened: Vec<Vec<bool>> =
        recovery.candidates.iter().map(|one| one.slots.iter().map(Option::is_some).collect()).collect();
    assert_eq!(opened, [[false, true], [true, false], [false, false]]);
    assert!(recovery.found().is_none());
    assert_eq!(recovery.write(&kms, &osd).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(holds(&kms, &two).await);
}

#[tokio::test]
async fn a_given_kek_and_a_deleted_version_are_candidates_too() {
    let good = kek();
    let device = Device::formatted(0, &good);
    let osd = osd(&[&device]);
    let absent = Memory::new();
    let recovery = find(&absent, &osd, &[kek(), good.duplicate()]).await.unwrap();
    assert_eq!(recovery.found().unwrap().origin, Origin::Given(1));
    recovery.write(&absent, &osd).await.unwrap();
    assert!(holds(&absent, &good).await, "the absent key is created");

    let deleted = kms(&[&good]).await;
    deleted.delete(&name(), DeleteMode::Soft).await.unwrap();
    assert!(find(&deleted, &osd, &[]).await.unwrap().found().is_none(), "a plain look does not read it");
    let recovery = Recovery::find(&deleted, &osd, &[], HistoryMode::Restore).await.unwrap();
    recovery.write(&deleted, &osd).await.unwrap();
    assert!(holds(&deleted, &good).await);
}

#[tokio::test]
async fn a_device_that_cannot_be_read_is_an_error_and_not_one_that_no_kek_opens() {
    let good = kek();
    let devices = [Device::formatted(0, &good), Device::formatted(1, &good)];
    let osd = osd(&[&devices[0], &devices[1]]);
    devices[1].disk().vanished = true;
    assert!(find(&kms(&[&good]).await, &osd, &[]).await.is_err());
}

#[tokio::test]
async fn a_current_value_that_is_no_kek_is_replaced_by_its_version_alone() {
    let (good, malformed, theirs) = (kek(), kek(), kek());
    let device = Device::formatted(0, &good);
    let osd = osd(&[&device]);
    let memory = Arc::new(kms(&[&good, &malformed]).await);
    let kms = Other::with_malformed(Arc::<Memory>::clone(&memory), malformed.duplicate());
    assert_eq!(kms.get(&name(), Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::Protocol);
    let recovery = find(&kms, &osd, &[]).await.unwrap();
    assert!(!recovery.is_current() && recovery.candidates[0].fingerprint.is_none());
    assert!(recovery.candidates[1].opens_all());

    memory.put(&name(), &theirs, PutMode::Overwrite).await.unwrap();
    assert_eq!(recovery.write(&kms, &osd).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(holds(&kms, &theirs).await, "the write names the version that the history showed");

    memory.put(&name(), &malformed, PutMode::Overwrite).await.unwrap();
    let recovery = find(&kms, &osd, &[]).await.unwrap();
    assert_eq!(recovery.write(&kms, &osd).await.unwrap().as_str(), "5");
    assert!(holds(&kms, &good).await);
}

#[tokio::test]
async fn without_the_version_of_a_current_value_that_is_no_kek_nothing_is_written() {
    let (good, bad) = (kek(), kek());
    let device = Device::formatted(0, &good);
    let osd = osd(&[&device]);
    // A KMS without a history; one that has only the current value for it; one whose current version is disabled.
    for (get, history) in [
        (ErrorKind::Protocol, ErrorKind::Unsupported),
        (ErrorKind::Protocol, ErrorKind::Protocol),
        (ErrorKind::Disabled, ErrorKind::NotFound),
    ] {
        let kms = Scripted::around(Arc::new(kms(&[&bad]).await));
        let script = || {
            kms.push(Operation::Get, InjectedFault::error(get));
            kms.push(Operation::History, InjectedFault::error(history));
        };
        script();
        let none = find(&kms, &osd, &[]).await.unwrap_err();
        assert_eq!(none.kind(), get, "without a candidate the error is that of the read: {none}");
        script();
        let recovery = find(&kms, &osd, &[good.duplicate()]).await.unwrap();
        assert!(recovery.found().is_some() && !recovery.is_current());
        let error = recovery.write(&kms, &osd).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("--replace"), "{error}");
        assert!(kms.count(Operation::Put) == 0 && holds(&kms, &bad).await);
    }
    // Another error of the read says nothing of the value.
    let kms = Scripted::around(Arc::new(kms(&[&good]).await));
    kms.push(Operation::Get, InjectedFault::error(ErrorKind::Unavailable));
    assert_eq!(find(&kms, &osd, &[]).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

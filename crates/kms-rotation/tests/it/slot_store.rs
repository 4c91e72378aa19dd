//! The tests that every [`SlotStore`] must pass, on devices in memory and on real images: cryptsetup judges the double.

use std::path::PathBuf;

use kms_core::{ErrorKind, Kek};
use kms_luks::Cryptsetup;
use kms_rotation::{Added, Proof, Slot, SlotStore};
use kms_testkit::luks::Image;

use crate::{
    bench::kek,
    memory::{self, DONE, FAILED, Keyslot, WRONG_KEY},
};

/// A device, and calls of cryptsetup on it by another program.
trait Fixture {
    fn formatted(kek: &Kek) -> Self;
    /// The device as another user sees it.
    fn store(&self) -> Box<dyn SlotStore>;
    fn slots(&self) -> Vec<u8>;
    fn opens(&self, kek: &Kek) -> bool;
    fn raw_add(&self, known: &Kek, slot: u8, new: &Kek) -> i32;
    fn raw_kill(&self, known: &Kek, slot: u8) -> i32;
    fn raw_change(&self, kek: &Kek, slot: u8) -> i32;
    fn raw_add_unbound(&self, known: &Kek, slot: u8, new: &Kek);
    fn ignore(&self, slot: u8);
    fn token(&self, slot: u8);
    fn vanish(&self);
}

impl Fixture for memory::Device {
    fn formatted(kek: &Kek) -> Self {
        Self::formatted(0, kek)
    }

    fn store(&self) -> Box<dyn SlotStore> {
        Box::new(self.clone())
    }

    fn slots(&self) -> Vec<u8> {
        self.disk().slots.keys().copied().collect()
    }

    fn opens(&self, kek: &Kek) -> bool {
        self.disk().opens(kek.expose_secret_text().unwrap())
    }

    fn raw_add(&self, known: &Kek, slot: u8, new: &Kek) -> i32 {
        let salt = self.salt();
        self.disk().add(
            None,
            known.expose_secret_text().unwrap(),
            slot,
            new.expose_secret_text().unwrap(),
            salt,
        )
    }

    fn raw_kill(&self, known: &Kek, slot: u8) -> i32 {
        self.disk().kill(known.expose_secret_text().unwrap(), slot)
    }

    fn raw_change(&self, kek: &Kek, slot: u8) -> i32 {
        let salt = self.salt();
        self.disk().change(kek.expose_secret_text().unwrap(), slot, salt)
    }

    fn raw_add_unbound(&self, _: &Kek, slot: u8, new: &Kek) {
        let (kek, salt) = (new.expose_secret_text().unwrap().to_owned(), self.salt());
        self.disk().slots.insert(slot, Keyslot { kek, salt, bound: false, ignored: false });
    }

    fn ignore(&self, slot: u8) {
        self.disk().slots.get_mut(&slot).unwrap().ignored = true;
    }

    fn token(&self, slot: u8) {
        self.disk().tokens.insert(0, slot);
    }

    fn vanish(&self) {
        self.disk().vanished = true;
    }
}

impl Fixture for Image {
    fn formatted(kek: &Kek) -> Self {
        Self::luks2(kek)
    }

    fn store(&self) -> Box<dyn SlotStore> {
        Box::new(Cryptsetup::new().devices([PathBuf::from(self.path())]).next().unwrap())
    }

    fn slots(&self) -> Vec<u8> {
        self.slots()
    }

    fn opens(&self, kek: &Kek) -> bool {
        self.opens(kek)
    }

    fn raw_add(&self, known: &Kek, slot: u8, new: &Kek) -> i32 {
        let (known, new, slot) = (self.key_file(known), self.key_file(new), slot.to_string());
        let options = ["luksAddKey", "--key-file", &known, "--key-slot", &slot, "--pbkdf", "pbkdf2"];
        self.cryptsetup(&[&options[..], &["--pbkdf-force-iterations", "1000"]].concat(), &[&new])
    }

    fn raw_kill(&self, known: &Kek, slot: u8) -> i32 {
        let known = self.key_file(known);
        self.cryptsetup(&["luksKillSlot", "--key-file", &known], &[&slot.to_string()])
    }

    fn raw_change(&self, kek: &Kek, slot: u8) -> i32 {
        let (key, slot) = (self.key_file(kek), slot.to_string());
        let options = ["luksChangeKey", "--key-file", &key, "--key-slot", &slot, "--pbkdf", "pbkdf2"];
        self.cryptsetup(&[&options[..], &["--pbkdf-force-iterations", "1000"]].concat(), &[&key])
    }

    fn raw_add_unbound(&self, known: &Kek, slot: u8, new: &Kek) {
        let (known, new, slot) = (self.key_file(known), self.key_file(new), slot.to_string());
        let options = ["luksAddKey", "--key-file", &known, "--key-slot", &slot, "--pbkdf", "pbkdf2"];
        let unbound = ["--pbkdf-force-iterations", "1000", "--unbound", "--key-size", "512", "--batch-mode"];
        assert_eq!(self.cryptsetup(&[&options[..], &unbound].concat(), &[&new]), DONE);
    }

    fn ignore(&self, slot: u8) {
        let slot = slot.to_string();
        assert_eq!(self.cryptsetup(&["config", "--key-slot", &slot, "--priority", "ignore"], &[]), DONE);
    }

    fn token(&self, slot: u8) {
        let path = self.path().with_file_name("token.json");
        std::fs::write(&path, format!(r#"{{"type": "clevis", "keyslots": ["{slot}"]}}"#)).unwrap();
        let path = path.display().to_string();
        assert_eq!(self.cryptsetup(&["token", "import", "--json-file", &path], &[]), DONE);
    }

    fn vanish(&self) {
        std::fs::remove_file(self.path()).unwrap();
    }
}

/// The slots that a store lists.
async fn listed(store: &dyn SlotStore) -> Vec<u8> {
    store.table().await.unwrap().slots().map(|slot| slot.slot.number()).collect()
}

async fn a_slot_is_added_only_with_a_kek_that_opens_the_named_one<F: Fixture>() {
    let (old, new, wrong) = (kek(), kek(), kek());
    let device = F::formatted(&old);
    let store = device.store();
    let add = async |from: Slot, current: &Kek, to: Slot| store.add(from, current, to, &new).await.unwrap();
    assert_eq!(add(Slot::CURRENT, &wrong, Slot::OTHER).await, Added::WrongKey);
    assert_eq!(add(Slot::OTHER, &old, Slot::new(2).unwrap()).await, Added::WrongKey, "from no slot");
    assert_eq!(listed(&*store).await, [0]);
    assert_eq!(add(Slot::CURRENT, &old, Slot::OTHER).await, Added::Done);
    assert_eq!(add(Slot::CURRENT, &old, Slot::OTHER).await, Added::SlotTaken);
    assert_eq!(listed(&*store).await, [0, 1]);
    assert!(
        store.opens(Slot::OTHER, &new).await.unwrap() && !store.opens(Slot::CURRENT, &new).await.unwrap()
    );
    assert!(!store.opens(Slot::new(5).unwrap(), &new).await.unwrap());
    let table = store.table().await.unwrap();
    assert_eq!(store.find(&table, &new).await.unwrap(), Some(Slot::OTHER));
    assert_eq!(store.find(&table, &wrong).await.unwrap(), None);
}

async fn a_slot_is_removed_only_with_the_proof_of_another_one<F: Fixture>() {
    let (old, new) = (kek(), kek());
    let device = F::formatted(&old);
    let store = device.store();
    assert_eq!(device.raw_add(&old, 1, &new), DONE);
    let error = Proof::by_opening(&*store, Slot::OTHER, &old).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let proof = Proof::by_opening(&*store, Slot::OTHER, &new).await.unwrap();
    let own = store.remove(Slot::OTHER, &proof, &new).await.unwrap_err();
    assert_eq!(own.kind(), ErrorKind::ConfigInvalid);
    store.remove(Slot::CURRENT, &proof, &new).await.unwrap();
    store.remove(Slot::CURRENT, &proof, &new).await.unwrap();
    assert_eq!(device.slots(), [1]);
    assert!(device.opens(&new) && !device.opens(&old));
}

async fn a_proof_does_not_outlive_its_slot<F: Fixture>() {
    let (old, new) = (kek(), kek());
    let device = F::formatted(&old);
    let store = device.store();
    assert_eq!(device.raw_add(&old, 1, &new), DONE);
    let proof = Proof::by_opening(&*store, Slot::OTHER, &new).await.unwrap();
    assert_eq!(device.raw_kill(&old, 1), DONE);
    let error = store.remove(Slot::CURRENT, &proof, &new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(device.slots(), [0]);
    // The slot is in use again, with another KEK: the KEK of the proof opens no slot that would remain.
    assert_eq!(device.raw_add(&old, 1, &kek()), DONE);
    let error = store.remove(Slot::CURRENT, &proof, &new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(device.slots(), [0, 1]);
}

async fn every_write_of_a_slot_makes_a_new_salt<F: Fixture>() {
    let old = kek();
    let device = F::formatted(&old);
    let store = device.store();
    let look = async || store.table().await.unwrap().slot(Slot::CURRENT).cloned().unwrap();
    let before = look().await;
    assert_eq!(look().await, before);
    assert_eq!(device.raw_change(&old, 0), DONE);
    assert_ne!(look().await, before);
    assert!(device.opens(&old));
}

async fn a_device_has_one_lock<F: Fixture>() {
    let device = F::formatted(&kek());
    let (one, two) = (device.store(), device.store());
    let lock = one.lock().await.unwrap();
    assert_eq!(two.lock().await.unwrap_err().kind(), ErrorKind::Conflict);
    drop(lock);
    two.lock().await.unwrap();
}

/// Rook's calls (rook-behaviour §8.8).
async fn raw_calls_end_as_those_of_cryptsetup<F: Fixture>() {
    let (old, new, wrong) = (kek(), kek(), kek());
    let device = F::formatted(&old);
    assert_eq!(device.raw_add(&wrong, 1, &new), WRONG_KEY);
    assert_eq!(device.raw_add(&old, 0, &new), FAILED, "the slot is full");
    assert_eq!(device.raw_add(&old, 1, &new), DONE);
    assert_eq!(device.raw_change(&old, 1), WRONG_KEY);
    assert_eq!(device.raw_kill(&old, 0), WRONG_KEY, "the KEK opens no slot that remains");
    assert_eq!(device.raw_kill(&old, 4), FAILED, "the slot is not active");
    assert_eq!(device.raw_kill(&new, 0), DONE);
    assert_eq!(device.slots(), [1]);
    assert_eq!(device.raw_kill(&wrong, 1), WRONG_KEY);
    assert_eq!(device.raw_kill(&new, 1), DONE, "the last slot, without a question");
    assert!(device.slots().is_empty());
}

async fn an_unbound_slot_opens_nothing<F: Fixture>() {
    let (old, unbound) = (kek(), kek());
    let device = F::formatted(&old);
    device.raw_add_unbound(&old, 1, &unbound);
    let store = device.store();
    let table = store.table().await.unwrap();
    assert!(table.in_use(Slot::OTHER) && !table.opens_data(Slot::OTHER));
    assert!(!store.opens(Slot::OTHER, &unbound).await.unwrap());
    assert_eq!(store.find(&table, &unbound).await.unwrap(), None);
    Proof::by_opening(&*store, Slot::OTHER, &unbound).await.unwrap_err();
}

async fn a_slot_of_priority_ignore_opens_if_it_is_named<F: Fixture>() {
    let (old, new) = (kek(), kek());
    let device = F::formatted(&old);
    assert_eq!(device.raw_add(&old, 1, &new), DONE);
    device.ignore(1);
    let store = device.store();
    assert!(store.opens(Slot::OTHER, &new).await.unwrap());
    assert!(!device.opens(&new), "a plain open passes it over");
    let table = store.table().await.unwrap();
    assert!(table.slot(Slot::OTHER).unwrap().ignored && !table.slot(Slot::CURRENT).unwrap().ignored);
    assert_eq!(store.find(&table, &new).await.unwrap(), None);
    // It is no reason to give up the slot that a plain open needs.
    let proof = Proof::by_opening(&*store, Slot::OTHER, &new).await.unwrap();
    let error = store.remove(Slot::CURRENT, &proof, &new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(device.slots(), [0, 1]);
}

async fn a_slot_that_a_token_refers_to_is_never_removed<F: Fixture>() {
    let (old, new) = (kek(), kek());
    let device = F::formatted(&old);
    assert_eq!(device.raw_add(&old, 1, &new), DONE);
    device.token(1);
    let store = device.store();
    let tokens = store.table().await.unwrap().slot(Slot::OTHER).unwrap().tokens.clone();
    assert_eq!((tokens.len(), tokens[0].kind.as_str()), (1, "clevis"));
    let proof = Proof::by_opening(&*store, Slot::CURRENT, &old).await.unwrap();
    let error = store.remove(Slot::OTHER, &proof, &old).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("clevis") && error.to_string().contains("key slot 1"), "{error}");
    assert_eq!(device.slots(), [0, 1]);
}

async fn a_device_that_has_gone_is_an_error<F: Fixture>() {
    let current = kek();
    let device = F::formatted(&current);
    let store = device.store();
    let proof = Proof::by_opening(&*store, Slot::CURRENT, &current).await.unwrap();
    device.vanish();
    let kinds = [
        store.table().await.unwrap_err().kind(),
        store.lock().await.unwrap_err().kind(),
        store.opens(Slot::CURRENT, &current).await.unwrap_err().kind(),
        store.add(Slot::CURRENT, &current, Slot::OTHER, &kek()).await.unwrap_err().kind(),
        store.remove(Slot::OTHER, &proof, &current).await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::ConfigInvalid; 5]);
}

macro_rules! on_both {
    ($($name:ident)*) => {
        /// The tests on devices in memory.
        mod memory_devices {
            $(#[tokio::test] async fn $name() { super::$name::<crate::memory::Device>().await; })*
        }
        /// The tests on real headers.
        mod images {
            $(#[tokio::test]
            #[ignore = "needs cryptsetup: cargo xtask it rotation"]
            async fn $name() { super::$name::<kms_testkit::luks::Image>().await; })*
        }
    };
}

on_both! {
    a_slot_is_added_only_with_a_kek_that_opens_the_named_one
    a_slot_is_removed_only_with_the_proof_of_another_one
    a_proof_does_not_outlive_its_slot
    every_write_of_a_slot_makes_a_new_salt
    a_device_has_one_lock
    raw_calls_end_as_those_of_cryptsetup
    an_unbound_slot_opens_nothing
    a_slot_of_priority_ignore_opens_if_it_is_named
    a_slot_that_a_token_refers_to_is_never_removed
    a_device_that_has_gone_is_an_error
}

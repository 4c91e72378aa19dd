//! Slots of real headers: made, tested, found, removed.

use kms_core::{ErrorKind, Kek};
use kms_luks::{Added, Changed, Cryptsetup, Hash, Kdf, LuksVersion, Slot, SlotKdf};

use crate::common::{CHEAP, Image, kek, slot, slots};

const ARGON2: [&str; 9] = [
    "--batch-mode",
    "--pbkdf",
    "argon2id",
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf-memory",
    "32",
    "--pbkdf-parallel",
    "1",
];

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_rotation_step_by_step_keeps_the_volume_key() {
    let (old, new) = (kek(), kek());
    for image in [Image::luks1(&old), Image::luks2(&old)] {
        let device = image.device();
        let volume_key = image.volume_key(&old);
        assert!(device.opens(None, &old).await.unwrap() && !device.opens(None, &new).await.unwrap());

        let added = device.add(Some(Slot::CURRENT), &old, Slot::OTHER, &new).await.unwrap();
        assert_eq!((added, slots(&device).await), (Added::Done, vec![0, 1]));
        assert_eq!(
            (image.volume_key(&old), image.volume_key(&new)),
            (volume_key.clone(), volume_key.clone())
        );
        assert!(!device.opens(Some(Slot::CURRENT), &new).await.unwrap());

        let proof = device.verify(Slot::OTHER, &new).await.unwrap();
        device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
        assert_eq!(slots(&device).await, [1]);
        assert!(!image.opens(0, &old) && image.opens(1, &new));
        assert_eq!(image.volume_key(&new), volume_key);
        // A second removal succeeds.
        device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn twenty_rotations_leave_one_slot_and_the_foreign_one() {
    let (first, recovery) = (kek(), kek());
    let image = Image::luks2(&first);
    image.slot(&first, 5, &recovery, &CHEAP);
    let device = image.device();
    let (mut current, mut at, mut to) = (first, Slot::CURRENT, Slot::OTHER);
    for _ in 0..20 {
        let new = kek();
        assert_eq!(device.add(Some(at), &current, to, &new).await.unwrap(), Added::Done);
        let proof = device.verify(to, &new).await.unwrap();
        device.kill(at, &proof, &new).await.unwrap();
        (current, at, to) = (new, to, at);
        assert_eq!(slots(&device).await, [at.number(), 5]);
    }
    assert!(image.opens(0, &current) && image.opens(5, &recovery));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn slots_are_shown_with_their_costs() {
    let current = kek();
    let image = Image::formatted(&current, &[&["--type", "luks2"], ARGON2.as_slice()].concat());
    image.slot(&current, 1, &kek(), &CHEAP);
    let header = image.device().header().await.unwrap();
    let argon2 = SlotKdf::Argon2 { variant: "argon2id".to_owned(), passes: 4, memory_kib: 32, threads: 1 };
    let pbkdf2 = SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 };
    assert_eq!(header.slots().map(|slot| &slot.kdf).collect::<Vec<_>>(), [&argon2, &pbkdf2]);
    assert!(header.slots().all(|slot| slot.opens_data));
    assert_eq!(header.version(), LuksVersion::Luks2);
    assert_eq!(header.uuid().len(), 36);

    let luks1 = Image::luks1(&current).device().header().await.unwrap();
    assert_eq!(luks1.slots().map(|slot| &slot.kdf).collect::<Vec<_>>(), [&pbkdf2]);
    assert_eq!((luks1.version(), luks1.uuid().len()), (LuksVersion::Luks1, 36));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn new_slots_have_the_costs_that_were_asked_for() {
    let current = kek();
    let image = Image::luks2(&current);
    let kdfs = [
        Kdf::default(),
        Kdf::Pbkdf2 { iterations: 2000, hash: Hash::Sha512 },
        Kdf::Argon2id { passes: 4, memory_kib: 64, threads: 2 },
    ];
    for (kdf, number) in kdfs.into_iter().zip(1..) {
        let device = image.device_by(Cryptsetup::new().with_kdf(kdf));
        assert_eq!(device.add(None, &current, slot(number), &kek()).await.unwrap(), Added::Done);
    }
    let header = image.device().header().await.unwrap();
    let costs: Vec<_> = header.slots().skip(1).map(|slot| slot.kdf.clone()).collect();
    assert_eq!(
        costs,
        [
            SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 },
            SlotKdf::Pbkdf2 { hash: "sha512".to_owned(), iterations: 2000 },
            SlotKdf::Argon2 { variant: "argon2id".to_owned(), passes: 4, memory_kib: 64, threads: 2 },
        ]
    );
    let too_cheap =
        image.device_by(Cryptsetup::new().with_kdf(Kdf::Pbkdf2 { iterations: 1, hash: Hash::Sha256 }));
    let error = too_cheap.add(None, &current, slot(9), &kek()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn what_cannot_be_added_leaves_every_byte_as_it_was() {
    let (current, other, new) = (kek(), kek(), kek());
    for image in [Image::luks1(&current), Image::luks2(&current)] {
        image.slot(&current, 1, &other, &CHEAP);
        let device = image.device();
        let before = image.bytes();
        let cases = [
            // The wrong KEK, the KEK of another slot, a slot that is not in use.
            (Some(0), &new, 2, Added::WrongKey),
            (None, &new, 2, Added::WrongKey),
            (Some(0), &other, 2, Added::WrongKey),
            (Some(3), &current, 2, Added::WrongKey),
            (Some(0), &current, 1, Added::SlotTaken),
            (None, &current, 1, Added::SlotTaken),
        ];
        for (from, known, to, expected) in cases {
            let added = device.add(from.map(slot), known, slot(to), &new).await.unwrap();
            assert_eq!(added, expected, "{from:?} {to}");
        }
        assert!(device.add(Some(slot(1)), &other, slot(1), &new).await.is_err());
        assert!(image.bytes() == before);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_full_header_is_an_error_and_not_a_loop() {
    let current = kek();
    let image = Image::luks1(&current);
    for number in 1..8 {
        image.slot(&current, number, &kek(), &CHEAP);
    }
    let error = image.device().add(None, &current, slot(8), &kek()).await.unwrap_err();
    assert!(error.to_string().contains("image"), "{error}");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_kek_is_found_in_whatever_slot_it_is() {
    let (current, other, foreign) = (kek(), kek(), kek());
    let image = Image::luks2(&current);
    image.slot(&current, 1, &other, &ARGON2);
    image.slot(&current, 7, &foreign, &CHEAP);
    let device = image.device();
    let header = device.header().await.unwrap();
    for (kek, expected) in [(&current, Some(0)), (&other, Some(1)), (&foreign, Some(7)), (&kek(), None)] {
        assert_eq!(device.find(&header, kek).await.unwrap(), expected.map(slot));
    }
    assert!(!device.opens(Some(slot(20)), &current).await.unwrap());
    let error = device.verify(Slot::OTHER, &current).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_slot_changes_its_kek() {
    let (old, new) = (kek(), kek());
    for image in [Image::luks1(&old), Image::luks2(&old)] {
        let device = image.device();
        let before = image.bytes();
        assert_eq!(device.change(Slot::CURRENT, &new, &old).await.unwrap(), Changed::WrongKey);
        assert_eq!(device.change(Slot::OTHER, &old, &new).await.unwrap(), Changed::WrongKey);
        assert!(image.bytes() == before);
        assert_eq!(device.change(Slot::CURRENT, &old, &new).await.unwrap(), Changed::Done);
        assert_eq!(slots(&device).await, [0]);
        assert!(image.opens(0, &new) && !image.opens(0, &old));
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn keks_of_any_length_are_the_passphrase_as_they_are() {
    let long = "x".repeat(Kek::MAX_BYTES);
    for text in ["abcd", "ein Satz ß\n", "--key-file", "with\nline", &long] {
        let current = Kek::from_stored(text).unwrap();
        let image = Image::luks2(&current);
        let device = image.device();
        assert!(device.opens(Some(Slot::CURRENT), &current).await.unwrap(), "{text}");
        assert_eq!(device.add(None, &kek(), Slot::OTHER, &current).await.unwrap(), Added::WrongKey);
        assert_eq!(device.add(None, &current, Slot::OTHER, &current).await.unwrap(), Added::Done);
        assert!(image.opens(1, &current));
    }
}

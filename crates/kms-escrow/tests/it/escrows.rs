//! What an escrow holds, and what is refused.

use std::{fs, sync::Arc};

use kms_conformance::leak::{Canary, Recording};
use kms_core::{ErrorKind, Kek, KmsProvider, PutMode};
use kms_escrow::{
    Draft, Escrow, Identities, Overwrite, Recipients, Sharing, all_names, keks_of, read_keys, save,
};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

use crate::place::{Place, about, header, identities, name, pair, recipients};

const UUID: &str = "6f1c9a0e-0000-4000-8000-0123456789ab";

#[tokio::test]
async fn an_escrow_brings_back_every_kek_byte_for_byte() {
    let place = Place::with(&["b", "a"]).await;
    // A KEK that is not text, and a name that does not fit into the short field of a tar.
    let (long, bytes) = (name(&"n".repeat(253)), vec![0xff, 0, b'\n']);
    place.kms.put(&long, &Kek::from_stored_bytes(bytes.clone()).unwrap(), PutMode::Create).await.unwrap();
    let names = all_names(&place.kms).await.unwrap();
    let (sidecar, _) = save(&place.kms, &names, &recipients(0), &place.escrow(), about()).await.unwrap();
    assert_eq!((sidecar.keks.entries, sidecar.keks.recipients.as_slice()), (3, [pair(0).1].as_slice()));

    let escrow = Escrow::open(place.escrow()).unwrap();
    escrow.check_files().unwrap();
    let keys = escrow.keks(&identities(0)).unwrap();
    for (name, kek) in &place.keks {
        let found = keys.iter().find(|key| key.entry().name == *name).unwrap();
        assert!(found.kek().ct_eq(kek) && found.entry().version == "1" && found.entry().updated.is_some());
    }
    assert_eq!(keys[2].kek().expose_secret_bytes(), bytes);
    let wrong = escrow.keks(&identities(1)).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::ConfigInvalid);
    assert!(wrong.to_string().contains("no identity that was given decrypts"), "{wrong}");
}

#[tokio::test]
async fn tagged_recipients_stand_beside_others_and_the_archive_is_read_back_without_their_hardware() {
    let place = Place::with(&["a"]).await;
    // A recipient of the tests of the crate age.
    let tag = "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e";
    let both = Recipients::parse(&format!("{tag}\n{}", pair(0).1)).unwrap();
    let (sidecar, _) = save(&place.kms, &place.names(), &both, &place.escrow(), about()).await.unwrap();
    assert_eq!(sidecar.keks.recipients, [tag.to_owned(), pair(0).1]);
    let keys = Escrow::open(place.escrow()).unwrap().keks(&identities(0)).unwrap();
    assert!(keys[0].kek().ct_eq(&place.keks[0].1));
}

#[tokio::test]
async fn no_secret_is_in_a_file_a_log_or_a_debug_text() {
    let recording = Recording::start().unwrap();
    let place = Place::with(&["a"]).await;
    let kek = place.keks[0].1.expose_secret_text().unwrap();
    let canaries = [Canary::new("the KEK", kek), Canary::new("the identity", &pair(0).0)];
    let bytes = b"a header of a LUKS device, which is a secret of a kind";
    let in_header = Canary::new("the header", std::str::from_utf8(bytes).unwrap());

    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    let keys = read_keys(&place.kms, &place.names(), &|_, _| ()).await.unwrap();
    draft.add_keys(&keys, &recipients(0), &identities(0)).unwrap();
    let copy = header("a", UUID, bytes);
    let of_headers = recipients(1);
    let mut headers = draft.add_headers(&of_headers, Sharing::Separate).unwrap();
    headers.add(&copy, Some(0)).unwrap();
    let mut shown = format!("{headers:?}{copy:?}{keys:?}{:?}{of_headers:?}", identities(0));
    headers.finish(&Identities::default()).await.unwrap();
    shown += &format!("{draft:?}");
    draft.commit().unwrap();
    let escrow = Escrow::open(place.escrow()).unwrap();
    let wrong = escrow.keks(&identities(1)).unwrap_err();
    shown += &format!("{escrow:?}{wrong:?}{:?}", escrow.keks(&identities(0)).unwrap());
    shown += &recording.text();
    for entry in fs::read_dir(place.escrow()).unwrap() {
        shown += &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap());
    }
    for canary in canaries.iter().chain([&in_header]) {
        assert_eq!(canary.found_in(&shown), None);
    }
    // The name of a key is in no file that is not encrypted.
    let sidecar = fs::read_to_string(place.escrow().join("escrow.json")).unwrap();
    assert!(!sidecar.contains("\"a\"") && !sidecar.contains("keks/"), "{sidecar}");
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 1, "nothing is left beside the escrow");
}

#[tokio::test]
async fn an_escrow_of_a_part_is_not_written() {
    let place = Place::with(&["a", "b", "c"]).await;
    let kms = Arc::new(place.kms);
    let scripted = Scripted::around(kms.clone());
    scripted.push(Operation::List, InjectedFault::error(ErrorKind::Incomplete).after_items(2));
    assert_eq!(all_names(&scripted).await.unwrap_err().kind(), ErrorKind::Incomplete);

    let names = all_names(&*kms).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("escrow");
    scripted.push(Operation::Get, InjectedFault::error(ErrorKind::PermissionDenied));
    let error = save(&scripted, &names, &recipients(0), &target, about()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = save(&*kms, &[], &recipients(0), &target, about()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn identities_that_do_not_decrypt_what_they_should_are_seen_before_the_escrow_exists() {
    let place = Place::with(&["a"]).await;
    let keys = read_keys(&place.kms, &place.names(), &|_, _| ()).await.unwrap();
    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    let error = draft.add_keys(&keys, &recipients(0), &identities(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(draft.commit().is_err() && !place.escrow().exists());
}

#[tokio::test]
async fn keks_and_headers_have_no_recipient_in_common_unless_that_is_accepted() {
    let place = Place::with(&["a"]).await;
    let keys = read_keys(&place.kms, &place.names(), &|_, _| ()).await.unwrap();
    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    draft.add_keys(&keys, &recipients(0), &Identities::default()).unwrap();
    let both = Recipients::parse(&format!("{}\n{}", pair(1).1, pair(0).1)).unwrap();
    let error = draft.add_headers(&both, Sharing::Separate).unwrap_err();
    assert!(error.to_string().contains("--together") && error.to_string().contains(&pair(0).1), "{error}");
    assert!(draft.add_headers(&recipients(1), Sharing::Separate).is_ok());
    drop(draft);

    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    draft.add_keys(&keys, &recipients(0), &Identities::default()).unwrap();
    draft.add_headers(&both, Sharing::Together).unwrap().finish(&identities(1)).await.unwrap();
    assert_eq!(draft.commit().unwrap().headers.unwrap().recipients.len(), 2);
}

#[tokio::test]
async fn headers_come_back_one_after_another_and_a_uuid_is_there_once() {
    let place = Place::with(&["a", "b"]).await;
    let keys = read_keys(&place.kms, &place.names(), &|_, _| ()).await.unwrap();
    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    draft.add_keys(&keys, &recipients(0), &Identities::default()).unwrap();
    let of_headers = recipients(1);
    let mut headers = draft.add_headers(&of_headers, Sharing::Separate).unwrap();
    let copies = [header("a", UUID, b"1"), header("b", UUID, &[7; 200_000])];
    for (copy, opened) in copies.iter().zip([Some(0), None]) {
        headers.add(copy, opened).unwrap();
    }
    let twice = headers.add(&header("a", UUID, b"3"), None).unwrap_err();
    assert!(twice.to_string().contains("same LUKS UUID"), "{twice}");
    headers.finish(&identities(1)).await.unwrap();
    draft.commit().unwrap();

    let mut seen = Vec::new();
    let escrow = Escrow::open(place.escrow()).unwrap();
    let identities = identities(1);
    let entries = escrow.headers(&identities, async |name, uuid, bytes| {
        seen.push((name.to_string(), uuid.to_owned(), bytes.to_vec()));
        Ok(())
    });
    let entries = entries.await.unwrap();
    let expected = copies.map(|copy| (copy.name.to_string(), copy.uuid, copy.bytes));
    assert_eq!(seen, expected);
    assert_eq!([entries[0].opened, entries[1].opened], [Some(0), None]);
}

#[tokio::test]
async fn damage_is_seen_with_and_without_an_identity() {
    let place = Place::with(&["a"]).await;
    save(&place.kms, &place.names(), &recipients(0), &place.escrow(), about()).await.unwrap();
    let path = place.escrow().join("keks.tar.age");
    let good = fs::read(&path).unwrap();
    let escrow = Escrow::open(place.escrow()).unwrap();
    let last = good.len() - 1;
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [Damage<'_>; 4] =
        [&|bytes| bytes[last] ^= 1, &|bytes| bytes.truncate(last), &|bytes| bytes.push(0), &|bytes| {
            bytes.clear()
        }];
    for damage in damages {
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        for error in [escrow.check_files().unwrap_err(), escrow.keks(&identities(0)).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
            assert!(error.to_string().contains("keks.tar.age"), "{error}");
        }
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(escrow.check_files().unwrap_err().kind(), ErrorKind::ConfigInvalid);

    // The archive of another escrow, with a document that fits it but for the id.
    let other = Place::with(&["a"]).await;
    save(&other.kms, &other.names(), &recipients(0), &other.escrow(), about()).await.unwrap();
    fs::copy(other.escrow().join("keks.tar.age"), &path).unwrap();
    let error = escrow.keks(&identities(0)).unwrap_err();
    assert!(error.to_string().contains("belongs to another escrow"), "{error}");
    let error = Escrow::open(place.root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
}

#[tokio::test]
async fn the_keks_for_a_device_are_those_of_its_name_and_then_all_others() {
    let place = Place::with(&["a", "b"]).await;
    save(&place.kms, &place.names(), &recipients(0), &place.escrow(), about()).await.unwrap();
    let later = place.root().join("later");
    place.kms.put(&name("b"), &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
    save(&place.kms, &place.names(), &recipients(0), &later, about()).await.unwrap();
    let found = keks_of(&name("b"), &[place.escrow(), later.clone()], &identities(0)).unwrap();
    let found: Vec<_> =
        found.iter().map(|(folder, key)| (folder.clone(), key.entry().name.as_str())).collect();
    let old = place.escrow();
    assert_eq!(found, [(old.clone(), "b"), (later.clone(), "b"), (old, "a"), (later, "a")]);
}

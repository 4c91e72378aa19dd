//! KEKs on their way back to the KMS.

use std::sync::Arc;

use kms_core::{ErrorKind, Freshness, Kek, KmsProvider, PutMode, memory::Memory};
use kms_escrow::{Escrow, Restored, restore, save};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

use crate::place::{Place, about, identities, recipients};

#[tokio::test]
async fn a_kek_comes_back_where_there_is_none_and_replaces_another_only_on_request() {
    let place = Place::with(&["a"]).await;
    let (name, kek) = &place.keks[0];
    save(&place.kms, &place.names(), &recipients(0), &place.escrow(), about()).await.unwrap();
    let keys = Escrow::open(place.escrow()).unwrap().keks(&identities(0)).unwrap();
    let empty = Memory::new();
    let same = async |kms: &Memory| kms.get(name, Freshness::Fresh).await.unwrap().kek.ct_eq(kek);
    for expected in ["created", "unchanged"] {
        let restored = restore(&empty, &keys[0], false).await.unwrap();
        assert_eq!((restored.as_str(), restored.version().as_str()), (expected, "1"));
        assert!(same(&empty).await);
    }
    empty.put(name, &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
    let refused = restore(&empty, &keys[0], false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert!(!same(&empty).await && refused.to_string().contains("--replace"), "{refused}");
    assert!(matches!(restore(&empty, &keys[0], true).await.unwrap(), Restored::Replaced(_)));
    assert!(same(&empty).await);
}

#[tokio::test]
async fn a_kek_that_another_writer_stores_meanwhile_stays() {
    let place = Place::with(&["a"]).await;
    let name = &place.keks[0].0;
    save(&place.kms, &place.names(), &recipients(0), &place.escrow(), about()).await.unwrap();
    let keys = Escrow::open(place.escrow()).unwrap().keks(&identities(0)).unwrap();
    let (first, second) = (Kek::generate().unwrap(), Kek::generate().unwrap());
    let kms = Arc::new(Memory::new());
    kms.put(name, &first, PutMode::Create).await.unwrap();
    let scripted = Scripted::around(kms.clone());
    // The create meets the first KEK; the second one comes during the update.
    scripted.push(Operation::Put, InjectedFault::pass());
    scripted.push(Operation::Put, InjectedFault::pass().overtaken_by(second.duplicate()));
    let error = restore(&scripted, &keys[0], true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(kms.get(name, Freshness::Fresh).await.unwrap().kek.ct_eq(&second));
}

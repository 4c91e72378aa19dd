//! What a drill finds, with headers whose text is the KEK that opens them.

use async_trait::async_trait;
use kms_core::{DeleteMode, Error, ErrorKind, Kek, KmsProvider, PutMode, Result};
use kms_escrow::{
    Draft, Drill, DrillRecord, Escrow, HeaderTest, Identities, KeyReport, Overwrite, Sharing, read_keys,
};

use crate::place::{Place, about, header, identities, name, recipients};

const UUIDS: [&str; 3] = [
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000002",
    "00000000-0000-4000-8000-000000000003",
];

/// Takes the bytes of a header for the KEK of its slot 0.
struct Bytes;

#[async_trait]
impl HeaderTest for Bytes {
    async fn opened(&self, header: &[u8], kek: &Kek) -> Result<Option<u8>> {
        if header.is_empty() {
            return Err(Error::new(ErrorKind::Protocol, "no header"));
        }
        Ok((header == kek.expose_secret_bytes()).then_some(0))
    }
}

/// An escrow of the keys `a`, `b`, `c`, with a header of `a` that opens, one of `b` that does not, and one that is empty.
async fn drill(place: &Place) -> Drill {
    let keys = read_keys(&place.kms, &place.names(), &|_, _| ()).await.unwrap();
    let mut draft = Draft::begin(&place.escrow(), about(), Overwrite::Never).unwrap();
    draft.add_keys(&keys, &recipients(0), &Identities::default()).unwrap();
    let of_headers = recipients(1);
    let mut headers = draft.add_headers(&of_headers, Sharing::Separate).unwrap();
    let good = place.keks[0].1.expose_secret_bytes();
    for (name, uuid, bytes) in [("a", UUIDS[0], good), ("b", UUIDS[1], b"x"), ("b", UUIDS[2], b"")] {
        headers.add(&header(name, uuid, bytes), None).unwrap();
    }
    headers.finish(&Identities::default()).await.unwrap();
    draft.commit().unwrap();
    let mut both = identities(0);
    both.extend(identities(1));
    let mut drill = Drill::begin(Escrow::open(place.escrow()).unwrap(), &both).unwrap();
    assert!(drill.is_ok());
    drill.try_headers(&both, &Bytes, &|_, _| ()).await.unwrap();
    drill
}

fn states(drill: &Drill) -> Vec<(String, &'static str, usize)> {
    let row = |report: &KeyReport| (report.name.to_string(), report.kek.as_str(), report.problems().len());
    drill.reports().map(row).collect()
}

fn row(name: &str, state: &'static str, problems: usize) -> (String, &'static str, usize) {
    (name.to_owned(), state, problems)
}

#[tokio::test]
async fn a_drill_finds_what_would_not_come_back() {
    let place = Place::with(&["a", "b", "c"]).await;
    let mut drill = drill(&place).await;
    assert_eq!(
        states(&drill),
        [row("a", "not-compared", 0), row("b", "not-compared", 2), row("c", "not-compared", 0)]
    );
    // One is rotated, one is deleted, and one is new since then.
    place.kms.put(&name("a"), &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
    place.kms.delete(&name("c"), DeleteMode::Destroy).await.unwrap();
    place.kms.put(&name("d"), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
    drill.compare(&place.kms, &|_, _| ()).await.unwrap();
    assert_eq!(
        states(&drill),
        [row("a", "other", 1), row("b", "current", 2), row("c", "absent", 0), row("d", "missing", 1)]
    );
    assert!(!drill.is_ok());
    let record = drill.record().unwrap();
    assert!(!record.ok);
    let escrow = Escrow::open(place.escrow()).unwrap();
    let read = DrillRecord::read(escrow.folder(), escrow.sidecar()).unwrap().unwrap();
    assert_eq!((read.id, read.drilled, read.ok), (record.id, record.drilled, false));
}

#[tokio::test]
async fn a_device_is_tried_and_its_header_compared() {
    let place = Place::with(&["a", "b", "c"]).await;
    let mut drill = drill(&place).await;
    let [a, b, c] = [0, 1, 2].map(|at| place.keks[at].1.expose_secret_bytes());
    // The same header; one that was changed and opens; one that the escrow lacks; and one of a key that it lacks.
    for (name, uuid, bytes) in
        [("a", UUIDS[0], a), ("b", UUIDS[1], b), ("c", UUIDS[0], c), ("z", UUIDS[0], a)]
    {
        drill.try_device(&header(name, uuid, bytes), &Bytes).await;
    }
    let devices = drill.reports().flat_map(|report| &report.devices);
    let found: Vec<_> =
        devices.map(|device| (device.header.as_str(), device.opened.clone().unwrap().is_some())).collect();
    assert_eq!(found, [("same", true), ("changed", true), ("not-saved", true), ("not-saved", false)]);
    assert_eq!(states(&drill)[3], row("z", "missing", 2));
}

//! The cases about responses that say nothing, on providers that take them for something.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kms_conformance::{Cut, Interference, ListCuts, Misled, Options, Report, Subject};
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, memory::Memory,
    provider::Deleted,
};

/// How a provider reads a response that says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    /// It is an error.
    Malformed,
    /// There is no key.
    Absent,
    /// There are no keys in a list.
    NoKeys,
    /// A delete has succeeded.
    Deleted,
    /// A setting is wrong.
    Misconfigured,
}

/// A client of a store without conditional writes, and the switch in front of the store.
#[derive(Debug)]
struct Client {
    store: Arc<Memory>,
    reading: Reading,
    misled: Arc<Switch>,
    cutter: Arc<Cutter>,
}

#[derive(Debug, Default)]
struct Switch(Mutex<Option<Misled>>);

/// Cuts lists after their fifth key.
#[derive(Debug, Default)]
struct Cutter(AtomicBool);

impl ListCuts for Cutter {
    fn ways(&self) -> Vec<(&'static str, Cut)> {
        vec![("five keys", Cut::Detected)]
    }

    fn begin(&self, _: usize) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Switch {
    fn reads(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    fn writes(&self) -> bool {
        *self.0.lock().unwrap() == Some(Misled::Everything)
    }
}

impl Interference for Switch {
    fn habits(&self) -> Vec<&'static str> {
        vec!["an empty response"]
    }

    fn begin(&self, _: usize, misled: Misled) {
        *self.0.lock().unwrap() = Some(misled);
    }

    fn end(&self) {
        *self.0.lock().unwrap() = None;
    }
}

impl Client {
    fn malformed(&self) -> Error {
        let kind = match self.reading {
            Reading::Misconfigured => ErrorKind::ConfigInvalid,
            _ => ErrorKind::Protocol,
        };
        Error::new(kind, "the response says nothing")
    }
}

#[async_trait]
impl KmsProvider for Client {
    fn provider(&self) -> &'static str {
        "client"
    }

    fn capability(&self) -> Capability {
        Capability::full().with_create(Guarantee::CheckThenAct).with_update(Guarantee::CheckThenAct)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        match &mode {
            PutMode::Overwrite => {}
            // Without an undisturbed read, the store compares nothing.
            _ if !self.misled.reads() => return self.store.put(name, kek, mode).await,
            PutMode::Create => match self.get(name, Freshness::Fresh).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(Error::already_exists(name, kms_core::Existing::Unknown)),
            },
            PutMode::Update(_) => drop(self.get(name, Freshness::Fresh).await?),
        }
        if self.misled.writes() {
            return Err(self.malformed());
        }
        self.store.put(name, kek, PutMode::Overwrite).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        match self.reading {
            _ if !self.misled.reads() => self.store.get(name, freshness).await,
            Reading::Absent => Err(Error::key_not_found(name)),
            _ => Err(self.malformed()),
        }
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        match self.reading {
            _ if !self.misled.writes() => self.store.delete(name, mode).await,
            Reading::Deleted => Ok(Deleted::Destroyed),
            _ => Err(self.malformed()),
        }
    }

    fn list(&self) -> KeyStream<'_> {
        let cut = Error::new(ErrorKind::Incomplete, "five keys are all that the server sends");
        match self.reading {
            Reading::NoKeys if self.cutter.0.load(Ordering::Relaxed) => self.store.list().take(5).boxed(),
            _ if self.cutter.0.load(Ordering::Relaxed) => {
                self.store.list().take(5).chain(stream::iter([Err(cut)])).boxed()
            }
            _ if !self.misled.reads() => self.store.list(),
            Reading::NoKeys => stream::empty().boxed(),
            _ => stream::iter([Err(self.malformed())]).boxed(),
        }
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        if self.misled.reads() {
            return Err(self.malformed());
        }
        self.store.retire_superseded(name, current).await
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        if self.misled.writes() {
            return Err(self.malformed());
        }
        self.store.undelete(name).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        if self.misled.reads() {
            return Err(self.malformed());
        }
        self.store.history(name, mode).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        self.store.may_update(names).await
    }

    async fn probe(&self, probe: &mut Probe) {
        self.store.probe(probe).await;
    }
}

async fn run(reading: Reading) -> Report {
    let (store, misled) = (Arc::new(Memory::new()), Arc::new(Switch::default()));
    let cutter = Arc::new(Cutter::default());
    let client = Client { store, reading, misled: Arc::clone(&misled), cutter: Arc::clone(&cutter) };
    let client: Arc<dyn KmsProvider> = Arc::new(client);
    let subject = Subject::new(Arc::clone(&client)).with_misled(client, misled).with_cuts(cutter);
    kms_conformance::run(&subject, &Options::default().with_rounds(1).with_racers(2)).await
}

const CUT: &str = "a_list_that_is_cut_is_never_shown_as_whole_and_hides_no_key_from_other_operations";
const READS: &str = "reads_that_say_nothing_are_no_absence_and_cause_no_write";
const EVERYTHING: &str = "a_server_that_says_nothing_is_a_protocol_error_in_every_operation";

#[tokio::test]
async fn each_kind_of_reading_too_much_is_noticed() {
    for (reading, failed) in [
        (Reading::Malformed, vec![]),
        (Reading::Absent, vec![READS, EVERYTHING]),
        (Reading::NoKeys, vec![CUT, READS, EVERYTHING]),
        (Reading::Deleted, vec![EVERYTHING]),
        (Reading::Misconfigured, vec![READS, EVERYTHING]),
    ] {
        let report = run(reading).await;
        assert_eq!(report.failed(), failed, "{reading:?}:\n{report}");
        for case in [CUT, READS, EVERYTHING] {
            assert!(!report.skipped().contains(&case), "{reading:?}:\n{report}");
        }
    }
}

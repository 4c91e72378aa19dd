//! Races of writers of one key, on a server whose identifiers are random and whose Register may take effect late.
//!
//! A race has exactly one winner, and the winner's KEK is what every later read returns.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows what it has measured"
)]

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use kms_core::{ErrorKind, Freshness, KmsProvider, PutMode, layer};
use kms_kmip::MemoryIndex;
use kms_testkit::{
    fake::kmip::{KmipDouble, Pace, Quirks},
    servers::sweeps,
};

use crate::common::{Setup, kek, key};

/// How many races share a server, one after the other.
const PER_SERVER: usize = 25;
/// How many servers run at the same time.
const LANES: usize = 6;

/// Races of one kind.
#[derive(Clone, Copy, Debug)]
struct Races {
    writers: usize,
    /// Whether the writers update a key, instead of creating it.
    update: bool,
    with_index: bool,
}

/// What went wrong in some races.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    no_winner: usize,
    several_winners: usize,
    /// A later read returned another KEK than the winner's.
    lost: usize,
}

impl Races {
    /// Runs some races on a server of their own.
    async fn lane(self, lane: usize, races: usize) -> Faults {
        let Self { writers, update, with_index } = self;
        let server = KmipDouble::start(Quirks {
            // A second of the server is 50 ms.
            clock: Pace::Times(20),
            uuids: lane.is_multiple_of(2),
            random_numbers: true,
            late_register: Duration::from_secs(1),
            ..Quirks::default()
        })
        .await
        .unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki());
        let setup = if with_index { setup.index(Arc::new(MemoryIndex::new())) } else { setup };
        let mut providers: Vec<Arc<dyn KmsProvider>> = Vec::new();
        for _ in 0..writers {
            let kmip = setup.build().await;
            let options = kmip.layer_options(layer::LayerOptions::default());
            providers.push(layer::standard(Arc::new(kmip), &options));
        }
        let mut faults = Faults::default();
        for race in 0..races {
            let name = key(&format!("race-{race}"));
            let mut mode = PutMode::Create;
            if update {
                mode = PutMode::Update(setup.build().await.put(&name, &kek(), mode).await.unwrap());
            }
            let keks: Vec<_> = providers.iter().map(|_| kek()).collect();
            let writes = providers.iter().zip(&keks).map(async |(provider, kek)| {
                let (provider, kek) = (Arc::clone(provider), kek.duplicate());
                let (name, mode) = (name.clone(), mode.clone());
                tokio::spawn(async move { provider.put(&name, &kek, mode).await }).await.unwrap()
            });
            let mut winners = Vec::new();
            for (written, kek) in join_all(writes).await.into_iter().zip(&keks) {
                match written {
                    Ok(_) => winners.push(kek),
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict),
                        "{self:?}: {error}"
                    ),
                }
            }
            match winners.as_slice() {
                [] => faults.no_winner += 1,
                [winner] => {
                    let reads = providers.iter().map(|provider| provider.get(&name, Freshness::Fresh));
                    let reads = join_all(reads).await;
                    let right = |read: &Result<_, _>| {
                        read.as_ref().is_ok_and(|stored: &kms_core::Stored| stored.kek.ct_eq(winner))
                    };
                    faults.lost += usize::from(!reads.iter().all(right));
                }
                _ => faults.several_winners += 1,
            }
        }
        faults
    }

    /// Runs so many races, and returns what went wrong in them.
    async fn run(self, races: usize) -> Faults {
        let lanes = (0..races.div_ceil(PER_SERVER)).map(|lane| {
            let races = PER_SERVER.min(races - lane * PER_SERVER);
            async move { tokio::spawn(self.lane(lane, races)).await.unwrap() }
        });
        let mut all = Faults::default();
        let mut lanes = stream::iter(lanes).buffer_unordered(LANES);
        while let Some(Faults { no_winner, several_winners, lost }) = lanes.next().await {
            all.no_winner += no_winner;
            all.several_winners += several_winners;
            all.lost += lost;
        }
        println!("{self:?}: {all:?} in {races} races");
        all
    }
}

/// Runs so many races of each kind.
async fn sweep(races: usize, with_index: bool, writers: &[usize]) {
    let mut wrong = Vec::new();
    for writers in writers {
        for update in [false, true] {
            let kind = Races { writers: *writers, update, with_index };
            let faults = kind.run(races).await;
            if faults != Faults::default() {
                wrong.push(format!("{kind:?}: {faults:?} in {races} races"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_on_a_server_with_random_identifiers_has_one_winner() {
    sweep(20, false, &[3]).await;
    sweep(20, true, &[3]).await;
}

/// How many races of each kind a live run takes: fifteen minutes' worth with `--sweep`.
fn count() -> usize {
    if sweeps() { 1000 } else { 30 }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: cargo xtask it kmip"]
async fn races_without_an_index_have_one_winner_each() {
    sweep(count(), false, &[2, 4, 8]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: cargo xtask it kmip"]
async fn races_with_an_index_have_one_winner_each() {
    sweep(count(), true, &[2, 4, 8]).await;
}

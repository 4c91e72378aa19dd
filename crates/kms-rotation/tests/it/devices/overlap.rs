//! Rook's rotation beside ours, at random moments. Each step of either takes a random time of a virtual clock, and the
//! calls of cryptsetup are real.
//!
//! `KMS_IT_OVERLAPS` is the number of overlaps, and `KMS_IT_OVERLAPS_SEED` the seed of the first one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kms_core::Kek;
use kms_rotation::{Options, Outcome, SlotStore};
use kms_testkit::{
    luks::Image,
    servers::{OVERLAPS, OVERLAPS_SEED, optional_setting},
};

use crate::{
    bench::{Bench, kek},
    scene::{OursBegins, Overlap, Ran, Start},
};

/// The overlaps of a run without settings.
const FEW: u64 = 12;

fn number(name: &str, default: u64) -> u64 {
    optional_setting(name).map_or(default, |value| value.to_str().unwrap().parse().unwrap())
}

/// Runs overlaps, prints a summary, and returns them.
async fn overlaps(title: &str, count: u64, overlap: impl Fn(u64) -> Overlap) -> Vec<Ran> {
    let (first, begin) = (number(OVERLAPS_SEED, 1), Instant::now());
    let mut all = Vec::new();
    let (mut ours, mut rooks) = (BTreeMap::<_, usize>::new(), BTreeMap::<_, usize>::new());
    for seed in first..first + count {
        let ran = overlap(seed).run().await;
        *ours.entry(ran.ours.clone()).or_default() += 1;
        *rooks.entry(ran.rook.clone()).or_default() += 1;
        all.push(ran);
    }
    let lost = all.iter().filter(|ran| ran.is_lost).count();
    let briefly = all.iter().filter(|ran| ran.was_lost && !ran.is_lost).count();
    println!(
        "{title}: {count} overlaps from seed {first}, {lost} lost, {briefly} lost for a moment, in {:.0} s\n  ours: \
         {ours:?}\n  Rook: {rooks:?}",
        begin.elapsed().as_secs_f64()
    );
    all
}

fn nothing_was_lost(all: &[Ran]) {
    for ran in all {
        assert!(!ran.was_lost, "{}", ran.schedule);
    }
}

/// Both begin at any moment, so that Rook may read the KEK that ours is about to replace.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_loss_in_a_random_overlap_is_one_where_both_had_read_the_kek_before_either_wrote() {
    let all = overlaps("any moment", number(OVERLAPS, FEW), |seed| {
        Overlap::new(seed, OursBegins::AtAnyMoment, Options::default())
    })
    .await;
    for ran in all.iter().filter(|ran| ran.was_lost) {
        println!("{}", ran.schedule);
        assert!(ran.both_had_read_first, "{}", ran.schedule);
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_run_that_begins_after_the_first_write_of_rook_loses_nothing() {
    let all = overlaps("after Rook's first write", number(OVERLAPS, FEW), |seed| {
        Overlap::new(seed, OursBegins::AfterRooksFirstWrite, Options::default())
    })
    .await;
    nothing_was_lost(&all);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_run_between_two_steps_of_rook_loses_nothing_whatever_its_options() {
    let count = number(OVERLAPS, 30).div_ceil(5);
    let shape = |change: fn(&mut Options)| {
        move |seed| {
            let mut options = Options::default();
            change(&mut options);
            Overlap::new(seed, OursBegins::BetweenTwoWritesOfRook, options)
        }
    };
    let mut all = overlaps("--finish", count, shape(|options| options.finish_only = true)).await;
    all.extend(overlaps("--no-wait", count, shape(|options| options.wait = false)).await);
    let at_once = shape(|options| options.grace = Duration::ZERO);
    all.extend(overlaps("--grace 0", count, at_once).await);
    nothing_was_lost(&all);
}

/// Runs a command of Rook's on slot 1, which leaves the KEK as it is (rook-behaviour §8.8).
fn by_rook(image: &Image, kek: &Kek, command: &str) {
    let file = image.key_file(kek);
    let key = format!("--key-file={file}");
    assert_eq!(image.cryptsetup(&["--verbose", &key, "--key-slot=1", command], &[&file]), 0, "{command}");
}

/// The engine takes a slot for one of Rook's by its key derivation. Here cryptsetup chooses it, as in a pod of Rook.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn what_rook_calls_leaves_a_key_derivation_that_is_not_ours() {
    let kek = kek();
    let bench = Bench::with(&kek, vec![Image::luks2(&kek)]).await;
    let device = bench.cryptsetup.devices([bench.images[0].path().to_owned()]).next().unwrap();
    let kdfs = async || -> Vec<(u8, bool)> {
        let table = SlotStore::table(&device).await.unwrap();
        table.slots().map(|slot| (slot.slot.number(), slot.may_be_anothers())).collect()
    };
    assert_eq!(kdfs().await, [(0, false)]);
    by_rook(&bench.images[0], &kek, "luksAddKey");
    assert_eq!(kdfs().await, [(0, false), (1, true)]);
    // Rook finds slot 1 full where ours has ended there, and changes the key to itself.
    bench.images[0].kill(&kek, 1);
    bench.images[0].add(&kek, 1, &kek);
    bench.images[0].kill(&kek, 0);
    assert_eq!(kdfs().await, [(1, false)]);
    by_rook(&bench.images[0], &kek, "luksChangeKey");
    assert_eq!(kdfs().await, [(1, true)]);

    // So a run that does not wait leaves the slots as they are.
    let mut options = Options::default();
    options.wait = false;
    let before = bench.bytes();
    let report = bench.rotate(&options).await.unwrap();
    assert_eq!(report.outcome, Outcome::Pending);
    assert!(bench.bytes() == before && report.devices[0].pending.is_none());
}

/// The starting points are what they claim to be.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn the_overlaps_start_from_the_slots_of_rook_and_of_ours() {
    for (start, slots) in [(Start::Rook, [0]), (Start::Formatted, [0]), (Start::Rotated, [1])] {
        let kek = kek();
        let image = start.image(&kek);
        assert!(image.slots() == slots && image.opens(&kek), "{start:?}");
    }
}

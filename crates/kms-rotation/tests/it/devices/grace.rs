//! The grace period, in which the old KEK still opens the devices.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use kms_core::{Kek, KeyName, KmsProvider, PutMode};
use kms_rotation::{Observer, Options, Osd, Outcome, Phase, Report, Step, rotate_all};
use kms_testkit::{fake::Operation, luks::Image};

use crate::bench::{Bench, Kept, Leap, at_once, kek, name, tomorrow};

/// Options with a grace period of ten minutes, whose end the run does not wait for.
fn later() -> Options {
    let mut options = Options::default();
    options.wait = false;
    options
}

/// Options with a grace period that passes during a test.
fn short() -> Options {
    let mut options = Options::default();
    options.grace = Duration::from_millis(300);
    options
}

/// Checks the images while the run waits for the end of the grace period.
struct Look<'a> {
    images: &'a [Image],
    old: &'a Kek,
    seen: Mutex<Vec<Duration>>,
    /// The change that another process makes meanwhile.
    meanwhile: &'a (dyn Fn() + Sync),
}

impl Observer for Look<'_> {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {}

    fn waiting(&self, _: &KeyName, left: Duration) {
        // An OSD that has fetched the old KEK before starts now.
        assert!(self.images.iter().all(|image| image.opens(self.old)), "the old KEK is still valid");
        self.seen.lock().unwrap().push(left);
        (self.meanwhile)();
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn an_osd_that_has_fetched_the_old_kek_starts_during_the_grace() {
    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    let look = Look { images: &bench.images, old: &old, seen: Mutex::default(), meanwhile: &|| {} };
    let report = bench.observed(&short(), &look).await.unwrap();
    assert_eq!(report.outcome, Outcome::Rotated);
    assert_eq!(look.seen.lock().unwrap().len(), 1, "it was waited once");
    bench.converged("after").await;
    assert!(bench.images.iter().all(|image| !image.opens(&old)));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn without_waiting_the_old_slots_stay_until_a_later_run_finishes() {
    let bench = Bench::cheap(2).await;
    let kept = Arc::new(Kept::default());
    let old = bench.current().await;
    let report = bench.rotate(&later().with_sights(kept.clone())).await.unwrap();
    assert_eq!(report.outcome, Outcome::Pending);
    assert_eq!(report.devices[0].pending.map(|slot| slot.number()), Some(0));
    let new = bench.holds("pending").await;
    assert!(!new.ct_eq(&old) && bench.images.iter().all(|image| image.opens(&old)));

    // Too early: the run removes nothing, and begins no other rotation.
    let mut finish = later();
    finish.finish_only = true;
    kept.pass(599);
    for options in [later(), finish.clone(), finish.clone().with_clock(tomorrow)] {
        let report = bench.rotate(&options.with_sights(kept.clone())).await.unwrap();
        assert_eq!(report.outcome, Outcome::Pending);
        assert!(bench.holds("still pending").await.ct_eq(&new));
        assert!(bench.images.iter().all(|image| image.opens(&old)));
    }
    kept.pass(1);
    let finish = finish.with_sights(kept);
    let report = bench.rotate(&finish).await.unwrap();
    assert_eq!(report.outcome, Outcome::Finished);
    assert_eq!(report.devices[1].removed.iter().map(|slot| slot.number()).collect::<Vec<_>>(), [0]);
    assert!(bench.converged("finished").await.ct_eq(&new), "no new KEK");
    let report = bench.rotate(&finish).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToFinish);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_run_after_the_grace_removes_the_old_slots_and_rotates() {
    let bench = Bench::cheap(1).await;
    let kept = Arc::new(Kept::default());
    let later = later().with_sights(kept.clone());
    bench.rotate(&later).await.unwrap();
    let second = bench.current().await;
    kept.pass(600);
    let report = bench.rotate(&later).await.unwrap();
    assert_eq!(report.outcome, Outcome::Pending);
    let third = bench.holds("after").await;
    assert!(!third.ct_eq(&second));
    assert_eq!(bench.images[0].slots(), [0, 1]);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_run_that_waits_finishes_a_young_rotation_and_makes_no_second_one() {
    let bench = Bench::cheap(2).await;
    let old = bench.current().await;
    bench.rotate(&later()).await.unwrap();
    let new = bench.current().await;
    let look = Look { images: &bench.images, old: &old, seen: Mutex::default(), meanwhile: &|| {} };
    // The clock stands still, so no time passes, however slow this machine is.
    let options = short().with_clock(|| SystemTime::UNIX_EPOCH).with_timer(Arc::new(Leap::default()));
    let report = bench.observed(&options, &look).await.unwrap();
    assert_eq!(report.outcome, Outcome::Finished);
    assert!(bench.converged("after").await.ct_eq(&new));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_wrong_clock_neither_shortens_nor_lengthens_the_wait_for_a_leftover() {
    for clock in [tomorrow, || SystemTime::UNIX_EPOCH] {
        let bench = Bench::cheap(1).await;
        let kept = Arc::new(Kept::default());
        let later = later().with_sights(kept.clone()).with_clock(clock);
        bench.rotate(&later).await.unwrap();
        kept.pass(599);
        let report = bench.rotate(&later).await.unwrap();
        assert_eq!(report.outcome, Outcome::Pending);
        assert!(report.devices[0].removed.is_empty(), "{report:?}");
        kept.pass(1);
        let report = bench.rotate(&later).await.unwrap();
        assert_eq!(report.devices[0].removed.len(), 1, "{report:?}");
        bench.holds("after").await;
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_copy_of_the_kek_in_the_other_slot_is_removed_when_it_has_stayed_for_a_while() {
    let bench = Bench::cheap(1).await;
    let old = bench.current().await;
    // Rook's first step. In the next one Rook relies on this copy.
    bench.images[0].add(&old, 1, &old);
    let report = bench.rotate(&later()).await.unwrap();
    assert_eq!((report.outcome, bench.images[0].slots()), (Outcome::Pending, vec![0, 1]));
    assert!(bench.holds("after").await.ct_eq(&old));
    let report = bench.rotate(&at_once()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Rotated, "Rook was not at work");
    assert!(!bench.converged("after").await.ct_eq(&old));
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn another_kek_that_comes_during_the_grace_is_respected() {
    let bench = Bench::cheap(1).await;
    let old = bench.current().await;
    let theirs = kek();
    let image = &bench.images[0];
    image.add(&old, 5, &theirs);
    let kms = bench.kms.inner().clone();
    let meanwhile = || {
        let stored = futures_util::FutureExt::now_or_never(kms.put(&name(), &theirs, PutMode::Overwrite));
        stored.unwrap().unwrap();
    };
    let look = Look { images: &bench.images, old: &old, seen: Mutex::default(), meanwhile: &meanwhile };
    let report = bench.observed(&short(), &look).await.unwrap();
    assert_eq!(report.outcome, Outcome::Superseded);
    assert_eq!(image.slots(), [0, 1, 5], "nothing was removed");
    bench.holds("after").await;
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_slot_that_another_process_replaces_during_the_grace_is_kept() {
    let bench = Bench::cheap(1).await;
    let old = bench.current().await;
    let theirs = kek();
    let image = &bench.images[0];
    image.add(&old, 5, &old);
    // Like Rook's rotation, this writes slot 0 anew.
    let meanwhile = || {
        image.kill(&old, 0);
        image.add(&old, 0, &theirs);
    };
    let look = Look { images: &bench.images, old: &old, seen: Mutex::default(), meanwhile: &meanwhile };
    let report = bench.observed(&short(), &look).await.unwrap();
    assert!(image.opens_slot(0, &theirs), "{report:?}");
    assert!(
        report.warnings.iter().any(|warning| warning.contains("another program has written")),
        "{report:?}"
    );
    bench.holds("after").await;
}

/// Many OSDs in one KMS.
async fn fleet(count: usize) -> (Bench, Vec<(KeyName, Image)>, tempfile::TempDir) {
    let kek = kek();
    let template = Image::luks2(&kek);
    let bench = Bench::with(&kek, Vec::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut osds = Vec::new();
    for number in 0..count {
        let name: KeyName = format!("osd-{number}").parse().unwrap();
        bench.kms.inner().put(&name, &kek, PutMode::Create).await.unwrap();
        let place = folder.path().join(name.as_str());
        std::fs::create_dir(&place).unwrap();
        osds.push((name, template.copy(place.join("image"))));
    }
    (bench, osds, folder)
}

async fn all(
    bench: &Bench,
    osds: &[(KeyName, Image)],
    options: &Options,
) -> Vec<(KeyName, Result<Report, String>)> {
    let list = osds
        .iter()
        .map(|(name, image)| {
            Osd::new(name.clone(), bench.cryptsetup.devices([image.path().to_owned()])).unwrap()
        })
        .collect();
    let mut ended = Vec::new();
    rotate_all(
        &*bench.kms,
        list,
        options,
        NonZeroUsize::new(3).unwrap(),
        &kms_rotation::Silent,
        async |name, result| ended.push((name.clone(), result.map_err(|error| error.to_string()))),
    )
    .await
    .unwrap();
    ended
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn of_many_osds_one_that_fails_stops_no_other_and_the_rights_are_asked_once() {
    let (bench, osds, _folder) = fleet(8).await;
    std::fs::write(osds[3].1.path(), "no device").unwrap();
    let ended = all(&bench, &osds, &at_once()).await;
    assert_eq!(ended.len(), 8);
    for (name, result) in &ended {
        match result {
            Ok(report) => assert_eq!(report.outcome, Outcome::Rotated, "{name}"),
            Err(error) => assert!(name.as_str() == "osd-3" && error.contains("osd-3"), "{name}: {error}"),
        }
    }
    assert_eq!(bench.kms.count(Operation::Rights), 1);
    for (name, image) in osds.iter().filter(|(name, _)| name.as_str() != "osd-3") {
        let current = bench.kms.inner().get(name, Default::default()).await.unwrap().kek;
        assert!(image.opens(&current) && image.slots().len() == 1, "{name}");
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn many_osds_wait_for_the_end_of_the_grace_together() {
    let (bench, osds, _folder) = fleet(6).await;
    let mut options = short();
    options.grace = Duration::from_secs(2);
    let begin = std::time::Instant::now();
    let ended = all(&bench, &osds, &options).await;
    // Pauses one after another, three OSDs at a time, would take at least two grace periods, each after all the work.
    assert!(begin.elapsed() >= options.grace);
    assert!(
        ended.iter().all(|(_, result)| result.as_ref().unwrap().outcome == Outcome::Rotated),
        "{ended:?}"
    );
    for (name, image) in &osds {
        let current = bench.kms.inner().get(name, Default::default()).await.unwrap().kek;
        assert!(image.opens(&current) && image.slots() == [1], "{name}");
    }
}

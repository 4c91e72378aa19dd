//! Every transition of the state machine, on devices in memory: the diagram in the README, edge by edge.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kms_core::{
    Error, ErrorKind, Freshness, Kek, KeyName, KmsProvider, PutMode, Result, Retry, memory::Memory,
};
use kms_rotation::{Observer, Options, Osd, Outcome, Phase, Report, Silent, Step, rotate};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

use crate::{
    bench::{at_once, kek, name, tomorrow},
    memory::{Access, Device, Gate, Keyslot, Open, Verdict},
};

/// An OSD on devices in memory.
struct Bench {
    kms: Arc<Scripted>,
    devices: Vec<Device>,
}

impl Bench {
    async fn new(devices: usize) -> Self {
        let first = kek();
        let memory = Memory::new();
        memory.put(&name(), &first, PutMode::Create).await.unwrap();
        let devices = (0..devices).map(|number| Device::formatted(number, &first)).collect();
        Self { kms: Arc::new(Scripted::around(Arc::new(memory))), devices }
    }

    async fn rotate(&self, options: &Options) -> Result<Report> {
        self.observed(options, &Silent, Arc::new(Open)).await
    }

    async fn observed(
        &self,
        options: &Options,
        observer: &dyn Observer,
        gate: Arc<dyn Gate>,
    ) -> Result<Report> {
        let devices = self.devices.iter().map(|device| device.used_by("run", gate.clone()));
        rotate(&*self.kms, &Osd::new(name(), devices).unwrap(), options, observer).await
    }

    async fn current(&self) -> Kek {
        self.kms.inner().get(&name(), Freshness::Fresh).await.unwrap().kek
    }

    fn slots(&self) -> Vec<Vec<u8>> {
        self.devices.iter().map(|device| device.disk().slots.keys().copied().collect()).collect()
    }

    /// Checks that the KEK which the KMS returns opens every device.
    async fn holds(&self) {
        let current = self.current().await;
        assert!(self.devices.iter().all(|device| device.disk().opens(current.expose_secret())));
    }

    /// Another program writes a slot.
    fn insert(&self, slot: u8, kek: &Kek) {
        for device in &self.devices {
            let (kek, salt) = (kek.expose_secret().to_owned(), format!("another program's {slot}"));
            device.disk().slots.insert(slot, Keyslot { kek, salt, bound: true, ignored: false });
        }
    }
}

fn later() -> Options {
    let mut options = Options::default();
    options.wait = false;
    options
}

fn finish() -> Options {
    let mut options = later();
    options.finish_only = true;
    options
}

/// Acts once, at the first pause or before a step.
struct Act<'a> {
    before: Option<Step>,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl<'a> Act<'a> {
    fn at_the_pause(act: impl FnOnce() + Send + 'a) -> Self {
        Self { before: None, act: Mutex::new(Some(Box::new(act))) }
    }

    fn before(step: Step, act: impl FnOnce() + Send + 'a) -> Self {
        Self { before: Some(step), ..Self::at_the_pause(act) }
    }

    fn now(&self) {
        if let Some(act) = self.act.lock().unwrap().take() {
            act();
        }
    }
}

impl Observer for Act<'_> {
    fn step(&self, _: &KeyName, step: &Step, phase: Phase) {
        if phase == Phase::Before && self.before.as_ref() == Some(step) {
            self.now();
        }
    }

    fn waiting(&self, _: &KeyName, _: Duration) {
        if self.before.is_none() {
            self.now();
        }
    }
}

/// Fails one access.
struct Failing(Mutex<Option<(Access, Verdict)>>);

#[async_trait]
impl Gate for Failing {
    async fn access(&self, _: usize, access: Access) -> Verdict {
        let mut failing = self.0.lock().unwrap();
        match failing.take() {
            Some((at, verdict)) if at == access => verdict,
            other => {
                *failing = other;
                Verdict::Pass
            }
        }
    }
}

fn stores(kms: &Arc<dyn KmsProvider>, kek: &Kek) {
    let stored = futures_util::FutureExt::now_or_never(kms.put(&name(), kek, PutMode::Overwrite));
    stored.unwrap().unwrap();
}

#[tokio::test]
async fn clean_permitted_added_stored_switched_ended() {
    for devices in 1..=3 {
        let bench = Bench::new(devices).await;
        let old = bench.current().await;
        assert_eq!(bench.rotate(&at_once()).await.unwrap().outcome, Outcome::Rotated);
        assert!(!bench.current().await.ct_eq(&old));
        assert_eq!(bench.slots(), vec![vec![1]; devices]);
        bench.holds().await;
    }
}

#[tokio::test]
async fn a_rehearsal_ends_without_a_write() {
    let bench = Bench::new(2).await;
    let mut options = at_once();
    options.dry_run = true;
    assert_eq!(bench.rotate(&options).await.unwrap().outcome, Outcome::DryRun);
    assert_eq!((bench.slots(), bench.kms.count(Operation::Put)), (vec![vec![0]; 2], 0));
}

#[tokio::test(start_paused = true)]
async fn grace_expired_ended() {
    let bench = Bench::new(2).await;
    let old = bench.current().await;
    let begin = tokio::time::Instant::now();
    let both = Act::at_the_pause(|| {
        assert!(bench.devices.iter().all(|device| device.disk().opens(old.expose_secret())));
    });
    let report = bench.observed(&Options::default(), &both, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, begin.elapsed().as_secs()), (Outcome::Rotated, 600));
    assert_eq!(bench.slots(), vec![vec![1]; 2]);
    bench.holds().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_period_another_kek_or_another_slot_is_left_alone() {
    let bench = Bench::new(1).await;
    let theirs = kek();
    let stored = Act::at_the_pause(|| {
        bench.insert(5, &theirs);
        stores(bench.kms.inner(), &theirs);
    });
    let report = bench.observed(&Options::default(), &stored, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Superseded, vec![vec![0, 1, 5]]));
    bench.holds().await;

    let bench = Bench::new(1).await;
    let written = Act::at_the_pause(|| bench.insert(0, &theirs));
    let report = bench.observed(&Options::default(), &written, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Rotated, vec![vec![0, 1]]));
    assert!(report.warnings[0].contains("has become another one"), "{:?}", report.warnings);
    bench.holds().await;
}

#[tokio::test]
async fn without_a_wait_young_and_switched_end_and_obsolete_is_cleaned() {
    let bench = Bench::new(2).await;
    assert_eq!(bench.rotate(&later()).await.unwrap().outcome, Outcome::Pending, "switched");
    assert_eq!(bench.rotate(&later()).await.unwrap().outcome, Outcome::Pending, "young");
    assert_eq!(bench.slots(), vec![vec![0, 1]; 2]);
    let finished = bench.rotate(&finish().with_clock(tomorrow)).await.unwrap();
    assert_eq!((finished.outcome, bench.slots()), (Outcome::Finished, vec![vec![1]; 2]));
    assert_eq!(bench.rotate(&finish()).await.unwrap().outcome, Outcome::NothingToFinish);
    bench.rotate(&later()).await.unwrap();
    let report = bench.rotate(&at_once()).await.unwrap();
    assert_eq!(
        (report.outcome, bench.slots()),
        (Outcome::Rotated, vec![vec![1]; 2]),
        "obsolete, and rotated"
    );
    bench.holds().await;
}

#[tokio::test]
async fn a_copy_of_a_young_kek_is_cleaned() {
    let bench = Bench::new(1).await;
    bench.insert(1, &bench.current().await);
    assert_eq!(bench.rotate(&finish()).await.unwrap().outcome, Outcome::Finished);
    assert_eq!(bench.slots(), [[0]]);
}

#[tokio::test(start_paused = true)]
async fn young_grown_outlived_ended() {
    let bench = Bench::new(2).await;
    bench.rotate(&later()).await.unwrap();
    let young = Options::default().with_clock(|| SystemTime::UNIX_EPOCH);
    assert_eq!(bench.rotate(&young).await.unwrap().outcome, Outcome::Finished);
    assert_eq!(bench.slots(), vec![vec![1]; 2]);
    bench.holds().await;

    // The leftovers go while the run waits.
    bench.rotate(&later()).await.unwrap();
    let gone = Act::at_the_pause(|| {
        bench.devices.iter().for_each(|device| drop(device.disk().slots.remove(&1)));
    });
    let report = bench.observed(&young, &gone, Arc::new(Open)).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToFinish);

    // Another KEK comes while the run waits.
    bench.rotate(&later()).await.unwrap();
    let theirs = kek();
    let stored = Act::at_the_pause(|| {
        bench.insert(6, &theirs);
        bench.devices.iter().for_each(|device| drop(device.disk().slots.remove(&0)));
        stores(bench.kms.inner(), &theirs);
    });
    let report = bench.observed(&young, &stored, Arc::new(Open)).await.unwrap();
    assert_eq!(report.outcome, Outcome::Superseded);
    bench.holds().await;
}

#[tokio::test]
async fn a_refused_write_is_undone() {
    let bench = Bench::new(2).await;
    for kind in [ErrorKind::Conflict, ErrorKind::PermissionDenied] {
        bench.kms.push(Operation::Put, InjectedFault::error(kind));
        let error = bench.rotate(&at_once()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("devices: as before"), "{error}");
        assert_eq!(bench.slots(), vec![vec![0]; 2]);
    }
}

#[tokio::test]
async fn unclear_is_settled_by_reading() {
    let lost = || InjectedFault::error(ErrorKind::Timeout).retry(Retry::IfIdempotent);
    let bench = Bench::new(2).await;
    bench.kms.push(Operation::Put, lost().applied());
    assert_eq!(bench.rotate(&at_once()).await.unwrap().outcome, Outcome::Rotated);

    let bench = Bench::new(2).await;
    bench.kms.push(Operation::Put, lost());
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert!(error.to_string().contains("devices: as before"), "{error}");
    assert_eq!(bench.slots(), vec![vec![0]; 2]);

    // The write arrives right before the fence.
    let bench = Bench::new(2).await;
    bench.kms.push(Operation::Put, lost().applied_before_call(2));
    assert_eq!(bench.rotate(&at_once()).await.unwrap().outcome, Outcome::Rotated);
    bench.holds().await;

    let bench = Bench::new(2).await;
    bench.kms.push(Operation::Put, lost());
    bench.kms.push(Operation::Get, InjectedFault::pass());
    bench.kms.push(Operation::Get, InjectedFault::error(ErrorKind::Unavailable));
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert!(error.to_string().contains("the next run finishes"), "{error}");
    assert_eq!(bench.slots(), vec![vec![0, 1]; 2]);
}

#[tokio::test]
async fn stored_is_confirmed_or_the_slots_stay() {
    let bench = Bench::new(1).await;
    let theirs = kek();
    bench.insert(6, &theirs);
    bench.kms.push(Operation::Put, InjectedFault::pass().overtaken_by(theirs.duplicate()));
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert!(error.to_string().contains("the next run finishes"), "{error}");
    assert_eq!(bench.slots(), [[0, 1, 6]]);
    bench.holds().await;

    // Another program removes the new slot: the old KEK is stored again.
    let bench = Bench::new(1).await;
    let old = bench.current().await;
    let removed = Act::before(Step::ReadBack, || drop(bench.devices[0].disk().slots.remove(&1)));
    let error = bench.observed(&at_once(), &removed, Arc::new(Open)).await.unwrap_err();
    assert!(error.to_string().contains("holds the old KEK again"), "{error}");
    assert!(bench.current().await.ct_eq(&old));
    bench.holds().await;
}

#[tokio::test]
async fn a_device_that_fails_is_undone_on_all() {
    let timeout = || Error::new(ErrorKind::Timeout, "cryptsetup took too long");
    for verdict in [Verdict::Fail(timeout()), Verdict::FailAfter(timeout())] {
        let bench = Bench::new(2).await;
        let gate = Failing(Mutex::new(Some((Access::Add(1), verdict))));
        let error = bench.observed(&at_once(), &Silent, Arc::new(gate)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("devices: as before"), "{error}");
        assert_eq!((bench.slots(), bench.kms.count(Operation::Put)), (vec![vec![0]; 2], 0));
    }
    let bench = Bench::new(2).await;
    let gate = Failing(Mutex::new(Some((Access::Kill(0), Verdict::Fail(timeout())))));
    let error = bench.observed(&at_once(), &Silent, Arc::new(gate)).await.unwrap_err();
    assert!(error.to_string().contains("the next run removes the old key slots"), "{error}");
    bench.holds().await;
    bench.rotate(&finish().with_clock(tomorrow)).await.unwrap();
    assert_eq!(bench.slots(), vec![vec![1]; 2]);
}

#[tokio::test]
async fn a_device_that_vanishes_changes_nothing() {
    let bench = Bench::new(2).await;
    bench.devices[1].disk().vanished = true;
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert_eq!((bench.slots(), bench.kms.count(Operation::Put)), (vec![vec![0]; 2], 0));
}

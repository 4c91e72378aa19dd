//! Every transition of the state machine, on devices in memory: the diagram in the README, edge by edge.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kms_core::{
    Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyName, KmsProvider, PutMode, Result, Retry,
    UpdateRight, memory::Memory,
};
use kms_rotation::{Observer, Options, Osd, Outcome, Phase, Report, Silent, Step, rotate};
use kms_testkit::fake::{InjectedFault, Operation, Scripted};

use crate::{
    bench::{Kept, Notes, Other, at_once, kek, name, tomorrow},
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

    /// Runs with a list of devices that is known to be complete.
    async fn confirmed(&self, options: &Options) -> Result<Report> {
        let devices = self.devices.iter().map(|device| device.used_by("run", Arc::new(Open)));
        let osd = Osd::new(name(), devices).unwrap().confirmed();
        rotate(&*self.kms, &osd, options, &Silent).await
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
        assert!(self.devices.iter().all(|device| device.disk().opens(current.expose_secret_text().unwrap())));
    }

    /// Another program writes a slot of every device.
    fn insert(&self, slot: u8, kek: &Kek) {
        (0..self.devices.len()).for_each(|device| self.insert_on(device, slot, kek));
    }

    fn insert_on(&self, device: usize, slot: u8, kek: &Kek) {
        let (kek, salt) = (kek.expose_secret_text().unwrap().to_owned(), format!("another program's {slot}"));
        self.devices[device].disk().slots.insert(slot, Keyslot { kek, salt, bound: true, ignored: false });
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

/// Checks that a report has a warning with this text.
#[track_caller]
fn warns(report: &Report, text: &str) {
    assert!(report.warnings.iter().any(|warning| warning.contains(text)), "{:?}", report.warnings);
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
        assert!(bench.devices.iter().all(|device| device.disk().opens(old.expose_secret_text().unwrap())));
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
    assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1]]));
    warns(&report, "another program has written");
    bench.holds().await;

    // A write to one device keeps the slots of all.
    let bench = Bench::new(2).await;
    let written = Act::at_the_pause(|| bench.insert_on(1, 5, &theirs));
    let report = bench.observed(&Options::default(), &written, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1], vec![0, 1, 5]]));
}

#[tokio::test]
async fn another_program_that_writes_before_the_switch_keeps_all_slots() {
    let bench = Bench::new(2).await;
    let theirs = kek();
    let written = Act::before(Step::ReadBack, || bench.insert_on(0, 5, &theirs));
    let report = bench.observed(&at_once(), &written, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1, 5], vec![0, 1]]));
    warns(&report, "another program has written");
    bench.holds().await;
}

#[tokio::test]
async fn another_program_that_writes_right_before_a_removal_stops_it() {
    let bench = Bench::new(1).await;
    let path = bench.devices[0].used_by("run", Arc::new(Open));
    let kill = Step::Kill(kms_rotation::SlotStore::path(&path).to_owned(), kms_rotation::Slot::CURRENT);
    let theirs = kek();
    let written = Act::before(kill, || bench.insert_on(0, 5, &theirs));
    let error = bench.observed(&at_once(), &written, Arc::new(Open)).await.unwrap_err();
    assert!(error.to_string().contains("another program has written"), "{error}");
    assert_eq!(bench.slots(), [[0, 1, 5]]);
}

#[tokio::test]
async fn without_a_wait_leftovers_go_when_the_host_has_seen_them_unchanged_for_the_grace_period() {
    let bench = Bench::new(2).await;
    let kept = Arc::new(Kept::default());
    let (later, finish) = (later().with_sights(kept.clone()), finish().with_sights(kept.clone()));
    assert_eq!(bench.rotate(&later).await.unwrap().outcome, Outcome::Pending, "switched");
    kept.pass(599);
    for options in
        [&later, &finish, &later.clone().with_clock(tomorrow), &finish.clone().with_clock(tomorrow)]
    {
        let report = bench.rotate(options).await.unwrap();
        assert_eq!(report.outcome, Outcome::Pending, "young, whatever the clock says");
        warns(&report, "from 1 s on");
        assert_eq!(bench.slots(), vec![vec![0, 1]; 2]);
    }
    kept.pass(1);
    let finished = bench.rotate(&finish).await.unwrap();
    assert_eq!((finished.outcome, bench.slots()), (Outcome::Finished, vec![vec![1]; 2]));
    assert_eq!(bench.rotate(&finish).await.unwrap().outcome, Outcome::NothingToFinish);

    bench.rotate(&later).await.unwrap();
    kept.pass(600);
    let report = bench.rotate(&later).await.unwrap();
    assert_eq!(
        (report.outcome, bench.slots()),
        (Outcome::Pending, vec![vec![0, 1]; 2]),
        "obsolete, and rotated"
    );
    assert!(report.devices.iter().all(|device| device.removed.len() == 1), "{report:?}");
    bench.holds().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_run_keeps_the_grace_period_that_the_rotation_was_given_unless_it_has_its_own() {
    for (inherit, own) in [(true, 600), (true, 7200), (false, 600)] {
        let bench = Bench::new(1).await;
        let kept = Arc::new(Kept::default());
        let mut hours = later().with_sights(kept.clone());
        hours.grace = Duration::from_secs(7200);
        assert_eq!(bench.rotate(&hours).await.unwrap().outcome, Outcome::Pending);
        let mut finish = finish().with_sights(kept.clone());
        (finish.inherit_grace, finish.grace) = (inherit, Duration::from_secs(own));
        kept.pass(if inherit { 7199 } else { own - 1 });
        let report = bench.rotate(&finish).await.unwrap();
        assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1]]));
        warns(&report, "from 1 s on");
        // A run that waits waits for the rest.
        finish.wait = true;
        let begin = tokio::time::Instant::now();
        let report = bench.rotate(&finish).await.unwrap();
        assert_eq!((report.outcome, begin.elapsed().as_secs()), (Outcome::Finished, 1));
        assert_eq!(bench.slots(), vec![vec![1]]);
    }
}

#[tokio::test(start_paused = true)]
async fn superseded_versions_are_destroyed_also_if_nothing_else_is_to_finish() {
    let bench = Bench::new(2).await;
    assert_eq!(bench.rotate(&Options::default()).await.unwrap().outcome, Outcome::Rotated);
    let mut destroy = finish();
    destroy.destroy_superseded = true;
    for (outcome, retired) in [(Outcome::Finished, 1), (Outcome::NothingToFinish, 0)] {
        let report = bench.confirmed(&destroy).await.unwrap();
        assert_eq!((report.outcome, report.retired), (outcome, Some(retired)), "{report:?}");
    }
    bench.holds().await;
    // While the KEK of the KMS does not open a device, an earlier one may.
    let other = kek();
    bench.kms.inner().put(&name(), &other, PutMode::Overwrite).await.unwrap();
    bench.confirmed(&destroy).await.unwrap_err();
    assert_eq!(bench.kms.inner().history(&name(), HistoryMode::ReadOnly).await.unwrap().len(), 2);
}

#[tokio::test]
async fn without_a_wait_and_without_a_memory_leftovers_stay() {
    let bench = Bench::new(1).await;
    bench.rotate(&later()).await.unwrap();
    for options in [later(), finish(), finish().with_clock(tomorrow)] {
        let report = bench.rotate(&options).await.unwrap();
        assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1]]));
        warns(&report, "only a run that waits");
    }
}

/// A copy in the other slot is what Rook has after its first step, and Rook removes the other one in the next.
#[tokio::test(start_paused = true)]
async fn no_option_removes_a_leftover_that_was_not_seen_for_two_minutes() {
    for is_copy in [false, true] {
        for finish_only in [false, true] {
            let bench = Bench::new(1).await;
            let other = if is_copy { bench.current().await } else { kek() };
            bench.insert(1, &other);
            let begin = tokio::time::Instant::now();
            let unchanged = Act::at_the_pause(|| assert_eq!(bench.slots(), [[0, 1]]));
            let mut options = Options::default().with_clock(tomorrow);
            (options.grace, options.finish_only) = (Duration::ZERO, finish_only);
            let report = bench.observed(&options, &unchanged, Arc::new(Open)).await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 120);
            let outcome = if finish_only { Outcome::Finished } else { Outcome::Rotated };
            assert_eq!((report.outcome, bench.slots().concat().len()), (outcome, 1));
            bench.holds().await;

            // Rook's next step comes while the run waits.
            bench.insert(bench.slots()[0][0] ^ 1, &other);
            let written = Act::at_the_pause(|| bench.insert(5, &kek()));
            let report = bench.observed(&options, &written, Arc::new(Open)).await.unwrap();
            assert_eq!((report.outcome, bench.slots().concat().len()), (Outcome::Pending, 3));
            warns(&report, "another program has written");
        }
    }
}

/// After its second step Rook has the KEK in slot 1 alone, and then writes slot 0.
#[tokio::test(start_paused = true)]
async fn a_kek_that_rook_has_put_into_slot_1_alone_is_watched_before_slot_0_is_used() {
    let bench = Bench::new(1).await;
    let current = bench.current().await;
    let rooks = || {
        let (kek, salt) = (current.expose_secret_text().unwrap().to_owned(), "Rook's".to_owned());
        let mut disk = bench.devices[0].disk();
        disk.slots = [(1, Keyslot { kek, salt, bound: true, ignored: false })].into();
    };
    rooks();
    let mut options = Options::default();
    options.grace = Duration::ZERO;
    let rook_goes_on = Act::at_the_pause(|| bench.insert(0, &kek()));
    let report = bench.observed(&options, &rook_goes_on, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0, 1]]));
    rooks();
    assert_eq!(bench.rotate(&later()).await.unwrap().outcome, Outcome::Pending, "it does not wait");
    assert_eq!(bench.slots(), [[1]]);
    let begin = tokio::time::Instant::now();
    assert_eq!(bench.rotate(&options).await.unwrap().outcome, Outcome::Rotated, "nothing has happened");
    assert_eq!((begin.elapsed().as_secs(), bench.slots()), (120, vec![vec![0]]));
    // A slot 1 of our own needs no look.
    bench.rotate(&options).await.unwrap();
    bench.rotate(&options).await.unwrap();
    assert_eq!((begin.elapsed().as_secs(), bench.slots()), (120, vec![vec![0]]));
}

#[tokio::test(start_paused = true)]
async fn young_grown_outlived_ended() {
    let bench = Bench::new(2).await;
    bench.rotate(&later()).await.unwrap();
    let young = Options::default().with_clock(|| SystemTime::UNIX_EPOCH);
    assert_eq!(bench.rotate(&young).await.unwrap().outcome, Outcome::Finished);
    assert_eq!(bench.slots(), vec![vec![1]; 2]);
    bench.holds().await;

    // The leftovers go while the run waits: another program is at work.
    bench.rotate(&later()).await.unwrap();
    let gone = Act::at_the_pause(|| {
        bench.devices.iter().for_each(|device| drop(device.disk().slots.remove(&1)));
    });
    let report = bench.observed(&young, &gone, Arc::new(Open)).await.unwrap();
    assert_eq!((report.outcome, bench.slots()), (Outcome::Pending, vec![vec![0]; 2]));

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
    let finish = at_once().with_sights(Arc::new(Kept::default()));
    bench.rotate(&finish).await.unwrap();
    bench.holds().await;
    assert_eq!(bench.slots(), vec![vec![0]; 2], "finished, and rotated");
}

/// A KMS without compare-and-set that does not tell rights: no write without a slot that shows it, a fresh read before
/// each removal, and no grace period shorter than a write can be on its way.
#[tokio::test(start_paused = true)]
async fn without_compare_and_set_no_write_comes_before_its_slot_and_no_removal_within_two_minutes() {
    let bench = Bench::new(1).await;
    let other = Other::around(bench.kms.clone(), Guarantee::CheckThenAct, UpdateRight::Unknown);
    let notes = Notes::default();
    let devices = bench.devices.iter().map(|device| device.used_by("run", Arc::new(Open)));
    let mut options = Options::default();
    options.grace = Duration::ZERO;
    let begin = tokio::time::Instant::now();
    let report = rotate(&other, &Osd::new(name(), devices).unwrap(), &options, &notes).await.unwrap();
    assert_eq!((report.outcome, begin.elapsed().as_secs()), (Outcome::Rotated, 120));
    warns(&report, "120 s instead of 0 s");
    let done = notes.done();
    let at = |what: &str| done.iter().position(|step| step.contains(what)).unwrap();
    assert!(at("add the new KEK") < at("store"), "{done:?}");
    let last_read = done.iter().rposition(|step| step == "read the KEK").unwrap();
    assert!(at("read it back") < last_read && last_read < at("remove slot"), "{done:?}");
}

#[tokio::test]
async fn a_device_that_vanishes_changes_nothing() {
    let bench = Bench::new(2).await;
    bench.devices[1].disk().vanished = true;
    let error = bench.rotate(&at_once()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert_eq!((bench.slots(), bench.kms.count(Operation::Put)), (vec![vec![0]; 2], 0));
}

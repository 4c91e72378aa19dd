//! One rotation of Rook's beside one of ours, on images with real LUKS headers and in virtual time.

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode, Result, memory::Memory};
use kms_luks::{Cryptsetup, Device};
use kms_rotation::{
    Added, Observer, Options, Osd, Phase, Proof, Slot, SlotLock, SlotStore, SlotTable, Step, rotate,
};
use kms_testkit::luks::{Image, Rook, RookStep, RookWatcher};
use tokio::{join, sync::Notify};

use crate::{
    bench::{kek, name},
    virtual_time::VirtualTime,
};

/// The longest time between two steps of Rook's: its time limit for cryptsetup (rook-behaviour §8.8).
const ROOKS_LONGEST: u64 = 90;
/// The longest time before and after a step of ours.
const OUR_LONGEST: u64 = 5;
/// Rook takes less with one device, so that a moment up to it is before, during or after Rook's rotation.
const ROOKS_WHOLE: u64 = 600;
/// A run of ours with the default grace period takes less.
const OUR_WHOLE: u64 = 750;

/// Random numbers (SplitMix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A number from 0 to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % (most + 1)
    }
}

/// What the devices look like at the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// The KEK is in slot 0, by Rook.
    Rook,
    /// The KEK is in slot 0, by ours.
    Formatted,
    /// The KEK is in slot 1, by a rotation of ours.
    Rotated,
}

impl Start {
    pub(crate) fn image(self, kek: &Kek) -> Image {
        match self {
            Self::Rook => Image::argon2id(kek),
            Self::Formatted => Image::luks2(kek),
            Self::Rotated => {
                let image = Image::luks2(kek);
                image.add(kek, 1, kek);
                image.kill(kek, 0);
                image
            }
        }
    }
}

/// When the run of ours begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OursBegins {
    /// Before, during or after Rook's rotation.
    AtAnyMoment,
    /// Up to ten minutes after Rook's first write.
    AfterRooksFirstWrite,
    /// At once after a write of Rook's that is not its last one.
    BetweenTwoWritesOfRook,
}

/// A rotation of Rook's and one of ours.
#[derive(Debug)]
pub(crate) struct Overlap {
    seed: u64,
    begins: OursBegins,
    options: Options,
}

/// The result of an overlap.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The KEK that the KMS returns at the end does not open every device.
    pub(crate) is_lost: bool,
    /// It did not at some moment.
    pub(crate) was_lost: bool,
    /// Rook had read the KEK before ours stored its own, and ours before Rook wrote to a device (decision 0008).
    pub(crate) both_had_read_first: bool,
    /// How our run ended.
    pub(crate) ours: String,
    /// How Rook's run ended.
    pub(crate) rook: String,
    /// What happened when.
    pub(crate) schedule: String,
}

impl Overlap {
    pub(crate) fn new(seed: u64, begins: OursBegins, options: Options) -> Self {
        Self { seed, begins, options }
    }

    pub(crate) async fn run(self) -> Ran {
        let mut random = Random(self.seed);
        let start = [Start::Rook, Start::Formatted, Start::Rotated][random.up_to(2) as usize];
        // A quarter of the OSDs have a second device.
        let devices = if random.up_to(3) == 0 { 2 } else { 1 };
        let kek = kek();
        let images: Vec<Image> = (0..devices).map(|_| start.image(&kek)).collect();
        let kms = Memory::new();
        kms.put(&name(), &kek, PutMode::Create).await.unwrap();

        let any = self.begins == OursBegins::AtAnyMoment;
        let (rook_at, ours_at) = match self.begins {
            OursBegins::AtAnyMoment => (random.up_to(OUR_WHOLE + ROOKS_WHOLE), ROOKS_WHOLE),
            OursBegins::AfterRooksFirstWrite => (0, random.up_to(ROOKS_WHOLE)),
            OursBegins::BetweenTwoWritesOfRook => (0, 0),
        };
        let writes = match (self.begins, start) {
            // Rook's writes: a copy in slot 1, no slot 0, a new one, the KMS, no slot 1. Without the second of them
            // where slot 0 is free. The first two or three on each device.
            (OursBegins::BetweenTwoWritesOfRook, Start::Rotated) => 1 + random.up_to(3 * devices - 1),
            (OursBegins::BetweenTwoWritesOfRook, _) => 1 + random.up_to(4 * devices - 1),
            _ => 1,
        };
        let scene = Arc::new(Scene {
            time: Arc::new(VirtualTime::new(if any { 2 } else { 1 })),
            kms,
            images,
            random: Mutex::new(random),
            log: Mutex::default(),
            writes_before_ours: if any { u64::MAX } else { writes },
            begin_ours: Notify::new(),
        });
        let title = format!("seed {}, {:?}, {devices} device(s), {start:?}", self.seed, self.begins);
        let (rook, ours) = join!(scene.rook(rook_at), scene.ours(any, ours_at, self.options));
        scene.log("end", "", true).await;
        let log = scene.log.lock().unwrap();
        Ran {
            is_lost: log.entries.last().unwrap().is_lost,
            was_lost: log.entries.iter().any(|entry| entry.is_lost),
            both_had_read_first: log.both_had_read_first(),
            schedule: format!("{title}\n{log}ours: {ours}, Rook: {rook}"),
            ours,
            rook,
        }
    }
}

/// The KMS and the devices, and what happens to them.
#[derive(Debug)]
struct Scene {
    time: Arc<VirtualTime>,
    kms: Memory,
    images: Vec<Image>,
    random: Mutex<Random>,
    log: Mutex<Log>,
    /// Our run begins after this many writes of Rook's.
    writes_before_ours: u64,
    begin_ours: Notify,
}

const ROOK: &str = "Rook";
const OURS: &str = "ours";

#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    rooks_writes: u64,
    /// Ours has written to the KMS, and the devices have not been looked at since.
    is_stale: bool,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    who: &'static str,
    what: String,
    writes: bool,
    is_lost: bool,
}

impl Log {
    fn first(&self, fits: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(fits)
    }

    fn both_had_read_first(&self) -> bool {
        let ours = |step: Step| self.first(|entry| entry.who == OURS && entry.what == step.to_string());
        let rook_read = self.first(|entry| entry.who == ROOK && entry.what == format!("{:?}", RookStep::Get));
        let rook_wrote = self.first(|entry| entry.who == ROOK && entry.writes);
        rook_read.zip(ours(Step::StoreNew)).is_some_and(|(read, stored)| read < stored)
            && ours(Step::ReadKek).zip(rook_wrote).is_some_and(|(read, wrote)| read < wrote)
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { at, who, what, is_lost, .. } in &self.entries {
            let mut line = format!("{at:5} s  {who}: {what}");
            if *is_lost {
                write!(line, "  LOST")?;
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl Scene {
    async fn pause(&self, longest: u64) {
        let time = self.random.lock().unwrap().up_to(longest);
        self.time.sleep(Duration::from_secs(time)).await;
    }

    /// Whether the KEK that the KMS returns opens every device.
    async fn holds(&self) -> bool {
        loop {
            let version = async || self.kms.get(&name(), Freshness::Fresh).await.unwrap();
            let stored = version().await;
            if self.images.iter().all(|image| image.opens(&stored.kek)) {
                return true;
            }
            // The other participant may have stored a KEK and removed a slot meanwhile.
            if version().await.version == stored.version {
                return false;
            }
        }
    }

    /// Records a step, and after a write looks whether the devices are lost.
    async fn log(&self, who: &'static str, what: &str, writes: bool) {
        let is_lost = writes && !self.holds().await;
        let entry = Entry { at: self.time.seconds(), who, what: what.to_owned(), writes, is_lost };
        self.log.lock().unwrap().entries.push(entry);
    }

    async fn rook(&self, at: u64) -> String {
        self.time.sleep(Duration::from_secs(at)).await;
        let ended = Rook::new(&self.kms, &name(), &self.images).watched(self).run_beside().await;
        let early = self.log.lock().unwrap().rooks_writes < self.writes_before_ours;
        assert!(!early || self.writes_before_ours == u64::MAX, "Rook ended before ours began");
        self.time.leave();
        match ended {
            Ok(_) => "done".to_owned(),
            Err(why) => format!("gave up: {why}"),
        }
    }

    async fn ours(self: &Arc<Self>, any: bool, at: u64, options: Options) -> String {
        if !any {
            self.begin_ours.notified().await;
        }
        self.time.sleep(Duration::from_secs(at)).await;
        let options = options.with_timer(self.time.clone()).with_sights(self.time.clone());
        let paths = self.images.iter().map(|image| image.path().to_owned());
        let cryptsetup = Cryptsetup::new();
        let devices = cryptsetup.devices(paths).map(|device| Slow { device, scene: self.clone() });
        let osd = Osd::new(name(), devices.collect::<Vec<_>>()).unwrap().confirmed();
        let ended = rotate(&self.kms, &osd, &options, &**self).await;
        self.time.leave();
        match ended {
            Ok(report) => report.outcome.as_str().to_owned(),
            Err(error) => format!("error: {:?}", error.kind()),
        }
    }
}

#[async_trait]
impl RookWatcher for Scene {
    async fn before(&self, _: RookStep) {
        self.pause(ROOKS_LONGEST).await;
    }

    async fn after(&self, step: RookStep, done: bool) {
        let writes = done && step.writes();
        let what = format!("{step:?}{}", if done { "" } else { " (refused)" });
        self.log(ROOK, &what, writes).await;
        let begin = {
            let mut log = self.log.lock().unwrap();
            log.rooks_writes += u64::from(writes);
            writes && log.rooks_writes == self.writes_before_ours
        };
        if begin {
            self.time.enter();
            self.begin_ours.notify_one();
        }
    }
}

/// Our requests to the KMS. A write is looked at in the next step on a device, which comes before any time passes.
impl Observer for Scene {
    fn step(&self, _: &KeyName, step: &Step, phase: Phase) {
        if step.device().is_none() && phase != Phase::Before {
            let what = format!("{step}{}", if phase == Phase::After { "" } else { " (failed)" });
            let writes = step.writes_kms();
            let entry = Entry { at: self.time.seconds(), who: OURS, what, writes, is_lost: false };
            let mut log = self.log.lock().unwrap();
            log.is_stale |= writes;
            log.entries.push(entry);
        }
    }

    fn waiting(&self, _: &KeyName, _: Duration) {}
}

/// A device of our run, each access to which takes a random time before and after it.
#[derive(Debug)]
struct Slow {
    device: Device,
    scene: Arc<Scene>,
}

impl Slow {
    async fn during<T: fmt::Debug>(&self, what: String, writes: bool, work: impl Future<Output = T>) -> T {
        let is_stale = std::mem::take(&mut self.scene.log.lock().unwrap().is_stale);
        if is_stale {
            self.scene.log(OURS, "goes on", true).await;
        }
        self.scene.pause(OUR_LONGEST).await;
        let done = work.await;
        self.scene.log(OURS, &what, writes).await;
        self.scene.pause(OUR_LONGEST).await;
        done
    }
}

#[async_trait]
impl SlotStore for Slow {
    fn path(&self) -> &Path {
        self.device.path()
    }

    async fn lock(&self) -> Result<SlotLock> {
        SlotStore::lock(&self.device).await
    }

    async fn table(&self) -> Result<SlotTable> {
        self.during("table".to_owned(), false, SlotStore::table(&self.device)).await
    }

    async fn uuid(&self) -> Result<String> {
        SlotStore::uuid(&self.device).await
    }

    async fn opens(&self, slot: Slot, kek: &Kek) -> Result<bool> {
        self.during(format!("open {slot}"), false, SlotStore::opens(&self.device, slot, kek)).await
    }

    async fn find(&self, table: &SlotTable, kek: &Kek) -> Result<Option<Slot>> {
        self.during("find".to_owned(), false, SlotStore::find(&self.device, table, kek)).await
    }

    async fn add(&self, from: Slot, current: &Kek, new_slot: Slot, new: &Kek) -> Result<Added> {
        let work = SlotStore::add(&self.device, from, current, new_slot, new);
        self.during(format!("add {new_slot}"), true, work).await
    }

    async fn remove(&self, victim: Slot, proof: &Proof, kek: &Kek) -> Result<()> {
        let work = SlotStore::remove(&self.device, victim, proof, kek);
        self.during(format!("remove {victim}"), true, work).await
    }
}

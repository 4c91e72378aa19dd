//! Rotations whose process is killed, and the conditions that must hold afterwards.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_luks::Cryptsetup;
use kms_rotation::{Observer, Options, Osd, Phase, Step, rotate};
use kms_testkit::luks::Image;
use rustix::process::{Signal, getpid, kill_process};

use crate::{
    clock::Hurried,
    stores::{self, Store},
};

/// The signal that cannot be caught.
const SIGKILL: i32 = 9;

/// Kills its own process at the announcement with a given number.
struct Killer {
    at: Option<usize>,
    count: AtomicUsize,
}

impl Observer for Killer {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {
        if Some(self.count.fetch_add(1, Ordering::Relaxed)) == self.at {
            let _dead = kill_process(getpid(), Signal::KILL);
        }
    }

    fn waiting(&self, _: &KeyName, _: Duration) {}
}

/// Runs in the process that is killed: rotates with the shortest grace period on a [hurried](Hurried) clock, and kills
/// itself at the announcement with the given number, if there is one. Arguments: `NUMBER|-`, the name, the number of devices, the devices, and the
/// arguments with which `kms` connects to the KMS.
///
/// # Errors
///
/// Those of the rotation.
pub async fn worker(arguments: &[String]) -> anyhow::Result<()> {
    let [at, name, count, rest @ ..] = arguments else { anyhow::bail!("too few arguments") };
    let (devices, rest) = rest.split_at(count.parse()?);
    let kms = stores::provider(rest).await?;
    let osd = Osd::new(name.parse()?, Cryptsetup::new().devices(devices.iter().map(PathBuf::from)))?;
    let mut options = Options::default().with_timer(Arc::new(Hurried::new()));
    options.grace = Duration::ZERO;
    let killer = Killer { at: at.parse().ok(), count: AtomicUsize::new(0) };
    rotate(&*kms, &osd, &options, &killer).await?;
    Ok(())
}

/// The end of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// Success.
    Done,
    /// A failure, with this standard error.
    Failed(String),
    /// A kill.
    Killed,
}

impl End {
    /// Classifies the end of a process.
    ///
    /// # Panics
    ///
    /// If another signal ended it.
    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => Self::Done,
            (Some(_), _) => Self::Failed(String::from_utf8_lossy(&output.stderr).into_owned()),
            (None, Some(SIGKILL)) => Self::Killed,
            other => panic!("{other:?}"),
        }
    }
}

/// When a rotation is killed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "these are the two ways to kill a process")]
pub enum Kill {
    /// After this time, wherever the program `kms` is then.
    After(Duration),
    /// At the announcement with this number.
    At(usize),
}

/// An OSD on images whose KEK is in a store. It can be rotated repeatedly.
#[derive(Debug)]
pub struct Subject<'a> {
    store: &'a Store,
    worker: PathBuf,
    name: KeyName,
    images: Vec<Image>,
    volume_key: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl<'a> Subject<'a> {
    /// Formats this number of images, and stores their KEK. `worker` is the program that calls [`worker`].
    pub async fn new(store: &'a Store, worker: &Path, devices: usize) -> Self {
        let kek = Kek::generate().unwrap();
        let template = Image::luks2(&kek);
        let folder = tempfile::tempdir().unwrap();
        let image = |number| {
            let place = folder.path().join(format!("{number}"));
            std::fs::create_dir(&place).unwrap();
            template.copy(place.join("image"))
        };
        let images: Vec<Image> = (0..devices).map(image).collect();
        let name: KeyName = format!("crash-{devices}-{}", kek.fingerprint()).parse().unwrap();
        store.provider.put(&name, &kek, PutMode::Create).await.unwrap();
        let volume_key = template.volume_key(&kek);
        Self { store, worker: worker.to_owned(), name, images, volume_key, _folder: folder }
    }

    /// The name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The paths of the devices.
    pub fn devices(&self) -> Vec<String> {
        self.images.iter().map(|image| image.path().display().to_string()).collect()
    }

    /// Rotates in a separate process, and kills it.
    async fn killed(&self, kill: Kill) -> End {
        match kill {
            Kill::At(step) => self.rotate(Some(step)),
            Kill::After(moment) => {
                let mut child = self.kms().spawn().unwrap();
                tokio::time::sleep(moment).await;
                let _gone = child.kill();
                End::of(&child.wait_with_output().unwrap())
            }
        }
    }

    /// Rotates in a separate process, which kills itself at the announcement with this number.
    fn rotate(&self, kill_at: Option<usize>) -> End {
        let at = kill_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let output = Command::new(&self.worker)
            .arg("worker")
            .arg(at)
            .arg(self.name.as_str())
            .arg(self.images.len().to_string())
            .args(self.devices())
            .args(stores::arguments(&self.store.kms))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        End::of(&output)
    }

    /// The program `kms` of the store, with the arguments of a rotation.
    fn kms(&self) -> Command {
        let devices = self.devices();
        let mut arguments = vec!["rotate", self.name.as_str(), "--grace", "0"];
        arguments.extend(devices.iter().map(String::as_str));
        let mut command = self.store.kms.command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Rotates by the program `kms`, and returns how long that took.
    ///
    /// # Panics
    ///
    /// If the rotation fails.
    pub fn rotation_takes(&self) -> Duration {
        let begin = Instant::now();
        assert_eq!(End::of(&self.kms().output().unwrap()), End::Done, "{}", self.store.which);
        begin.elapsed()
    }

    /// Checks that the KEK that the KMS returns opens every device, as it must at every moment.
    ///
    /// # Panics
    ///
    /// If the condition does not hold.
    pub async fn holds(&self, when: &str) -> Kek {
        loop {
            let kek = self.current().await;
            let Some(closed) = self.images.iter().find(|image| !image.opens(&kek)) else { return kek };
            // A late write of a killed process may have arrived in between.
            if self.current().await.ct_eq(&kek) {
                panic!(
                    "{}: {when}: the KEK of the KMS does not open {} (slots {:?}): {:?}",
                    self.store.which,
                    closed.path().display(),
                    closed.slots(),
                    self.name
                );
            }
        }
    }

    async fn current(&self) -> Kek {
        self.store.provider.get(&self.name, Freshness::Fresh).await.unwrap().kek
    }

    /// Checks the state at the end: each device has one slot, which the KEK opens and which leads to the same data.
    ///
    /// # Panics
    ///
    /// If the condition does not hold.
    pub async fn converged(&self, when: &str) {
        let kek = self.holds(when).await;
        for image in &self.images {
            let slots = image.slots();
            assert_eq!(slots.len(), 1, "{}: {when}: slots {slots:?}", self.store.which);
            assert_eq!(image.volume_key(&kek), self.volume_key, "{}: {when}", self.store.which);
        }
    }

    /// Kills one run after the other, and lets a last run finish. Returns the number of kills; 0 if the first run ended
    /// before the kill.
    ///
    /// # Panics
    ///
    /// If a condition does not hold.
    pub async fn round(&self, kills: &[Kill]) -> usize {
        let when = format!("{} devices, {kills:?}", self.images.len());
        let mut killed = 0;
        for (run, kill) in kills.iter().enumerate() {
            match self.killed(*kill).await {
                End::Killed => killed += 1,
                End::Done if run == 0 => return 0,
                End::Done => {}
                End::Failed(error) => panic!("{}: {when}: run {run}: {error}", self.store.which),
            }
            self.holds(&when).await;
        }
        let last = self.rotate(None);
        assert_eq!(last, End::Done, "{}: {when}", self.store.which);
        self.converged(&when).await;
        killed
    }
}

/// Reproducible random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // Xorshift, by Marsaglia (2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit.max(1)
    }
}
